"""Mirror maps at the ends of what numbers hold; their inverse property is tested with moneta."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention.linear.mirror import mirrored, power_of


@pytest.mark.parametrize("kind", ["exact", "quoted"])
@pytest.mark.parametrize("size", [1e-200, 0.0, 1e90])
def test_mirrors_of_tiny_none_and_huge_accumulators_are_finite(kind, size):
    # Catches powers that leave the range of numbers on the way, and 0/0 with its gradient.
    accumulator = size * torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=torch.float64)
    accumulator.requires_grad_()
    found = mirrored(accumulator, 3.0, kind)
    (slope,) = torch.autograd.grad(found.sum(), accumulator)
    assert torch.isfinite(found).all()
    assert torch.isfinite(slope).all()
    wanted = size ** (1 if kind == "exact" else 0) * mirrored(
        accumulator.detach() / (size or 1), 3.0, kind
    )
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-10, atol=0)


def test_powers_have_no_slope_at_zero():
    # Catches the infinite slope of a root, which times zero is NaN.
    base = torch.tensor([0.0, -4.0, 9.0], dtype=torch.float64, requires_grad=True)
    found = power_of(base, 0.5)
    assert found.tolist() == [0.0, 2.0, 3.0]
    (slope,) = torch.autograd.grad(found.sum(), base)
    assert slope.tolist() == pytest.approx([0.0, -0.25, 1 / 6])
