"""The state-space form of a registered mechanism, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from neuroattn.attention import attend, get
from neuroattn.errors import InputError
from neuroattn.theory.dynamics import accumulating, correcting, decaying, sliding
from neuroattn.theory.dynamics.space import StateSpace

_FORMS: dict[str, Callable[..., StateSpace]] = {
    "linear": accumulating.linear,
    "covariance": accumulating.covariance,
    "hedgehog": accumulating.hedgehog,
    "sdm": accumulating.sdm,
    "flow": accumulating.flow,
    "retention": decaying.retention,
    "lightning": decaying.lightning,
    "ssd": decaying.ssd,
    "s6": decaying.s6,
    "delta": correcting.delta,
    "gated_delta": correcting.gated_delta,
    "longhorn": correcting.longhorn,
    "titans": correcting.titans,
    "oja": correcting.oja,
    "mesa": correcting.mesa,
    "neighborhood": sliding.neighborhood,
}

_NONLINEAR = "its memory enters its own update other than linearly"
_WHY: dict[str, str] = {
    "moneta": f"{_NONLINEAR}: powers of the error and a mirror map",
    "yaad": f"{_NONLINEAR}: a long error is shortened",
    "memora": f"{_NONLINEAR}: it stays on the simplex by a softmax",
    "titans_mlp": f"{_NONLINEAR}: the memory is a perceptron",
    "mega": "its attention is a softmax over all keys; the moving average before it has one: "
    "theory.dynamics.moving_average",
    "efficient": "its keys are normalised over all positions, so that it has no causal read",
    "relu_attention": "no finite number of features gives a rectified product of query and key",
    "sigmoid_attention": "no finite number of features gives the sigmoid of a product",
    "local_linear": "its kernel is the exponential, which no finite number of features gives",
}
_EXPONENTIAL = (
    "its weights are exponentials of products, whose Gram matrix has full rank for any number of "
    "keys: the state would be infinite; linear with feature_map='taylor' truncates it"
)


def with_state_space() -> tuple[str, ...]:
    """Return the names of the mechanisms that have a linear state-space form."""
    return tuple(_FORMS)


def state_space(
    mechanism: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    **parameters: Any,
) -> StateSpace:
    """Return a mechanism's read of some tokens as a linear state space.

    Parameters
    ----------
    mechanism : str
        A registered mechanism.
    query, key, value : Tensor
        (batch, heads, tokens, dim) twice and (batch, heads, tokens, value_dim), on the CPU: as many
        queries as keys.
    causal : bool
        True: a recurrence reads as it goes.
    scale : float, optional
        As in :func:`neuroattn.attention.attend`, with the mechanism's own default.
    **parameters
        The mechanism's.

    Returns
    -------
    StateSpace
        Λ, B, C and D token by token, such that ``simulate`` of it is
        ``attend(mechanism, query, key, value, causal=True, …)``.

    Raises
    ------
    InputError
        If the mechanism has no linear state-space form, with the reason; ``causal`` is False; or
        :func:`neuroattn.attention.attend` would refuse the request.

    References
    ----------
    Sieber et al. (2024), Understanding the differences in foundation models: attention, state
    space models and recurrent neural networks; arXiv 2405.15731.
    """
    spec = get(mechanism)
    if mechanism not in _FORMS:
        known = ", ".join(sorted(_FORMS))
        why = _WHY.get(mechanism, _EXPONENTIAL)
        raise InputError(
            f"mechanism={mechanism!r} has no finite linear state-space form: {why}. These have "
            f"one: {known}."
        )
    if causal is not True:
        raise InputError(
            f"causal={causal!r} must be True: y_i = C_i h_i reads the tokens up to i. Without it "
            "every query reads the last state."
        )
    if query.ndim == key.ndim == 4 and query.shape[2] != key.shape[2]:
        raise InputError(
            f"{query.shape[2]} queries and {key.shape[2]} keys came; a state space reads once a "
            "token, needed is the same number."
        )
    # The one door checks names, ranges and shapes.
    attend(mechanism, query, key, value, causal=True, scale=scale, **parameters)
    filled = {name: each.default for name, each in spec.parameters.items()} | parameters
    return _FORMS[mechanism](query, key, value, scale, **filled)
