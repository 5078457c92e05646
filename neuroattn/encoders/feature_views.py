"""Views: how a grid of tokens becomes the row of a design matrix, scaled on training images.

Features are read in blocks from where they are (usually a memory map), never as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from neuroattn.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

__all__ = ["VIEWS", "View", "fit_view"]

VIEWS = ("flatten", "mean", "class", "pca")
_BLOCK_BYTES = 64 * 2**20
# Columns whose spread is below this share of their mean are constant up to float32 rounding.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class View:
    """A fitted view.

    Attributes
    ----------
    name : str
        "flatten" (every token and channel is a column), "mean" (tokens averaged), "class" (the
        class token) or "pca" (principal components of the standardised flattened features).
    mean, scale : torch.Tensor
        (column) float64, means over the training images and 1 / standard deviation (ddof 0), or
        one common scale; that of a column that does not vary is 0, and so is the column.
    components : torch.Tensor or None
        (column, component) float32, orthonormal; only for "pca".
    """

    name: str
    mean: torch.Tensor
    scale: torch.Tensor
    components: torch.Tensor | None = None

    @property
    def columns(self) -> int:
        """Number of columns of the design matrix."""
        return len(self.mean) if self.components is None else self.components.shape[1]

    def transform(self, features: xr.Dataset, rows: NDArray[np.intp]) -> torch.Tensor:
        """Return the design matrix (len(rows), column) float32 of some images."""
        design = torch.empty(len(rows), self.columns, dtype=torch.float32)
        for block, values in _image_blocks(self.name, features, rows):
            standard = ((values - self.mean) * self.scale).to(torch.float32)
            design[block] = standard if self.components is None else standard @ self.components
        return design

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what :meth:`restored` needs."""
        found = {"view_mean": self.mean, "view_scale": self.scale}
        return found if self.components is None else {**found, "view_components": self.components}

    @classmethod
    def restored(cls, name: str, tensors: Mapping[str, torch.Tensor]) -> View:
        """Return the view whose :meth:`tensors` are given."""
        return cls(
            name, tensors["view_mean"], tensors["view_scale"], tensors.get("view_components")
        )


def fit_view(
    name: str,
    features: xr.Dataset,
    rows: NDArray[np.intp],
    components: int | None = None,
    standardise: bool = True,
) -> View:
    """Learn means, scales and, for "pca", components from the training images.

    Parameters
    ----------
    name : str
        One of ``VIEWS``.
    features : xarray.Dataset
        ``tokens (image, token, channel)`` and, for "class", ``class_token (image, channel)``.
    rows : numpy.ndarray
        The training images, each once.
    components : int, optional
        For "pca" alone: how many, at most min(images - 1, columns). The components of largest
        variance; they keep their variance, so that ridge shrinks the small ones more. Where
        columns outnumber images they come from the image by image Gram matrix, so that memory
        is images² + columns × components.
    standardise : bool
        Divide each column by its standard deviation. If false, all are divided by the root of
        their mean variance (of those that vary), so that columns keep their relative variances;
        either way the variances sum to the number of columns that vary.

    Raises
    ------
    InputError
        If there is no class token, ``components`` is missing, out of range, or not asked for, or
        features of a training image hold NaN or infinity.
    """
    if name == "class" and "class_token" not in features:
        raise InputError(
            f"view='class' needs a class token, and basis {features.attrs.get('basis')!r} has none "
            f"(it has {', '.join(map(str, features.data_vars))}). "
            "Take view='mean', or a basis with a class token."
        )
    if (name == "pca") != (components is not None):
        raise InputError(
            f"components={components} with view={name!r}: give a number with view='pca' only."
        )
    mean, scale = _moments(name, features, rows)
    if not standardise:
        scale = _common(scale)
    if components is None:
        return View(name, mean, scale)
    most = min(len(rows) - 1, len(mean))
    if not 1 <= components <= most:
        raise InputError(
            f"components={components} must be 1 to {most}: the training has {len(rows)} images, "
            f"the features {len(mean)} columns."
        )
    standard = View(name, mean, scale)
    solve = _components_of_columns if len(mean) <= len(rows) else _components_of_images
    basis = solve(standard, features, rows, components)
    # Eigenvectors come with either sign; the largest entry is positive by convention.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    # Contiguous, as it will be when read from a file: the layout decides how products round.
    return View(name, mean, scale, (basis * largest.sign()).to(torch.float32).contiguous())


def _moments(
    name: str, features: xr.Dataset, rows: NDArray[np.intp]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge means and sums of squares block by block (Chan, Golub and LeVeque 1983, eq. 2.1)."""
    count = 0
    mean = squares = torch.zeros((), dtype=torch.float64)
    for block, values in _image_blocks(name, features, rows):
        broken = torch.nonzero(~torch.isfinite(values).all(dim=1))[:, 0]
        if len(broken):
            first = features["image"].values[rows[block][int(broken[0])]]
            raise InputError(
                f"the features of image {str(first)!r} hold NaN or infinity. Extract them again, "
                "or drop the presentations of the image."
            )
        size, block_mean = len(values), values.mean(0)
        change = block_mean - mean
        squares = squares + (values - block_mean).square().sum(0)
        squares = squares + change.square() * (count * size / (count + size))
        mean = mean + change * (size / (count + size))
        count += size
    spread = (squares / count).sqrt()
    varies = spread > _CONSTANT * mean.abs()
    return mean, torch.where(varies, 1 / torch.where(varies, spread, 1.0), 0.0)


def _common(scale: torch.Tensor) -> torch.Tensor:
    """Return one scale for all columns that vary, from the scale that each has by itself."""
    varies = scale > 0
    variance = scale[varies] ** -2
    return torch.where(varies, variance.mean().rsqrt(), 0.0)


def _components_of_columns(
    standard: View, features: xr.Dataset, rows: NDArray[np.intp], components: int
) -> torch.Tensor:
    gram = torch.zeros(standard.columns, standard.columns, dtype=torch.float64)
    for _, values in _image_blocks(standard.name, features, rows):
        scaled = (values - standard.mean) * standard.scale
        gram += scaled.T @ scaled
    vectors: torch.Tensor = torch.linalg.eigh(gram)[1]
    return vectors[:, -components:].flip(1)


def _components_of_images(
    standard: View, features: xr.Dataset, rows: NDArray[np.intp], components: int
) -> torch.Tensor:
    """Return V of X = U S Vᵀ through X Xᵀ = U S² Uᵀ and V = Xᵀ U S⁻¹, by blocks of columns."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for _, scaled in _column_blocks(standard, features, rows):
        gram += scaled @ scaled.T
    power, left = torch.linalg.eigh(gram)
    power, left = power[-components:].flip(0), left[:, -components:].flip(1)
    # Images that repeat one another span fewer directions than asked for: those stay empty.
    inverse = torch.where(power > 1e-12 * power[0], power.clamp(min=1e-300).rsqrt(), 0.0)
    basis = torch.empty(standard.columns, components, dtype=torch.float64)
    for block, scaled in _column_blocks(standard, features, rows):
        basis[block] = scaled.T @ (left * inverse)
    return basis


def _image_blocks(
    name: str, features: xr.Dataset, rows: NDArray[np.intp]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, values (image, column) float64) of the unstandardised view."""
    array = features["class_token" if name == "class" else "tokens"]
    width = 8 * int(array[0].size)
    step = max(1, _BLOCK_BYTES // width)
    for start in range(0, len(rows), step):
        block = slice(start, min(start + step, len(rows)))
        values = torch.from_numpy(array[rows[block]].values).to(torch.float64)
        yield block, values.mean(1) if name == "mean" else values.flatten(1)


def _column_blocks(
    standard: View, features: xr.Dataset, rows: NDArray[np.intp]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (columns, standardised values (image, column) float64) by blocks of tokens."""
    tokens: Any = features["tokens"]
    count, channels = tokens.sizes["token"], tokens.sizes["channel"]
    step = max(1, _BLOCK_BYTES // (8 * len(rows) * channels))
    for start in range(0, count, step):
        stop = min(start + step, count)
        block = slice(start * channels, stop * channels)
        values = torch.from_numpy(tokens[:, start:stop][rows].values).to(torch.float64)
        yield block, (values.flatten(1) - standard.mean[block]) * standard.scale[block]
