"""What adaptive encoders refuse, with one message, and without a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from neuroattn.errors import InputError, MismatchError
from tests.encoders.adaptive_data import FEATURES, KINDS, NEW, OTHER, SETS, TEST, Writer, fitted
from tests.encoders.small import CHANNELS, small_features, small_responses


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize(
    ("responses", "validation", "message"),
    [([], None, "responses are 0 sets"), (SETS, SETS[:1], "2 sets and validation 1")],
)
def test_sets_and_validation_sets_must_be_as_many(responses, validation, message):
    # Catches sets that are left out by a zip.
    with pytest.raises(InputError, match=message):
        Writer().fit(FEATURES, responses, validation)


def test_sets_that_are_standardised_differently_are_refused(kind):
    # Catches one prior over two units.
    other = SETS[1].assign_attrs(zscored="session")
    with pytest.raises(MismatchError, match="zscored='none' and 'session'"):
        kind().fit(FEATURES, [SETS[0], other])
    with pytest.raises(MismatchError, match="zscored='none' and 'session'"):
        kind().fit(FEATURES, SETS, [SETS[0], other])


@pytest.mark.parametrize("part", ["responses", "validation"])
def test_nan_images_without_features_and_empty_sets_are_refused_by_fit(part):
    # Catches a second set, or validation, that is not looked at.
    broken = SETS[1].copy(deep=True)
    broken["response"][3, 2] = np.nan
    cases = [
        (broken, FEATURES, InputError, "1 values that are NaN or infinite"),
        (SETS[1].isel(presentation=[]), FEATURES, InputError, "0 presentations"),
        (SETS[1], FEATURES.isel(image=slice(0, 20)), MismatchError, "'im20'"),
    ]
    for bad, features, error, message in cases:
        sets = [SETS[0].isel(presentation=slice(0, 10)), bad]
        given = (sets, None) if part == "responses" else (SETS[:1] * 2, sets)
        with pytest.raises(error, match=message):
            Writer().fit(features, *given)


def test_features_that_are_nan_are_refused_where_they_are_read(kind):
    # Catches NaN in all weights because of one broken image.
    broken = FEATURES.copy(deep=True)
    broken["tokens"][33] = np.nan
    encoder = kind().fit(broken, SETS)
    with pytest.raises(InputError, match="'im33'"):
        encoder.adapt(broken, NEW)
    broken["tokens"][20] = np.inf
    with pytest.raises(InputError, match="'im20'"):
        kind().fit(broken, SETS)
    with pytest.raises(InputError, match="'im20' hold NaN or infinity"):
        kind(embedding={"view": "pca", "components": 3}).fit(broken, SETS)


def test_nothing_works_before_fit_and_nothing_is_predicted_before_adapt(kind):
    # Catches an AttributeError, and predictions of no voxels.
    encoder = kind()
    for call in (
        lambda: encoder.adapt(FEATURES, NEW),
        lambda: encoder.predict(FEATURES),
        lambda: encoder.score(FEATURES, TEST),
        encoder.written,
        lambda: encoder.save("nowhere"),
    ):
        with pytest.raises(InputError, match=r"is not fitted: call fit.*neuroattn\.load"):
            call()
    encoder.fit(FEATURES, SETS)
    for call in (
        lambda: encoder.predict(FEATURES),
        lambda: encoder.score(FEATURES, TEST),
        encoder.written,
    ):
        with pytest.raises(InputError, match=r"has no voxels yet: call adapt"):
            call()


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    "change", [{"embedding": {"view": "pca", "components": 999}}, {"factor": -1.0}]
)
def test_a_fit_that_fails_leaves_no_encoder(before, change):
    # Catches the prior of one fit with the embedding of another.
    encoder = Writer()
    if before:
        encoder.fit(FEATURES, SETS).adapt(FEATURES, NEW)
    encoder.set_params(**change)
    with pytest.raises(InputError, match=r"components=999|factor is negative"):
        encoder.fit(FEATURES, SETS)
    with pytest.raises(InputError, match="is not fitted"):
        encoder.adapt(FEATURES, NEW)


def altered(place: tuple[Any, ...], value: float) -> xr.Dataset:
    changed = NEW.copy(deep=True)
    changed["response"][place] = value
    return changed


@pytest.mark.parametrize(
    ("responses", "images", "error", "message"),
    [
        (NEW, ["im30"], InputError, "has 1 image: .* at least 2"),
        (NEW, ["im33"], InputError, "has 1 image: .* at least 2"),
        (NEW, [], InputError, "0 presentations"),
        (NEW.isel(presentation=[]), None, InputError, "0 presentations"),
        (NEW.isel(voxel=[]), None, InputError, "0 voxels"),
        (NEW, ["im30", "im59", "im33"], MismatchError, r"1 of 3 context images .*\['im59'\]"),
        (altered((3, 2), np.nan), None, InputError, "1 values that are NaN.*first: voxel 2"),
        (altered((0, 6), -np.inf), None, InputError, "1 values that are NaN.*first: voxel 6"),
        (altered((slice(None), [4, 6]), 0.1), None, InputError, "2 of 7 voxels .*first: voxel 4"),
        (NEW.assign_attrs(zscored="session"), None, MismatchError, "'session'.*zscored='none'"),
    ],
)
def test_a_context_that_says_nothing_is_refused_and_changes_nothing(
    kind, responses, images, error, message
):
    # Catches NaN weights, IndexError from empty arrays, and an encoder of mixed voxels.
    encoder = fitted(kind).adapt(FEATURES, OTHER)
    before = encoder.predict(FEATURES)
    with pytest.raises(error, match=message):
        encoder.adapt(FEATURES, responses, images)
    xr.testing.assert_identical(encoder.predict(FEATURES), before)
    assert encoder.context_ == ("im40", "im41", "im42", "im43")


def test_nan_outside_the_chosen_images_does_no_harm(kind):
    # Catches a check of responses that are not read.
    found = fitted(kind).adapt(FEATURES, altered((6, 0), np.nan), ["im30", "im33", "im38"])
    assert np.isfinite(found.weights_).all()


def test_responses_that_vary_only_within_an_image_are_constant(kind):
    # Catches a check before averaging.
    twice = NEW.isel(presentation=[1, 2, 3, 5])
    values = twice["response"].values.copy()
    values[:, 3] = [1, 3, 5, 3]
    with pytest.raises(InputError, match="1 of 7 voxels have the same response to all 2"):
        fitted(kind).adapt(FEATURES, twice.assign(response=(twice["response"].dims, values)))


@pytest.mark.parametrize("call", ["adapt", "predict", "score"])
def test_features_of_another_basis_are_refused_with_both_keys(kind, call):
    # Catches weights applied to features that they were not written for.
    encoder = fitted(kind).adapt(FEATURES, NEW)
    other = small_features(images=60, key="k2")
    arguments = {"adapt": (NEW,), "predict": (), "score": (TEST,)}[call]
    with pytest.raises(MismatchError, match=r"key k2, .* with key k1"):
        getattr(encoder, call)(other, *arguments)
    fewer = small_features(images=60, channels=CHANNELS - 1)
    with pytest.raises(MismatchError, match=f"{CHANNELS - 1} channels"):
        getattr(encoder, call)(fewer, *arguments)


@pytest.mark.parametrize("shown", [[50, 33], [50, 51, 31, 31], [36, 50, 36, 50]])
def test_a_score_on_images_of_the_context_is_refused(kind, shown):
    # Catches a leak, also of an image that is presented several times in either.
    encoder = fitted(kind).adapt(FEATURES, NEW)
    leaked = min(f"im{i}" for i in shown if i < 50)
    with pytest.raises(InputError, match=rf"1 of the scored images .*first: \['{leaked}'\]"):
        encoder.score(FEATURES, small_responses(FEATURES, shown))
    # An image of the responses that was not chosen is no leak.
    encoder.adapt(FEATURES, NEW, ["im30", "im38"]).score(FEATURES, small_responses(FEATURES, shown))


def test_a_score_of_no_images_is_refused(kind):
    # Catches an IndexError from the average over no repetition.
    encoder = fitted(kind).adapt(FEATURES, NEW)
    with pytest.raises(InputError, match="0 presentations"):
        encoder.score(FEATURES, TEST.isel(presentation=[]))


def test_the_context_may_be_an_array_of_ids_and_is_never_a_number():
    # Catches ids that are written as a whole array each, and a TypeError about iteration.
    wanted = NEW["image"][:5]
    given = fitted(Writer).adapt(FEATURES, NEW, wanted)
    same = fitted(Writer).adapt(FEATURES, NEW, wanted.values.tolist())
    assert given.context_ == same.context_ == tuple(dict.fromkeys(wanted.values.tolist()))
    with pytest.raises(InputError, match="images=5 must be ids of images"):
        fitted(Writer).adapt(FEATURES, NEW, 5)
