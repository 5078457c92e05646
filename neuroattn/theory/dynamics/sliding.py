"""State spaces with a state of a few tokens, and those that are no registered mechanism."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.errors import InputError
from neuroattn.theory.dynamics.accumulating import plain
from neuroattn.theory.dynamics.space import StateSpace


def neighborhood(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    grid: Any,
    window: Any,
    dilation: Any,
    stride: Any,
    causal_axes: Any,
    **_: Any,
) -> StateSpace:
    """Softmax over the last keys: a register that every token shifts."""
    tokens = key.shape[2]
    if grid not in (None, tokens, (tokens,)) or causal_axes is not None or stride not in (1, (1,)):
        raise InputError(
            "neighborhood has a state-space form on one causal axis with stride=1 only; came "
            f"grid={grid!r}, stride={stride!r}, causal_axes={causal_axes!r}."
        )
    width, apart = (x[0] if isinstance(x, tuple | list) else x for x in (window, dilation))
    length = (width - 1) * apart + 1
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    lags = torch.arange(length)
    place = torch.arange(tokens)[:, None] - lags
    real = (place >= 0) & (lags % apart == 0)
    near = key[:, :, place.clamp(min=0)]
    logits = (near @ (query * scale)[..., None])[..., 0].masked_fill(~real, -torch.inf)
    shift = torch.eye(length, dtype=value.dtype).roll(1, 0)
    shift[0] = 0
    first = F.one_hot(torch.zeros(1, 1, tokens, dtype=torch.long), length).to(value.dtype)
    step = shift.expand(1, 1, tokens, -1, -1)
    note = "the last values themselves; every eigenvalue of Λ is 0"
    return plain("neighborhood", value, step, first, logits.softmax(-1), note=note)


def moving_average(
    tokens: Tensor,
    gain: Tensor,
    damping: Tensor,
    spread: Tensor,
    readout: Tensor,
    skip: Tensor | None = None,
) -> StateSpace:
    """Return Mega's damped moving average of every channel as a state space.

    Parameters
    ----------
    tokens : Tensor
        (batch, heads, tokens, dim).
    gain, damping : Tensor
        α and δ, (heads, dim, hidden), 0 to 1: Λ = 1 - αδ.
    spread, readout : Tensor
        β and η, (heads, dim, hidden): B = αβ, C = η.
    skip : Tensor, optional
        ω, (heads, dim): D.

    Raises
    ------
    InputError
        If ``gain`` or ``damping`` leaves [0, 1], or shapes do not fit.

    References
    ----------
    Ma et al. (2022), Mega, equations 5 to 7; arXiv 2209.10655.
    """
    wanted = (tokens.shape[1], tokens.shape[-1])
    for name, each in {
        "gain": gain,
        "damping": damping,
        "spread": spread,
        "readout": readout,
    }.items():
        if each.ndim != 3 or each.shape[:2] != wanted or each.shape != gain.shape:
            raise InputError(
                f"{name} has shape {tuple(each.shape)}; needed is (heads, dim, hidden) with "
                f"(heads, dim) = {wanted}, the same for all four."
            )
    for name, each in {"gain": gain, "damping": damping}.items():
        if bool(((each < 0) | (each > 1)).any()):
            raise InputError(f"{name} has entries outside [0, 1]; it is a share.")
    batch, heads, length, dim = tokens.shape

    def over_tokens(each: Tensor) -> Tensor:
        return each[None, :, None].expand(1, heads, length, *each.shape[1:])

    passed = tokens.new_zeros(heads, dim) if skip is None else skip
    return StateSpace(
        "mega",
        tokens,
        over_tokens(1 - gain * damping),
        over_tokens(gain * spread),
        over_tokens(readout),
        over_tokens(passed),
        tokens.new_zeros(batch, heads, dim, gain.shape[-1]),
        note="the moving averages of mega's tokens, before its attention",
    )


def quasi_lstm(
    tokens: Tensor, forget: Tensor, write: Tensor, read: Tensor, *, rate: float | None = None
) -> StateSpace:
    """Return the quasi-LSTM: one state a channel, three gates.

    h_i = f_i ⊙ h_(i-1) + σ(write_i) ⊙ u_i, y_i = σ(read_i) ⊙ h_i, with f_i = σ(forget_i), or the
    reversed sigmoid of the state-space models.

    Parameters
    ----------
    tokens : Tensor
        u, (batch, heads, tokens, channels).
    forget, write, read : Tensor
        The gates before the sigmoid, of the same shape.
    rate : float, optional
        At least 0. If given, f_i = σ(-forget_i)^rate = exp(-rate softplus(forget_i)).

    Raises
    ------
    InputError
        If a gate has another shape than the tokens, or ``rate`` is below 0.

    References
    ----------
    Sieber et al. (2024), equation 23 for the reversed sigmoid; arXiv 2405.15731.
    """
    for name, each in {"forget": forget, "write": write, "read": read}.items():
        if each.shape != tokens.shape:
            raise InputError(
                f"{name} has shape {tuple(each.shape)}; needed is {tuple(tokens.shape)}, that of "
                "the tokens."
            )
    if rate is not None and not rate >= 0:
        raise InputError(f"rate={rate!r} must be at least 0.")
    kept = forget.sigmoid() if rate is None else (rate * F.logsigmoid(-forget)).exp()
    return StateSpace(
        "quasi_lstm",
        tokens,
        kept[..., None],
        write.sigmoid()[..., None],
        read.sigmoid()[..., None],
        tokens.new_zeros(1, 1, tokens.shape[2], 1),
        tokens.new_zeros(*tokens.shape[:2], tokens.shape[-1], 1),
        note="one state a channel: the cell",
    )
