"""What the encoders recover on the simulated cortex: the demo's comparison, at several seeds.

``python -m benchmarks.simulated_cortex --seeds 0 1 2`` takes about two minutes a seed on two
cores. Targets, on test images: in every category ROI the transformer beats ridge and the
factorised encoder with a paired 95 % interval above zero; in V1-V3, with its static branch, it is
not below the factorised encoder (the interval reaches zero or more); attention of the category
queries puts at least 3 times the mass of a uniform map on the true objects in the mean, and at
least 2 times in each category.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, gate, write_result
from neuroattn.cli.demo import comparison
from neuroattn.data.simulated_cortex import CATEGORY_AREAS
from neuroattn.metrics import Score
from neuroattn.report import object_attention
from neuroattn.training.loop import quiet_lightning

RETINOTOPIC = ("V1", "V2", "V3")


def one_seed(seed: int, scenes: int) -> dict[str, Any]:
    """Run the demo's comparison and return its numbers and whether they meet the targets."""
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        experiment = comparison(seed, folder, scenes)
        scores, encoders = experiment.run()
        truth = experiment.source.truth()["ceiling"].values
        estimated = scores["ridge"].dataset["ceiling"].values
        gate(
            "estimated ceilings agree with the truth",
            abs(estimated - truth).max() < 0.15,
            float(abs(estimated - truth).max()),
        )
        seen = object_attention(
            encoders["transformer"], experiment.features, experiment.source, experiment.splits[0]
        )
    best = scores["transformer"]
    baselines = [name for name in scores if name != "transformer"]
    against = {name: differences(best, scores[name]) for name in baselines}
    mass = seen.by_area()
    met = {
        f"beats {name} in {area}": against[name][area]["low"] > 0
        for name in against
        for area in CATEGORY_AREAS
    }
    for area in RETINOTOPIC:
        met[f"not below factorized in {area}"] = against["factorized"][area]["high"] >= 0
    met["object mass: mean at least 3"] = sum(mass.values()) / len(mass) >= 3
    met["object mass: each at least 2"] = min(mass.values()) >= 2
    means = {name: by_roi(score) for name, score in scores.items()}
    return {"seed": seed, "scores": means, "differences": against, "mass": mass, "met": met}


def differences(best: Score, other: Score) -> dict[str, dict[str, float]]:
    """Return the paired difference and its 95 % interval for each ROI."""
    found = best.compare(other)
    rows = found["roi"].values.astype(str)
    return {
        roi: {name: round(float(found[name][row]), 4) for name in ("difference", "low", "high")}
        for row, roi in enumerate(rows)
    }


def by_roi(score: Score) -> dict[str, float]:
    """Return the mean normalised explained variance of each ROI."""
    found = score.by_roi(resamples=0)
    return dict(zip(found["roi"].values.astype(str), found["mean"].values.round(4), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    runs = [one_seed(seed, options.scenes) for seed in options.seeds]
    for run in runs:
        missed = [name for name, holds in run["met"].items() if not holds]
        print(
            f"seed {run['seed']}: {len(run['met']) - len(missed)} of {len(run['met'])} targets met"
        )
        for name in missed:
            print(f"  missed: {name}")
        print("  mass", {area: round(ratio, 1) for area, ratio in run["mass"].items()})
    print(write_result("simulated_cortex", {"scenes": options.scenes, "runs": runs}, options.out))
    return 0 if all(all(run["met"].values()) for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
