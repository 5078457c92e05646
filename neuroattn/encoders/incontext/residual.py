"""Residual blocks at both ends of the set transformer; the first one never copies an embedding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

#: Slope of the leaky rectifier below zero.
SLOPE = 0.1
#: Elements of the widest temporary of :class:`PairBlock`, by which voxels are read in blocks.
BLOCK_ELEMENTS = 4_000_000


class ResidualBlock(nn.Module):
    """Two linear layers, each after normalisation and a leaky rectifier, beside a linear bypass.

    Parameters
    ----------
    inputs, hidden, outputs : int
        Widths.
    dropout : float
        Probability, 0..1, after each rectifier.

    References
    ----------
    Yu et al. (2025), Meta-learning an in-context transformer model of human higher visual cortex,
    section 3; arXiv 2505.15813.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_inputs, self.norm_hidden = nn.LayerNorm(inputs), nn.LayerNorm(hidden)
        self.expand, self.contract = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        self.bypass = nn.Linear(inputs, outputs)
        self.dropout = dropout

    def forward(self, values: Tensor) -> Tensor:
        """Return (..., outputs) of (..., inputs)."""
        hidden = self.expand(self.activated(self.norm_inputs(values)))
        outputs: Tensor = self.contracted(hidden) + self.bypass(values)
        return outputs

    def activated(self, values: Tensor) -> Tensor:
        """Return rectified values, some dropped in training."""
        return F.dropout(F.leaky_relu(values, SLOPE), self.dropout, self.training)

    def contracted(self, hidden: Tensor) -> Tensor:
        """Return the outputs (..., outputs) of what the first linear layer gave."""
        outputs: Tensor = self.contract(self.activated(self.norm_hidden(hidden)))
        return outputs


class _Images(NamedTuple):
    """What all voxels share: statistics and products of the embeddings, and halves of weights.

    ``mean`` and ``spread`` (S) are an embedding's mean and summed squared deviation, ``centred``
    (S, E) the deviations; ``bypassed`` (S, outputs) is the bypass' image half, bias included;
    ``weight`` (hidden, E) the first layer's image half, ``expanded`` (S, hidden) its product with
    the deviations, where there is no rectifier between.
    """

    mean: Tensor
    centred: Tensor
    spread: Tensor
    bypassed: Tensor
    weight: Tensor
    expanded: Tensor | None


class PairBlock(nn.Module):
    """The residual block of the pairs [embedding; response], without building the pairs.

    The normalisation is over an embedding and a response together. Its mean and variance follow
    exactly from those of the embedding, which are the same for all voxels, and the response. The
    bypass is a product of the embeddings, once an image, and a rank-one addition for the response.
    So is the first linear layer if nothing stands between it and the normalisation, whose mean
    and scale, one a voxel and image, are then factors of the products. With
    ``input_activation=True``, as published, a rectifier stands between, which of each pair keeps
    other entries: that layer cannot be split exactly and is computed for each pair, in blocks of
    voxels that are computed again in the backward pass, so that no copy of the embeddings is held.

    Parameters
    ----------
    embedding_width : int
        E, the length of an embedding.
    hidden, outputs : int
        Widths.
    dropout : float
        Probability, 0..1, after each rectifier.
    input_activation : bool
        Whether a leaky rectifier (and dropout) follow the first normalisation.
    """

    def __init__(
        self,
        embedding_width: int,
        hidden: int,
        outputs: int,
        dropout: float = 0.0,
        input_activation: bool = True,
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(embedding_width + 1, hidden, outputs, dropout)
        self.input_activation = input_activation

    def forward(self, context: Tensor, response: Tensor) -> Tensor:
        """Return the tokens (voxel, S, outputs) of embeddings (S, E) and responses (voxel, S)."""
        images = self._images(context)
        widest = max(self.block.expand.out_features, context.shape[1]) * len(context)
        parts = response.split(max(1, BLOCK_ELEMENTS // widest))
        if self.input_activation and torch.is_grad_enabled():
            read = [checkpoint(self._read, images, each, use_reentrant=False) for each in parts]
        else:
            read = [self._read(images, each) for each in parts]
        return read[0] if len(read) == 1 else torch.cat(read)

    def _images(self, context: Tensor) -> _Images:
        block, width = self.block, context.shape[1]
        # Variances in half precision would be noise.
        wide = context.to(torch.promote_types(context.dtype, torch.float32))
        mean = wide.mean(dim=1)
        centred = wide - mean[:, None]
        kind = block.bypass.weight.dtype
        bypass = block.bypass.weight[:, :width]
        # Contiguous, because matrix kernels want aligned rows.
        weight, expanded = block.expand.weight[:, :width].contiguous(), None
        if not self.input_activation:
            weight = weight * block.norm_inputs.weight[:width]
            expanded = F.linear(centred.to(kind), weight)
        return _Images(
            mean=mean,
            centred=centred,
            spread=centred.square().sum(dim=1),
            bypassed=F.linear(context.to(kind), bypass, block.bypass.bias),
            weight=weight,
            expanded=expanded,
        )

    def _read(self, images: _Images, response: Tensor) -> Tensor:
        """Return the tokens of some voxels."""
        block, kind = self.block, images.weight.dtype
        width = images.centred.shape[1]
        # Mean and variance of a set with one value more: Welford's update.
        gap = response.to(images.mean.dtype) - images.mean
        shift = gap / (width + 1)
        variance = (images.spread + gap.square() * width / (width + 1)) / (width + 1)
        rate = (variance + block.norm_inputs.eps).rsqrt()
        if images.expanded is None:
            hidden = self._expanded_each(images, gap - shift, shift, rate)
        else:
            hidden = images.expanded * rate.to(kind)[..., None]
            hidden = hidden + self._rank_one(images, gap - shift, shift, rate)
        bypassed = response.to(kind)[..., None] * block.bypass.weight[:, -1] + images.bypassed
        return block.contracted(hidden) + bypassed

    def _expanded_each(
        self, images: _Images, deviation: Tensor, shift: Tensor, rate: Tensor
    ) -> Tensor:
        """Return the first layer of rectified pairs (voxel, S, hidden), by its definition."""
        block, kind = self.block, images.weight.dtype
        scale, offset = block.norm_inputs.weight, block.norm_inputs.bias
        normed = images.centred * rate[..., None] - (shift * rate)[..., None]
        last = deviation * rate * scale[-1] + offset[-1]
        embedding = block.activated(normed * scale[:-1] + offset[:-1]).to(kind)
        answer = block.activated(last).to(kind)[..., None] * block.expand.weight[:, -1]
        return F.linear(embedding, images.weight, block.expand.bias) + answer

    def _rank_one(self, images: _Images, deviation: Tensor, shift: Tensor, rate: Tensor) -> Tensor:
        """Return what a pair adds to the scaled product of its embedding (voxel, S, hidden).

        That is its response's part, its mean's, and what all pairs share.
        """
        block, kind = self.block, images.weight.dtype
        scale, offset = block.norm_inputs.weight, block.norm_inputs.bias
        directions = torch.stack(
            [
                block.expand.weight[:, -1] * scale[-1],
                -images.weight.sum(dim=1),
                F.linear(offset, block.expand.weight, block.expand.bias),
            ]
        )
        amounts = torch.stack([deviation * rate, shift * rate, torch.ones_like(rate)], dim=-1)
        added: Tensor = amounts.to(kind) @ directions.to(kind)
        return added
