r"""What responses say of a linear encoder with a Gaussian prior, at many levels at once.

With the design :math:`P = [X, 1]`, weights :math:`w = a u` and :math:`u \sim N(m, L L^T)`, the
responses are :math:`y = P w + \sqrt{g} \epsilon`. With
:math:`P L L^T P^T = U \mathrm{diag}(d) U^T`, :math:`z = U^T y` and :math:`c = U^T P m`, the
evidence of every amplitude :math:`a` and noise :math:`g` comes from the same numbers,

.. math:: \log p(y | a, g) = -\tfrac12 \sum_i \Big[ \log 2\pi (a^2 d_i + g)
          + \frac{(z_i - a c_i)^2}{a^2 d_i + g} \Big],

and so does the posterior mean,

.. math:: a m + a^2 L L^T P^T U \, \mathrm{diag}(a^2 d + g)^{-1} (z - a c).

One decomposition thus serves all voxels, amplitudes and noises; what is left is matrix products.
Images that were shown more often have less noise: their rows of :math:`P` and :math:`y` are
multiplied by the root of their precision, after which all have the same :math:`g`.
Where there are more images than weights, :math:`P = QR` first: :math:`R` takes the place of
:math:`P` and :math:`Q^T y` that of :math:`y`, and what :math:`Q` does not reach is noise.

References
----------
Bishop (2006), Pattern Recognition and Machine Learning, sections 3.3 and 3.5: posterior and
evidence of Bayesian linear regression.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from neuroattn.errors import InputError, MismatchError

__all__ = ["Reduced", "TypeBasis"]

# Voxels that are converted to float64 at a time.
_BLOCK = 1024


@dataclass(frozen=True)
class Reduced:
    """Images and responses, reduced to at most D rows without loss.

    Attributes
    ----------
    design : torch.Tensor
        (row, D) float64
    response : torch.Tensor
        (row, voxel) float64
    outside : torch.Tensor
        (voxel) squared length of the responses that no weights can reach.
    spare : int
        Dimensions of that rest: images minus rows.
    log_scale : float
        Log density of a voxel's responses, less that of what stands here.
    """

    design: torch.Tensor
    response: torch.Tensor
    outside: torch.Tensor
    spare: int
    log_scale: float

    @classmethod
    def of(
        cls,
        embedded: torch.Tensor,
        response: torch.Tensor,
        precision: torch.Tensor | None = None,
    ) -> Reduced:
        """Reduce embedded images (n, E) and responses (n, voxel).

        Parameters
        ----------
        embedded, response : torch.Tensor
            (n, E) and (n, voxel).
        precision : torch.Tensor, optional
            (n) positive: the noise variance of an image's responses is the voxel's, divided by
            this (default: by 1).

        Raises
        ------
        MismatchError
            If their rows differ in number.
        InputError
            If there is nothing, something is not finite, or a precision is not positive.
        """
        if embedded.ndim != 2 or response.ndim != 2 or len(embedded) != len(response):
            raise MismatchError(
                f"embedded has shape {tuple(embedded.shape)} and response {tuple(response.shape)}; "
                "needed: (image, E) and (image, voxel) of the same images."
            )
        if not embedded.numel() or not response.numel():
            raise InputError(
                f"embedded has shape {tuple(embedded.shape)} and response {tuple(response.shape)}: "
                "nothing to read. Give at least one image, one column and one voxel."
            )
        for name, values in (("embedded", embedded), ("response", response)):
            if not torch.isfinite(values).all():
                wrong = int((~torch.isfinite(values)).sum())
                raise InputError(
                    f"{name} holds {wrong} values that are NaN or infinite. Drop their voxels or "
                    "images first."
                )
        root = _root(precision, len(embedded))
        design = torch.cat([embedded.double() * root, root], dim=1)
        log_scale = float(root.log().sum())
        rows, width = design.shape
        if rows <= width:
            nothing = torch.zeros(response.shape[1], dtype=torch.float64)
            return cls(design, response.double() * root, nothing, 0, log_scale)
        basis, triangle = torch.linalg.qr(design)
        inside = torch.empty(width, response.shape[1], dtype=torch.float64)
        outside = torch.empty(response.shape[1], dtype=torch.float64)
        for start in range(0, response.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            y = response[:, block].double() * root
            inside[:, block] = basis.T @ y
            # A difference of squares would leave nothing but rounding of a noiseless voxel.
            outside[block] = (y - basis @ inside[:, block]).square().sum(0)
        return cls(triangle, inside, outside, rows - width, log_scale)


def _root(precision: torch.Tensor | None, images: int) -> torch.Tensor:
    """Return what the rows are multiplied by (n, 1) so that all have one noise."""
    if precision is None:
        return torch.ones(images, 1, dtype=torch.float64)
    if precision.shape != (images,):
        raise MismatchError(
            f"precision has shape {tuple(precision.shape)}; needed: one for each of the {images} "
            "images."
        )
    if not (torch.isfinite(precision) & (precision > 0)).all():
        raise InputError(
            f"precision goes from {float(precision.min())} to {float(precision.max())}; needed: "
            "finite and positive numbers."
        )
    return precision.double().sqrt()[:, None]


@dataclass(frozen=True)
class TypeBasis:
    """The directions in which one type's prior and the images' noise are both independent.

    Attributes
    ----------
    vectors : torch.Tensor
        (row, row), U.
    values : torch.Tensor
        (row), d, not negative.
    offset : torch.Tensor
        (row), c, what the type's mean predicts.
    back : torch.Tensor
        (D, row), L^T P^T U.
    """

    vectors: torch.Tensor
    values: torch.Tensor
    offset: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(cls, design: torch.Tensor, mean: torch.Tensor, factor: torch.Tensor) -> TypeBasis:
        """Diagonalise one type's covariance (factor @ factor.T) of the responses."""
        spread = design @ factor
        values, vectors = torch.linalg.eigh(spread @ spread.T)
        return cls(vectors, values.clamp(min=0), vectors.T @ (design @ mean), spread.T @ vectors)

    def log_evidence(
        self, projected: torch.Tensor, outside: torch.Tensor, spare: int, grid: torch.Tensor
    ) -> torch.Tensor:
        """Return log p(y | k, a, g) for each level of a grid.

        Parameters
        ----------
        projected : torch.Tensor
            (row, voxel), z.
        outside : torch.Tensor
            (voxel), see :class:`Reduced`.
        spare : int
            See :class:`Reduced`.
        grid : torch.Tensor
            (2, level), amplitudes and noise variances.

        Returns
        -------
        torch.Tensor
            (level, voxel)
        """
        a, g = grid[:, :, None]
        variance = a.square() * self.values + g
        weight, mean = 1 / variance, a * self.offset
        square = weight @ projected.square() - 2 * (weight * mean) @ projected + outside / g
        constant = (weight * mean.square() + variance.log()).sum(1, keepdim=True) + spare * g.log()
        constant += (len(self.values) + spare) * math.log(2 * math.pi)
        evidence: torch.Tensor = -0.5 * (square + constant)
        return evidence

    def shrunk(
        self, projected: torch.Tensor, probability: torch.Tensor, grid: torch.Tensor
    ) -> torch.Tensor:
        """Return what ``factor @ back`` turns into the posterior mean of w - a m.

        Parameters
        ----------
        projected : torch.Tensor
            (row, voxel), z.
        probability : torch.Tensor
            (level, voxel) over which to average; need not sum to 1.
        grid : torch.Tensor
            (2, level), amplitudes and noise variances.

        Returns
        -------
        torch.Tensor
            (row, voxel)
        """
        a, g = grid[:, :, None]
        gain = a.square() / (a.square() * self.values + g)
        data, prior = gain.T @ probability, (a * gain).T @ probability
        shrunk: torch.Tensor = projected * data - self.offset[:, None] * prior
        return shrunk
