"""Least squares lose digits: systems that are badly conditioned are solved in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in float64, or as they are on a device that has none."""
    return tuple(each if each.device.type == "mps" else each.to(torch.float64) for each in tensors)
