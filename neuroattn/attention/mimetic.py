"""Mimetic initialisation: start with the products that trained transformers end with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroattn.errors import InputError


@torch.no_grad()
def mimetic(
    query: nn.Module | None,
    key: nn.Module | None,
    value: nn.Module | None,
    output: nn.Module | None,
    *,
    heads: int,
    generator: torch.Generator | None = None,
    query_key: tuple[float, float] = (0.7, 0.7),
    value_output: tuple[float, float] = (0.4, 0.4),
) -> None:
    """Set the weights of a block's projections in place.

    Each head's W_qᵀW_k becomes the best approximation, of the head's rank, of a·Z + b·I, and
    W_oW_v becomes a·Z - b·I, with Z of independent Gaussians of variance 1/dim.

    Parameters
    ----------
    query, key, value, output : torch.nn.Linear
        The projections, all (dim, dim).
    heads : int
        Number of heads; rows of query and key are grouped by head.
    generator : torch.Generator, optional
        Source of Z.
    query_key, value_output : tuple of float
        a and b of both products.

    Raises
    ------
    InputError
        If a projection is missing or not square.

    References
    ----------
    Trockman & Kolter (2023), Mimetic initialization of self-attention layers, section 3;
    arXiv 2305.09828.
    """
    found = []
    for layer in (query, key, value, output):
        if not isinstance(layer, nn.Linear) or layer.in_features != layer.out_features:
            raise InputError(
                "initialisation='mimetic' needs square projections of query, key, value and "
                f"output; {layer} came. Set initialisation='xavier' or token_dim = dim."
            )
        found.append(layer.weight)
    rows_of_query, rows_of_key, into_value, into_output = found
    rank = len(rows_of_query) // heads

    def factors(noise: float, diagonal: float) -> tuple[Tensor, Tensor]:
        drawn = torch.randn(rows_of_query.shape, generator=generator).to(rows_of_query)
        unit = torch.eye(len(drawn)).to(rows_of_query)
        left, spread, right = torch.linalg.svd(noise * len(drawn) ** -0.5 * drawn + diagonal * unit)
        return left * spread.sqrt(), right * spread.sqrt()[:, None]

    for head in range(heads):
        rows = slice(head * rank, (head + 1) * rank)
        left, right = factors(*query_key)
        rows_of_query[rows], rows_of_key[rows] = left[:, :rank].T, right[:rank]
    left, right = factors(value_output[0], -value_output[1])
    into_output.copy_(left)
    into_value.copy_(right)
