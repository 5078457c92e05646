"""Mirror maps: from a sum of gradients to the memory of which a norm is penalised."""

from __future__ import annotations

import torch
from torch import Tensor


def power_of(base: Tensor, exponent: float) -> Tensor:
    """Return |base| ** exponent, without a slope at zero, where a root has an infinite one."""
    size = base.abs()
    return torch.where(size > 0, size, 1.0).pow(exponent).where(size > 0, 0.0)


def mirrored(accumulator: Tensor, norm: float, kind: str) -> Tensor:
    """Return the memory of an accumulator of gradients.

    Parameters
    ----------
    accumulator : Tensor
        A, (..., dim, value_dim).
    norm : float
        q of the retention ½ ‖W‖_q², above 1.
    kind : {"exact", "quoted"}
        The inverse of the gradient of the retention, sign(A) |A|^(p-1) / ‖A‖_p^(p-2) with
        1/p + 1/q = 1; or A / ‖A‖_q^(q-2), which only rescales A.
    """
    # Relative to the largest entry, no power leaves the range of its type.
    largest = accumulator.detach().abs().amax((-2, -1), keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    relative = accumulator / largest
    power = norm / (norm - 1) if kind == "exact" else norm
    total = power_of(power_of(relative, power).sum((-2, -1), keepdim=True), (2 - power) / power)
    if kind == "exact":
        return largest * relative.sign() * power_of(relative, power - 1) * total
    return relative * total * largest.pow(3 - power)
