"""The baselines of the tables: which there are, why, and that each is what it is called."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import Ridge

from neuroattn.encoders.baselines import AS_EMBEDDED, few_image_baselines, given_context
from neuroattn.encoders.embedding import EmbeddingConfig, fit_embedding
from neuroattn.encoders.empirical_bayes import EmpiricalBayesEncoder
from neuroattn.encoders.group_average import GroupAverageEncoder
from neuroattn.encoders.ridge import ALPHAS, RidgeEncoder, deal_folds
from neuroattn.errors import InputError
from tests.encoders.small import VOXELS, small_features, small_responses

SOURCE = small_features(images=90)
TRAINING_IMAGES = [f"im{i}" for i in range(40)]
EMBEDDED = fit_embedding(EmbeddingConfig("flatten"), SOURCE, TRAINING_IMAGES).features(SOURCE)
TRAINING = [
    small_responses(SOURCE, list(range(25)), seed=3),
    small_responses(SOURCE, list(range(15, 40)), seed=4),
]
#: Voxels of very different noise: no one penalty suits all.
NOISE = np.array([0.1, 8.0, 0.1, 8.0, 1.0, 0.1, 8.0])
NEW = small_responses(SOURCE, list(range(40, 85)), noise=NOISE, seed=5)


def placed(voxels: list[int]) -> list[xr.Dataset]:
    return [each.isel(voxel=voxels) for each in TRAINING]


def native(responses: xr.Dataset, rois: bool = True) -> xr.Dataset:
    moved = responses.assign_attrs(space="native")
    return moved if rois else moved.isel(roi=[])


@pytest.mark.parametrize(
    ("training", "new", "by", "reasons"),
    [
        (TRAINING, NEW, "place", ()),
        (placed([0, 2, 5]), NEW.isel(voxel=[0, 5]), "place", ()),
        (placed([0, 2, 5]), NEW.isel(voxel=[0, 4, 5, 6]), "roi", ("by place: not every voxel",)),
        ([native(each) for each in TRAINING], native(NEW).isel(voxel=[0, 4]), "roi", ("'native'",)),
        (placed([0, 2]), NEW, None, ("by place: not every voxel", "by roi: not every voxel")),
        (
            [native(each, rois=False) for each in TRAINING],
            native(NEW, rois=False),
            None,
            ("by place: .*'native'", "by roi: .*needs ROIs"),
        ),
    ],
)
def test_the_group_average_is_of_the_place_else_of_the_roi_else_left_out(
    training, new, by, reasons
):
    # Catches an average of no voxels, a table without its reason, and ROI taken for place.
    told: list[str] = []
    found = few_image_baselines(EMBEDDED, training, new, report=told.append)
    names = ["group average", "ridge", "empirical Bayes"]
    assert list(found) == (names if by else names[1:])
    (line,) = told
    assert line.startswith(f"group average: {'by ' + by if by else 'left out'}")
    for reason in reasons:
        assert re.search(reason, line)
    assert ("(" in line) == bool(reasons)
    if by:
        average = found["group average"]
        assert isinstance(average, GroupAverageEncoder)
        assert average.by == by
        expected = GroupAverageEncoder(embedding=AS_EMBEDDED, by=by).fit(EMBEDDED, training)
        xr.testing.assert_identical(
            average.adapt(EMBEDDED, new).predict(EMBEDDED),
            expected.adapt(EMBEDDED, new).predict(EMBEDDED),
        )


def test_nobody_has_to_be_told():
    # Catches a report that is called although there is none.
    assert "group average" in few_image_baselines(EMBEDDED, TRAINING, NEW)


def test_empirical_bayes_is_fitted_on_the_training_subjects_alone():
    # Catches the new subject's responses in the prior.
    found = few_image_baselines(EMBEDDED, TRAINING, NEW, seed=2)["empirical Bayes"]
    changed = NEW.assign(response=NEW["response"] * 9 + 1)
    other = few_image_baselines(EMBEDDED, TRAINING, changed, seed=2)["empirical Bayes"]
    expected = EmpiricalBayesEncoder(embedding=AS_EMBEDDED, types="roi", seed=2)
    expected.fit(EMBEDDED, TRAINING)
    assert found.get_params() == expected.get_params()
    for each in (found, other):
        for name, value in expected.prior_.tensors().items():
            np.testing.assert_array_equal(getattr(each.prior_, name), value)
        assert each.context_ == ()


def test_without_rois_in_every_set_there_is_one_type():
    # Catches a failed estimation where one subject has no localiser.
    bare = [TRAINING[0].drop_vars(["roi_mask", "roi"]), *TRAINING[1:]]
    found = few_image_baselines(EMBEDDED, bare, NEW, seed=2)["empirical Bayes"]
    assert found.get_params()["types"] == 1
    assert len(found.prior_.means) == 1


def test_the_embedded_vectors_are_read_as_they_are():
    # Catches baselines that embed, centre or normalise the embedding again.
    embedding = fit_embedding(AS_EMBEDDED, EMBEDDED, TRAINING_IMAGES)
    vectors = embedding.transform(EMBEDDED, np.arange(90))
    np.testing.assert_array_equal(vectors, EMBEDDED["tokens"][:, 0])


def by_hand(design: np.ndarray, response: np.ndarray, images: np.ndarray, seed: int) -> Any:
    """Cross-validated errors (alpha, voxel) by scikit-learn, averaged over folds."""
    folds = deal_folds(images, 5, seed).numpy()
    errors = np.zeros((len(ALPHAS), response.shape[1]))
    for row, alpha in enumerate(ALPHAS):
        for fold in range(5):
            train, test = folds != fold, folds == fold
            model = Ridge(alpha=alpha, solver="svd").fit(design[train], response[train])
            errors[row] += ((model.predict(design[test]) - response[test]) ** 2).mean(0) / 5
    return errors


@pytest.mark.parametrize("count", [10, 44])
def test_ridge_is_refitted_on_all_context_images_with_a_penalty_for_each_voxel(count):
    # Catches weights of the last fold, one penalty for all, and a penalised intercept (the
    # responses are moved far from 0); 30 columns, so that both solvers are tried.
    context = NEW.isel(presentation=slice(0, count))
    context = context.assign(response=context["response"] + 50)
    ridge = few_image_baselines(EMBEDDED, TRAINING, NEW, seed=3)["ridge"]
    assert isinstance(ridge, RidgeEncoder)
    assert not hasattr(ridge, "weights_")
    assert given_context(ridge, EMBEDDED, context) is ridge
    vectors = EMBEDDED["tokens"].values[:, 0].astype(float)
    mean, spread = vectors[40 : 40 + count].mean(0), vectors[40 : 40 + count].var(0)
    design = (vectors - mean) / np.sqrt(spread.mean())
    seen, response = design[40 : 40 + count], context["response"].values.astype(float)
    errors = by_hand(seen, response, context["image"].values, 3)
    rows = [int(np.argmin(np.abs(np.array(ALPHAS) - alpha))) for alpha in ridge.alphas_]
    chosen = errors[rows, np.arange(VOXELS)]
    np.testing.assert_allclose(chosen, errors.min(0), rtol=1e-5)
    assert len(set(rows)) > 2
    predicted = ridge.predict(EMBEDDED).values
    for voxel, alpha in enumerate(ridge.alphas_):
        model = Ridge(alpha=alpha, solver="svd").fit(seen, response[:, voxel])
        np.testing.assert_allclose(predicted[:, voxel], model.predict(design), rtol=1e-5, atol=1e-4)


def test_given_context_adapts_what_has_a_prior():
    # Catches a prior that is learned anew from the context.
    found = few_image_baselines(EMBEDDED, TRAINING, NEW)
    for name in ("group average", "empirical Bayes"):
        encoder = found[name]
        assert given_context(encoder, EMBEDDED, NEW) is encoder
        assert encoder.context_ == tuple(NEW["image"].values)
        expected = encoder.weights_.copy()
        np.testing.assert_array_equal(encoder.adapt(EMBEDDED, NEW).weights_, expected)


def test_broken_training_responses_are_not_explained_away():
    # Catches a table without baselines because of NaN.
    broken = TRAINING[1].copy(deep=True)
    broken["response"][0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        few_image_baselines(EMBEDDED, [TRAINING[0], broken], NEW)
