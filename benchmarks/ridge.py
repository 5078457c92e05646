"""Ridge with a cross-validated penalty per voxel: our Gram form against himalaya's RidgeCV.

``python -m benchmarks.ridge --quick`` takes some seconds; the full size (5 folds, 20 penalties,
4,000 presentations, 768 features, 20,000 voxels) takes about six minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, gate, paired_runs, peak_memory, write_result
from neuroattn.encoders.gram_ridge import ridge_cv, ridge_fit

SIZES = {"quick": (1000, 192, 2000), "full": (4000, 768, 20000)}
ALPHAS = torch.logspace(-1, 8, 20, dtype=torch.float64)
FOLDS = 5
# himalaya in float64 is asked about this many voxels: there, every penalty must be the same.
EXACT_VOXELS = 200

Fit = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def problem(presentations: int, features: int, voxels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised features with a power-law spectrum; voxels of every signal-to-noise ratio."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rotation = torch.linalg.qr(normal(features, features))[0]
    X = (normal(presentations, features) * torch.logspace(0, -2, features)) @ rotation
    X = (X - X.mean(0)) / X.std(0)
    Y = torch.empty(presentations, voxels)
    noise = torch.logspace(-0.5, 1.5, voxels)
    for block in torch.split(torch.arange(voxels), 1000):
        signal = X @ (normal(features, len(block)) / features**0.5)
        Y[:, block] = signal + normal(presentations, len(block)) * noise[block]
    return X, Y


def ours(X: torch.Tensor, Y: torch.Tensor) -> Fit:
    folds = torch.arange(len(X)) * FOLDS // len(X)
    best, _ = ridge_cv(X, Y, ALPHAS, folds)
    return (best, *ridge_fit(X, Y, best))


def himalaya(X: torch.Tensor, Y: torch.Tensor) -> Fit:
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV
    from sklearn.model_selection import KFold

    set_backend("torch")
    batches = {"n_targets_batch": 2000, "n_targets_batch_refit": 2000, "n_alphas_batch": 5}
    model = RidgeCV(
        alphas=ALPHAS.to(X.dtype), fit_intercept=True, cv=KFold(FOLDS), solver_params=batches
    ).fit(X, Y)
    chosen = (model.best_alphas_.double().log() - ALPHAS.log()[:, None]).abs().argmin(0)
    return ALPHAS[chosen], model.coef_, model.intercept_


def run_ours(size: str) -> None:
    ours(*problem(*SIZES[size]))


def run_himalaya(size: str) -> None:
    himalaya(*problem(*SIZES[size]))


def compare(X: torch.Tensor, Y: torch.Tensor, mine: Fit, theirs: Fit) -> dict[str, Any]:
    """Compare the two answers and stop if they are not the same for practical purposes."""
    some = torch.linspace(0, Y.shape[1] - 1, EXACT_VOXELS).long()
    exact = himalaya(X.double(), Y[:, some].double())
    exact_same = (exact[0] == mine[0][some]).double().mean().item()
    gate("same penalties as himalaya in float64", exact_same == 1, exact_same)
    same = mine[0] == theirs[0]
    difference = (mine[1] - theirs[1])[:, same].abs().max().item()
    largest = mine[1].abs().max().item()
    gate("same weights where penalties agree", difference < 1e-4 * largest, difference)
    fraction = same.double().mean().item()
    gate("same penalties as himalaya in float32", fraction > 0.99, fraction)
    loss = 0.0
    if not same.all():
        folds = torch.arange(len(X)) * FOLDS // len(X)
        scores = ridge_cv(X, Y[:, ~same], ALPHAS, folds)[1]
        chosen = (theirs[0][~same] == ALPHAS[:, None]).int().argmax(0)
        best = scores.max(0).values
        loss = ((scores.gather(0, chosen[None])[0] - best) / best).abs().max().item()
    gate("penalties differ only where scores tie in float32", loss < 1e-4, loss)
    return {
        "identical_alphas_himalaya_float64": exact_same,
        "identical_alphas_himalaya_float32": fraction,
        "largest_relative_score_difference_where_alphas_differ": loss,
        "largest_weight_difference": difference,
        "largest_weight": largest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, some seconds")
    parser.add_argument("--repeats", type=int, default=2, help="paired runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    size = "quick" if options.quick else "full"
    X, Y = problem(*SIZES[size])
    timing, mine, theirs = paired_runs(lambda: ours(X, Y), lambda: himalaya(X, Y), options.repeats)
    correctness = compare(X, Y, mine, theirs)
    names = ("presentations", "features", "voxels")
    payload = {
        "size": dict(zip(names, SIZES[size], strict=True)) | {"alphas": 20, "folds": FOLDS},
        "correctness": correctness,
        "timing": timing,
        "peak_memory_gib": {
            "ours": peak_memory(run_ours, size) / 2**30,
            "himalaya": peak_memory(run_himalaya, size) / 2**30,
            "problem_alone": peak_memory(problem, *SIZES[size]) / 2**30,
        },
    }
    path = write_result("ridge" if size == "full" else "ridge_quick", payload, options.out)
    print(f"{timing['ratio']:.1f} times faster than himalaya; {path}")


if __name__ == "__main__":
    main()
