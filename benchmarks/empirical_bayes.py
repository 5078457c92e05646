"""Adapting the empirical-Bayes encoder: 20,000 voxels x 512 features x 100 images.

Timed is the whole of ``adapt``: checks, averaging of repetitions, embedding, and the posterior mean
over 98 levels of amplitude and noise, in float64. A few voxels are compared with dense Gaussian
algebra, one level after another, before anything is timed. ``python -m benchmarks.empirical_bayes``
takes about a minute on two cores, ``--quick`` some seconds.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import logsumexp

from benchmarks.common import Target, conclude, gate, options, peak_memory, run
from neuroattn.data.schema import response_set
from neuroattn.encoders.empirical_bayes import EmpiricalBayesEncoder
from neuroattn.encoders.weight_prior import WeightPrior

#: Features, numbers of voxels (at the context below), lengths of the context (at most voxels).
SIZES = {
    "quick": (64, (500, 1000, 2000), (20, 40, 80)),
    "full": (512, (2500, 5000, 10_000, 20_000), (25, 50, 100, 200, 400)),
}
CONTEXT = {"quick": 40, "full": 100}
TRAINED = (300, 150)  # voxels and images of the one training subject; no time depends on them
CHECKED = 4


def problem(features: int, images: int, voxels: int, seed: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Return embeddings with a decaying spectrum and linear responses of unequal noise."""
    truth = np.random.default_rng(0).standard_normal((features, 8)) / features**0.5
    draw = np.random.default_rng([1, seed])
    profile = np.arange(1, features + 1) ** -0.5
    x = (draw.standard_normal((images, features)) * profile + 0.1).astype(np.float32)
    weights = (truth @ draw.standard_normal((8, voxels))).astype(np.float32)
    y = x @ weights
    y /= y.std(0)
    y += draw.uniform(0.5, 2, voxels) * draw.standard_normal(y.shape, np.float32)
    ids = [f"im{seed}-{number}" for number in range(images)]
    tokens = xr.Dataset(
        {"tokens": (("image", "token", "channel"), x[:, None])},
        coords={"image": ids},
        attrs={"rows": 1, "columns": 1, "key": "benchmark", "basis": "benchmark"},
    )
    subject = {"subject": f"s{seed}", "hemisphere": "both"}
    voxel: dict[str, Any] = {**subject, **dict.fromkeys("ijk", np.arange(voxels))}
    attrs = {"space": "native", "shape": [voxels] * 3, "affine": np.eye(4).ravel().tolist()}
    responses = response_set(y / y.std(0), presentation={"image": ids}, voxel=voxel, attrs=attrs)
    return tokens, responses


def trained(features: int) -> EmpiricalBayesEncoder:
    """Return an encoder with a prior from a small training subject."""
    voxels, images = TRAINED
    return EmpiricalBayesEncoder(iterations=2).fit(*problem(features, images, voxels, seed=1))


def dense_weights(prior: WeightPrior, embedded: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return posterior means (D, voxel), every level by its own dense system."""
    P = np.column_stack([embedded, np.ones(len(embedded))])
    log_joint, means = [], []
    for (k, a, g), share in np.ndenumerate(prior.shares.numpy()):
        scale, noise = float(prior.amplitudes[a]), float(prior.noise[g])
        mean, factor = scale * prior.means[k].numpy(), scale * prior.factors[k].numpy()
        spread = (P @ factor) @ (P @ factor).T + noise * np.eye(len(y))
        residual = y - (P @ mean)[:, None]
        solved = np.linalg.solve(spread, residual)
        log_determinant = np.linalg.slogdet(spread)[1]
        log_joint.append(np.log(share) - 0.5 * (log_determinant + (residual * solved).sum(0)))
        means.append(mean[:, None] + factor @ ((P @ factor).T @ solved))
    probability = np.exp(log_joint - logsumexp(log_joint, axis=0))
    return np.asarray(np.einsum("lv,ldv->dv", probability, means))


def largest_difference(encoder: EmpiricalBayesEncoder, images: int, voxels: int) -> float:
    """Return the largest relative difference of predictions from those of dense algebra."""
    tokens, responses = problem(encoder.features_["channels"], images, voxels, seed=2)
    found = encoder.adapt(tokens, responses).predict(tokens).values
    some = np.linspace(0, voxels - 1, CHECKED).astype(int)
    embedded = encoder.embedding_.transform(tokens, np.arange(images)).double().numpy()
    y = responses["response"].values[:, some].astype(float)
    queries = np.column_stack([embedded, np.ones(images)])
    expected = queries @ dense_weights(encoder.prior_, embedded, y)
    difference = np.abs(found[:, some] - expected).max(0) / np.abs(expected).max(0)
    return float(difference.max())


def seconds(
    encoder: EmpiricalBayesEncoder, images: int, voxels: int, repeats: int
) -> tuple[float, float]:
    """Return the median time of an adaptation, and that of the processor."""
    tokens, responses = problem(encoder.features_["channels"], images, voxels, seed=2)
    times = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        encoder.adapt(tokens, responses)
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


def timed(sizes: tuple[int, ...], times: list[tuple[float, float]]) -> dict[str, Any]:
    """Return times by size and the exponent of a power law through the processor's."""
    wall, processor = (dict(zip(sizes, column, strict=True)) for column in zip(*times, strict=True))
    slope = np.polyfit(np.log(sizes), np.log(list(processor.values())), 1)[0]
    return {"seconds": wall, "processor_seconds": processor, "slope": float(slope)}


def prepare_only(features: int, images: int, voxels: int) -> None:
    trained(features)
    problem(features, images, voxels, seed=2)


def prepare_and_adapt(features: int, images: int, voxels: int) -> None:
    trained(features).adapt(*problem(features, images, voxels, seed=2))


def main() -> None:
    chosen = options(__doc__)
    size = "quick" if chosen.quick else "full"
    (features, voxels, contexts), context = SIZES[size], CONTEXT[size]
    encoder = trained(features)
    # Fewer images than weights, and more: the two sides of the factorisation.
    differences = {n: largest_difference(encoder, n, 50) for n in (context, features + 100)}
    worst = max(differences.values())
    gate("predictions equal those of dense algebra (float32)", worst < 1e-5, differences)
    by_voxels = [seconds(encoder, context, n, chosen.repeats) for n in voxels]
    by_context = [seconds(encoder, n, voxels[-1], chosen.repeats) for n in contexts]
    sizes = (features, context, voxels[-1])
    peaks = [peak_memory(one, *sizes) / 2**30 for one in (prepare_and_adapt, prepare_only)]
    payload = {
        "features": features,
        "context": context,
        "levels": encoder.prior_.shares.numel(),
        "largest_relative_difference": differences,
        "by_voxels": timed(voxels, by_voxels),
        "by_context": timed(contexts, by_context),
        "peak_memory_gib": {"adapted": peaks[0], "before": peaks[1]},
    }
    for name in ("by_voxels", "by_context", "peak_memory_gib"):
        print(f"{name}: {payload[name]}")
    targets = [Target(f"adaptation of {voxels[-1]} voxels, seconds", by_voxels[-1][0], most=5)]
    conclude("empirical_bayes", payload, targets, chosen)


if __name__ == "__main__":
    run(main)
