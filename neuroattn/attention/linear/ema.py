"""The damped, multi-dimensional exponential moving average of Mega, channel by channel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Average(NamedTuple):
    """What defines the average of each channel, all (heads, channels, hidden).

    A channel x is spread to hidden units, h_t = gain · spread · x_t + (1 - gain · damping) ·
    h_{t-1}, and read as y_t = Σ readout · h_t.

    Attributes
    ----------
    gain : Tensor
        0 to 1, how much of a token is taken in.
    damping : Tensor
        0 to 1, how much of the gain is forgotten; 1 is the plain moving average.
    spread, readout : Tensor
        Into the hidden units and out of them.
    """

    gain: Tensor
    damping: Tensor
    spread: Tensor
    readout: Tensor

    @property
    def retention(self) -> Tensor:
        """What is left of a hidden unit after one token."""
        return 1 - self.gain * self.damping

    def part(self, first: int, last: int) -> Average:
        """Return the hidden units from ``first`` up to ``last``."""
        return Average(*(each[..., first:last] for each in self))


def kernel(average: Average, length: int) -> Tensor:
    """Return the weights of a token 0 to ``length`` - 1 steps back, (heads, channels, length).

    References
    ----------
    Ma et al. (2022), Mega: moving average equipped gated attention, equation 7; arXiv 2209.10655.
    """
    lag = torch.arange(length, device=average.gain.device, dtype=average.gain.dtype)
    # Powers, because the logarithm of a retention that has saturated at 0 is infinite.
    powers = average.retention[..., None] ** lag
    strength = average.readout * average.gain * average.spread
    return torch.einsum("hcn,hcnt->hct", strength, powers)


def by_convolution(tokens: Tensor, average: Average, *, backward: bool = False) -> Tensor:
    """Return the average of every channel through the fast Fourier transform.

    Parameters
    ----------
    tokens : Tensor
        (batch, heads, tokens, channels)
    average : Average
        What defines it.
    backward : bool
        Whether it runs from the end, and leaves the token itself out.

    Returns
    -------
    Tensor
        (batch, heads, tokens, channels)
    """
    if backward:
        return _shifted(by_convolution(tokens.flip(2), average)).flip(2)
    length = tokens.shape[2]
    if not length:
        return tokens
    # Twice as long: the transform wraps around, and the end must not reach the beginning.
    waves = torch.fft.rfft(tokens.transpose(-1, -2), n=2 * length)
    filters = torch.fft.rfft(kernel(average, length), n=2 * length)
    convolved: Tensor = torch.fft.irfft(waves * filters, n=2 * length)[..., :length]
    return convolved.transpose(-1, -2)


def by_recurrence(tokens: Tensor, average: Average, *, backward: bool = False) -> Tensor:
    """Do what :func:`by_convolution` does, token by token."""
    if backward:
        return _shifted(by_recurrence(tokens.flip(2), average)).flip(2)
    taken, kept = average.gain * average.spread, average.retention
    hidden = tokens.new_zeros(*tokens.shape[:2], *average.gain.shape[1:])
    read = [tokens[:, :, :0]]
    for token in tokens.unbind(dim=2):
        hidden = taken * token[..., None] + kept * hidden
        read.append((average.readout * hidden).sum(-1)[:, :, None])
    return torch.cat(read, dim=2)


def _shifted(averages: Tensor) -> Tensor:
    """Return the averages one token late, from zeros."""
    return F.pad(averages[:, :, :-1], (0, 0, 1, 0))
