"""How voxels are: a prior over linear encoders, and the exact posterior given a few responses.

A voxel belongs to a type k and has an amplitude a and a noise variance g, drawn together from a
table of shares. With u ~ N(mean_k, factor_k @ factor_k.T) its weights (the last one is the
intercept) are w = a * u, and its response to an image x is [x, 1] @ w + sqrt(g) * standard normal.
:mod:`neuroattn.encoders.evidence` holds the algebra of one type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from neuroattn.encoders.evidence import Reduced, TypeBasis
from neuroattn.encoders.voxel_blocks import fitted_blocks
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

__all__ = ["Drawn", "Posterior", "WeightPrior"]

#: Bytes that a block of voxels may take while its posterior is computed.
BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Drawn:
    """Voxels drawn from a prior.

    Attributes
    ----------
    weights : torch.Tensor
        (voxel, D) float64, the intercept last.
    noise_sd : torch.Tensor
        (voxel) float64
    type : torch.Tensor
        (voxel) int64
    """

    weights: torch.Tensor
    noise_sd: torch.Tensor
    type: torch.Tensor


@dataclass(frozen=True)
class Posterior:
    """What responses tell of voxels; everything float64.

    Attributes
    ----------
    weights : torch.Tensor
        (voxel, D) posterior mean, the intercept last.
    type_probability : torch.Tensor
        (voxel, K)
    noise : torch.Tensor
        (voxel) posterior mean of the noise variance.
    log_evidence : torch.Tensor
        (voxel) log density of the responses under the whole prior, in nats.
    """

    weights: torch.Tensor
    type_probability: torch.Tensor
    noise: torch.Tensor
    log_evidence: torch.Tensor


@dataclass(frozen=True)
class WeightPrior:
    """A mixture of Gaussians over linear encoders, with levels of amplitude and noise.

    Everything is kept in float64. D is one more than the width of the embedding; the last of the D
    weights is the intercept.

    Parameters
    ----------
    means : torch.Tensor
        (K, D), of each type.
    factors : torch.Tensor
        (K, D, D); the covariance of a type is ``factor @ factor.T``.
    amplitudes : torch.Tensor
        (A) levels, at least 0.
    noise : torch.Tensor
        (G) levels of the noise variance, positive.
    shares : torch.Tensor
        (K, A, G) probabilities of type, amplitude and noise together; their sum is 1.

    Raises
    ------
    InputError
        If shapes do not belong together, or values are out of range.
    """

    means: torch.Tensor
    factors: torch.Tensor
    amplitudes: torch.Tensor
    noise: torch.Tensor
    shares: torch.Tensor

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, torch.as_tensor(value, dtype=torch.float64))
        shapes = {name: tuple(value.shape) for name, value in vars(self).items()}
        expected = (*shapes["means"][:1], *shapes["amplitudes"], *shapes["noise"])
        square = (*shapes["means"], *shapes["means"][1:])
        if self.means.ndim != 2 or shapes["factors"] != square or shapes["shares"] != expected:
            raise InputError(
                f"the prior has shapes {shapes}; needed: means (K, D), factors (K, D, D), "
                "amplitudes (A), noise (G) and shares (K, A, G)."
            )
        if any(not torch.isfinite(value).all() for value in vars(self).values()):
            raise InputError("the prior holds NaN or infinity; needed: finite numbers.")
        total = float(self.shares.sum())
        if not self.shares.numel():
            raise InputError(f"the prior has shapes {shapes}; needed: at least one of each.")
        if self.amplitudes.min() < 0 or self.noise.min() <= 0 or self.shares.min() < 0:
            raise InputError(
                f"the prior's least amplitude is {float(self.amplitudes.min())}, least noise "
                f"{float(self.noise.min())} and least share {float(self.shares.min())}; needed: "
                "noise above 0, the others not below."
            )
        if abs(total - 1) > 1e-6:
            raise InputError(f"the prior's shares sum to {total}; divide them by their sum.")

    @classmethod
    def spectral(
        cls,
        embedded: torch.Tensor,
        exponent: float,
        signal: tuple[float, float] = (0.05, 0.6),
        levels: int = 8,
    ) -> WeightPrior:
        """Return a prior made from images alone, with no responses.

        The variance of the weight along the principal axis of rank r (1: where the images vary
        most) is proportional to r ** -exponent. At amplitude 1 the signal has, on average, unit
        variance over the images; the intercept makes its mean over them 0. Signal and noise
        variance sum to 1.

        Parameters
        ----------
        embedded : torch.Tensor
            (image, E)
        exponent : float
            0 is an isotropic prior.
        signal : (float, float)
            Least and largest fraction of the variance that is signal: 0 <= low <= high < 1.
        levels : int
            Fractions, evenly spaced and equally likely (one: the middle).

        Raises
        ------
        InputError
            If the images do not vary, or an argument is out of range.
        """
        low, high = signal
        if not (0 <= low <= high < 1 and levels >= 1 and math.isfinite(exponent)):
            raise InputError(
                f"signal={signal}, levels={levels}, exponent={exponent}; needed: 0 <= low <= high "
                "< 1, at least one level, a finite exponent."
            )
        x = embedded.double()
        mean = x.mean(0)
        values, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        values, axes = values.flip(0).clamp(min=0), axes.flip(1)
        if not values[0] > 0:
            raise InputError(f"embedded of shape {tuple(x.shape)} does not vary over images.")
        profile = torch.arange(1, len(values) + 1, dtype=torch.float64) ** -exponent
        spread = axes * (profile / (values @ profile)).sqrt()
        factor = torch.zeros(len(values) + 1, len(values) + 1, dtype=torch.float64)
        factor[:-1, :-1], factor[-1, :-1] = spread, -mean @ spread
        share = torch.linspace(low, high, levels, dtype=torch.float64)
        share = share if levels > 1 else torch.full_like(share, (low + high) / 2)
        shares = torch.eye(levels, dtype=torch.float64)[None] / levels
        return cls(torch.zeros_like(factor[:1]), factor[None], share.sqrt(), 1 - share, shares)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what :meth:`restored` needs."""
        return dict(vars(self))

    @classmethod
    def restored(cls, tensors: Mapping[str, torch.Tensor]) -> WeightPrior:
        """Return the prior whose :meth:`tensors` are among those given."""
        return cls(**{name: tensors[name] for name in cls.__dataclass_fields__})

    def covariance(self) -> torch.Tensor:
        """Return the covariance (D, D) of the weights over all types and amplitudes."""
        second = self.shares.sum(2) @ self.amplitudes.square()
        first = (self.shares.sum(2) @ self.amplitudes) @ self.means
        scaled = self.factors * second[:, None, None].sqrt()
        moment = (scaled @ scaled.transpose(1, 2)).sum(0)
        return moment + self.means.T @ (second[:, None] * self.means) - torch.outer(first, first)

    def sample(self, count: int, generator: torch.Generator) -> Drawn:
        """Draw voxels.

        Parameters
        ----------
        count : int
            How many, at least 1.
        generator : torch.Generator
            Source of the random numbers.

        Raises
        ------
        InputError
            If ``count`` is not positive.
        """
        if count < 1:
            raise InputError(f"count={count} voxels cannot be drawn; give at least 1.")
        cell = torch.multinomial(self.shares.flatten(), count, True, generator=generator)
        levels = len(self.noise)
        kind, a = cell // self.shares[0].numel(), cell // levels % len(self.amplitudes)
        weights = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        for k in kind.unique():
            own = kind == k
            weights[own] = self.means[k] + weights[own] @ self.factors[k].T
        return Drawn(weights * self.amplitudes[a, None], self.noise[cell % levels].sqrt(), kind)

    def grid(self) -> torch.Tensor:
        """Return (2, A * G): amplitude and noise of each level, in the order of ``shares``."""
        return torch.cartesian_prod(self.amplitudes, self.noise).T

    def bases(self, design: torch.Tensor) -> list[TypeBasis]:
        """Return each type's basis for a design (row, D)."""
        if design.shape[1] != self.means.shape[1]:
            raise MismatchError(
                f"embedded has {design.shape[1] - 1} columns, but the prior is over "
                f"{self.means.shape[1] - 1} weights. Embed as for the prior."
            )
        pairs = zip(self.means, self.factors, strict=True)
        return [TypeBasis.of(design, mean, factor) for mean, factor in pairs]

    def posterior(
        self,
        embedded: torch.Tensor,
        response: torch.Tensor,
        noise: str = "average",
        precision: torch.Tensor | None = None,
    ) -> Posterior:
        """Return the exact posterior mean of the weights of each voxel, and what goes with it.

        Parameters
        ----------
        embedded : torch.Tensor
            (n, E) images.
        response : torch.Tensor
            (n, voxel)
        noise : {"average", "maximum"}
            Average over all amplitudes and noises by their posterior, or take the pair of the
            largest marginal likelihood: of the voxel's responses, averaged over types by their
            shares at that pair; how common the pair is does not count.
        precision : torch.Tensor, optional
            (n) by which the noise variance of the responses to an image is divided (default: 1).

        Raises
        ------
        MismatchError
            If the shapes do not fit one another or the prior.
        InputError
            If something is not finite, or a precision not positive.
        UnknownNameError
            If ``noise`` is another name.
        """
        return self.read(Reduced.of(embedded, response, precision), noise)

    def read(self, data: Reduced, noise: str = "average") -> Posterior:
        """Return the :meth:`posterior` given images and responses that are reduced already."""
        check_name("noise", noise, ("average", "maximum"))
        bases = self.bases(data.design)
        back = [(factor @ basis.back).T for factor, basis in zip(self.factors, bases, strict=True)]
        numbers = 3 * self.shares.numel() + (len(bases) + 3) * len(data.design) + 2 * len(back[0].T)
        size = max(1, BLOCK_BYTES // (8 * numbers))
        shared = (self, bases, back, data.spare, data.log_scale, noise)
        found = fitted_blocks(_block_posterior, shared, [data.response, data.outside], size)
        parts = [part for _, part in sorted(found, key=lambda each: each[0].start)]
        return Posterior(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def log_joint(
        self,
        bases: list[TypeBasis],
        projected: list[torch.Tensor],
        outside: torch.Tensor,
        spare: int,
    ) -> torch.Tensor:
        """Return log p(y, k, a, g) as (K, level, voxel); arguments as of the types' evidence."""
        pairs = zip(bases, projected, strict=True)
        grid = self.grid()
        evidence = [basis.log_evidence(z, outside, spare, grid) for basis, z in pairs]
        return torch.stack(evidence) + self.shares.log().flatten(1)[:, :, None]

    def _probability(self, joint: torch.Tensor, noise: str) -> torch.Tensor:
        """Return the posterior of type and level, (K, level, voxel)."""
        if noise == "maximum":
            common = self.shares.sum(0).flatten()
            likelihood = joint.logsumexp(0) - torch.where(common > 0, common, 1.0).log()[:, None]
            level = torch.arange(len(common))[:, None]
            joint = joint.masked_fill(level != likelihood.argmax(0), -math.inf)
        return joint.flatten(0, 1).softmax(0).view(joint.shape)


def _block_posterior(
    prior: WeightPrior,
    bases: list[TypeBasis],
    back: list[torch.Tensor],
    spare: int,
    log_scale: float,
    noise: str,
    y: torch.Tensor,
    outside: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Return what a :class:`Posterior` holds of some voxels."""
    grid = prior.grid()
    projected = [basis.vectors.T @ y for basis in bases]
    joint = prior.log_joint(bases, projected, outside, spare)
    probability = prior._probability(joint, noise)
    weights = torch.einsum("klv,l->vk", probability, grid[0]) @ prior.means
    for k, basis in enumerate(bases):
        weights += basis.shrunk(projected[k], probability[k], grid).T @ back[k]
    mean_noise = grid[1] @ probability.sum(0)
    evidence = joint.flatten(0, 1).logsumexp(0) + log_scale
    return weights, probability.sum(1).T, mean_noise, evidence
