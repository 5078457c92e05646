"""A new subject on the simulated cortex: in-context encoder, ridge at its best, empirical Bayes.

``python -m benchmarks.incontext RUN`` takes a finished run of ``encoders/incontext_tiny.yaml`` and
some five minutes on two cores. Targets, at 30 and at 100 context images, as lower ends of paired
95 % intervals over test images: the in-context encoder is better than ridge for the held-out
subject; better than each of fifteen kinds of ridge (five designs, the penalty a voxel, an ROI or
one for all); and better than ridge for five further new subjects together. Everything else is
printed as it is: other lengths, the excess over the Bayes oracle, the choice of context, another
cortex, and which images are attended to.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, GateError, Target, write_result
from benchmarks.incontext_checks import (
    choices,
    context_attention,
    figures,
    further_subjects,
    transfer,
)
from benchmarks.incontext_run import NAME, Figures, FinishedRun, read_run
from benchmarks.strong_ridge import HINDSIGHT, strongest_ridge
from neuroattn.training.loop import quiet_lightning

#: Context images at which there are targets.
COUNTS = (30, 100)
#: Images of the other cortex to draw contexts from, and as many to score.
OTHER_IMAGES = 300
#: The smallest difference that a result shows.
STEP = 1e-4


def measure(run: FinishedRun, resamples: int = 1000) -> dict[str, Any]:
    """Return everything that is measured of a run; see the first lines."""
    pool = run.data.part("train").sizes["presentation"]
    lengths = run.curve["length"].values.tolist()
    counts = [count for count in COUNTS if count in lengths]
    if not counts:
        raise GateError(f"no target is at {lengths} images; the run's curve needs one of {COUNTS}.")
    few = min(OTHER_IMAGES, pool)
    areas = run.curve["roi"].values.astype(str).tolist()
    return {
        "curve": {roi: figures(run.curve, roi) for roi in areas},
        "excess": {
            str(length): {
                name: round(float(run.excess[name].sel(length=length)), 4)
                for name in ("risk", "oracle", "excess", "error")
            }
            for length in run.excess["length"].values
        },
        "strongest ridge": strongest_ridge(run, counts, resamples),
        "choice of context": choices(run, counts),
        "transfer": transfer(run, [n for n in (10, *COUNTS) if n <= few], few, resamples),
        "attention": context_attention(run, run.data.evaluation.context),
        "further subjects": further_subjects(run, lengths, resamples),
    }


def targets(found: Mapping[str, Any]) -> list[Target]:
    """Return the targets, met or not, of what :func:`measure` found."""
    judged = []
    for count in map(str, COUNTS):
        if count not in found["curve"]["all"]:
            continue
        ridge, least = _least(found["strongest ridge"][count])
        ends = {
            "over ridge": _low(found["curve"]["all"][count][NAME]),
            f"over the best ridge ({ridge})": least,
            "over ridge, further subjects": _low(found["further subjects"]["all"][count][NAME]),
        }
        judged += [Target(f"{what}, {count} images", end, STEP) for what, end in ends.items()]
    return judged


def _least(ridges: Figures) -> tuple[str, float]:
    """Return the ridge over which the lower end of the advantage is least, and that end."""
    fair = {name: _low(row) for name, row in ridges.items() if HINDSIGHT not in name}
    name = min(fair, key=fair.__getitem__)
    return name, fair[name]


def _low(row: Figures) -> float:
    """Return the lower end of a difference; NaN, which meets no target, where there is none."""
    low = row["difference"][1]
    return math.nan if low is None else float(low)


def show(found: Mapping[str, Any]) -> None:
    """Print what :func:`measure` found."""
    _show_curve("held-out subject; differences from ridge", found["curve"]["all"])
    print("\nexcess over the Bayes oracle on voxels of the estimated prior (share of signal)")
    for length, row in found["excess"].items():
        print(
            f"  {length:>5}  risk {row['risk']:.3f}  oracle {row['oracle']:.3f}  "
            f"excess {row['excess']:.3f} ± {row['error']:.3f}"
        )
    for length, rows in found["strongest ridge"].items():
        print(f"\nall kinds of ridge, {length} images; advantage of the in-context encoder")
        for name in sorted(rows, key=lambda name: -rows[name]["score"][0]):
            print(
                f"  {name:<58}{_interval(rows[name]['score'])}  "
                f"{_interval(rows[name]['difference'])}"
            )
    for count, rows in found["choice of context"].items():
        for encoder in (NAME, "empirical Bayes"):
            print(f"\ncontext of {count} images chosen by: score of {encoder}")
            names = list(rows["random"][encoder])
            print(f"  {'':<12}{'images':>7}" + "".join(f"{name:>8}" for name in names))
            for how, row in rows.items():
                values = "".join(f"{_number(row[encoder][name], 8)}" for name in names)
                print(f"  {how:<12}{row['images']:>7}" + values)
    for roi, rows in found["transfer"].items():
        _show_curve(f"another cortex, {roi}; differences from ridge", rows)
    print("\nattention to context images by category, 1 by chance")
    for area, row in found["attention"].items():
        print(
            f"  {area:<5} own ({row['category']}) {_number(row['own'])}, "
            f"others {_number(row['others'])}, "
            f"difference [{_number(row['low'])}, {_number(row['high'])}], "
            f"larger in {_number(row['larger'])} of voxels"
        )
    for roi, rows in found["further subjects"].items():
        shown = None if roi == "all" else (NAME,)
        _show_curve(f"further subjects, {roi}; differences from ridge", rows, shown)


def _show_curve(title: str, rows: Figures, shown: Sequence[str] | None = None) -> None:
    print(f"\n{title}")
    for length, encoders in rows.items():
        for name in shown or encoders:
            score, difference = (_interval(encoders[name][key]) for key in ("score", "difference"))
            print(f"  {length:>5} {name:<16}{score}  {difference}")


def _interval(values: Sequence[float | None]) -> str:
    value, low, high = values
    return f"{_number(value, 7)} [{_number(low, 6)}, {_number(high, 6)}]"


def _number(value: float | None, width: int = 0) -> str:
    return f"{'none' if value is None else format(value, '.3f'):>{width}}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write, and return 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run directory of `neuroattn fit`")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        with quiet_lightning():
            found = measure(read_run(options.run), options.resamples)
    except GateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(found)
    judged = targets(found)
    told = [{**asdict(target), "met": target.met} for target in judged]
    path = write_result("incontext", {"targets": told, **found}, options.out)
    print("", *judged, path, sep="\n")
    return 0 if all(target.met for target in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
