"""How far an adaptive encoder is from the best possible on voxels whose prior is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from neuroattn.encoders.adaptive import LEAST_CONTEXT, AdaptiveEncoder
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError

__all__ = ["excess_risk"]


def excess_risk(
    encoder: AdaptiveEncoder,
    prior: WeightPrior,
    context: torch.Tensor,
    query: torch.Tensor,
    lengths: Sequence[int] = (10, 30, 100, 300),
    voxels: int = 512,
    seed: int = 0,
) -> xr.Dataset:
    """Compare what an encoder writes with the posterior mean, on voxels drawn from the prior.

    The posterior mean has the least mean squared error that any rule can have, so the excess is
    at least 0 but for the draws.

    Parameters
    ----------
    encoder : AdaptiveEncoder
        Fitted; not changed.
    prior : WeightPrior
        Voxels and their noise are drawn from it; it is the oracle's.
    context : torch.Tensor
        (image, E) images from which contexts are drawn; the first n of one order.
    query : torch.Tensor
        (image, E) other images, whose noiseless responses are predicted.
    lengths : sequence of int
        Numbers of context images, at least 2; those over the number of images are left out.
    voxels : int
        Voxels drawn, at least 2.
    seed : int
        Of voxels, noise and order.

    Returns
    -------
    xarray.Dataset
        By ``length``, ascending: ``risk``, ``oracle`` and ``excess``, mean squared errors of the
        noiseless response over voxels and queries as a share of its mean square; ``error``, the
        standard error of the excess over voxels.

    Raises
    ------
    InputError
        If the encoder is not fitted, a number is out of range, no length is left, or the widths
        differ.
    """
    kept = _checked(encoder, prior, context, query, lengths, voxels)
    generator = torch.Generator().manual_seed(seed)
    drawn = prior.sample(voxels, generator)
    order = np.random.default_rng(seed).permutation(len(context))[: max(kept)]
    shown, truth = context[order].double(), _applied(drawn.weights, query.double())
    noise = torch.randn(voxels, len(shown), generator=generator, dtype=torch.float64)
    response = _applied(drawn.weights, shown) + drawn.noise_sd[:, None] * noise
    columns = []
    for length in kept:
        found = VoxelSet(
            tuple(str(row) for row in order[:length]),
            shown[:length].float(),
            response[:, :length].T.float().contiguous(),
            xr.Dataset(coords={"subject": ("voxel", ["drawn"] * voxels)}),
        )
        weights, intercept = encoder.write(found)
        given = torch.cat([weights, intercept[:, None]], dim=1).double()
        best = prior.posterior(shown[:length], response[:, :length].T).weights
        errors = [_error(each, query.double(), truth) for each in (given, best)]
        columns.append([*errors, errors[0] - errors[1]])
    power = truth.square().mean()
    table = torch.stack([torch.stack(column) for column in columns]) / power
    means, excess = table.mean(dim=2).numpy(), table[:, 2]
    return xr.Dataset(
        {
            "risk": ("length", means[:, 0]),
            "oracle": ("length", means[:, 1]),
            "excess": ("length", means[:, 2]),
            "error": ("length", (excess.std(dim=1) / voxels**0.5).numpy()),
        },
        coords={"length": kept},
        attrs={"voxels": voxels, "seed": seed, "queries": len(query)},
    )


def _checked(
    encoder: AdaptiveEncoder,
    prior: WeightPrior,
    context: torch.Tensor,
    query: torch.Tensor,
    lengths: Sequence[int],
    voxels: int,
) -> list[int]:
    """Return the lengths that there are images for, each once, ascending."""
    encoder._require_fitted()
    own, width = encoder.embedding_.width, prior.means.shape[1] - 1
    if not context.shape[1] == query.shape[1] == own == width:
        raise InputError(
            f"context and query have embeddings of width {context.shape[1]} and "
            f"{query.shape[1]}, the prior is of {width}, the encoder reads {own}. Give images "
            "of one embedding."
        )
    wanted = sorted(set(lengths))
    if not wanted or wanted[0] < LEAST_CONTEXT or any(int(n) != n for n in wanted):
        raise InputError(
            f"lengths={list(lengths)} must be whole numbers of at least {LEAST_CONTEXT} images."
        )
    kept = [int(length) for length in wanted if length <= len(context)]
    if not kept or voxels < 2 or not len(query):
        raise InputError(
            f"lengths={list(lengths)}, voxels={voxels} and {len(query)} query images: needed are "
            f"a length of at most {len(context)}, the number of context images, at least two "
            "voxels and one query image."
        )
    return kept


def _applied(weights: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """Return the responses (voxel, image) of weights (voxel, E + 1), the intercept last."""
    return weights[:, :-1] @ embedded.T + weights[:, -1:]


def _error(weights: torch.Tensor, query: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (_applied(weights, query) - truth).square().mean(dim=1)
