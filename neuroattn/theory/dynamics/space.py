"""Linear state spaces whose matrices change from token to token, and their simulation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neuroattn.errors import InputError


@dataclass(frozen=True)
class StateSpace:
    """h_i = Λ_i h_(i-1) + B_i u_i, y_i = C_i h_i + D_i u_i, for each channel of the input.

    The matrices depend on the tokens (queries, keys, gates), the recurrence is linear in the
    input and the state. Every channel c of the input drives N states of its own; the paper's state
    is all of them, ``size`` = channels · N, and its matrices are the Kronecker products of these
    with the unit matrix over channels. An axis of size 1 is shared.

    Attributes
    ----------
    mechanism : str
        Whose form it is.
    input : Tensor
        u, (batch, heads, tokens, channels): the values, unless ``note`` says otherwise.
    Lambda : Tensor
        Λ. Diagonal: (batch, heads, tokens, channels or 1, N). Not diagonal, as the delta rule's
        I - β k kᵀ: (batch, heads, tokens, channels or 1, N, N).
    B, C : Tensor
        (batch, heads, tokens, channels or 1, N).
    D : Tensor
        (batch, heads, tokens, channels or 1).
    initial : Tensor
        h_0, (batch, heads, channels, N).
    mixing : Tensor or None
        If given, (batch, heads, tokens, channels): the output is Σ_c mixing_c h_c, with as many
        channels as there are states, and ``C`` is ones.
    note : str
        What the state holds.
    """

    mechanism: str
    input: Tensor
    Lambda: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    initial: Tensor
    mixing: Tensor | None = None
    note: str = ""

    @property
    def diagonal(self) -> bool:
        """Whether Λ is."""
        return self.Lambda.ndim == 5

    @property
    def states(self) -> int:
        """N, the states of one channel."""
        return self.B.shape[-1]

    @property
    def size(self) -> int:
        """All states of a head."""
        return self.states * self.input.shape[-1]

    def eigenvalues(self) -> Tensor:
        """Return the eigenvalues of every Λ, (batch, heads, tokens, channels or 1, N), complex."""
        if self.diagonal:
            return torch.complex(self.Lambda, torch.zeros_like(self.Lambda))
        found: Tensor = torch.linalg.eigvals(self.Lambda)
        return found

    def spectral_radius(self) -> Tensor:
        """Return the largest magnitude of an eigenvalue, (batch, heads, tokens, channels or 1)."""
        found: Tensor = self.eigenvalues().abs().amax(-1)
        return found


def simulate(system: StateSpace, input: Tensor | None = None) -> Tensor:
    """Run a state space token by token.

    Parameters
    ----------
    system : StateSpace
        What :func:`state_space` returns.
    input : Tensor, optional
        Another input (batch, heads, tokens, channels) through the same matrices.

    Returns
    -------
    Tensor
        y, (batch, heads, tokens, channels), or (batch, heads, tokens, N) where channels are mixed.

    Raises
    ------
    InputError
        If the input has another shape than the system's.
    """
    driven = system.input if input is None else input
    if driven.shape != system.input.shape:
        raise InputError(
            f"input has shape {tuple(driven.shape)}; needed is {tuple(system.input.shape)}, that "
            "of the system's own."
        )
    state, reads = system.initial, []
    for token in range(driven.shape[2]):
        given = driven[:, :, token]
        state = moved(system, token, state) + system.B[:, :, token] * given[..., None]
        if system.mixing is None:
            read = (system.C[:, :, token] * state).sum(-1) + system.D[:, :, token] * given
        else:
            read = (system.mixing[:, :, token, :, None] * state).sum(-2)
        reads.append(read)
    if not reads:
        width = system.input.shape[-1] if system.mixing is None else system.states
        return driven.new_zeros(*driven.shape[:3], width)
    return torch.stack(reads, dim=2)


def moved(system: StateSpace, token: int, state: Tensor) -> Tensor:
    """Return Λ h of one token, for h (batch, heads, channels, N)."""
    step = system.Lambda[:, :, token]
    if system.diagonal:
        return step * state
    return (step @ state[..., None])[..., 0]


def kernel(system: StateSpace) -> Tensor:
    """Return what each input contributes to each output, C_i Λ_i ⋯ Λ_(j+1) B_j.

    Parameters
    ----------
    system : StateSpace
        One whose channels are not mixed.

    Returns
    -------
    Tensor
        (batch, heads, channels, tokens, tokens), with D on the diagonal; zero above it.

    Raises
    ------
    InputError
        If the system mixes its channels.
    """
    if system.mixing is not None:
        raise InputError(f"the system of {system.mechanism!r} mixes channels: it has no kernel.")
    batch, heads, tokens, channels = system.input.shape
    # A state for each token that is written, as if each were a channel of its own.
    states = system.input.new_zeros(batch, heads, channels, tokens, system.states)
    rows = []
    for token in range(tokens):
        step = system.Lambda[:, :, token, :, None]
        states = step * states if system.diagonal else (step @ states[..., None])[..., 0]
        here = torch.zeros_like(states)
        here[:, :, :, token] = system.B[:, :, token]
        states = states + here
        row = (system.C[:, :, token, :, None] * states).sum(-1)
        skip = torch.zeros_like(row)
        skip[..., token] = system.D[:, :, token]
        rows.append(row + skip)
    if not rows:
        return system.input.new_zeros(batch, heads, channels, 0, 0)
    return torch.stack(rows, dim=-2)
