"""Systems are solved in float64 wherever the device has it."""

from __future__ import annotations

import torch

from neuroattn.attention import attend
from neuroattn.attention.regression.precision import wide


def test_tensors_widen_and_pass_gradients_back_in_their_own_type():
    # Catches a detached copy.
    leaf = torch.ones(3, requires_grad=True)
    (found,) = wide(leaf)
    assert found.dtype == torch.float64
    found.sum().backward()
    assert leaf.grad.dtype == torch.float32
    assert (leaf.grad == 1).all()


def test_single_precision_keys_far_from_zero_keep_their_digits():
    # Catches moments in float32, whose cancellation leaves no digit of the covariance.
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 1, 80, 3, generator=generator) for _ in range(3))
    exact = attend(
        "local_linear", query.double(), 300 * key.double(), value.double(), form="parallel"
    )
    read = attend("local_linear", query, 300 * key, value, form="chunked")
    assert read.dtype == torch.float32
    torch.testing.assert_close(read.double(), exact, rtol=1e-4, atol=1e-4)
