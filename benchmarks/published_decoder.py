"""The published transformer brain encoder as a yardstick: its design, written from its facts.

A decoder layer in the manner of DETR: the learned queries are added to the normalised state, the
sine code to the keys only, attention weights are returned at every step, a self-attention of the
queries is allocated and given to the optimiser but never run, and the linear readout of each
hemisphere is applied to every query token before a mask keeps one of them.

References
----------
Adeli, Sun & Kriegeskorte (2025), Transformer brain encoders explain human high-level visual
responses; arXiv 2505.17329.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention.block import sine_position
from neuroattn.encoders.decoder import BrainDecoder, DecoderConfig
from neuroattn.encoders.queries import QueryMap


@dataclass(frozen=True)
class Sizes:
    """The sizes of the comparison; the defaults are the published run's."""

    rows: int = 31
    columns: int = 31
    dim: int = 768
    heads: int = 16
    feedforward: int = 1024
    queries: int = 25  # a hemisphere
    left: int = 19_004
    right: int = 20_544
    batch: int = 16

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    @property
    def voxels(self) -> int:
        return self.left + self.right


def ownership(sizes: Sizes) -> list[Tensor]:
    """Return for each hemisphere the query of each vertex: all 25 used, in no order."""
    generator = torch.Generator().manual_seed(0)
    owners = []
    for vertices in (sizes.left, sizes.right):
        owner = torch.arange(vertices) * sizes.queries // vertices
        owners.append(owner[torch.randperm(vertices, generator=generator)])
    return owners


class PublishedDecoder(nn.Module):
    """One decoder layer and the mask-and-sum readout."""

    position: Tensor
    left_mask: Tensor
    right_mask: Tensor

    def __init__(self, sizes: Sizes, owners: list[Tensor]) -> None:
        super().__init__()
        dim = sizes.dim
        self.query = nn.Embedding(2 * sizes.queries, dim)
        self.self_attention = nn.MultiheadAttention(dim, sizes.heads, batch_first=True)  # never run
        self.attention = nn.MultiheadAttention(dim, sizes.heads, batch_first=True)
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, sizes.feedforward)
        self.contract = nn.Linear(sizes.feedforward, dim)
        self.norm = nn.LayerNorm(dim)
        self.left, self.right = nn.Linear(dim, sizes.left), nn.Linear(dim, sizes.right)
        self.register_buffer("position", sine_position(sizes.rows, sizes.columns, dim))
        for name, owner in zip(("left_mask", "right_mask"), owners, strict=True):
            self.register_buffer(name, F.one_hot(owner, sizes.queries).T.contiguous())  # int64

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return left (batch, vertices) and right responses from (batch, tokens, dim)."""
        query = self.query.weight.expand(len(tokens), -1, -1)
        state = torch.zeros_like(query)
        keys = tokens + self.position
        read, _ = self.attention(self.norm_attention(state) + query, keys, tokens)
        state = state + read
        hidden = self.contract(F.relu(self.expand(self.norm_feedforward(state))))
        state = self.norm(state + hidden)
        left, right = state.chunk(2, dim=1)
        return (
            self._read(self.left, left, self.left_mask),
            self._read(self.right, right, self.right_mask),
        )

    def loss(self, tokens: Tensor, response: Tensor) -> Tensor:
        """Return the sum of the hemispheres' mean squared errors."""
        left, right = self(tokens)
        vertices = left.shape[1]
        return F.mse_loss(left, response[:, :vertices]) + F.mse_loss(right, response[:, vertices:])

    @staticmethod
    def _read(readout: nn.Linear, state: Tensor, mask: Tensor) -> Tensor:
        everywhere = readout(state).transpose(1, 2)
        tiled = torch.tile(mask.T[None], (len(state), 1, 1))
        return (everywhere * tiled).sum(dim=2)


def our_decoder(sizes: Sizes, owners: list[Tensor]) -> BrainDecoder:
    """Return our encoder's network at these sizes, without dropout."""
    owner = torch.cat([owners[0], owners[1] + sizes.queries])
    order = torch.argsort(owner, stable=True)
    names = tuple(f"query {index}" for index in range(2 * sizes.queries))
    queries = QueryMap(names, order.numpy(), owner[order].numpy().astype(np.int64))
    config = DecoderConfig(
        dim=sizes.dim, heads=sizes.heads, feedforward=sizes.feedforward, dropout=0.0
    )
    return BrainDecoder(config, queries, (sizes.rows, sizes.columns), sizes.dim)


@torch.no_grad()
def copy_weights(source: PublishedDecoder, target: BrainDecoder) -> None:
    """Make ours the same function: its separate projection of the position is the keys'."""
    for mine, theirs in shared_parameters(source, target, gradient=False):
        mine.copy_(theirs)
    key = source.attention.in_proj_weight.chunk(3)[1]
    target.layers[0].attention.key_position.weight.copy_(key)


def shared_parameters(
    source: PublishedDecoder, target: BrainDecoder, gradient: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return (ours, published) for each parameter that both have, or for its gradients.

    The published key weight serves tokens and position, so its gradient is the sum of ours.
    """

    def value(parameter: Tensor) -> Tensor:
        found = parameter.grad if gradient else parameter
        if found is None:
            raise RuntimeError("a shared parameter has no gradient")
        return found

    layer = target.layers[0]
    ours, theirs = layer.attention, source.attention
    weights, biases = value(theirs.in_proj_weight).chunk(3), value(theirs.in_proj_bias).chunk(3)
    pairs = [(value(target.query), value(source.query.weight))]
    for mine, weight, bias in zip((ours.query, ours.key, ours.value), weights, biases, strict=True):
        found = value(mine.weight)
        if gradient and mine is ours.key:
            found = found + value(ours.key_position.weight)
        pairs += [(found, weight), (value(mine.bias), bias)]
    modules = (
        (ours.output, theirs.out_proj),
        (layer.norm_attention, source.norm_attention),
        (layer.norm_feedforward, source.norm_feedforward),
        (layer.expand, source.expand),
        (layer.contract, source.contract),
        (target.norm, source.norm),
    )
    for first, second in modules:
        pairs += [
            (value(first.weight), value(second.weight)),
            (value(first.bias), value(second.bias)),
        ]
    # Our rows of the readout stand in the order of their queries.
    both = torch.cat([value(source.left.weight), value(source.right.weight)])
    order = torch.argsort(target.readout.row)
    bias = torch.cat([value(source.left.bias), value(source.right.bias)])
    return [
        *pairs,
        (value(target.readout.weight), both[order]),
        (value(target.readout.bias), bias),
    ]
