"""What the in-context benchmark holds: same outputs, a fair yardstick, sums that add up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks import incontext_adaptation as benchmark
from benchmarks import incontext_pair, incontext_slopes
from benchmarks.common import GateError
from benchmarks.incontext_pair import (
    adapt_ours,
    difference,
    networks,
    parity,
    root_mean_square,
)
from benchmarks.published_braincorl import Sizes, Subject, VoxelItems, adapt_published, batches
from benchmarks.time_split import PARTS, part, time_split
from neuroattn.attention.bench import allocated
from tests.tolerances import TOLERANCE

SIZES = Sizes(
    embedding=7,
    width=12,
    heads=3,
    layers=3,
    feedforward=10,
    context=9,
    queries=11,
    voxels=7,
    batch=3,
)


@pytest.mark.parametrize(("context", "block"), [(9, 1), (9, 3), (2, 7), (31, 100)])
def test_our_network_adapts_as_the_published_design(context, block):
    # Catches any shortcut of ours (shared embeddings, the last layer for one token, blocks of
    # voxels, one product for all predictions) that changes a written weight or a prediction.
    assert parity(replace(SIZES, context=context), torch.float64, block) < benchmark.DOUBLE


def test_the_gate_sees_one_wrong_weight():
    # Catches a gate that compares a network with itself, or that looks at too little.
    ours, published = networks(SIZES)
    subject = Subject.drawn(SIZES)
    expected = adapt_published(published, subject, SIZES.batch)
    assert difference(adapt_ours(ours, subject, 2), expected) < benchmark.SINGLE
    with torch.no_grad():
        published.transformer[1].ffn.linear1.bias[3] += 0.05
    changed = adapt_published(published, subject, SIZES.batch)
    assert difference(adapt_ours(ours, subject, 2), changed) > benchmark.SINGLE
    written, predicted = expected
    assert difference((written, predicted), (written, predicted + predicted.max())) > 0.1


def test_random_weights_move_every_part_of_the_network():
    # Catches a comparison in which biases, norms or registers are still zeros and ones.
    ours, _ = networks(SIZES)
    for name, parameter in ours.named_parameters():
        assert len(parameter.detach().unique()) > 1, name


def test_bfloat16_is_another_arithmetic_and_near_enough():
    # Catches a half-precision run that is none, or that loses the predictions.
    ours, _ = networks(SIZES)
    subject = Subject.drawn(SIZES)
    expected = adapt_ours(ours, subject, 3)[1]
    found = adapt_ours(ours, subject, 3, half=True)[1]
    assert found.dtype == torch.float32
    assert 1e-4 < root_mean_square(found, expected) < benchmark.HALF


def test_the_published_loader_holds_context_and_queries_once_a_voxel():
    # Catches a yardstick that is lighter than the design: views in place of copies.
    subject = Subject.drawn(SIZES)
    context, response, queries = next(iter(DataLoader(VoxelItems(subject), batch_size=3)))
    assert context.shape == (3, 9, 7)
    assert queries.shape == (3, 11, 7)
    for each in (context, queries):
        assert each.is_contiguous()
        assert each.untyped_storage().nbytes() == each.numel() * 4
    torch.testing.assert_close(context[2], subject.context)
    torch.testing.assert_close(queries[1], subject.queries)
    torch.testing.assert_close(response, subject.response[:3])


def test_every_published_block_keeps_its_attention_weights():
    # Catches a fused kernel in the yardstick.
    _, published = networks(SIZES, torch.float64)
    subject = Subject.drawn(SIZES, torch.float64)
    with torch.inference_mode():
        next(batches(published, subject, 3, "cpu"))
    kept = [block.kept for block in published.transformer]
    assert len(kept) == SIZES.layers
    for each in kept:
        assert each.shape == (3, 13, 13)
        torch.testing.assert_close(
            each.sum(-1), torch.ones(3, 13, dtype=torch.float64), **TOLERANCE["float64"]
        )


def test_the_published_prediction_is_the_linear_encoder():
    # Catches an intercept that is left out or added to another voxel: against a loop.
    _, published = networks(SIZES, torch.float64)
    subject = Subject.drawn(SIZES, torch.float64)
    written, predicted = adapt_published(published, subject, SIZES.batch)
    assert predicted.shape == (7, 11)
    for voxel, row in enumerate(written):
        expected = subject.queries @ row[:-1] + row[-1]
        torch.testing.assert_close(predicted[voxel], expected, **TOLERANCE["float64"])


def test_our_run_needs_a_fraction_of_the_memory():
    # Catches a measurement of one design twice, and embeddings that ours replicates.
    sizes = replace(SIZES, context=40, queries=200, voxels=64, batch=64)
    ours, published = networks(sizes)
    subject = Subject.drawn(sizes)
    mine = allocated(partial(adapt_ours, ours, subject, 2))
    assert mine < allocated(partial(adapt_published, published, subject, 64)) / 4


def test_a_run_on_a_gpu_is_gated_and_timed(monkeypatch):
    # Catches a comparison that only a machine with a GPU would see fail: run on the CPU here.
    held = iter(range(0, 100, 10))
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: next(held))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    found = benchmark.on_gpu(SIZES, "cpu")
    assert found["voxels"] == SIZES.voxels
    assert found["largest_relative_difference_float32"] < benchmark.SINGLE
    assert 1e-4 < found["relative_rms_difference_bfloat16"] < benchmark.HALF
    assert found["allocated_bytes_above_weights"] == {"ours": 10, "published": 10}
    assert len(found["timing"]["runs"]) == 3
    monkeypatch.setattr(benchmark, "HALF", 1e-5)
    with pytest.raises(GateError, match="bfloat16"):
        benchmark.on_gpu(SIZES, "cpu")


@pytest.mark.parametrize("which", ["ours", "published"])
def test_a_process_of_its_own_adapts_only_what_it_is_told(which, monkeypatch):
    # Catches a baseline of loaded weights that already holds the run, or a run of the other one.
    seen = []
    for name in ("ours", "published"):
        monkeypatch.setattr(
            benchmark,
            f"adapt_{name}",
            lambda network, subject, size, name=name: seen.append((name, len(subject.response))),
        )
    benchmark.alone(which, SIZES, 2, 0)
    assert seen == [(which, 1)]
    benchmark.alone(which, SIZES, 2, 7)
    assert seen[1:] == [(which, 1), (which, 7)]


def test_the_sweep_tells_the_best_seconds_of_each_number_at_once(monkeypatch):
    # Catches a single slow try that decides, and seconds that stand beside another number.
    took = {1: [9, 9, 0], 2: [3, 4, 0], 4: [8, 1, 0]}
    now = [0.0]
    monkeypatch.setattr(benchmark, "BLOCKS", tuple(took))

    def adapt(_network, _subject, block):
        now[0] += took[block].pop(0)
        torch.ones(1000 * block)

    monkeypatch.setattr(benchmark, "adapt_ours", adapt)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    found = benchmark.swept(SIZES, 2)
    assert {block: each["s"] for block, each in found.items()} == {1: 9, 2: 3, 4: 1}
    assert all(4000 * block <= each["bytes"] < 8000 * block for block, each in found.items())


def test_slopes_tell_memory_that_grows_with_the_voxels_from_memory_that_does_not(monkeypatch):
    # Catches slopes of the other design, along the other size or with the wrong sign.
    monkeypatch.setattr(incontext_slopes, "CPU_MEMORY", 1.2e-4)
    sizes = replace(SIZES, context=30, queries=50)
    assert incontext_pair.block_of(sizes, 1.2e-4) < 16
    cases = [replace(sizes, voxels=voxels, batch=64) for voxels in (8, 16, 32, 64)]
    found = incontext_slopes.slopes(*networks(sizes), cases, "voxels")
    assert found["voxels"] == [8, 16, 32, 64]
    assert found["slopes"]["published_bytes"] == pytest.approx(1, abs=0.1)
    assert found["slopes"]["ours_bytes"] < 0.6
    assert all(len(found[f"{which}_s"]) == 4 for which in ("ours", "published"))


def test_slopes_count_the_time_of_the_processor(monkeypatch):
    # Catches slopes of wall-clock time, which other processes bend.
    pair = {"ours_s": 50.0, "theirs_s": 60.0, "ours_cpu_s": 2.0, "theirs_cpu_s": 3.0}
    told = {"ours_s": 50.0, "theirs_s": 60.0, "runs": [pair]}
    monkeypatch.setattr(incontext_slopes, "paired_runs", lambda *_: (told, None, None))
    found = incontext_slopes.slopes(*networks(SIZES), [SIZES], "context")
    assert (found["ours_s"], found["published_s"]) == ([2.0], [3.0])


def test_what_is_worked_out_for_all_voxels_follows_the_rates():
    # Catches minutes of the wrong design and outputs that are not counted.
    resident = {"ours": {"above_loaded": 10}, "published": {"above_loaded": 70}}
    rates = {
        "ours": {"voxels_per_s": 40.0, "voxels_per_core_s": 30.0},
        "published": {"voxels_per_s": 20.0, "voxels_per_core_s": 15.0},
    }
    found = benchmark.extrapolated(rates, resident, SIZES)
    assert found["ours_minutes"] == pytest.approx(20_000 / 40 / 60)
    assert found["published_minutes"] == pytest.approx(20_000 / 20 / 60)
    assert found["published_core_minutes"] == pytest.approx(20_000 / 15 / 60)
    kept = (20_000 - 7) * (11 + 7 + 1) * 4
    assert found["ours_bytes_above_loaded"] == 10 + kept
    assert found["published_bytes_above_loaded"] == 70 + kept
    assert "not run" in found["note"]


@pytest.mark.parametrize(
    ("operation", "shapes", "expected"),
    [
        ("aten::addmm", [[4096], [13312, 560], [560, 4096], [], []], "feed-forward"),
        ("aten::silu", [[128, 104, 2048]], "feed-forward"),
        ("aten::mm", [[13312, 560], [560, 1120]], "attention projections"),
        ("aten::addmm", [[560], [832, 560], [560, 560], [], []], "attention projections"),
        ("aten::_softmax", [[1280, 104, 104], [], []], "attention scores and reading"),
        ("aten::bmm", [[1280, 104, 56], [1280, 56, 104]], "attention scores and reading"),
        ("aten::addmm", [[1120], [12800, 513], [513, 1120], [], []], "first and last layers"),
        ("aten::addmm", [[560], [12800, 1120], [1120, 560], [], []], "first and last layers"),
        ("aten::addmm", [[1120], [1000, 512], [512, 1120], [], []], "first and last layers"),
        ("aten::addmm", [[1120], [128, 560], [560, 1120], [], []], "first and last layers"),
        ("aten::add", [[128, 104, 560], [128, 104, 560], []], "norms, residuals, layout"),
        ("aten::stack", [], "copying of context and queries"),
        ("aten::index", [[100, 512]], "copying of context and queries"),
        ("aten::mul", [[128, 1, 512], [128, 1000, 512]], "prediction"),
        ("aten::addmm", [[8, 1], [8, 512], [512, 1000], [], []], "prediction"),
        ("aten::empty", [[]], "other"),
    ],
)
def test_operations_are_counted_to_their_part(operation, shapes, expected):
    # Catches a split that books one part's products to another: shapes as a profile showed them.
    assert part(operation, shapes, Sizes()) == expected


def test_the_split_covers_both_designs():
    # Catches parts that are never met, or time that ends up nowhere.
    ours, published = networks(benchmark.QUICK)
    subject = Subject.drawn(benchmark.QUICK)
    for call in (
        partial(adapt_ours, ours, subject, 4),
        partial(adapt_published, published, subject, 24),
    ):
        split = time_split(call, benchmark.QUICK)
        assert tuple(split) == PARTS
        assert all(seconds > 0 for seconds in split.values())
        assert split["other"] < 0.5 * sum(split.values())
