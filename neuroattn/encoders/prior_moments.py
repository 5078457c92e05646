r"""What the voxels of several subjects say of their prior: exact first and second moments.

Each subject has images of its own; a sum is taken in the eigenbasis of each subject and type (see
:mod:`neuroattn.encoders.evidence`). With :math:`u = m + L e`, the posterior of :math:`e` at
amplitude :math:`a` and noise :math:`g` has the mean :math:`B (z / a - c) / (d + g / a^2)` and the
covariance :math:`1 - B \, \mathrm{diag}(d + g / a^2)^{-1} B^T`, where :math:`B = L^T P^T U`. Levels
with the same :math:`g / a^2` therefore share one weighted Gram matrix of :math:`z`, and the second
moment over all levels is exact and still cheap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neuroattn.encoders.evidence import Reduced
from neuroattn.encoders.prior_types import Assignment
from neuroattn.encoders.weight_prior import WeightPrior

__all__ = ["Moments", "expected_moments"]

_BLOCK = 4096
# A voxel is left out of the Gram matrix of levels that together are less likely than this.
_NEGLIGIBLE = 1e-6


@dataclass
class Moments:
    """Sums over voxels, each type's weighted by the voxels' probability of being of it.

    Attributes
    ----------
    level : torch.Tensor
        (K, level) expected number of voxels.
    first : torch.Tensor
        (K, D) sum of the posterior means of e.
    second : torch.Tensor
        (K, D, D) sum of the posterior second moments of e, less the number of voxels times the
        identity.
    log_evidence : float
        Sum of the voxels' log evidence, in nats.
    """

    level: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    log_evidence: float = 0.0


def expected_moments(
    prior: WeightPrior, subjects: list[Reduced], held: Assignment | None
) -> Moments:
    """Return the sums of all subjects under a prior.

    Parameters
    ----------
    prior : WeightPrior
        Amplitudes are positive.
    subjects : list of Reduced
        Images and responses of each.
    held : Assignment, optional
        Types that the voxels are held to.

    Returns
    -------
    Moments
    """
    types, width = prior.means.shape
    moments = Moments(
        torch.zeros(types, prior.shares[0].numel(), dtype=torch.float64),
        torch.zeros(types, width, dtype=torch.float64),
        torch.zeros(types, width, width, dtype=torch.float64),
    )
    grid = prior.grid()
    ratio = grid[1] / grid[0].square()
    # Ratios that rounding alone tells apart are one.
    _, group = torch.unique((ratio.log() * 1e9).round(), return_inverse=True)
    for number, subject in enumerate(subjects):
        bases = prior.bases(subject.design)
        sums = [_TypeSums(basis.values, basis.offset, grid, group) for basis in bases]
        for start in range(0, subject.response.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            projected = [basis.vectors.T @ subject.response[:, block] for basis in bases]
            joint = prior.log_joint(bases, projected, subject.outside[block], subject.spare)
            if held is not None:
                joint = joint + held.log_weights[number][:, None, block]
            evidence = joint.flatten(0, 1).logsumexp(0) + subject.log_scale
            moments.log_evidence += float(evidence.sum())
            probability = joint.flatten(0, 1).softmax(0).view(joint.shape)
            for one, z, own in zip(sums, projected, probability, strict=True):
                one.add(z, own)
        for k, (one, basis) in enumerate(zip(sums, bases, strict=True)):
            moments.level[k] += one.level
            moments.first[k] += basis.back @ one.first
            moments.second[k] += basis.back @ one.second @ basis.back.T
    return moments


class _TypeSums:
    """Sums of one subject and type in its eigenbasis; ``back`` turns them into sums over e."""

    def __init__(
        self, values: torch.Tensor, offset: torch.Tensor, grid: torch.Tensor, group: torch.Tensor
    ) -> None:
        self.offset, self.amplitude, self.group = offset, grid[0], group
        self.gain = 1 / (values + (grid[1] / grid[0].square())[:, None])  # (level, row)
        self.level = torch.zeros(len(group), dtype=torch.float64)
        self.first = torch.zeros_like(values)
        self.second = torch.zeros(len(values), len(values), dtype=torch.float64)

    def add(self, z: torch.Tensor, probability: torch.Tensor) -> None:
        """Add voxels: z (row, voxel) and the probability (level, voxel) of this type's levels."""
        level = probability.sum(1)
        once = probability / self.amplitude[:, None]
        self.level += level
        self.first += (self.gain * (once @ z.T)).sum(0) - self.offset * (level @ self.gain)
        # The posterior covariance of e is 1 - B gain B^T.
        self.second.diagonal().sub_(level @ self.gain)
        for number in range(int(self.group.max()) + 1):
            members = torch.nonzero(self.group == number)[:, 0]
            share = probability[members].sum(0)
            voxels = torch.nonzero(share > _NEGLIGIBLE)[:, 0]
            if not len(voxels):
                continue
            some = z[:, voxels]
            single = once[members][:, voxels]
            twice = (single / self.amplitude[members, None]).sum(0)
            cross = torch.outer(some @ single.sum(0), self.offset)
            moment = (some * twice) @ some.T - cross - cross.T
            moment += share[voxels].sum() * torch.outer(self.offset, self.offset)
            gain = self.gain[members[0]]
            self.second += gain[:, None] * moment * gain
