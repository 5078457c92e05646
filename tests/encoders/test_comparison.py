"""Encoders side by side: the same images for all, and no image predicted by who saw it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.data.reader import Reader
from neuroattn.data.schema import response_set
from neuroattn.encoders import EmpiricalBayesEncoder, FactorizedEncoder, RidgeEncoder
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.comparison import Comparison
from neuroattn.errors import InputError
from neuroattn.features.base import FeatureBasis
from neuroattn.images import ImageArray
from neuroattn.training.datamodule import SplitPlan

IMAGES, VOXELS = 31, 4


class Source(Reader):
    """Images of noise and responses to them, in two sessions with two repeats."""

    def images(self) -> ImageArray:
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 4, 6, 3)).astype(np.uint8)
        return ImageArray(pixels, tuple(f"im{i:02d}" for i in range(IMAGES)))

    def responses(self) -> xr.Dataset:
        draw = np.random.default_rng(1)
        order = np.concatenate([draw.permutation(IMAGES), draw.permutation(IMAGES)])
        signal = draw.normal(size=(IMAGES, VOXELS))[order]
        return response_set(
            5 + signal + 0.3 * draw.normal(size=signal.shape),
            presentation={
                "image": [f"im{i:02d}" for i in order],
                "session": np.repeat([1, 2], IMAGES),
            },
            voxel={"subject": "s1", "hemisphere": "left"},
            roi={"A": [True, True, False, False]},
        )


class Means(FeatureBasis):
    """One token: the mean colour."""

    name, grid, channels = "means", (1, 1), 3

    def extract(self, images):
        return np.stack([image.mean((0, 1))[None] / 255 for image in images]).astype(np.float32)

    def spec(self):
        return {"version": 1}


class Memory(Encoder):
    """Knows every image that it was fitted or validated on, and predicts how often it saw it."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def _fit(self, features, responses, validation):
        seen = [*responses["image"].values]
        self.validated_ = [] if validation is None else [*validation["image"].values]
        self.seen_ = set(seen) | set(self.validated_)

    def _predict(self, features, rows):
        ids = features["image"].values[rows]
        known = np.array([image in self.seen_ for image in ids], np.float32)
        return np.repeat(known[:, None], VOXELS, 1)

    def _state(self):
        return {}, {}

    def _restore(self, tensors, state):
        self.seen_ = set()


def compare(tmp_path, encoders=None, **more) -> Comparison:
    given = {"memory": Memory(), "ridge": RidgeEncoder(folds=3)} if encoders is None else encoders
    return Comparison(Source(), Means(), given, store=str(tmp_path / "store"), **more)


PLAN = SplitPlan(train=0.6, validation=0.2, test=0.2, seed=3)


def test_one_split_scores_its_test_images_only(tmp_path):
    # Catches scores of training images, and encoders on different images.
    experiment = compare(tmp_path, split=PLAN)
    lines = []
    scores, fitted = experiment.run(lines.append)
    split = PLAN.split(experiment.responses)
    assert list(scores) == list(fitted) == ["memory", "ridge"]
    for score in scores.values():
        assert set(score.dataset["image"].values) == set(split["test"])
    assert tuple(scores["ridge"].dataset["image"].values) == experiment.scored_images
    assert fitted["memory"].seen_ == {*split["train"], *split["validation"]}
    # A closed-form encoder has no use for validation images but to learn from them.
    assert fitted["memory"].validated_ == []
    assert (scores["memory"].dataset["prediction"] == 0).all()
    sizes = ", ".join(f"{part} {len(split[part])}" for part in ("train", "validation", "test"))
    assert lines[0] == f"fitting memory, ridge ({sizes} images)"
    assert [line.split()[3] for line in lines[1:]] == ["memory", "ridge"]


def test_scores_equal_those_of_the_encoder_itself(tmp_path):
    # Catches a second way of scoring that differs in averages, ceilings or thresholds.
    experiment = compare(tmp_path, split=PLAN, threshold=0.95)
    scores, fitted = experiment.run(lambda line: None)
    split = experiment.splits[0]
    test = split.select(experiment.responses, "test")
    expected = fitted["ridge"].score(experiment.features, test, threshold=0.95).dataset
    found = scores["ridge"].dataset
    assert found.attrs["threshold"] == 0.95
    for name in ("raw", "ceiling", "normalised", "prediction", "response", "repeats"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert found["repeats"].values.tolist() == [2] * len(split["test"])
    # Ridge has no use for validation images but to learn from them.
    learned = ~np.isin(experiment.responses["image"].values, split["test"])
    training = experiment.responses.isel(presentation=np.flatnonzero(learned))
    again = RidgeEncoder(folds=3).fit(experiment.features, training)
    np.testing.assert_allclose(
        found["prediction"], again.predict(experiment.features, test["image"].values)
    )


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_predict_every_image_once_by_an_encoder_that_did_not_see_it(tmp_path, folds):
    # Catches a leak between folds: the memorising encoder would predict a one.
    experiment = compare(tmp_path, folds=folds, seed=2)
    scores, fitted = experiment.run(lambda line: None)
    for score in scores.values():
        images = score.dataset["image"].values
        assert images.tolist() == experiment.responses["image"].values.tolist()
        assert len(set(images)) == IMAGES
        np.testing.assert_array_equal(score.dataset["response"], experiment.responses["response"])
    assert (scores["memory"].dataset["prediction"] == 0).all()
    assert len(experiment.splits) == folds
    assert len(fitted["memory"].seen_) == IMAGES


def test_predictions_of_folds_stand_with_their_images(tmp_path):
    # Catches folds that are joined in the order of the folds.
    experiment = compare(tmp_path, folds=3)
    found = experiment.run(lambda line: None)[0]["ridge"].dataset["prediction"]
    for split in experiment.splits:
        train = split.select(experiment.responses, "train")
        fold = RidgeEncoder(folds=3).fit(experiment.features, train)
        expected = fold.predict(experiment.features, split["test"])
        np.testing.assert_array_equal(found.sel(image=list(split["test"])), expected)


def test_the_given_encoders_stay_unfitted(tmp_path):
    # Catches a fold that starts from the last one's weights.
    given = {"memory": Memory()}
    compare(tmp_path, given, folds=2).run(lambda line: None)
    assert not hasattr(given["memory"], "seen_")


def test_trained_encoders_hold_out_images_inside_each_fold(tmp_path):
    # Catches a fold whose test images choose the best epoch.
    encoder = FactorizedEncoder({"epochs": 2, "batch_size": 8})
    scores, fitted = compare(tmp_path, {"f": encoder}, folds=2).run(lambda line: None)
    assert scores["f"].dataset["prediction"].shape == (IMAGES, VOXELS)
    assert fitted["f"].voxels_.sizes["voxel"] == VOXELS


@pytest.mark.parametrize("zscore", [True, False])
def test_responses_are_prepared_once_for_all(tmp_path, zscore):
    # Catches z-scores that cannot be switched off, or sessions left apart.
    experiment = compare(tmp_path, zscore=zscore)
    assert experiment.responses["repeats"].values.tolist() == [2] * IMAGES
    assert "ncsnr" in experiment.responses
    mean = experiment.responses["response"].values.mean()
    assert abs(mean - (0 if zscore else 5)) < 0.5
    assert experiment.responses is experiment.responses


def test_features_of_the_store_are_used_again(tmp_path):
    # Catches a backbone that runs for every encoder.
    first = compare(tmp_path).features
    changed = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("tokens*")}
    second = compare(tmp_path).features
    assert changed
    assert changed == {path: path.stat().st_mtime_ns for path in changed}
    np.testing.assert_array_equal(first["tokens"], second["tokens"])
    assert first["tokens"].dtype == np.float16
    assert compare(tmp_path, store_dtype="float32").features["tokens"].dtype == np.float32


def test_an_empty_comparison_and_one_fold_are_refused(tmp_path):
    # Catches an error after the features were computed.
    with pytest.raises(InputError, match="encoders is empty"):
        compare(tmp_path, {})
    for folds in (1, -2):
        with pytest.raises(InputError, match=f"folds={folds} must be 0"):
            compare(tmp_path, folds=folds)


def test_an_encoder_that_watches_validation_never_trains_on_it(tmp_path):
    # Catches validation images given to both, or withheld from the encoder that needs them.
    class Watching(Memory):
        watches_validation = True

    experiment = compare(tmp_path, split=PLAN)
    experiment.encoders = {"watching": Watching()}
    _, fitted = experiment.run(lambda line: None)
    split = PLAN.split(experiment.responses)
    assert set(fitted["watching"].validated_) == set(split["validation"])


@pytest.mark.parametrize("name", ["../escaped", "..", "a/b", "", ".hidden", "a\\b"])
def test_a_name_that_leads_out_of_the_run_is_refused(tmp_path, name):
    # Catches an encoder's name that writes over another run.
    with pytest.raises(InputError, match="a name is a folder too"):
        Comparison(None, None, {name: Memory()})


def test_an_encoder_that_learns_from_other_subjects_is_refused_at_once():
    # Catches an hour of fits before the message that it has no voxels.
    encoders = {"ridge": RidgeEncoder(), "bayes": EmpiricalBayesEncoder()}
    with pytest.raises(InputError, match="'bayes', a EmpiricalBayesEncoder: it learns from some"):
        Comparison(Source(), Means(), encoders)


class Runs(Source):
    """Every image shown once, three a run, in two sessions whose runs have the same numbers."""

    def responses(self) -> xr.Dataset:
        once = super().responses().isel(presentation=slice(0, 24))
        count = once.sizes["presentation"]
        place = np.arange(count) // 3
        half = (place.max() + 1) // 2
        return once.assign_coords(
            session=("presentation", 1 + (place >= half)),
            run=("presentation", 1 + place % half),
        )


@pytest.mark.parametrize("level", ["run", "session"])
def test_folds_by_run_leave_whole_runs_out(tmp_path, level):
    # Catches trials of a run on both sides, and runs of two sessions taken for one.
    source = Runs()
    shown = source.responses()
    given = {"memory": Memory()}
    experiment = Comparison(
        source, Means(), given, folds=level, zscore=False, store=str(tmp_path / "store")
    )
    own = zip(shown["session"].values, shown["run"].values, strict=True)
    of_image = dict(zip(shown["image"].values.tolist(), own, strict=True))
    key = (lambda image: of_image[image]) if level == "run" else (lambda i: of_image[i][0])
    found = [{key(image) for image in split["test"]} for split in experiment.splits]
    assert all(len(groups) == 1 for groups in found)
    assert len(found) == len(set().union(*found)) == len({key(i) for i in of_image})
    for split in experiment.splits:
        assert not {key(i) for i in split["train"]} & {key(i) for i in split["test"]}
    lines = []
    scores, _ = experiment.run(lines.append)
    assert (scores["memory"].dataset["prediction"] == 0).all()
    assert f"in each of {len(found)} folds" in lines[0]


def test_folds_by_run_refuse_images_of_several_runs(tmp_path):
    # Catches a leave-one-run-out in which the left-out images were seen in another run.
    with pytest.raises(InputError, match=r"'im.*more than one session"):
        _ = compare(tmp_path, folds="session").splits
    with pytest.raises(InputError, match=r"'trial'.*run, session"):
        compare(tmp_path, folds="trial")


def test_folds_by_run_refuse_runs_that_nobody_knows(tmp_path):
    # Catches sessions left out in place of runs.
    class Unknown(Runs):
        def responses(self) -> xr.Dataset:
            return super().responses().assign_coords(run=("presentation", np.full(24, -1)))

    with pytest.raises(InputError, match="run is unknown"):
        _ = Comparison(Unknown(), Means(), {"memory": Memory()}, folds="run", zscore=False).splits
