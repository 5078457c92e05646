"""The published splits, against a count by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np

from neuroattn.data.nsd import NSD
from neuroattn.data.nsd.design import Design
from neuroattn.data.nsd.splits import published_splits
from tests.data.nsd_mini import Mini


def names(numbers) -> set[str]:
    return {f"nsd-{number:05d}" for number in numbers}


def test_shared515_tests_on_shared_images_seen_three_times_by_all(mini: Mini) -> None:
    """Catches a split by the flag alone, or by how often one subject saw an image."""
    splits = NSD(str(mini.root), 1).splits()
    often = Counter(mini.shown.tolist())
    three = {image for image in mini.shared.tolist() if often[image] == 3}
    assert 0 < len(three) < len(mini.shared)
    split = splits["shared515"]
    assert set(split["test"]) == names(three)
    assert set(split["validation"]) == names(set(mini.shared.tolist()) - three)
    assert set(split["train"]) == names(set(mini.shown.tolist()) - set(mini.shared.tolist()))


def test_shared1000_tests_on_all_shared_images_and_unique_has_none(mini: Mini) -> None:
    """Catches a shared image on both sides."""
    splits = NSD(str(mini.root), 1).splits()
    assert set(splits["shared1000"]["test"]) == names(mini.shared)
    assert splits["shared1000"]["train"] == splits["unique"]["train"]
    assert list(splits["unique"].parts) == ["train"]


def test_splits_hold_the_images_of_the_sessions_read_alone(mini: Mini) -> None:
    """Catches a split that names images that are not in the responses."""
    reader = NSD(str(mini.root), 1, sessions=1)
    data = reader.responses()
    for split in reader.splits().values():
        for part in split.parts:
            split.select(data, part)
    assert set(data["image"].values) == {
        image for part in reader.splits()["shared515"].parts.values() for image in part
    }


def test_only_the_first_thirty_sessions_decide(mini: Mini) -> None:
    """Catches the count over all 40 sessions, which the subjects with 30 never had."""
    early = np.repeat([[0, 1, 2]], 8, axis=0)
    shown = np.concatenate([np.tile(early, 30), np.tile(early * 0 + 3, 3)], axis=1)
    design = Design(mini.root, shown, np.array([0, 3]), None)
    split = published_splits(design, np.arange(4), 3)["shared515"]
    assert split["test"] == ("nsd-00000",)
    assert split["validation"] == ("nsd-00003",)


def test_every_subject_must_have_seen_a_test_image_three_times(mini: Mini) -> None:
    """Catches a count in one subject that stands for all eight."""
    shown = np.repeat([[0, 0, 0, 1, 1, 1, 2]], 8, axis=0)
    shown[7, 2] = 2
    design = Design(mini.root, shown, np.array([0, 1]), None)
    assert published_splits(design, np.arange(3), 7)["shared515"]["test"] == ("nsd-00001",)


def test_without_unique_images_there_is_no_split(mini: Mini) -> None:
    """Catches a split without anything to train on."""
    design = Design(mini.root, np.zeros((8, 3), dtype=np.int64), np.array([0]), None)
    assert published_splits(design, np.array([0]), 3) == {}
