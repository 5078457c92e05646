"""Data modules: parts by name, and a recipe's data from reader to batches."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import xarray as xr

from neuroattn.data import SimulatedCortex, Split
from neuroattn.errors import InputError, MismatchError
from neuroattn.features import GaborPyramid
from neuroattn.training.datamodule import EncodingData, ResponseData, SplitPlan
from neuroattn.training.optimisation import Optimisation
from tests.training.small import small_features, small_responses

FEATURES = small_features(20)


def small_cortex(**options) -> SimulatedCortex:
    return SimulatedCortex(scenes=24, size=56, repeats=2, voxels=(1, 1), **options)


def small_basis() -> GaborPyramid:
    return GaborPyramid(size=56, grid=7, scales=1)


def recipe(tmp_path, **options) -> EncodingData:
    plan = SplitPlan(train=0.5, validation=0.25, test=0.25, seed=3)
    return EncodingData(
        small_cortex(), small_basis(), plan, store=str(tmp_path / "store"), **options
    )


def test_each_loader_serves_its_own_part():
    # Catches validation on training images.
    parts = {
        "train": small_responses(FEATURES, range(12)),
        "validation": small_responses(FEATURES, range(12, 16)),
        "test": small_responses(FEATURES, range(16, 20)),
    }
    data = ResponseData(FEATURES, parts, seed=1)
    loaders = {
        "train": data.train_dataloader(),
        "validation": data.val_dataloader(),
        "test": data.test_dataloader(),
    }
    for name, loader in loaders.items():
        rows, count = loader.dataset.rows, parts[name].sizes["presentation"]
        assert FEATURES["image"].values[rows].tolist() == parts[name]["image"].values.tolist()
        seen = [*chain.from_iterable(batch["index"].tolist() for batch in loader)]
        assert sorted(seen) == list(range(count))
    assert [*chain.from_iterable(b["index"].tolist() for b in loaders["validation"])] == [
        0,
        1,
        2,
        3,
    ]
    predicted = next(iter(data.predict_dataloader()))
    assert len(predicted["tokens"]) == 20
    assert "response" not in predicted


def test_a_part_that_is_not_there_is_named():
    # Catches a bare KeyError when a recipe leaves out the validation part.
    data = ResponseData(FEATURES, {"train": small_responses(FEATURES, range(12))})
    with pytest.raises(MismatchError, match=r"parts \['train'\], but 'validation' is needed"):
        data.val_dataloader()


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_that_no_generator_takes_are_refused(seed, tmp_path):
    # Catches an overflow in the seed of a late epoch.
    with pytest.raises(InputError, match=f"seed={seed}"):
        ResponseData(FEATURES, {}, seed=seed)
    with pytest.raises(InputError, match=f"seed={seed}"):
        recipe(tmp_path, seed=seed)


def test_a_seed_may_be_any_whole_number_and_nothing_else():
    # Catches an integer of NumPy, which torch's generator refuses, and a TypeError for the rest.
    assert type(ResponseData(FEATURES, {}, seed=np.int64(3)).seed) is int  # type: ignore[arg-type]
    for wrong in (1.5, "1", None, np.random.default_rng(0)):
        with pytest.raises(InputError, match="must be a whole number"):
            ResponseData(FEATURES, {}, seed=wrong)  # type: ignore[arg-type]


def test_a_split_plan_leaves_out_a_part_of_nothing():
    # Catches an empty part, which every loader would stumble over.
    responses = small_responses(FEATURES, range(20))
    split = SplitPlan(train=0.75, validation=0.0, test=0.25).split(responses)
    assert sorted(split.parts) == ["test", "train"]
    assert {name: len(images) for name, images in split.parts.items()} == {"train": 15, "test": 5}


def test_a_recipe_goes_from_images_to_batches(tmp_path):
    # Catches features and responses that belong to different images.
    data = recipe(tmp_path, store_dtype="float32", zscore=False)
    cortex, basis = small_cortex(), small_basis()
    sizes = {name: part.sizes["presentation"] for name, part in data.parts.items()}
    assert sizes == {"train": 12, "validation": 6, "test": 6}
    batch = next(iter(data.test_dataloader()))
    shown = cortex.responses()
    for row, image in enumerate(data.part("test")["image"].values):
        pixels = cortex.images().read(cortex.images().ids.index(image))
        np.testing.assert_allclose(batch["tokens"][row], basis.extract([pixels])[0], rtol=1e-6)
        mean = shown["response"].values[shown["image"].values == image].mean(axis=0)
        np.testing.assert_allclose(batch["response"][row], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(data.responses_of("test"), data.part("test")["response"].values)


def test_parts_share_no_image_and_the_plan_decides(tmp_path):
    # Catches a split that follows the training seed instead of its own.
    one, other = recipe(tmp_path, seed=1), recipe(tmp_path, seed=2)
    assert one.split.parts == other.split.parts
    images = [set(part["image"].values) for part in one.parts.values()]
    assert sum(map(len, images)) == len(set.union(*images)) == 24


def test_the_store_is_filled_once_for_all_later_uses(tmp_path, monkeypatch):
    # Catches features that are extracted again by every command and process.
    seen = []
    extract = GaborPyramid.extract_images

    def counted(self, images, indices):
        seen.extend(indices)
        return extract(self, images, indices)

    monkeypatch.setattr(GaborPyramid, "extract_images", counted)
    first = recipe(tmp_path)
    first.prepare_data()
    assert sorted(seen) == list(range(24))
    again = recipe(tmp_path)
    again.prepare_data()
    np.testing.assert_array_equal(again.features["tokens"], first.features["tokens"])
    assert len(seen) == 24


def test_the_batch_size_is_that_of_the_modules_optimisation(tmp_path):
    # Catches loaders that fall back to the default of 32.
    data = ResponseData(FEATURES, {"train": small_responses(FEATURES, range(20))})

    class Trainer:
        global_rank, world_size = 1, 2

        class strategy:  # noqa: N801
            class root_device:  # noqa: N801
                type = "cpu"

        class lightning_module:  # noqa: N801
            optimisation = Optimisation(batch_size=6)

    data.trainer = Trainer
    assert [len(batch["index"]) for batch in data.train_dataloader()] == [3, 3, 3]


class Agreed(SimulatedCortex):
    """A data set with a split of its own."""

    def splits(self):
        ids = self.images().ids
        return {"theirs": Split.from_lists(train=ids[:12], validation=ids[12:14], test=ids[20:])}


def test_a_published_split_is_taken_by_its_name(tmp_path):
    # Catches fractions that win over the split that the field agreed on.
    cortex = Agreed(scenes=24, size=56, repeats=2, voxels=(1, 1))
    data = EncodingData(
        cortex, small_basis(), SplitPlan(published="theirs"), store=str(tmp_path / "store")
    )
    assert dict(data.split.parts) == dict(cortex.splits()["theirs"].parts)
    assert set(data.part("test")["image"].values.tolist()) == set(cortex.images().ids[20:])


class TwoParts(SimulatedCortex):
    """A data set whose split has no validation images."""

    def splits(self):
        ids = self.images().ids
        return {"theirs": Split.from_lists(train=ids[:20], test=ids[20:])}


def test_a_published_split_without_validation_gets_one_from_its_training_images(tmp_path):
    # Catches a validation on test images, and a recipe that cannot choose its epoch.
    cortex = TwoParts(scenes=24, size=56, repeats=2, voxels=(1, 1))
    plan = SplitPlan(published="theirs", validation=0.25, seed=1)
    data = EncodingData(cortex, small_basis(), plan, store=str(tmp_path / "store"))
    ids, parts = cortex.images().ids, data.split.parts
    assert set(parts["test"]) == set(ids[20:])
    assert len(parts["validation"]) == 5
    assert set(parts["train"]) | set(parts["validation"]) == set(ids[:20])
    without = SplitPlan(published="theirs", validation=0).split(data.responses, [cortex])
    assert dict(without.parts) == dict(cortex.splits()["theirs"].parts)


@pytest.mark.parametrize("plan", [SplitPlan(group_by="-"), SplitPlan(published="a", group_by="-")])
def test_samples_of_one_film_stay_in_one_part(plan):
    # Catches a validation on the neighbours in time of what was trained on.
    ids = [f"film{film}-{sample:05d}" for film in range(20) for sample in range(7)]

    class Films(SimulatedCortex):
        def splits(self):
            return {"a": Split.from_lists(train=ids[:98], test=ids[98:])}

    split = plan.split(xr.Dataset(coords={"image": ids}), [Films()])
    films = {part: {image[:6] for image in images} for part, images in split.parts.items()}
    assert set(films) == {"train", "validation", "test"}
    assert sum(map(len, films.values())) == len(set().union(*films.values()))


@pytest.mark.parametrize(
    ("source", "plan", "said"),
    [
        (Agreed, SplitPlan(published="thers"), "did you mean 'theirs'"),
        (SimulatedCortex, SplitPlan(published="theirs"), "has no published split"),
        (Agreed, SplitPlan(published="theirs", file="split.json"), "give one"),
    ],
)
def test_a_published_split_that_is_not_there_is_told(tmp_path, source, plan, said):
    # Catches a misspelt name that silently becomes a random split.
    cortex = source(scenes=24, size=56, repeats=2, voxels=(1, 1))
    data = EncodingData(cortex, small_basis(), plan, store=str(tmp_path / "store"))
    with pytest.raises(InputError, match=said):
        _ = data.split


def test_a_split_that_does_not_sum_to_1_says_what_was_not_given():
    # Catches a message about a part that nobody wrote.
    shown = xr.Dataset(coords={"image": list("abcdefghij")})
    with pytest.raises(
        InputError, match=r"validation=0\.1, test=0\.2, which sum to 1\.1 .*validation: 0"
    ):
        SplitPlan(train=0.8, test=0.2).split(shown)
    assert set(SplitPlan(train=0.8, validation=0, test=0.2).split(shown).parts) == {"train", "test"}
