"""The correctness checks of the benchmarks at tiny sizes, and the checks' own helpers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common import GateError, Target, gate, paired_runs
from benchmarks.empirical_bayes import largest_difference, trained
from benchmarks.memory import peak_allocation
from benchmarks.published_decoder import (
    PublishedDecoder,
    Sizes,
    copy_weights,
    ownership,
    shared_parameters,
)
from benchmarks.random_store import dataset, fill
from benchmarks.streaming import metrics, store
from benchmarks.training_step import endless, networks, our_backward, outputs_agree, their_backward
from benchmarks.voxel_queries import block_difference
from neuroattn.encoders import decoder as decoder_module
from neuroattn.encoders.decoder import BrainDecoder
from neuroattn.training.optimisation import Optimisation
from tests.tolerances import TOLERANCE

SIZES = Sizes(
    rows=3, columns=5, dim=16, heads=4, feedforward=24, queries=3, left=11, right=13, batch=5
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both() -> tuple[BrainDecoder, PublishedDecoder]:
    ours, published = (network.double() for network in networks(SIZES))
    assert isinstance(ours, BrainDecoder)
    assert isinstance(published, PublishedDecoder)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in published.parameters():  # biases and norms must matter, too
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    copy_weights(published, ours)
    return ours, published


@pytest.mark.parametrize("images_at_once", [1, 2, 5])
def test_our_decoder_is_the_published_one_in_outputs_and_gradients(images_at_once, monkeypatch):
    # Catches any shortcut of ours (shared queries, blocks of images, position projected once,
    # gathered readout with its own backward) that changes the function or a gradient.
    monkeypatch.setattr(decoder_module, "IMAGE_BLOCK", images_at_once * SIZES.tokens * SIZES.dim)
    ours, published = both()
    tokens = drawn(SIZES.batch, SIZES.tokens, SIZES.dim)
    weight = drawn(SIZES.batch, SIZES.voxels, seed=2)
    mine, theirs = ours(tokens), torch.cat(published(tokens), dim=1)
    torch.testing.assert_close(mine, theirs, **TOLERANCE["float64"])
    (mine * weight).sum().backward()
    (theirs * weight).sum().backward()
    pairs = shared_parameters(published, ours, gradient=True)
    assert len(pairs) == 21
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, **TOLERANCE["float64"])
    used = {p for p in ours.parameters() if p.grad is not None}
    assert used == set(ours.parameters())


def test_the_gate_of_the_training_step_sees_a_wrong_weight():
    # Catches a gate that compares a network with itself or looks at too little.
    ours, published = networks(SIZES)
    tokens = drawn(SIZES.batch, SIZES.tokens, SIZES.dim).half()
    assert outputs_agree(ours, published, tokens) < 1e-5
    with torch.no_grad():
        ours.readout.weight[3, 5] += 0.01
    assert outputs_agree(ours, published, tokens) > 1e-4


def test_the_published_readout_reads_each_vertex_from_its_own_query():
    # Catches a mask that keeps another row: against a loop over the vertices.
    _, published = both()
    owner = ownership(SIZES)[0]
    state = drawn(2, SIZES.queries, SIZES.dim)
    found = published._read(published.left, state, published.left_mask)
    for vertex in range(SIZES.left):
        row = published.left.weight[vertex]
        expected = state[:, owner[vertex]] @ row + published.left.bias[vertex]
        torch.testing.assert_close(found[:, vertex], expected, **TOLERANCE["float64"])


def test_every_query_owns_vertices_of_its_hemisphere():
    # Catches a comparison in which our gathered readout has fewer queries to serve.
    for owner, vertices in zip(ownership(SIZES), (SIZES.left, SIZES.right), strict=True):
        assert len(owner) == vertices
        assert set(owner.tolist()) == set(range(SIZES.queries))


def test_the_losses_differ_only_in_the_weight_of_the_hemispheres():
    # Catches a published loss that leaves out a hemisphere.
    ours, published = both()
    tokens = drawn(SIZES.batch, SIZES.tokens, SIZES.dim)
    response = drawn(SIZES.batch, SIZES.voxels, seed=3)
    squares = (ours(tokens) - response).square().mean(0)
    expected = squares[: SIZES.left].mean() + squares[SIZES.left :].mean()
    torch.testing.assert_close(published.loss(tokens, response), expected, **TOLERANCE["float64"])


def test_fused_adamw_steps_as_the_plain_one():
    # Catches an optimiser that is faster because it does something else.
    ours, _ = both()
    other, _ = both()
    options = Optimisation(learning_rate=1e-2, weight_decay=0.1)
    fast, plain = options.optimizer(ours), options.optimizer(other)
    assert fast.defaults["fused"]
    for group in plain.param_groups:
        group["fused"] = False
    batch = {
        "tokens": drawn(SIZES.batch, SIZES.tokens, SIZES.dim),
        "response": drawn(SIZES.batch, SIZES.voxels, seed=3),
    }
    for _ in range(3):
        for network, optimizer in ((ours, fast), (other, plain)):
            network.zero_grad()
            our_backward(network, batch)
            optimizer.step()
    for mine, theirs in zip(ours.parameters(), other.parameters(), strict=True):
        # the key bias has a gradient of pure rounding, which Adam blows up to its full step
        if mine is not ours.layers[0].attention.key.bias:
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("precision", "fused"), [("32-true", True), ("16-mixed", False), ("bf16-mixed", False)]
)
def test_mixed_precision_which_cannot_clip_for_a_fused_optimiser_gets_none(precision, fused):
    # Catches a training under mixed precision that ends at Lightning's refusal to clip.
    optimizer = Optimisation(precision=precision).optimizer(torch.nn.Linear(2, 2))
    assert optimizer.defaults["fused"] is fused


def test_both_steps_read_the_same_shuffled_batches_of_the_store(tmp_path: Path):
    # Catches a benchmark that reads rows in order or that does not read the store at all.
    features = fill(tmp_path, 7, SIZES.rows, SIZES.columns, SIZES.dim)
    data = dataset(features, SIZES.voxels)
    first, second = endless(data, 3), endless(data, 3)
    seen = []
    for _ in range(2):
        batch, again = first(), second()
        assert torch.equal(batch["tokens"], again["tokens"])
        stored = features["tokens"].values[batch["index"].numpy()]
        np.testing.assert_array_equal(batch["tokens"].numpy(), stored)
        seen += batch["index"].tolist()
    assert len(set(seen)) == 6
    assert seen != sorted(seen)


def test_the_allocations_of_a_step_are_counted_with_and_without_gradients():
    # Catches a peak that misses tensors, forgets what is freed, or counts gradients as activations.
    def found(images: int, outputs: int) -> tuple[dict[str, int], int, int]:
        weight, tokens = torch.nn.Parameter(torch.ones(1000, outputs)), torch.ones(images, 1000)
        peak = peak_allocation(lambda: (tokens @ weight).relu().sum().backward(), [weight])
        return peak, weight.numel() * 4, images * outputs * 4

    peak, gradient, product = found(images=500, outputs=300)
    # the product and its rectified form are kept; a third one is a gradient on its way back
    assert 2 * product <= peak["activations"] <= 3 * product + 4096
    assert gradient + product <= peak["with_gradients"] <= gradient + 3 * product + 4096
    peak, gradient, product = found(images=2, outputs=3000)
    assert gradient <= peak["with_gradients"] <= gradient + 3 * product + 4096
    assert peak["activations"] <= 3 * product + 4096


def test_our_step_needs_less_memory_than_the_published_one():
    # Catches a measurement of one network twice.
    sizes = Sizes(rows=6, columns=6, dim=32, heads=4, feedforward=32, left=900, right=900)
    ours, published = networks(sizes)
    batch = {
        "tokens": drawn(sizes.batch, sizes.tokens, sizes.dim).half(),
        "response": drawn(sizes.batch, sizes.voxels).float(),
    }
    mine = peak_allocation(lambda: our_backward(ours, batch), ours.parameters())
    theirs = peak_allocation(lambda: their_backward(published, batch), published.parameters())
    assert mine["activations"] < theirs["activations"] / 3


@pytest.mark.parametrize("block", [1, 5, 23])
def test_blocks_of_voxel_queries_give_what_one_block_gives(block):
    # Catches a block that sees other weights or loses its gradient.
    assert block_difference(block) < 1e-10


def test_the_streaming_benchmark_passes_its_gates_at_small_size():
    # Catches a metric that leaves the two-pass formula, or a store that gives other rows.
    assert metrics(50, 30, 1)["largest_difference"] < 1e-10
    found = store(20, 3, 8, 1)
    assert found["bytes"] == 20 * 9 * 8 * 2
    assert set(found["bytes_per_s"]) == {"shuffled", "in_order", "plain_copy_in_order"}


@pytest.mark.parametrize("images", [5, 20])
def test_the_gate_of_empirical_bayes_passes_and_sees_another_estimate(images):
    # Catches a gate that compares the encoder with itself: the likeliest level is another answer.
    encoder = trained(6)
    assert largest_difference(encoder, images, 9) < 1e-5
    encoder.noise = "maximum"
    assert largest_difference(encoder, images, 9) > 1e-3


def test_features_of_the_store_are_those_of_the_backbone(tmp_path: Path):
    # Catches an epoch from the store that trains on other tokens than the backbone gives.
    pytest.importorskip("transformers")
    from benchmarks.epoch import backbone, trained_step
    from neuroattn.features import FeatureStore
    from neuroattn.images import ImageArray

    sizes = Sizes(rows=2, columns=2, dim=16, heads=4, feedforward=8, queries=2, left=4, right=4)
    basis = backbone(tmp_path / "model", sizes, 1)
    assert (basis.grid, basis.channels) == ((2, 2), 16)
    draw = np.random.default_rng(0)
    images = ImageArray(draw.integers(0, 256, (3, 28, 28, 3), dtype=np.uint8))
    stored = FeatureStore(tmp_path / "store").fill(basis, images, progress=False)
    computed = basis.extract_images(images, range(3))["tokens"]
    np.testing.assert_allclose(stored["tokens"].values, computed, **TOLERANCE["float16"])
    step = trained_step(sizes, torch.zeros(3, 8))
    step(torch.from_numpy(computed))


def test_a_gate_that_does_not_hold_stops_the_benchmark():
    # Catches a benchmark that writes timings of a wrong answer.
    gate("holds", True, 0)
    with pytest.raises(GateError, match=r"'sums' failed: 3"):
        gate("sums", False, 3)


def test_a_target_is_met_on_its_bound_and_missed_beyond():
    # Catches a verdict that compares the wrong way round.
    assert Target("rate", 2.0, least=2).met
    assert not Target("rate", 1.9, least=2).met
    assert Target("memory", 8.0, most=8).met
    assert not Target("memory", 8.1, most=8).met
    assert str(Target("memory", 8.1, most=8)).startswith("MISSED memory: 8.1 (at most 8)")


def test_paired_runs_take_turns_and_tell_the_ratio():
    # Catches a ratio the wrong way round, or runs that are not in turn.
    import time

    calls: list[str] = []

    def quick() -> str:
        calls.append("ours")
        return "a"

    def slow() -> str:
        calls.append("theirs")
        time.sleep(0.01)
        return "b"

    timing, first, second = paired_runs(quick, slow, 3)
    assert (first, second) == ("a", "b")
    assert calls == ["ours", "theirs"] * 3
    assert timing["ratio"] > 2
    assert timing["theirs_s"] >= 0.01
    assert len(timing["runs"]) == 3
