"""How time and memory of in-context adaptation grow with the voxels and with the context.

Ours next to the published inference design, the CLIP preset's shapes, same random weights.
``OMP_NUM_THREADS=2 python -m benchmarks.incontext_slopes`` takes about eight minutes on two cores;
``--quick`` some seconds. Time is the processor's, which other processes disturb less; memory is
what torch's allocator held beyond what there was. The slopes are those of the logarithms over the
four largest sizes.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from benchmarks.common import conclude, gate, options, paired_runs, run
from benchmarks.incontext_pair import (
    CPU_MEMORY,
    DOUBLE,
    QUICK,
    SINGLE,
    adapt_ours,
    block_of,
    difference,
    networks,
    parity,
)
from benchmarks.published_braincorl import PublishedNetwork, Sizes, Subject, adapt_published
from neuroattn.attention.bench import allocated, slope
from neuroattn.encoders.incontext.network import SetTransformer


def slopes(
    ours: SetTransformer, published: PublishedNetwork, cases: list[Sizes], along: str
) -> dict[str, Any]:
    """Return seconds and allocated bytes of both along one size, and the log-log slopes."""
    points: dict[str, list[float]] = {
        f"{which}_{what}": [] for which in ("ours", "published") for what in ("s", "bytes")
    }
    for sizes in cases:
        subject = Subject.drawn(sizes)
        mine = partial(adapt_ours, ours, subject, block_of(sizes, CPU_MEMORY))
        theirs = partial(adapt_published, published, subject, sizes.batch)
        timing = paired_runs(mine, theirs, 1)[0]
        points["ours_s"].append(timing["runs"][0]["ours_cpu_s"])
        points["published_s"].append(timing["runs"][0]["theirs_cpu_s"])
        points["ours_bytes"].append(allocated(mine))
        points["published_bytes"].append(allocated(theirs))
    lengths = [getattr(sizes, along) for sizes in cases]
    fitted = {name: slope(lengths, found) for name, found in points.items()}
    return {along: lengths, **points, "slopes": fitted}


def _fewer_voxels(sizes: Sizes) -> list[Sizes]:
    return [replace(sizes, voxels=sizes.voxels // n) for n in (8, 4, 2, 1)]


def _other_contexts(sizes: Sizes) -> list[Sizes]:
    few = replace(sizes, voxels=sizes.voxels // 8)
    return [replace(few, context=sizes.context * n // 4) for n in (1, 2, 4, 8, 16)]


def main() -> None:
    chosen = options(__doc__)
    sizes = QUICK if chosen.quick else Sizes()
    exact = parity(replace(QUICK, voxels=5, batch=3), torch.float64, 2)
    gate("same outputs in double precision", exact < DOUBLE, exact)
    ours, published = networks(sizes)
    few = Subject.drawn(replace(sizes, voxels=3))
    single = difference(adapt_ours(ours, few, 2), adapt_published(published, few, sizes.batch))
    gate("same outputs as the published design", single < SINGLE, single)
    found = {
        "voxels": slopes(ours, published, _fewer_voxels(sizes), "voxels"),
        "context": slopes(ours, published, _other_contexts(sizes), "context"),
    }
    payload = {
        "size": asdict(sizes),
        "memory_gib_given": CPU_MEMORY,
        "largest_relative_difference": single,
        **found,
    }
    conclude("incontext_slopes", payload, (), chosen)
    for along, each in found.items():
        print(along, {name: round(value, 2) for name, value in each["slopes"].items()})


if __name__ == "__main__":
    run(main)
