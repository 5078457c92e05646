"""The network of the transformer brain encoder: queries, decoder layers, readout, static branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from neuroattn.attention.block import MultiheadAttention, Projected, sine_position
from neuroattn.attention.registry import get
from neuroattn.encoders.queries import QueryMap
from neuroattn.encoders.readout import GatheredReadout, SpatialReadout
from neuroattn.errors import InputError
from neuroattn.training.module import EncoderNetwork

#: Weight of the query's shared gate against a voxel's own, in average voxels.
GATE_PRIOR = 4.0
#: Elements of the keys of the images that the CPU decodes at once: four images of 961 x 768.
IMAGE_BLOCK = 3_000_000


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of the network.

    Parameters
    ----------
    queries : {"roi", "hemisphere", "parcel", "voxel"}
        What has a query of its own, see :func:`neuroattn.encoders.queries.query_map`.
    parcels : int
        Number of parcels for ``queries="parcel"``.
    dim, heads, layers, feedforward : int
        Width, heads, decoder layers and hidden width of the feed-forward layer.
    dropout : float
        Probability, 0..1, on attention output and in the feed-forward layer.
    attention : str
        A registered mechanism with cross-attention, see
        :func:`neuroattn.attention.list_mechanisms`.
    attention_parameters : mapping
        The mechanism's own parameters, and the options of what it learns.
    static_branch : bool
        Add a static receptive field for each voxel and a learned gate between both.
    query_block : int
        Queries decoded at once; more are decoded in blocks that are recomputed in the backward
        pass, so that memory does not grow with their number.
    """

    queries: str = "roi"
    parcels: int = 0
    dim: int = 64
    heads: int = 4
    layers: int = 1
    feedforward: int = 128
    dropout: float = 0.1
    attention: str = "softmax"
    attention_parameters: Mapping[str, Any] = field(default_factory=dict)
    static_branch: bool = False
    query_block: int = 1024

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("dim", "heads", "layers", "feedforward")}
        for name, value in {**sizes, "query_block": self.query_block}.items():
            if value < 1:
                raise InputError(f"{name}={value} must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout={self.dropout} must lie within 0..1, 1 excluded.")
        spec = get(self.attention)
        if not spec.cross or False not in spec.causal:
            raise InputError(
                f"attention={self.attention!r} reads its own tokens in order; the queries of an "
                "encoder are no tokens. Choose one with cross-attention, see "
                "`neuroattn attention show NAME`."
            )


class DecoderLayer(nn.Module):
    """Cross-attention to the tokens, then a feed-forward layer; both pre-normalised residuals.

    There is no self-attention among the queries, as in the published encoder's runs.

    References
    ----------
    Adeli, Sun & Kriegeskorte (2025), Transformer brain encoders explain human high-level visual
    responses, section 2; arXiv 2505.17329.
    """

    def __init__(self, config: DecoderConfig, channels: int) -> None:
        super().__init__()
        dim = config.dim
        self.attention = MultiheadAttention(
            dim, config.heads, channels, config.attention, config.attention_parameters
        )
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, config.feedforward)
        self.contract = nn.Linear(config.feedforward, dim)
        self.dropout = config.dropout

    def forward(self, state: Tensor, queries: Tensor, tokens: Projected) -> Tensor:
        """Return the next state (batch, queries, dim).

        Parameters
        ----------
        state : Tensor
            (batch or 1, queries, dim)
        queries : Tensor
            The learned queries (queries, dim), added after the normalisation.
        tokens : Projected
            The layer's projected tokens.
        """
        read = self.attention(self.norm_attention(state) + queries, tokens)
        state = state + F.dropout(read, self.dropout, self.training)
        hidden = F.relu(self.expand(self.norm_feedforward(state)))
        hidden = self.contract(F.dropout(hidden, self.dropout, self.training))
        return state + F.dropout(hidden, self.dropout, self.training)


class BrainDecoder(EncoderNetwork):
    """Tokens of images in, voxel responses out.

    Parameters
    ----------
    config : DecoderConfig
        Shape of the network.
    queries : QueryMap
        Memberships of the voxels in queries.
    grid : tuple of int
        Rows and columns of the tokens.
    channels : int
        Channels of the tokens.
    """

    def __init__(
        self, config: DecoderConfig, queries: QueryMap, grid: tuple[int, int], channels: int
    ) -> None:
        super().__init__()
        if len(queries.names) > config.query_block and not get(config.attention).queries_apart:
            raise InputError(
                f"in attention={config.attention!r} the queries compete, so that all "
                f"{len(queries.names)} must stand in one block; query_block={config.query_block}."
            )
        self.config, self.queries = config, queries
        self.query = nn.Parameter(torch.randn(len(queries.names), config.dim))
        self.layers = nn.ModuleList(DecoderLayer(config, channels) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.readout = GatheredReadout(queries, config.dim)
        position = sine_position(*grid, config.dim)
        self.register_buffer("position", position, persistent=False)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.static: SpatialReadout | None = None
        if config.static_branch:
            voxels = self.readout.voxels
            self.static = SpatialReadout(voxels, grid, channels)
            self.register_buffer("gate", torch.full((voxels,), 0.5))

    gate: Tensor
    position: Tensor
    mean: Tensor
    scale: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Return predictions (batch, voxels) from raw tokens (batch, tokens, channels)."""
        branches = self.branches(tokens)
        if len(branches) == 1:
            return branches[0]
        routed, fixed = branches
        return routed + self.gate * (fixed - routed)

    def branches(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Return the routed prediction and, with a static branch, the static one too."""
        tokens = self.standardise(tokens)
        routed = self.readout(self.decode(tokens))
        return (routed,) if self.static is None else (routed, self.static(tokens))

    def loss(self, tokens: Tensor, response: Tensor) -> Tensor:
        """Return the sum of the branches' losses: each learns as if it were alone.

        Mean squared errors over images and voxels, and the static branch's smoothness penalty.
        """
        losses = [F.mse_loss(branch, response) for branch in self.branches(tokens)]
        if self.static is not None:
            losses.append(self.static.penalty())
        return torch.stack(losses).sum()

    def statistics(self, tokens: Tensor, response: Tensor) -> dict[str, Tensor]:
        """Return the sums (voxels,) from which the gate is solved."""
        if self.static is None:
            return {}
        routed, fixed = (branch.double() for branch in self.branches(tokens))
        apart = fixed - routed
        explained = ((response - routed) * apart).sum(dim=0)
        return {"explained": explained, "apart": apart.square().sum(dim=0)}

    def calibrate(self, statistics: Mapping[str, Tensor]) -> None:
        """Set each voxel's gate to the least-squares mix of both branches on validation images.

        The solution is shrunk towards the one that all voxels of the same query share (with the
        weight of :data:`GATE_PRIOR` average voxels), then clipped to 0..1. The gate is learned
        on images that neither branch saw, because on training images it favours the branch that
        overfits more (stacked regression, Breiman 1996).
        """
        explained, apart = statistics["explained"], statistics["apart"]
        owner = self.readout.owner
        groups = int(owner.max()) + 1
        sums = [
            torch.zeros(groups, dtype=x.dtype, device=x.device).index_add(0, owner, x)
            for x in (explained, apart, torch.ones_like(apart))
        ]
        tiny = torch.finfo(apart.dtype).tiny
        prior = GATE_PRIOR * (sums[1] / sums[2])[owner]
        shared = (sums[0] / sums[1].clamp_min(tiny))[owner]
        gate = (explained + prior * shared) / (apart + prior).clamp_min(tiny)
        self.gate.copy_(gate.clamp(0, 1))

    def standardise(self, tokens: Tensor) -> Tensor:
        """Centre and scale the channels with the statistics of the training images."""
        centred = (tokens - self.mean).to(self.mean.dtype)
        return centred.div_(self.scale)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return the query tokens (batch, queries, dim) of standardised tokens."""
        placed = [layer.attention.place(self.position) for layer in self._layers()]
        size = len(tokens)
        if tokens.device.type == "cpu":
            # Few images at once: their keys and values stay in the cache, and in the backward
            # pass the gradients of keys and values exist for these images only.
            size = max(1, IMAGE_BLOCK // (tokens.shape[1] * self.config.dim))
        return torch.cat([self._decode_images(part, placed) for part in tokens.split(size)])

    def _decode_images(self, tokens: Tensor, placed: list[Tensor]) -> Tensor:
        projected = [
            layer.attention.project_placed(tokens, here)
            for layer, here in zip(self._layers(), placed, strict=True)
        ]
        blocks = self.query.split(self.config.query_block)
        if len(blocks) == 1:
            return self._decode_block(self.query, projected)
        decoded = [
            checkpoint(self._decode_block, block, projected, use_reentrant=False)
            for block in blocks
        ]
        return torch.cat(decoded, dim=1)

    def _decode_block(self, queries: Tensor, projected: list[Projected]) -> Tensor:
        state = torch.zeros_like(queries)[None]
        for layer, tokens in zip(self._layers(), projected, strict=True):
            state = layer(state, queries, tokens)
        normed: Tensor = self.norm(state)
        return normed

    def attention_maps(self, tokens: Tensor, layer: int = -1) -> Tensor:
        """Return the attention weights (batch, queries, heads, tokens) of a layer."""
        tokens, layers = self.standardise(tokens), self._layers()
        if not -len(layers) <= layer < len(layers):
            raise InputError(f"layer={layer} is not one of the {len(layers)} layers, 0 the first.")
        state, last = torch.zeros_like(self.query)[None], layers[layer]
        for each in layers[: layers.index(last)]:
            projected = each.attention.project(tokens, self.position)
            state = each(state, self.query, projected)
        projected = last.attention.project(tokens, self.position)
        normed = last.norm_attention(state) + self.query
        return last.attention.maps(normed, projected).transpose(1, 2)

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]
