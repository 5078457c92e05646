"""Blocks of voxels: their size against counted bytes, and nothing lost between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from neuroattn.encoders.incontext import SetTransformer, SetTransformerConfig
from neuroattn.encoders.incontext.blocks import block_size, voxel_blocks
from neuroattn.errors import InputError

SMALL = SetTransformerConfig(width=64, heads=4, layers=2, feedforward=128)
MIB = 2**-10


def counted(config: SetTransformerConfig, embedding: int, images: int, voxels: int) -> int:
    """Return the most bytes that a forward pass held at once."""
    with torch.random.fork_rng(devices=[]):
        network = SetTransformer(config, embedding).eval()
    context, response = torch.zeros(images, embedding), torch.zeros(voxels, images)
    with (
        torch.inference_mode(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen,
    ):
        network(context, response)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max())


SHAPES = {
    "feed-forward": (SMALL, 48, 100),
    "long context": (SMALL, 48, 700),
    "wide embedding": (SMALL, 400, 100),
    "narrow feed-forward": (SetTransformerConfig(64, 4, 2, 16), 48, 100),
    "no first rectifier": (SetTransformerConfig(64, 4, 2, 128, input_activation=False), 48, 100),
    "one layer": (SetTransformerConfig(64, 4, 1, 96), 100, 60),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_block_takes_the_memory_that_was_given_and_no_more(shape):
    # Catches a tensor that nobody counted, and blocks half as large as they may be.
    config, embedding, images = SHAPES[shape]
    memory = 16 * MIB
    voxels = block_size(images, config, embedding, memory, "cuda")
    assert voxels > 5
    share = counted(config, embedding, images, voxels) / (memory * 2**30)
    assert 0.5 < share < 1.05


@pytest.mark.parametrize("attention", ["sigmoid_attention", "landmark", "delta", "linear"])
@pytest.mark.parametrize("images", [60, 300])
def test_a_mechanism_that_holds_whole_matrices_gets_smaller_blocks(attention, images):
    # Catches the count of the fused softmax for all: ten times too little at long contexts.
    config = SetTransformerConfig(64, 4, 2, 32, attention=attention)
    memory = 32 * MIB
    voxels = block_size(images, config, 48, memory, "cuda")
    assert counted(config, 48, images, voxels) < 1.1 * memory * 2**30


def test_more_memory_gives_larger_blocks_up_to_what_pays():
    sizes = [block_size(100, SMALL, 48, memory) for memory in (0.001, 0.002, 0.01, 1, 100)]
    assert sizes == sorted(sizes)
    assert 2 * sizes[0] <= sizes[1] <= 2 * sizes[0] + 1
    assert sizes[3] == sizes[4] == 3_072 // 104
    assert block_size(100_000, SMALL, 48, 100) == 1


def test_unlimited_memory_is_no_overflow():
    assert block_size(100, SMALL, 48, float("inf")) == 3_072 // 104
    assert block_size(100, SMALL, 48, float("inf"), "cuda") > 10**9


def test_the_published_network_writes_many_voxels_in_the_default_memory():
    # Catches blocks of a processor that are larger than pays, and smaller ones on a GPU than fit.
    assert block_size(100, SetTransformerConfig(), 512, 1.0) == 29
    assert block_size(100, SetTransformerConfig(), 512, 1.0, "cuda") > 150
    assert block_size(1000, SetTransformerConfig(), 512, 1.0) == 3
    assert block_size(1000, SetTransformerConfig(), 512, 1.0, "cuda") == 25


@pytest.mark.parametrize("memory", [0.0, -1.0, 1e-5, float("nan")])
def test_too_little_memory_is_refused(memory):
    with pytest.raises(InputError, match=r"memory=.* GiB is too little for one voxel of 100"):
        block_size(100, SMALL, 48, memory)


@pytest.mark.parametrize("count", [1, 6, 7, 8, 20])
def test_blocks_hold_every_voxel_once_and_in_order(count):
    # Catches the last, shorter block.
    chosen = np.random.default_rng(0).permutation(50)[:count]
    memory = 7.5 * 4 * 4 * (128 + 64) * 104 / 2**30
    blocks = list(voxel_blocks(chosen, 100, SMALL, 48, memory))
    assert [len(block) for block in blocks[:-1]] == [7] * (len(blocks) - 1)
    assert 1 <= len(blocks[-1]) <= 7
    np.testing.assert_array_equal(np.concatenate(blocks), chosen)
