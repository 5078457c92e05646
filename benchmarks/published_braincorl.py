"""The published in-context inference as a yardstick: its design, written from its facts.

A loader gives an item a voxel, which holds the voxel's context and all query embeddings, so that
a batch holds both as often as it has voxels. Every block returns its attention weights, averaged
over the heads, and keeps them; the last block is computed for all tokens although the first one
alone is read; a query image is predicted by an element-wise product and a sum.

In doubt the yardstick is the lighter one: items share the query embeddings until they are put
together, one batch is alive at a time, tensors are never copied to the device they are on.

References
----------
Yu et al. (2025), Meta-learning an in-context transformer model of human higher visual cortex,
sections 3.1-3.2; arXiv 2505.15813.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from neuroattn.encoders.incontext.network import SetTransformerConfig

SLOPE = 0.1  # of the leaky rectifiers


@dataclass(frozen=True)
class Sizes:
    """The sizes of the comparison; the defaults are the published CLIP model's."""

    embedding: int = 512
    width: int = 560
    heads: int = 10
    layers: int = 20
    feedforward: int = 2048
    registers: int = 4
    context: int = 100
    queries: int = 1000
    voxels: int = 128
    batch: int = 128  # voxels that the published loader puts together

    @property
    def config(self) -> SetTransformerConfig:
        """Our network at these sizes, the published function."""
        return SetTransformerConfig(
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            feedforward=self.feedforward,
            registers=self.registers,
            logit_scaling="log",
            input_activation=True,
        )


@dataclass(frozen=True)
class Subject:
    """A new subject: ``context`` (images, E), ``response`` (voxel, images), ``queries`` (., E)."""

    context: Tensor
    response: Tensor
    queries: Tensor

    @classmethod
    def drawn(cls, sizes: Sizes, dtype: torch.dtype = torch.float32) -> Subject:
        """Draw embeddings of unit length and standard normal responses."""
        draw = torch.Generator().manual_seed(1)
        count = sizes.context + sizes.queries
        images = torch.randn(count, sizes.embedding, generator=draw, dtype=dtype)
        context, queries = F.normalize(images, dim=1).split([sizes.context, sizes.queries])
        response = torch.randn(sizes.voxels, sizes.context, generator=draw, dtype=dtype)
        return cls(context, response, queries)


class VoxelItems(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """An item a voxel: its context embeddings, its responses, the embeddings of all queries."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.rows = torch.arange(len(subject.context))

    def __len__(self) -> int:
        return len(self.subject.response)

    def __getitem__(self, voxel: int) -> tuple[Tensor, Tensor, Tensor]:
        own = self.subject.context[self.rows]
        return own, self.subject.response[voxel, self.rows], self.subject.queries


class ResidualBlock(nn.Module):
    """Two pre-normalised linear layers beside a linear bypass."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(inputs),
            nn.LeakyReLU(SLOPE),
            nn.Dropout(0.0),
            nn.Linear(inputs, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(SLOPE),
            nn.Dropout(0.0),
            nn.Linear(hidden, outputs),
        )
        self.bypass = nn.Linear(inputs, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        added: Tensor = self.block(tokens) + self.bypass(tokens)
        return added


class GatedFeedforward(nn.Module):
    """Half of the hidden layer gates the other half."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        gate, value = self.linear1(tokens).chunk(2, dim=-1)
        contracted: Tensor = self.linear2(F.silu(gate) * value)
        return contracted


class AttentionBlock(nn.Module):
    """Self-attention with logits that grow like ln n, then the feed-forward layer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.layer_norm_1, self.layer_norm_2 = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.attn = nn.MultiheadAttention(sizes.width, sizes.heads, batch_first=True)
        self.ffn = GatedFeedforward(sizes.width, sizes.feedforward)
        self.kept: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.layer_norm_1(tokens)
        asked = normed * math.log(tokens.shape[1])
        read, self.kept = self.attn(asked, normed, normed, need_weights=True)
        tokens = tokens + read
        fed: Tensor = tokens + self.ffn(self.layer_norm_2(tokens))
        return fed


class PublishedNetwork(nn.Module):
    """Context of each voxel in, its weights and intercept out; parameters named as published."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        inputs, width = sizes.embedding + 1, sizes.width
        self.early_layers = nn.Sequential(ResidualBlock(inputs, 2 * width, width))
        drawn = torch.randn(1, sizes.registers, width) / math.sqrt(width + 1)
        self.cls_token = nn.Parameter(drawn)
        self.transformer = nn.ModuleList(AttentionBlock(sizes) for _ in range(sizes.layers))
        self.weight_pred = nn.Sequential(ResidualBlock(width, 2 * width, inputs))

    def forward(self, context: Tensor, response: Tensor) -> Tensor:
        """Return (voxel, E + 1) from (voxel, images, E) and (voxel, images)."""
        tokens = self.early_layers(torch.cat([context, response[..., None]], dim=-1))
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.transformer:
            tokens = block(tokens)
        written: Tensor = self.weight_pred(tokens[:, 0])
        return written


def batches(
    network: PublishedNetwork, subject: Subject, size: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each batch the written weights (voxel, E + 1) and predictions (voxel, queries)."""
    for loaded in DataLoader(VoxelItems(subject), batch_size=size):
        context, response, queries = (each.to(device) for each in loaded)
        written = network(context, response)
        predicted = (written[:, None, :-1] * queries).sum(dim=-1) + written[:, -1:]
        del loaded, context, response, queries
        yield written, predicted


@torch.inference_mode()
def adapt_published(
    network: PublishedNetwork, subject: Subject, size: int, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return weights (voxel, E + 1) and predictions (voxel, queries) of all voxels, on the CPU."""
    found = [
        (written.cpu(), predicted.cpu())
        for written, predicted in batches(network, subject, size, device)
    ]
    written, predicted = zip(*found, strict=True)
    return torch.cat(written), torch.cat(predicted)
