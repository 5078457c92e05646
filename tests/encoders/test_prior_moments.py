"""Expected moments of the voxels' weights against sums over every voxel, type and level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from neuroattn.encoders import prior_moments as module
from neuroattn.encoders.evidence import Reduced
from neuroattn.encoders.prior_moments import expected_moments
from neuroattn.encoders.prior_types import Assignment
from neuroattn.encoders.weight_prior import WeightPrior
from tests.encoders.drawn_voxels import normal, with_intercept

WIDTH = 3
SEEN = [(normal(images, WIDTH, seed=s), normal(images, 4 + s, seed=9 + s))
        for s, images in enumerate((2, 9))]  # fmt: skip


def some_prior(amplitudes: list[float], noise: list[float]) -> WeightPrior:
    shares = normal(2, len(amplitudes), len(noise), seed=3).exp()
    means, factors = normal(2, WIDTH + 1, seed=1), normal(2, WIDTH + 1, WIDTH + 1, seed=2)
    return WeightPrior(means, factors, amplitudes, noise, shares / shares.sum())


def dense(prior: WeightPrior, held: Assignment | None) -> dict[str, np.ndarray]:
    """The same sums, one voxel, type and level after another."""
    types, width = prior.means.shape
    level, evidence = np.zeros(prior.shares.shape), 0.0
    first, second = np.zeros((types, width)), np.zeros((types, width, width))
    for number, (embedded, response) in enumerate(SEEN):
        P = with_intercept(embedded).numpy()
        for voxel, y in enumerate(response.T.numpy()):
            joint, posterior = np.zeros(prior.shares.shape), {}
            for (k, a, g), share in np.ndenumerate(prior.shares.numpy()):
                scale, noise = float(prior.amplitudes[a]), float(prior.noise[g])
                mean, A = scale * P @ prior.means[k].numpy(), scale * P @ prior.factors[k].numpy()
                spread = A @ A.T + noise * np.eye(len(y))
                joint[k, a, g] = np.log(share) + multivariate_normal.logpdf(y, mean, spread)
                if held is not None:
                    joint[k, a, g] += float(held.log_weights[number][k, voxel])
                e = A.T @ np.linalg.solve(spread, y - mean)
                covariance = np.eye(width) - A.T @ np.linalg.solve(spread, A)
                posterior[k, a, g] = e, np.outer(e, e) + covariance
            evidence += logsumexp(joint)
            for index, r in np.ndenumerate(np.exp(joint - logsumexp(joint))):
                level[index] += r
                first[index[0]] += r * posterior[index][0]
                second[index[0]] += r * (posterior[index][1] - np.eye(width))
    return {
        "level": level.reshape(types, -1), "first": first, "second": second,
        "log_evidence": np.array(evidence),
    }  # fmt: skip


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize(
    ("amplitudes", "noise"),
    [([0.5, 1.0, 2.0], [0.25, 1.0]), ([0.5, 0.7, 2.1], [0.2, 1.0]), ([1.3], [0.4])],
)
def test_moments_are_the_sums_over_voxels_types_and_levels(amplitudes, noise, hold, monkeypatch):
    # Catches levels wrongly put in one group (they share a ratio, not an amplitude), a mean that
    # is scaled twice, blocks of voxels that overlap, and types that are not held.
    monkeypatch.setattr(module, "_BLOCK", 3)
    monkeypatch.setattr(module, "_NEGLIGIBLE", 0.0)
    prior = some_prior(amplitudes, noise)
    weights = tuple(normal(2, 4 + s, seed=20 + s) for s in range(2))
    held = Assignment(("1", "2"), weights) if hold else None
    found = expected_moments(prior, [Reduced.of(*pair) for pair in SEEN], held)
    for name, expected in dense(prior, held).items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-8, atol=1e-9)


def test_leaving_out_unlikely_levels_changes_the_moments_by_as_little():
    # Catches a threshold that drops what counts.
    prior = some_prior([0.5, 1.0, 2.0], [0.25, 1.0])
    found = expected_moments(prior, [Reduced.of(*pair) for pair in SEEN], None)
    difference = found.second - torch.from_numpy(dense(prior, None)["second"])
    assert difference.abs().max() < 1e-4
