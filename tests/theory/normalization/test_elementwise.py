"""Expected row sums without a normaliser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from neuroattn.errors import InputError
from neuroattn.theory.normalization import expected_row_sum


@pytest.mark.parametrize("keys", [1, 10, 1000])
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_sums_equal_adaptive_quadrature(keys, spread):
    # Catches too few nodes, and a bias of the wrong sign.
    def mean(weight):
        return keys * quad(lambda z: weight(spread * z) * norm.pdf(z), -12, 12, limit=200)[0]

    relu = mean(lambda z: max(z, 0.0) / keys)
    sigmoid = mean(lambda z: expit(z - np.log(keys)))
    assert np.isclose(expected_row_sum(keys, "relu_attention", spread), relu, rtol=1e-6)
    assert np.isclose(expected_row_sum(keys, "sigmoid_attention", spread), sigmoid, rtol=1e-6)


def test_bad_input_names_the_argument():
    # Catches softmax, whose rows sum to one.
    with pytest.raises(InputError, match="keys"):
        expected_row_sum(0, "relu_attention")
    with pytest.raises(InputError, match="spread"):
        expected_row_sum(3, "relu_attention", 0.0)
    with pytest.raises(InputError, match="mechanism"):
        expected_row_sum(3, "softmax")
