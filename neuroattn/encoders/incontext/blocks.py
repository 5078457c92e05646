"""Blocks of voxels whose activations fit a given memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from neuroattn.encoders.incontext.network import SetTransformerConfig
from neuroattn.errors import InputError

__all__ = ["block_size", "voxel_blocks"]

#: Tokens at a time on a processor, where larger matrix products hold more and gain nothing
#: (`python -m benchmarks.incontext_adaptation` times blocks of 1 to 128 voxels).
_TOKENS = 3_072
#: Voxels at once if the memory is unlimited.
_VOXELS = 2**31
#: Matrices (heads, tokens, tokens) that a mechanism holds at once, the most that was counted.
_MATRICES = 7


def block_size(
    images: int, config: SetTransformerConfig, embedding: int, memory: float, device: str = "cpu"
) -> int:
    """Return how many voxels are written at once.

    Parameters
    ----------
    images : int
        Context images.
    config : SetTransformerConfig
        Shape of the network.
    embedding : int
        Width E of the embedding.
    memory : float
        GiB for activations, above 0.
    device : str
        Kind of device; on a processor a block is no larger than pays, elsewhere as large as fits.

    Raises
    ------
    InputError
        If one voxel does not fit.
    """
    # The widest moment of a token, as counted: the feed-forward layer (its two halves, the gate,
    # the product) beside two states and two normalised tokens; the first block's normalised pairs
    # or its hidden layers; what attention projects.
    width, tokens = config.width, images + config.registers
    widest = max(4 * (config.feedforward + width), 3 * embedding + 2 * width, embedding + 8 * width)
    # Softmax is fused; others may hold matrices of all tokens by all tokens.
    if config.attention != "softmax":
        widest += _MATRICES * config.heads * tokens
    voxel = 4 * widest * tokens / 2**30
    if not memory > 0 or voxel > memory:
        raise InputError(
            f"memory={memory:g} GiB is too little for one voxel of {images} context images, which "
            f"needs {voxel:.2g} GiB. Give more, or fewer images."
        )
    fitting = int(min(memory / voxel, _VOXELS))
    return max(1, min(fitting, _TOKENS // tokens)) if device == "cpu" else fitting


def voxel_blocks(
    voxels: NDArray[np.intp],
    images: int,
    config: SetTransformerConfig,
    embedding: int,
    memory: float,
    device: str = "cpu",
) -> Iterator[NDArray[np.intp]]:
    """Yield ``voxels`` in blocks of :func:`block_size`, whose parameters these are."""
    size = block_size(images, config, embedding, memory, device)
    for start in range(0, len(voxels), size):
        yield voxels[start : start + size]
