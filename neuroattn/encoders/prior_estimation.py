"""Estimating the prior over voxels from the voxels of other subjects, by expectation maximisation.

**Pseudo-voxels.** A covariance of D x D numbers is not to be had from few voxels. The estimate is
therefore a mean over the voxels and ``shrinkage * D`` pseudo-voxels whose weights are isotropic
in the centred embedding (half the mean variance of the responses is their signal), one
pseudo-voxel with zero weights for the mean, and one that is spread evenly over types and levels, so
that what the training subjects never had stays possible. 0.3 pseudo-voxels a weight were chosen by
trials on few simulated voxels, isotropic ones and ones with few dominant directions; among ten
thousands they are not noticed.
The algorithm climbs the log evidence of voxels *and* pseudo-voxels (the objective), which can
never fall.

References
----------
Dempster, Laird, Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm, JRSS B
39, 1-38. Chen (1979), Bayesian inference for a normal dispersion matrix, JRSS B 41, 235-248: the
pseudo-observations.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from neuroattn.encoders.evidence import Reduced
from neuroattn.encoders.prior_moments import Moments, expected_moments
from neuroattn.encoders.prior_types import assign
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError, MismatchError

__all__ = ["AMPLITUDES", "NOISE", "PriorEstimate", "estimate_prior"]

#: Levels of the amplitude.
AMPLITUDES = tuple(2.0 ** (step / 2) for step in range(-4, 3))
#: Levels of the noise variance, relative to the mean variance of the responses. Both ladders climb
#: by the square root of 2, so that few ratios noise / amplitude² differ.
NOISE = tuple(2.0 ** (step / 2) for step in range(-11, 3))

_BLOCK = 4096


@dataclass(frozen=True)
class PriorEstimate:
    """An estimated prior and the way to it.

    Attributes
    ----------
    prior : WeightPrior
        Of weights over the embedding as it was given.
    types : tuple of str
        Names of the types: "1", "2", ... or the ROIs.
    objective : tuple of float
        Before each step: log evidence of voxels and pseudo-voxels, per response. Never falls.
    log_evidence : tuple of float
        The voxels' part of it.
    repeats : float
        Mean number of presentations that a training response averages: the prior's noise is that
        of such a response.
    """

    prior: WeightPrior
    types: tuple[str, ...]
    objective: tuple[float, ...]
    log_evidence: tuple[float, ...]
    repeats: float


def estimate_prior(
    sets: Sequence[VoxelSet],
    types: int | str = 1,
    iterations: int = 30,
    *,
    amplitudes: Sequence[float] = AMPLITUDES,
    noise: Sequence[float] | None = None,
    shrinkage: float = 0.3,
    tolerance: float = 1e-4,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> PriorEstimate:
    """Estimate means, covariances and shares from the voxels of several subjects.

    Shifting or scaling the embedding changes no prediction of the estimated prior. The noise
    variance of a response that averages r presentations is taken to be proportional to 1 / r.

    Parameters
    ----------
    sets : sequence of VoxelSet
        Each with images of its own; the embedding is the same.
    types : int or "roi"
        How many functional types, found by k-means over first estimates of the weights and
        refined; "roi": one for each ROI (and one for the voxels of none), refined likewise.
    iterations : int
        Most steps.
    amplitudes : sequence of float
        Levels, positive.
    noise : sequence of float, optional
        Levels of the noise variance, in the squared unit of the responses (default: ``NOISE``
        times the mean variance of the responses).
    shrinkage : float
        Pseudo-voxels for each weight, positive.
    tolerance : float
        The steps end when the objective grows by less, per response (nats).
    seed : int
        Of k-means.
    report : callable, optional
        Called with a line on every step.

    Returns
    -------
    PriorEstimate

    Raises
    ------
    InputError
        If there is nothing to learn from, the prior does not fit into memory, an argument is out
        of range, or "roi" is asked for and there are no ROIs.
    MismatchError
        If the sets are of different embeddings.
    """
    _check(iterations, shrinkage, amplitudes, noise)
    mean, scale = _units(sets)
    _check_memory(len(mean) + 1, 1)
    often = [_repeats(one) for one in sets]
    typical = float(torch.cat(often).mean())
    subjects = [
        Reduced.of((one.embedded.double() - mean) / scale, one.response, each / typical)
        for one, each in zip(sets, often, strict=True)
    ]
    target, variance = _pseudo_voxels(sets, len(mean))
    levels = [variance * each for each in NOISE] if noise is None else noise
    prior = _flat_prior(target, amplitudes, levels)
    pull = _Pull(target, shrinkage * len(target))
    assignment = assign(sets, subjects, prior, types, seed)
    count = len(assignment.names)
    if count > 1:
        _check_memory(len(target), count)
        prior = WeightPrior(
            prior.means.repeat(count, 1),
            prior.factors.repeat(count, 1, 1),
            prior.amplitudes,
            prior.noise,
            prior.shares.repeat(count, 1, 1) / count,
        )
        prior = _step(prior, expected_moments(prior, subjects, assignment), pull)
    responses = sum(one.response.numel() for one in sets)
    objective: list[float] = []
    evidence: list[float] = []
    for step in range(iterations):
        moments = expected_moments(prior, subjects, None)
        evidence.append(moments.log_evidence / responses)
        objective.append((moments.log_evidence + pull.log_density(prior)) / responses)
        if report is not None:
            report(
                f"step {step + 1} of at most {iterations}: mean log evidence "
                f"{evidence[-1]:.5f} a response"
            )
        if step and objective[-1] - objective[-2] < tolerance:
            break
        prior = _step(prior, moments, pull)
    estimate = _in_given_units(prior, mean, scale)
    return PriorEstimate(estimate, assignment.names, tuple(objective), tuple(evidence), typical)


@dataclass(frozen=True)
class _Pull:
    """The pseudo-voxels: ``count`` with variances ``target`` about the mean, one at zero."""

    target: torch.Tensor
    count: float

    def log_density(self, prior: WeightPrior) -> float:
        """Return their log density under the prior, up to a constant."""
        total = float(prior.shares.log().mean())
        for mean, factor in zip(prior.means, prior.factors, strict=True):
            spread = torch.linalg.solve_triangular(factor, self.target.sqrt().diag(), upper=False)
            off = torch.linalg.solve_triangular(factor, mean[:, None], upper=False)
            log_determinant = 2 * factor.diagonal().log().sum()
            square = self.count * spread.square().sum() + off.square().sum()
            total -= 0.5 * float((self.count + 1) * log_determinant + square)
        return total


def _step(prior: WeightPrior, moments: Moments, pull: _Pull) -> WeightPrior:
    """Return the prior that fits the expected sums and the pseudo-voxels best."""
    voxels = moments.level.sum(1)
    means, factors = [], []
    for k, factor in enumerate(prior.factors):
        old, shift = prior.means[k], factor @ moments.first[k]
        mean = (voxels[k] * old + shift) / (voxels[k] + 1)
        move = old - mean
        moment = voxels[k] * torch.eye(len(old), dtype=torch.float64) + moments.second[k]
        total = factor @ moment @ factor.T + voxels[k] * torch.outer(move, move)
        cross = torch.outer(shift, move)
        total += cross + cross.T + torch.outer(mean, mean) + (pull.count * pull.target).diag()
        total /= voxels[k] + pull.count + 1
        means.append(mean)
        factors.append(torch.linalg.cholesky((total + total.T) / 2))
    shares = moments.level + 1 / moments.level.numel()
    shares = (shares / shares.sum()).view(prior.shares.shape)
    return WeightPrior(
        torch.stack(means), torch.stack(factors), prior.amplitudes, prior.noise, shares
    )


def _check(
    iterations: int, shrinkage: float, amplitudes: Sequence[float], noise: Sequence[float] | None
) -> None:
    """Refuse arguments that are out of range; levels of the noise are the prior's to check."""
    positive = all(each > 0 for each in amplitudes)
    if iterations < 1 or not shrinkage > 0 or not amplitudes or not positive:
        raise InputError(
            f"iterations={iterations}, shrinkage={shrinkage}, amplitudes={tuple(amplitudes)}; "
            "needed: at least one step and one amplitude, amplitudes and shrinkage positive."
        )
    if noise is not None and not noise:
        raise InputError("noise is empty; give at least one level, or leave it out.")


def _check_memory(width: int, types: int) -> None:
    """Refuse covariances that cannot fit: a step holds about four of each type."""
    needed, there = 32 * types * width**2, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"the embedding has {width - 1} columns: covariances of {types} types need "
            f"{needed / 2**30:.1f} GiB, and this machine has {there / 2**30:.1f} GiB. Take "
            "view='pca' with a number of components, or 'mean'."
        )


def _repeats(one: VoxelSet) -> torch.Tensor:
    if one.repeats is None:
        return torch.ones(len(one.embedded), dtype=torch.float64)
    return one.repeats


def _flat_prior(
    variance: torch.Tensor, amplitudes: Sequence[float], noise: Sequence[float]
) -> WeightPrior:
    """Return one type of independent weights, every amplitude and noise equally likely."""
    shares = torch.ones(1, len(amplitudes), len(noise), dtype=torch.float64)
    return WeightPrior(
        torch.zeros(1, len(variance)),
        variance.sqrt().diag()[None],
        torch.tensor(amplitudes, dtype=torch.float64),
        torch.tensor(noise, dtype=torch.float64),
        shares / shares.numel(),
    )


def _units(sets: Sequence[VoxelSet]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of the embedded images and the root of their summed variance."""
    widths = sorted({one.embedded.shape[1] for one in sets})
    if len(widths) != 1:
        raise MismatchError(
            f"sets are {len(sets)} and their embeddings have {widths} columns; needed: at least "
            "one set, all of one embedding."
        )
    images = torch.cat([one.embedded for one in sets]).double()
    mean = images.mean(0)
    scale = (images - mean).square().mean(0).sum().sqrt()
    if not scale > 0:
        raise InputError(
            f"the embedding is the same for all {len(images)} images; nothing can be learned."
        )
    return mean, scale


def _pseudo_voxels(sets: Sequence[VoxelSet], width: int) -> tuple[torch.Tensor, float]:
    """Return the variance of each of the pseudo-voxels' weights, and that of the responses."""
    voxels = sum(one.response.shape[1] for one in sets)
    totals = torch.zeros(2, dtype=torch.float64)
    for one in sets:
        for block in one.response.split(_BLOCK, 1):
            y = block.double()
            totals += torch.stack([y.var(0, correction=0).sum(), y.mean(0).square().sum()])
    variance, offset = (totals / voxels).tolist()
    if not variance > 0 or not math.isfinite(variance):
        raise InputError(
            f"the responses of {voxels} voxels have a mean variance of {variance}; needed: finite "
            "responses that vary over images."
        )
    target = torch.full((width + 1,), variance / 2, dtype=torch.float64)
    target[-1] = max(offset, 1e-3 * variance)
    return target, variance


def _in_given_units(prior: WeightPrior, mean: torch.Tensor, scale: torch.Tensor) -> WeightPrior:
    """Return the prior of weights over the embedding before it was centred and scaled."""
    change = torch.eye(len(mean) + 1, dtype=torch.float64)
    change[:-1] /= scale
    change[-1, :-1] = -mean / scale
    return WeightPrior(
        prior.means @ change.T, change @ prior.factors, prior.amplitudes, prior.noise, prior.shares
    )
