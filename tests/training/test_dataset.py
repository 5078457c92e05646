"""Batches are read by image id from the store, never the whole store."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn.errors import MismatchError
from neuroattn.training.batches import EpochBatches
from neuroattn.training.dataset import ImageResponses
from tests.training.small import small_features

FEATURES = small_features(12)


def test_a_batch_holds_the_tokens_and_responses_of_its_images():
    # Catches rows taken by position in the store instead of by image.
    images = ["im07", "im02", "im11", "im02"]
    responses = np.arange(8, dtype=np.float32).reshape(4, 2)
    batch = ImageResponses(FEATURES, images, responses).__getitems__([3, 0, 2])
    expected = FEATURES["tokens"].sel(image=["im02", "im07", "im11"]).values
    np.testing.assert_array_equal(batch["tokens"].numpy(), expected)
    np.testing.assert_array_equal(batch["response"].numpy(), responses[[3, 0, 2]])
    assert batch["index"].tolist() == [3, 0, 2]


def test_an_item_is_a_batch_of_one_without_its_axis():
    # Catches single items that a default collation would stack wrongly.
    item = ImageResponses(FEATURES, ["im05"])[0]
    np.testing.assert_array_equal(item["tokens"].numpy(), FEATURES["tokens"].values[5])
    assert "response" not in item


def test_a_store_larger_than_memory_should_hold_is_read_row_by_row(tmp_path):
    # Catches np.asarray, .load() or a copy of the memory map (here 4 GiB, sparse).
    shape = (16384, 128, 1024)
    stored = np.lib.format.open_memmap(tmp_path / "t.npy", "w+", "<f2", shape)
    wanted = [16000, 3, 9000]
    for row in wanted:
        stored[row] = row % 97
    opened = np.load(tmp_path / "t.npy", mmap_mode="r")
    features = xr.Dataset(
        {"tokens": (("image", "token", "channel"), opened)},
        coords={"image": np.arange(shape[0]).astype(str)},
    )
    tracemalloc.start()
    dataset = ImageResponses(features, [str(row) for row in wanted])
    batch = dataset.__getitems__([0, 1, 2])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.shares_memory(dataset.tokens, opened)
    assert [float(image.max()) for image in batch["tokens"]] == [row % 97 for row in wanted]
    assert peak < 2**24


def test_the_loader_gives_whole_batches_and_leaves_the_global_generator_alone():
    # Catches a loader that draws a seed from torch at moments that differ after a resume.
    dataset = ImageResponses(FEATURES, FEATURES["image"].values)
    before = torch.random.get_rng_state()
    batches = EpochBatches(12, 5, shuffle=False)
    found = [batch["index"].tolist() for batch in dataset.loader(batches)]
    assert found == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_without_features_are_refused_by_name_and_number():
    # Catches get_indexer's -1, which would serve the last image of the store.
    with pytest.raises(MismatchError, match=r"2 of 3 images.*'nope', 'im99'.*fill the feature"):
        ImageResponses(FEATURES, ["im01", "nope", "im99"])


def test_responses_of_another_count_are_refused():
    # Catches pairs that slip by one.
    with pytest.raises(MismatchError, match="2 images but 3 rows"):
        ImageResponses(FEATURES, ["im01", "im02"], np.zeros((3, 2), np.float32))
