"""Splits: no leak, the same for the same seed, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import xarray as xr

from neuroattn.data.split import Split, folds_by_image, groups_by_mark, split_by_image
from neuroattn.errors import FileError, InputError, MismatchError, UnknownNameError
from tests.data.layouts import small_set

THIRDS = {"train": 0.6, "validation": 0.2, "test": 0.2}


def _shown(count: int, repeats: int = 3, seed: int = 0) -> xr.Dataset:
    order = np.random.default_rng(seed).permutation(np.repeat(np.arange(count), repeats))
    return small_set(
        presentations=len(order), presentation={"image": [f"img-{n:03d}" for n in order]}
    )


@pytest.mark.parametrize("count", [5, 23, 101])
def test_parts_are_disjoint_cover_all_images_and_have_the_sizes_asked(count: int) -> None:
    # Catches an image on both sides, an image in no part, and rounding that starves a part.
    data = _shown(count)
    split = split_by_image(data, THIRDS, seed=count)
    counted = Counter(image for ids in split.parts.values() for image in ids)
    assert counted == Counter(set(data["image"].values.tolist()))
    for part, share in THIRDS.items():
        assert abs(len(split[part]) - share * count) < 1


def test_no_presentation_of_an_image_leaks_to_another_part() -> None:
    # Catches a split over presentations.
    data = _shown(30)
    split = split_by_image(data, THIRDS)
    seen = {part: set(split.select(data, part)["image"].values.tolist()) for part in THIRDS}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert sum(split.select(data, part).sizes["presentation"] for part in THIRDS) == 90


def test_the_seed_decides_and_the_order_of_presentations_does_not() -> None:
    # Catches the global random state and a split that follows the scanning order.
    split = split_by_image(_shown(40, seed=1), THIRDS, seed=7)
    assert split_by_image(_shown(40, repeats=1, seed=2), THIRDS, seed=7) == split
    assert split_by_image(_shown(40, seed=1), THIRDS, seed=8) != split
    assert list(split["train"]) == sorted(split["train"])


def test_groups_are_never_divided() -> None:
    # Catches images of one scene on both sides.
    data = _shown(60)
    groups = {f"img-{n:03d}": f"scene-{n % 9}" for n in range(60)}
    split = split_by_image(data, THIRDS, groups=groups)
    homes = {}
    for part, ids in split.parts.items():
        for image in ids:
            assert homes.setdefault(groups[image], part) == part
    assert sum(map(len, split.parts.values())) == 60
    assert set(homes.values()) == set(THIRDS)


def test_an_image_without_group_is_named() -> None:
    # Catches a KeyError without a word on what to do.
    with pytest.raises(MismatchError, match=r"1 of 3 images.*img-001"):
        split_by_image(
            _shown(3), {"train": 0.5, "test": 0.5}, groups={"img-000": "a", "img-002": "b"}
        )


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ({"train": 0.9, "test": 0.2}, "sum to 1.1"),
        ({"train": 1.2, "test": -0.2}, "above 0"),
        ({"train": 1.0, "test": 0.0}, "above 0"),
        ({"train": float("nan"), "test": 0.5}, "above 0"),
        ({"train": 0.95, "test": 0.05}, "part 'test' empty"),
        ({"train": 0.5, "tset": 0.5}, "did you mean 'test'"),
        ({}, "sum to 0"),
    ],
)
def test_fractions_that_make_no_split_are_refused(fractions, words) -> None:
    # Catches an empty test part, which every score would be computed on.
    with pytest.raises(InputError, match=words):
        split_by_image(_shown(5), fractions)


@pytest.mark.parametrize("groups", [None, {f"img-{n:03d}": f"g{n // 2}" for n in range(17)}])
def test_each_image_is_tested_in_exactly_one_fold(groups) -> None:
    # Catches overlapping test folds, leaks into training, divided groups.
    data = _shown(17)
    folds = folds_by_image(data, 5, seed=3, groups=groups, validation=0.25)
    tested = Counter(image for fold in folds for image in fold["test"])
    assert tested == Counter(set(data["image"].values.tolist()))
    for fold in folds:
        assert sum(map(len, fold.parts.values())) == 17
        assert len(fold["validation"]) in range(2, 6)
        if groups:
            sides = {part: {groups[i] for i in ids} for part, ids in fold.parts.items()}
            assert not sides["test"] & (sides["train"] | sides["validation"])
    assert folds_by_image(_shown(17, seed=9), 5, 3, groups, 0.25) == folds
    assert folds_by_image(data, 5, 4, groups, 0.25) != folds


def test_folds_have_no_validation_part_unless_asked_for() -> None:
    # Catches images that are silently kept from training.
    folds = folds_by_image(_shown(10), 5)
    assert [sorted(fold.parts) for fold in folds] == [["test", "train"]] * 5
    assert [len(fold["train"]) for fold in folds] == [8] * 5


@pytest.mark.parametrize(("folds", "validation"), [(1, 0), (6, 0), (2, 1.0), (2, -0.1)])
def test_folds_out_of_range_are_refused(folds, validation) -> None:
    # Catches scikit-learn's message, which speaks of samples.
    with pytest.raises(InputError, match=f"folds={folds}|validation={validation}"):
        folds_by_image(_shown(5), folds, validation=validation)


def test_explicit_lists_are_checked_for_leaks() -> None:
    # Catches a list made by hand with one image on both sides.
    split = Split.from_lists(train=["a", "b"], test=["c"])
    assert split["test"] == ("c",)
    with pytest.raises(InputError, match=r"'b' stands in part 'train' and again in 'test'"):
        Split.from_lists(train=["a", "b"], test=["c", "b"])
    with pytest.raises(InputError, match="'a' stands in part 'train' and again in 'train'"):
        Split.from_lists(train=["a", "a"])
    with pytest.raises(InputError, match="'test' of the split holds no image"):
        Split.from_lists(train=["a"], test=[])
    with pytest.raises(InputError, match="parts is empty"):
        Split({})
    with pytest.raises(UnknownNameError, match="validation"):
        Split.from_lists(valid=["a"])
    with pytest.raises(UnknownNameError, match="'validation' is unknown"):
        split["validation"]


def test_selecting_keeps_the_order_of_the_data_and_works_on_features() -> None:
    # Catches a selection that sorts, and one that needs the dimension "presentation".
    data = small_set()
    split = Split.from_lists(train=["img-d", "img-a"], test=["img-b"])
    assert split.select(data, "train")["image"].values.tolist() == [
        "img-a",
        "img-d",
        "img-a",
        "img-d",
        "img-a",
    ]
    features = xr.Dataset(
        {"tokens": (("image", "token"), np.arange(8).reshape(4, 2))},
        coords={"image": ["img-d", "img-c", "img-b", "img-a"]},
    )
    assert split.select(features, "train")["tokens"].values.tolist() == [[0, 1], [6, 7]]


def test_a_split_of_other_data_is_refused() -> None:
    # Catches training on the few images that happen to have the same name.
    split = Split.from_lists(train=["img-a", "img-y", "img-z"], test=["img-b"])
    with pytest.raises(MismatchError, match=r"2 of the 3 images of part 'train'.*img-y.*4 images"):
        split.select(small_set(), "train")


def test_a_split_comes_back_from_its_file_and_from_another_process(tmp_path) -> None:
    # Catches ids that change type, and a mapping that cannot be copied to a worker.
    split = split_by_image(_shown(11), THIRDS)
    split.save(tmp_path / "run" / "split.json")
    assert Split.load(tmp_path / "run" / "split.json") == split
    assert pickle.loads(pickle.dumps(split)) == split
    with pytest.raises(TypeError):
        split.parts["train"] = ()


@pytest.mark.parametrize(
    "content",
    ['["a"]', '{"train": "abc"}', '{"train": [1]}', '{"train": ["a"], "test": ["a"]}', "{"],
)
def test_a_file_that_is_no_split_is_named(tmp_path, content) -> None:
    # Catches a string taken for a list of one-letter images, and an edited file that leaks.
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(FileError, match=r"split\.json"):
        Split.load(path)
    path.write_text(json.dumps({"train": ["a"]}))
    assert Split.load(path)["train"] == ("a",)


def test_groups_are_what_stands_before_the_last_mark() -> None:
    """Catches neighbours in time on both sides of a split."""
    ids = ["friends-s01e02a-00001", "friends-s01e02a-00002", "friends-s01e02b-00001"]
    assert list(groups_by_mark(ids, "-").values()) == [
        "friends-s01e02a",
        "friends-s01e02a",
        "friends-s01e02b",
    ]
    for mark in ("_", ""):
        with pytest.raises(InputError, match=r"is not in the image id 'friends-s01e02a-00001'"):
            groups_by_mark(ids, mark)


def test_joined_splits_count_a_shared_image_once_and_refuse_a_leak() -> None:
    """Catches an image that is trained on with one subject and tested with another."""
    one = Split.from_lists(train=["a", "b"], test=["s"])
    other = Split.from_lists(train=["c"], validation=["d"], test=["s", "t"])
    joined = Split.joined([one, other])
    assert dict(joined.parts) == {
        "train": ("a", "b", "c"),
        "test": ("s", "t"),
        "validation": ("d",),
    }
    with pytest.raises(InputError, match=r"'s' stands in part"):
        Split.joined([one, Split.from_lists(train=["s"], test=["a2"])])
