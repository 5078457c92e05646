"""The set transformer that reads pairs of image and response and writes a linear encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention.block import MultiheadAttention
from neuroattn.attention.registry import get
from neuroattn.encoders.incontext.residual import PairBlock, ResidualBlock
from neuroattn.errors import InputError
from neuroattn.names import check_name


@dataclass(frozen=True)
class SetTransformerConfig:
    """The shape of the network; by default the published one for CLIP.

    Parameters
    ----------
    width, heads, layers, feedforward : int
        Width of a token (a multiple of ``heads``), heads, blocks, and hidden width of the gated
        feed-forward layer.
    registers : int
        Learned tokens in front of the pairs; the first writes the encoder. At least 1.
    dropout : float
        Probability, 0..1, on what a block adds and after every rectifier.
    attention : str
        A registered mechanism that is not causal, see
        :func:`neuroattn.attention.list_mechanisms`. With one that reads tokens in their order
        (``delta``, ``retention`` and others with decay or write strengths) the result depends on
        the order of the context.
    attention_parameters : mapping
        The mechanism's own parameters, and the options of what it learns.
    logit_scaling : {"log", "none"}
        Whether the queries of attention are multiplied by the logarithm of the number of tokens.
    input_activation : bool
        Whether a leaky rectifier stands between the normalisation of a pair and the first linear
        layer, as published. Without it, that layer too is computed once an image.

    Raises
    ------
    InputError
        If a number is out of its range, or the mechanism is causal only.
    UnknownNameError
        If the mechanism or the scaling is not known.
    """

    width: int = 560
    heads: int = 10
    layers: int = 20
    feedforward: int = 2048
    registers: int = 4
    dropout: float = 0.0
    attention: str = "softmax"
    attention_parameters: Mapping[str, Any] = field(default_factory=dict)
    logit_scaling: str = "log"
    input_activation: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "heads", "layers", "feedforward", "registers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.width % self.heads:
            raise InputError(f"width={self.width} must be a multiple of heads={self.heads}.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout={self.dropout} must lie within 0..1, 1 excluded.")
        check_name("logit_scaling", self.logit_scaling, ("log", "none"))
        if False not in get(self.attention).causal:
            raise InputError(
                f"attention={self.attention!r} is causal only; the pairs of a context have no "
                "order. Choose another, see `neuroattn attention list`."
            )


#: Width of the embedding and shape of the published networks, by backbone.
PRESETS: dict[str, tuple[int, SetTransformerConfig]] = {
    "clip": (512, SetTransformerConfig(width=560)),
    "dino": (768, SetTransformerConfig(width=800)),
    "siglip": (1152, SetTransformerConfig(width=1200)),
}


class SetBlock(nn.Module):
    """Attention among all tokens, then a gated feed-forward layer; pre-normalised residuals.

    Parameters
    ----------
    config : SetTransformerConfig
        Shape of the network.
    """

    def __init__(self, config: SetTransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.attention = MultiheadAttention(
            width,
            config.heads,
            mechanism=config.attention,
            parameters=config.attention_parameters,
            position=False,
            logit_scaling=config.logit_scaling,
        )
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * config.feedforward)
        self.contract = nn.Linear(config.feedforward, width)
        self.dropout = config.dropout
        spec = get(config.attention)
        self.readout_alone = spec.cross and spec.queries_apart

    def forward(self, state: Tensor) -> Tensor:
        """Return the next state (voxel, tokens, width)."""
        return self._advanced(state, state.shape[1])

    def readout(self, state: Tensor) -> Tensor:
        """Return the first token's next state (voxel, width).

        The other tokens are read, but not asked, where the mechanism's queries are apart.
        """
        return self._advanced(state, 1 if self.readout_alone else state.shape[1])[:, 0]

    def readout_weights(self, state: Tensor) -> Tensor:
        """Return the weights (voxel, heads, tokens) with which the first token reads.

        Raises
        ------
        InputError
            If the mechanism has no explicit matrix.
        """
        normed = self.norm_attention(state)
        queries = normed[:, :1] if self.readout_alone else normed
        return self.attention.maps(queries, self.attention.project(normed))[:, :, 0]

    def _advanced(self, state: Tensor, count: int) -> Tensor:
        """Return the next state of the first tokens."""
        normed = self.norm_attention(state)
        read = self.attention(normed[:, :count], self.attention.project(normed))
        state = state[:, :count] + F.dropout(read, self.dropout, self.training)
        gate, hidden = self.expand(self.norm_feedforward(state)).chunk(2, dim=-1)
        added = self.contract(F.silu(gate) * hidden)
        return state + F.dropout(added, self.dropout, self.training)


class SetTransformer(nn.Module):
    """Pairs of embedding and response in, weights and intercept of a linear encoder out.

    Each voxel's context is a set of S pairs, the images being the same for all voxels. Pairs
    become tokens, registers are put in front, blocks of attention follow, and the first register
    writes the encoder. No voxel reads another, and (with a mechanism that does not read in order)
    the order of the context plays no role. In the last block only the first register is asked.

    Parameters
    ----------
    config : SetTransformerConfig
        Shape of the network.
    embedding_width : int
        E, the length of an embedding.

    Attributes
    ----------
    mean, scale : Tensor
        (E); embeddings are read as (x - mean) / scale, and what is written is given back for the
        embeddings as they came. Zeros and ones, as with the published weights, until set.

    Raises
    ------
    InputError
        If ``embedding_width`` is below 1, or the mechanism refuses the shape.

    References
    ----------
    Yu et al. (2025), Meta-learning an in-context transformer model of human higher visual cortex,
    section 3; arXiv 2505.15813.
    """

    def __init__(self, config: SetTransformerConfig, embedding_width: int) -> None:
        super().__init__()
        if embedding_width < 1:
            raise InputError(f"embedding_width={embedding_width} must be at least 1.")
        self.config, self.embedding_width = config, embedding_width
        width, dropout = config.width, config.dropout
        self.early = PairBlock(
            embedding_width, 2 * width, width, dropout, input_activation=config.input_activation
        )
        self.registers = nn.Parameter(
            torch.randn(1, config.registers, width) / math.sqrt(width + 1)
        )
        self.blocks = nn.ModuleList(SetBlock(config) for _ in range(config.layers))
        self.write = ResidualBlock(width, 2 * width, embedding_width + 1, dropout)
        self.register_buffer("mean", torch.zeros(embedding_width))
        self.register_buffer("scale", torch.ones(embedding_width))

    mean: Tensor
    scale: Tensor

    def forward(self, context: Tensor, response: Tensor) -> Tensor:
        """Return the written encoders.

        Parameters
        ----------
        context : Tensor
            Embeddings (S, E) of the images, shared by all voxels.
        response : Tensor
            (voxel, S)

        Returns
        -------
        Tensor
            (voxel, E + 1): weights and, last, the intercept, for embeddings as given. What is
            written in half precision under autocast is returned in the dtype of the weights.

        Raises
        ------
        InputError
            If the shapes do not fit each other or the network, or there is no pair.
        """
        state = self._tokens(context, response)
        *others, last = self._blocks()
        for block in others:
            state = block(state)
        written = self.write(last.readout(state))
        weights = written[:, :-1] / self.scale
        intercept = written[:, -1] - (weights * self.mean).sum(dim=1)
        return torch.cat([weights, intercept[:, None]], dim=1)

    def readout_attention(self, context: Tensor, response: Tensor, layer: int = -1) -> Tensor:
        """Return how the writing token reads the context in a layer.

        Parameters
        ----------
        context, response : Tensor
            As for :meth:`forward`.
        layer : int
            0 is the first, -1 the last.

        Returns
        -------
        Tensor
            (voxel, heads, S). With a mechanism whose rows sum to one, the rest is what the
            registers have.

        Raises
        ------
        InputError
            If there is no such layer, the shapes do not fit, or the mechanism has no explicit
            weights.
        """
        blocks = self._blocks()
        if not -len(blocks) <= layer < len(blocks):
            raise InputError(f"layer={layer} is not one of the {len(blocks)} layers, 0 the first.")
        state = self._tokens(context, response)
        for block in blocks[:layer]:
            state = block(state)
        read = blocks[layer].readout_weights(state)
        return read[:, :, self.config.registers :]

    def _tokens(self, context: Tensor, response: Tensor) -> Tensor:
        """Return registers and pairs (voxel, registers + S, width)."""
        fits = context.ndim == response.ndim == 2 and (
            len(context) == response.shape[1] and context.shape[1] == self.embedding_width
        )
        if not fits or not len(context):
            raise InputError(
                f"context has shape {tuple(context.shape)} and response {tuple(response.shape)}; "
                f"needed are (images, {self.embedding_width}) and (voxels, images), with at least "
                "one image."
            )
        pairs = self.early((context - self.mean) / self.scale, response)
        return torch.cat([self.registers.expand(len(pairs), -1, -1), pairs], dim=1)

    def _blocks(self) -> list[SetBlock]:
        return [block for block in self.blocks if isinstance(block, SetBlock)]


def weight_count(config: SetTransformerConfig, embedding_width: int) -> int:
    """Return the number of weights of a network, of which one block is made.

    Parameters
    ----------
    config : SetTransformerConfig
        Shape of the network.
    embedding_width : int
        E, the length of an embedding.

    Raises
    ------
    InputError
        If the network could not be built.
    """
    with torch.random.fork_rng(devices=[]):
        network = SetTransformer(replace(config, layers=1), embedding_width)
    block, whole = (
        sum(each.numel() for each in module.parameters()) for module in (network.blocks, network)
    )
    return whole + (config.layers - 1) * block
