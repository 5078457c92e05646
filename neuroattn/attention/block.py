"""The learnable attention block: projections around a registered mechanism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention.registry import attend, get, weights
from neuroattn.errors import InputError


class MultiheadAttention(nn.Module):
    """Cross-attention of queries to tokens through a registered mechanism.

    Keys are ``key(tokens) + key_position(position)``: the position code enters the keys only,
    and its projection is computed once a batch, not once an image.

    Parameters
    ----------
    dim : int
        Width of queries and output; a multiple of ``heads``.
    heads : int
        Number of heads.
    token_dim : int, optional
        Channels of the tokens; ``dim`` by default.
    mechanism : str
        A registered mechanism.
    parameters : mapping, optional
        The mechanism's own parameters.

    Raises
    ------
    InputError
        If ``dim`` is no multiple of ``heads``.
    UnknownNameError
        If the mechanism is not registered.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        token_dim: int | None = None,
        mechanism: str = "softmax",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise InputError(f"dim={dim} must be a multiple of heads={heads}.")
        get(mechanism)
        self.heads, self.mechanism = heads, mechanism
        self.parameters_of_mechanism = dict(parameters or {})
        token_dim = dim if token_dim is None else token_dim
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(token_dim, dim)
        self.key_position = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(token_dim, dim)
        self.output = nn.Linear(dim, dim)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Read the projected tokens.

        Parameters
        ----------
        queries : Tensor
            (batch, queries, dim); a batch of 1 is read by every image.
        keys, values : Tensor
            From :meth:`project`, (batch, heads, tokens, dim / heads).

        Returns
        -------
        Tensor
            (batch, queries, dim)
        """
        query = self._heads(self.query(queries)).expand(keys.shape[0], -1, -1, -1)
        read = attend(self.mechanism, query, keys, values, **self.parameters_of_mechanism)
        merged: Tensor = self.output(read.transpose(1, 2).flatten(2))
        return merged

    def project(self, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (batch, heads, tokens, dim / heads) of tokens and their position.

        Parameters
        ----------
        tokens : Tensor
            (batch, tokens, token_dim)
        position : Tensor
            (tokens, dim)
        """
        return self.project_placed(tokens, self.place(position))

    def place(self, position: Tensor) -> Tensor:
        """Return what every image's keys have from their place (tokens, dim), bias included."""
        return F.linear(position, self.key_position.weight, self.key.bias)

    def project_placed(self, tokens: Tensor, placed: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`project` does, ``placed`` being :meth:`place` of the position."""
        keys = F.linear(tokens, self.key.weight)
        keys += placed  # in place: keys are the largest tensor of a training step
        return self._heads(keys), self._heads(self.value(tokens))

    def maps(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the explicit weights (batch, heads, queries, tokens)."""
        query = self._heads(self.query(queries)).expand(keys.shape[0], -1, -1, -1)
        return weights(self.mechanism, query, keys, **self.parameters_of_mechanism)

    def _heads(self, projected: Tensor) -> Tensor:
        split: Tensor = projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split


def sine_position(rows: int, columns: int, dim: int, temperature: float = 10_000.0) -> Tensor:
    """Return the two-dimensional sine code (tokens, dim): half of it rows, half columns.

    Coordinates run from 0 to 2π over the grid.

    Parameters
    ----------
    rows, columns : int
        The token grid; token = row · columns + column.
    dim : int
        Width; a multiple of 4.
    temperature : float
        Ratio of the longest to the shortest wavelength.

    Raises
    ------
    InputError
        If ``dim`` is not a multiple of 4.

    References
    ----------
    Carion et al. (2020), End-to-end object detection with transformers, supplement.
    """
    if dim % 4:
        raise InputError(f"dim={dim} must be a multiple of 4 for the two-dimensional sine code.")
    quarter = torch.arange(dim // 4, dtype=torch.float64)
    frequency = temperature ** (-quarter / (dim // 4))
    parts = []
    for count in (rows, columns):
        place = 2 * torch.pi * torch.arange(1, count + 1, dtype=torch.float64) / count
        phase = place[:, None] * frequency
        parts.append(torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1))
    grid = torch.cat(
        [
            parts[0][:, None].expand(rows, columns, dim // 2),
            parts[1][None].expand(rows, columns, dim // 2),
        ],
        dim=-1,
    )
    return grid.reshape(rows * columns, dim).float()
