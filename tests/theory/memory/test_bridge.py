"""The regressions that mechanisms are compared with, against scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from neuroattn.theory.memory.bridge import ridge_reads
from neuroattn.theory.memory.kernel_regression import smoothed
from tests.tolerances import TOLERANCE


def tensors(*shapes: tuple[int, int]) -> list[torch.Tensor]:
    """Return random tensors of one head."""
    rng = np.random.default_rng(12)
    return [torch.from_numpy(rng.normal(size=(1, 1, *shape))) for shape in shapes]


def test_ridge_reads_are_those_of_scikit_learn() -> None:
    """Catches a ridge divided by the number of tokens, and an intercept."""
    query, key, value = tensors((7, 3), (7, 3), (7, 2))
    found = ridge_reads(query, key, value, 0.4, "ridge")
    for count in (1, 4, 7):
        fit = Ridge(alpha=0.4, fit_intercept=False).fit(key[0, 0, :count], value[0, 0, :count])
        wanted = fit.predict(query[0, 0, count - 1 : count])[0]
        np.testing.assert_allclose(found[count - 1], wanted, **TOLERANCE["float64"])


def test_a_mean_has_another_ridge_than_a_sum() -> None:
    """Catches a penalty of the mutant that is the truth."""
    query, key, value = tensors((7, 3), (7, 3), (7, 2))
    fit = KernelRidge(alpha=0.4 * 7).fit(key[0, 0], value[0, 0])
    found = ridge_reads(query, key, value, 0.4, "mean")[-1]
    np.testing.assert_allclose(found, fit.predict(query[0, 0, -1:])[0], **TOLERANCE["float64"])


def test_smoothed_is_the_weighted_mean_of_a_gaussian_kernel() -> None:
    """Catches a bandwidth that is a variance."""
    query, key, value = tensors((4, 3), (9, 3), (9, 2))
    q, k, v = (each[0, 0].numpy() for each in (query, key, value))
    weight = np.exp(-np.square(q[:, None] - k).sum(-1) / (2 * 0.7**2))
    wanted = weight @ v / weight.sum(1, keepdims=True)
    found = smoothed(query, key, value, 0.7, 1.0)
    np.testing.assert_allclose(found, wanted, **TOLERANCE["float64"])
