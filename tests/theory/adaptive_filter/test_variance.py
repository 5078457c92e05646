"""The variance of a carried measurement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.attention.softmax.adaptive_filter import log_variance
from neuroattn.errors import InputError
from neuroattn.theory.adaptive_filter import propagated_variance


@pytest.mark.parametrize("rate", [0.0, -1e-9, -0.3, -2.0])
def test_it_equals_the_mechanisms_and_an_exact_autoregression(rate):
    # Catches a decay of μ in place of 2μ, and the lost digits of (1 - e^u)/u near 0.
    lags = np.linspace(0, 4, 9)
    found = propagated_variance(lags, rate, 0.8, 0.5, 0.3)
    logs = log_variance(torch.from_numpy(lags), rate, 0.8, 0.5, 0.3)
    assert np.allclose(found, logs.exp().numpy(), rtol=1e-12)
    variance, step = 0.25, 1e-4
    for _ in range(40_000):
        variance = (1 + rate * step) ** 2 * variance + 0.64 * step
    assert np.isclose(found[-1], variance + 0.09, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((-1.0, 0, 1, 1), "lag"), ((1.0, 0.1, 1, 1), "rate"), ((1.0, 0, -1, 1), "process_noise")],
)
def test_bad_input_names_the_argument(arguments, name):
    # Catches a growing state, whose variance the mechanism does not have.
    with pytest.raises(InputError, match=name):
        propagated_variance(*arguments)
