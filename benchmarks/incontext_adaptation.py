"""In-context adaptation of many voxels next to the published inference design, same weights.

Both write the encoder of each voxel from 100 context images and predict 1,000 query images, with
the shapes of the CLIP preset and random weights. The CPU runs 128 voxels, a batch of the published
loader; what stands for 20,000 is worked out from them and says so. On a GPU all 20,000 run, ours in
bfloat16. ``OMP_NUM_THREADS=2 python -m benchmarks.incontext_adaptation`` takes about a quarter of
an hour on two cores; ``--quick`` some seconds. :mod:`benchmarks.incontext_slopes` has the slopes.

Memory is the peak resident memory of a fresh process with one run, and the same less that of a
process that loaded the weights and made one tiny read.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Target, conclude, gate, options, paired_runs, peak_memory, run
from benchmarks.incontext_pair import (
    CPU_MEMORY,
    DOUBLE,
    HALF,
    QUICK,
    SINGLE,
    adapt_ours,
    block_of,
    difference,
    networks,
    parity,
    root_mean_square,
)
from benchmarks.published_braincorl import PublishedNetwork, Sizes, Subject, adapt_published
from benchmarks.time_split import time_split
from neuroattn.attention.bench import allocated
from neuroattn.encoders.incontext.network import SetTransformer

BLOCKS = (1, 2, 4, 8, 16, 32, 64, 128)
GPU_MEMORY = 8.0  # GiB for activations, by which the encoder chooses its blocks
ALL_VOXELS = 20_000


def alone(which: str, sizes: Sizes, block: int, voxels: int) -> None:
    """Load weights, make a tiny read, then adapt the voxels, in a process of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        ours = SetTransformer(sizes.config, sizes.embedding) if which == "ours" else None
        published = PublishedNetwork(sizes).eval() if ours is None else None
    few = Subject.drawn(replace(sizes, context=2, queries=1, voxels=1))
    subject = Subject.drawn(replace(sizes, voxels=max(1, voxels)))
    for each in (few, subject) if voxels else (few,):
        if ours is not None:
            adapt_ours(ours.eval(), each, block)
        if published is not None:
            adapt_published(published, each, sizes.batch)


def memory(sizes: Sizes, block: int) -> dict[str, dict[str, int]]:
    """Return bytes of both: resident at most, with the weights only, and what the run adds."""
    found = {}
    for which in ("ours", "published"):
        loaded = peak_memory(alone, which, sizes, block, 0)
        peak = peak_memory(alone, which, sizes, block, sizes.voxels)
        found[which] = {"peak": peak, "loaded": loaded, "above_loaded": peak - loaded}
    return found


def swept(sizes: Sizes, repeats: int) -> dict[int, dict[str, float]]:
    """Return the best seconds and the allocated bytes of several numbers of voxels at once."""
    network, subject = networks(sizes)[0], Subject.drawn(sizes)
    seconds = dict.fromkeys(BLOCKS, math.inf)
    for _ in range(repeats):
        for block in BLOCKS:
            start = time.perf_counter()
            adapt_ours(network, subject, block)
            seconds[block] = min(seconds[block], time.perf_counter() - start)
    return {
        block: {
            "s": seconds[block],
            "bytes": allocated(partial(adapt_ours, network, subject, block)),
        }
        for block in BLOCKS
    }


def gflop(call: Callable[[], Any]) -> float:
    """Return the GFLOP of the matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops() / 1e9)


def extrapolated(
    rates: dict[str, dict[str, float]], resident: dict[str, dict[str, int]], sizes: Sizes
) -> dict[str, Any]:
    """Return what the rates of one batch say of all voxels; nothing here was run."""
    kept = (ALL_VOXELS - sizes.voxels) * (sizes.queries + sizes.embedding + 1) * 4
    found: dict[str, Any] = {"voxels": ALL_VOXELS, "note": "worked out from one batch, not run"}
    for name, rate in rates.items():
        found[f"{name}_minutes"] = ALL_VOXELS / rate["voxels_per_s"] / 60
        found[f"{name}_core_minutes"] = ALL_VOXELS / rate["voxels_per_core_s"] / 60
        found[f"{name}_bytes_above_loaded"] = resident[name]["above_loaded"] + kept
    return found


def on_gpu(sizes: Sizes, device: str = "cuda") -> dict[str, Any]:
    """Adapt all voxels on a GPU: ours in bfloat16, the published one in float32 without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    ours, published = networks(sizes)
    ours, published, block = (
        ours.to(device),
        published.to(device),
        block_of(sizes, GPU_MEMORY, "cuda"),
    )
    few = Subject.drawn(replace(sizes, voxels=2 * sizes.batch))
    expected = adapt_published(published, few, sizes.batch, device)
    single = difference(adapt_ours(ours, few, block, device), expected)
    gate("same outputs on the GPU, float32", single < SINGLE, single)
    half = root_mean_square(adapt_ours(ours, few, block, device, half=True)[1], expected[1])
    gate("predictions in bfloat16", half < HALF, half)
    subject = Subject.drawn(sizes)
    mine = partial(adapt_ours, ours, subject, block, device, half=True)
    theirs = partial(adapt_published, published, subject, sizes.batch, device)
    peaks = {}
    for name, call in (("ours", mine), ("published", theirs)):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        peaks[name] = torch.cuda.max_memory_allocated() - before
    return {
        "voxels": sizes.voxels,
        "voxels_at_once": block,
        "largest_relative_difference_float32": single,
        "relative_rms_difference_bfloat16": half,
        "timing": paired_runs(mine, theirs, 3)[0],
        "allocated_bytes_above_weights": peaks,
    }


def on_cpu(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Measure both on the CPU."""
    ours, published = networks(sizes)
    subject, block = Subject.drawn(sizes), block_of(sizes, CPU_MEMORY)
    mine = partial(adapt_ours, ours, subject, block)
    theirs = partial(adapt_published, published, subject, sizes.batch)
    apart = difference(mine(), expected := theirs())
    gate("same outputs as the published design", apart < SINGLE, apart)
    timing = paired_runs(mine, theirs, repeats)[0]
    single = Subject.drawn(replace(sizes, voxels=1))
    resident = memory(sizes, block)
    rates = {}
    for name, which in (("ours", "ours"), ("published", "theirs")):
        busy = statistics.median(pair[f"{which}_cpu_s"] for pair in timing["runs"])
        rates[name] = {
            "voxels_per_s": sizes.voxels / timing[f"{which}_s"],
            "voxels_per_core_s": sizes.voxels / busy,
        }
    return {
        "largest_relative_difference": apart,
        "memory_gib_given": CPU_MEMORY,
        "voxels_at_once": block,
        "timing": timing,
        "rates": rates,
        "gflop_a_voxel": {
            "ours": gflop(lambda: adapt_ours(ours, single, 1)),
            "published": gflop(lambda: adapt_published(published, single, 1)),
        },
        "resident_bytes": resident,
        "extrapolated": extrapolated(rates, resident, sizes),
        "where_the_time_goes_s": {
            "ours": time_split(mine, sizes),
            "published": time_split(theirs, sizes),
        },
        "ours_in_bfloat16": in_half(partial(mine, half=True), expected[1]),
    }


def in_half(adapted: Callable[[], tuple[Tensor, Tensor]], expected: Tensor) -> dict[str, float]:
    """Return seconds of a run in bfloat16 and how far its predictions are from the others."""
    start = time.perf_counter()
    predicted = adapted()[1]
    took = time.perf_counter() - start
    return {"s": took, "relative_rms_difference": root_mean_square(predicted, expected)}


def main() -> None:
    chosen = options(__doc__)
    sizes = QUICK if chosen.quick else Sizes()
    exact = parity(replace(QUICK, voxels=5, batch=3), torch.float64, 2)
    gate("same outputs in double precision", exact < DOUBLE, exact)
    found = on_cpu(sizes, chosen.repeats)
    resident = found["resident_bytes"]
    targets = [
        Target("times faster on the CPU", found["timing"]["ratio"], least=1),
        Target(
            "memory above the weights, share of the published",
            resident["ours"]["above_loaded"] / resident["published"]["above_loaded"],
            most=1 / 5,
        ),
    ]
    shallow = replace(sizes, layers=max(1, sizes.layers // 5))
    payload: dict[str, Any] = {
        "size": asdict(sizes),
        "largest_difference_float64": exact,
        "cpu": found,
        "other_voxels_at_once": {"layers": shallow.layers, "found": swept(shallow, 2)},
    }
    if torch.cuda.is_available():
        payload["gpu"] = on_gpu(replace(sizes, voxels=ALL_VOXELS))
        targets.append(
            Target("times faster on the GPU", payload["gpu"]["timing"]["ratio"], least=5)
        )
    conclude("incontext_adaptation", payload, targets, chosen)
    report(found)


def report(found: dict[str, Any]) -> None:
    """Print rates, memory and the split of the time."""
    for which in ("ours", "published"):
        rate, held = found["rates"][which], found["resident_bytes"][which]
        took, split = found["extrapolated"], found["where_the_time_goes_s"][which]
        print(
            f"{which}: {rate['voxels_per_s']:.2f} voxels/s, {rate['voxels_per_core_s']:.2f} a "
            f"second of one core ({took[f'{which}_core_minutes']:.0f} core-minutes for "
            f"{ALL_VOXELS} by this rate, not run); {held['above_loaded'] / 1e6:.0f} MB above the "
            f"weights, {held['peak'] / 1e6:.0f} MB in all"
        )
        total = sum(split.values())
        print("  " + ", ".join(f"{part} {s / total:.1%}" for part, s in split.items()))


if __name__ == "__main__":
    run(main)
