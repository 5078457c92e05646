"""The state-space form of a registered mechanism, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from neuroattn.attention import attend, get
from neuroattn.attention.registry import Mechanism
from neuroattn.errors import InputError, UnknownNameError
from neuroattn.names import did_you_mean
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
    "neural": "its weights are exponentials of the scores of a small network, which no finite "
    "number of features gives",
    "adaptive_filter": "its weights fall off with the distance of query and key over a variance "
    "that grows with their lag, exponentially or as a power, which no finite number of features "
    "gives",
    "relu_attention": "no finite number of features gives a rectified product of query and key",
    "sigmoid_attention": "no finite number of features gives the sigmoid of a product",
    "local_linear": "its kernel is the exponential, which no finite number of features gives",
}
_EXPONENTIAL = (
    "its weights are exponentials of products, whose Gram matrix has full rank for any number of "
    "keys: the state would be infinite; linear with feature_map='taylor' truncates it"
)
_NOT_CAUSAL = "it has no causal read, which a recurrence is: its output at a token needs later ones"
#: What :func:`neuroattn.attention.attend` takes besides a mechanism's parameters, and what to do.
_ELSEWHERE: dict[str, str] = {
    "mask": "a state space here reads every token; leave the hidden ones out of the inputs",
    "initial_state": "the system begins before the first token; give all tokens",
    "return_state": "simulate returns the outputs only; the states are those of the matrices",
    "explain": "there is no choice of form or backend",
    "form": "a state space is a recurrence",
    "backend": "the matrices are computed with PyTorch on the CPU",
}


def _reason(spec: Mechanism) -> str:
    """Return why a mechanism has no finite linear state-space form."""
    return _WHY.get(spec.name, _EXPONENTIAL) if True in spec.causal else _NOT_CAUSAL


def _check_parameters(spec: Mechanism, given: Mapping[str, Any]) -> None:
    """Raise unless the mechanism has every parameter: what is ignored makes another system."""
    for name in given:
        if name in spec.parameters:
            continue
        if name in _ELSEWHERE:
            raise InputError(
                f"state_space does not take {name!r}: {_ELSEWHERE[name]}. It takes causal, scale "
                f"and the parameters of {spec.name!r}: {', '.join(sorted(spec.parameters))}."
            )
        raise UnknownNameError(
            f"mechanism={spec.name!r} has no parameter "
            f"{name!r}{did_you_mean(name, spec.parameters) or '.'} "
            f"Allowed besides causal and scale: {', '.join(sorted(spec.parameters))}."
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
        The mechanism's. What else :func:`neuroattn.attention.attend` takes, such as a mask or an
        initial state, is refused.

    Returns
    -------
    StateSpace
        Λ, B, C and D token by token, such that ``simulate`` of it is
        ``attend(mechanism, query, key, value, causal=True, …)``.

    Raises
    ------
    InputError
        If the mechanism has no linear state-space form, with the reason; ``causal`` is False; a
        parameter is none of the mechanism's; or :func:`neuroattn.attention.attend` would refuse
        the request.

    References
    ----------
    Sieber et al. (2024), Understanding the differences in foundation models: attention, state
    space models and recurrent neural networks; arXiv 2405.15731.
    """
    spec = get(mechanism)
    if mechanism not in _FORMS:
        known = ", ".join(sorted(_FORMS))
        raise InputError(
            f"mechanism={mechanism!r} has no finite linear state-space form: {_reason(spec)}. "
            f"These have one: {known}."
        )
    _check_parameters(spec, parameters)
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
