"""The learnable attention block: projections around a registered mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention.dispatch import attend, weights
from neuroattn.attention.learned import Learned
from neuroattn.attention.masks import allowed
from neuroattn.attention.mimetic import mimetic
from neuroattn.attention.registry import Mechanism, get
from neuroattn.errors import InputError, UnknownNameError
from neuroattn.names import check_name, did_you_mean


class Projected(NamedTuple):
    """Tokens as a block's queries read them.

    Attributes
    ----------
    key, value : Tensor
        (batch, heads, tokens, width of a head)
    named : dict of str to Tensor
        What the mechanism learns from the tokens.
    """

    key: Tensor
    value: Tensor
    named: dict[str, Tensor]


class MultiheadAttention(nn.Module):
    """Attention of queries to tokens through a registered mechanism.

    Keys are ``key(tokens) + key_position(position)``: the position code enters the keys only,
    and its projection is computed once a batch, not once an image. What the mechanism learns
    (gates, feature maps, ...) is the module ``learned``; where a mechanism drops a projection, its
    heads read slices of what came.

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
        The mechanism's own parameters and the options of what it learns. A parameter that is
        given here is not learned.
    causal : bool
        Whether query i sees the tokens up to i only.
    initialisation : {"xavier", "mimetic"}
        ``"mimetic"`` starts with query-key products near the identity and value-output products
        near its negative, see :func:`neuroattn.attention.mimetic.mimetic`; it needs
        ``token_dim`` = ``dim``.
    position : bool
        Whether tokens may come with a position code; without, no weights are kept for it.
    logit_scaling : {"none", "log"}
        ``"log"`` multiplies the queries, before their projection, by ln(n), n the number of
        tokens that the query reads (hidden ones do not count). The logits then grow with the
        length about as ln(n): all but what comes of the projection's bias. What the mechanism
        learns from the queries sees them unscaled.

    Raises
    ------
    InputError
        If ``dim`` is no multiple of ``heads``, a parameter is out of its range, or a mechanism
        without some projection is given tokens of another width.
    UnknownNameError
        If the mechanism, the initialisation or the scaling is not known, or the mechanism has no
        such parameter.

    References
    ----------
    Trockman & Kolter (2023), Mimetic initialization of self-attention layers, section 3;
    arXiv 2305.09828. Chiang & Cholak (2022), Overcoming a theoretical limitation of
    self-attention, the remedy for FIRST; arXiv 2202.12172.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        token_dim: int | None = None,
        mechanism: str = "softmax",
        parameters: Mapping[str, Any] | None = None,
        *,
        causal: bool = False,
        initialisation: str = "xavier",
        position: bool = True,
        logit_scaling: str = "none",
    ) -> None:
        super().__init__()
        check_name("initialisation", initialisation, ("xavier", "mimetic"))
        check_name("logit_scaling", logit_scaling, ("none", "log"))
        if dim < 1 or heads < 1 or dim % heads:
            raise InputError(f"dim={dim} must be a multiple of heads={heads}, both at least 1.")
        spec = get(mechanism)
        if causal not in spec.causal:
            raise InputError(f"attention={mechanism!r} does not take causal={causal}.")
        self.heads, self.mechanism, self.causal = heads, mechanism, causal
        self.logit_scaling = logit_scaling
        token_dim = dim if token_dim is None else token_dim
        self.parameters_of_mechanism, options = _sorted_parameters(spec, parameters or {})
        self.query = self.key = self.value = self.key_position = self.learned = None
        sliced = {"value"} if spec.whole_key else {"key", "value"}
        if not sliced <= set(spec.projections) and token_dim != dim:
            raise InputError(
                f"attention={mechanism!r} reads slices of the tokens: dim={dim} must be their "
                f"number of channels, {token_dim}."
            )
        if "query" in spec.projections:
            self.query = nn.Linear(dim, heads * token_dim if spec.whole_key else dim)
        if "key" in spec.projections:
            self.key = nn.Linear(token_dim, dim)
        if position:
            self.key_position = nn.Linear(dim, token_dim if spec.whole_key else dim, bias=False)
        if "value" in spec.projections:
            self.value = nn.Linear(token_dim, dim)
        self.output = nn.Linear(dim, dim) if "output" in spec.projections else nn.Identity()
        self.whole_key = spec.whole_key
        if spec.module is not None:
            learned = spec.module(dim, heads, token_dim, **options)
            # What gives nothing, or only what came anyway, would be weights without a gradient.
            if not _names(learned, dim, token_dim) <= set(self.parameters_of_mechanism):
                self.learned = learned
        self._initialise(initialisation)

    query: nn.Linear | None
    key: nn.Linear | None
    value: nn.Linear | None
    key_position: nn.Linear | None
    learned: Learned | None

    def _initialise(self, initialisation: str) -> None:
        for layer in (self.query, self.key, self.value):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        if isinstance(self.output, nn.Linear):
            nn.init.zeros_(self.output.bias)
        if initialisation == "mimetic":
            if self.whole_key or None in (self.query, self.key, self.value):
                raise InputError(
                    f"initialisation='mimetic' sets projections of query, key, value and output; "
                    f"attention={self.mechanism!r} has others. Use initialisation='xavier'."
                )
            layers = (self.query, self.key, self.value, self.output)
            mimetic(*layers, heads=self.heads)

    def forward(self, queries: Tensor, tokens: Projected, mask: Tensor | None = None) -> Tensor:
        """Read the projected tokens.

        Parameters
        ----------
        queries : Tensor
            (batch, queries, dim); a batch of 1 is read by every image.
        tokens : Projected
            From :meth:`project`.
        mask : Tensor of bool, optional
            Broadcastable to (batch, heads, queries, tokens), True where attention is allowed;
            with ``logit_scaling="log"`` the same for all heads, (batch, 1, queries, tokens).

        Returns
        -------
        Tensor
            (batch, queries, dim)

        Raises
        ------
        InputError
            If a shape does not fit; what :func:`neuroattn.attention.attend` raises.
        """
        query, named = self._asked(queries, tokens, mask)
        if self.training and self.learned is not None:
            self.learned.observe(query.detach(), tokens.key.detach())
        read = attend(
            self.mechanism, query, tokens.key, tokens.value, causal=self.causal, mask=mask, **named
        )
        merged: Tensor = self.output(read.transpose(1, 2).flatten(2))
        return merged

    def project(self, tokens: Tensor, position: Tensor | None = None) -> Projected:
        """Return the tokens as the queries read them.

        Parameters
        ----------
        tokens : Tensor
            (batch, tokens, token_dim)
        position : Tensor, optional
            The tokens' position code (tokens, dim), see :func:`sine_position`.

        Raises
        ------
        InputError
            If a position comes and the block was built without.
        """
        return self.project_placed(tokens, None if position is None else self.place(position))

    def place(self, position: Tensor) -> Tensor:
        """Return what every image's keys have from their place (tokens, dim), bias included.

        Parameters
        ----------
        position : Tensor
            The tokens' position code (tokens, dim).

        Raises
        ------
        InputError
            If the block was built without position.
        """
        if self.key_position is None:
            raise InputError(
                f"position of shape {tuple(position.shape)} came to a block that was built with "
                "position=False; leave it out, or build the block with position=True."
            )
        bias = None if self.key is None else self.key.bias
        return F.linear(position, self.key_position.weight, bias)

    def project_placed(self, tokens: Tensor, placed: Tensor | None) -> Projected:
        """Return what :meth:`project` does, ``placed`` being :meth:`place` of the position."""
        if self.key is None:
            keys = tokens if placed is None else tokens + placed
        elif placed is None:
            keys = self.key(tokens)
        else:
            keys = F.linear(tokens, self.key.weight)
            keys += placed  # in place: keys are the largest tensor of a training step
        values = tokens if self.value is None else self.value(tokens)
        named = {} if self.learned is None else self.learned.of_tokens(tokens)
        split = (
            keys[:, None].expand(-1, self.heads, -1, -1) if self.whole_key else self._heads(keys)
        )
        return Projected(_in_autocast(split), _in_autocast(self._heads(values)), named)

    def maps(self, queries: Tensor, tokens: Projected) -> Tensor:
        """Return the explicit weights (batch, heads, queries, tokens).

        Raises
        ------
        InputError
            If the mechanism has no explicit matrix.
        """
        query, named = self._asked(queries, tokens)
        return weights(self.mechanism, query, tokens.key, causal=self.causal, **named)

    def _asked(
        self, queries: Tensor, tokens: Projected, mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the queries (batch, heads, queries, width of a head) and all parameters."""
        of_queries = {} if self.learned is None else self.learned.of_queries(queries)
        if self.logit_scaling == "log":
            queries = queries * self._log_length(queries, tokens, mask)
        query = self._heads(queries if self.query is None else self.query(queries))
        named = {**tokens.named, **of_queries, **self.parameters_of_mechanism}
        return _in_autocast(query).expand(tokens.key.shape[0], -1, -1, -1), named

    def _log_length(
        self, queries: Tensor, tokens: Projected, mask: Tensor | None
    ) -> float | Tensor:
        """Return ln(n) of the tokens that are read: one number, or (batch, queries, 1)."""
        sizes = tokens.key.shape[0], 1, queries.shape[-2], tokens.key.shape[-2]
        if mask is not None and (
            mask.ndim != 4 or any(a not in (1, b) for a, b in zip(mask.shape, sizes, strict=True))
        ):
            raise InputError(
                f"mask has shape {tuple(mask.shape)}; logit_scaling='log' counts what a query "
                f"reads, alike for all heads: needed is (batch, 1, queries, tokens) = {sizes}, "
                "or 1 in place of any of them."
            )
        seen = allowed(*sizes[2:], self.causal, mask, queries.device)
        # A query that reads nothing is not scaled to minus infinity.
        if seen is None:
            return math.log(max(1, sizes[-1]))
        count = seen.expand(sizes)[:, 0].sum(dim=-1, keepdim=True).clamp_min(1)
        return count.double().log().to(queries.dtype)

    def _heads(self, projected: Tensor) -> Tensor:
        split: Tensor = projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split


@torch.no_grad()
def _names(learned: Learned, dim: int, token_dim: int) -> set[str]:
    """Return the names of what a module gives."""
    learned.eval()
    names = {*learned.of_tokens(torch.zeros(1, 1, token_dim))}
    names |= {*learned.of_queries(torch.zeros(1, 1, dim))}
    learned.train()
    return names


def _in_autocast(each: Tensor) -> Tensor:
    """Return what was not projected in the dtype of what was."""
    kind = each.device.type
    return each.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else each


def _sorted_parameters(
    spec: Mechanism, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the mechanism's parameters and the options of what it learns, both checked."""
    known = {**spec.options, **spec.parameters}
    for name, value in given.items():
        if name not in known:
            raise UnknownNameError(
                f"attention={spec.name!r} has no parameter {name!r}"
                f"{did_you_mean(name, known) or '.'} Allowed: {', '.join(known) or 'none'}."
            )
        if not isinstance(value, Tensor):
            known[name].check(spec.name, name, value, {})
    options = {name: each.default for name, each in spec.options.items()}
    options |= {name: value for name, value in given.items() if name in options}
    kept = {name: value for name, value in given.items() if name in spec.parameters}
    return kept, options


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
