"""The one door: attend through any mechanism, form and backend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention.backends import BACKENDS, missing, unavailable
from neuroattn.attention.registry import FORMS, Mechanism, Request, Run, State, get
from neuroattn.errors import InputError, MissingExtraError, UnknownNameError
from neuroattn.names import check_name, did_you_mean


@dataclass(frozen=True)
class Plan:
    """The form and the backend that were taken, and why.

    Attributes
    ----------
    form, backend : str
        What ran.
    reason : str
        Why it was taken, and why those before it were not.
    """

    form: str
    backend: str
    reason: str


@overload
def attend(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = ...,
    mask: Tensor | None = ...,
    scale: float | None = ...,
    form: str = ...,
    backend: str = ...,
    initial_state: State | None = ...,
    return_state: Literal[False] = ...,
    explain: Literal[False] = ...,
    **parameters: Any,
) -> Tensor: ...


@overload
def attend(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = ...,
    mask: Tensor | None = ...,
    scale: float | None = ...,
    form: str = ...,
    backend: str = ...,
    initial_state: State | None = ...,
    return_state: Literal[True],
    explain: Literal[False] = ...,
    **parameters: Any,
) -> tuple[Tensor, State]: ...


@overload
def attend(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = ...,
    mask: Tensor | None = ...,
    scale: float | None = ...,
    form: str = ...,
    backend: str = ...,
    initial_state: State | None = ...,
    return_state: Literal[False] = ...,
    explain: Literal[True],
    **parameters: Any,
) -> tuple[Tensor, Plan]: ...


@overload
def attend(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = ...,
    mask: Tensor | None = ...,
    scale: float | None = ...,
    form: str = ...,
    backend: str = ...,
    initial_state: State | None = ...,
    return_state: Literal[True],
    explain: Literal[True],
    **parameters: Any,
) -> tuple[Tensor, State, Plan]: ...


def attend(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    form: str = "auto",
    backend: str = "auto",
    initial_state: State | None = None,
    return_state: bool = False,
    explain: bool = False,
    **parameters: Any,
) -> Any:
    """Attend through a registered mechanism.

    Parameters
    ----------
    name : str
        A registered mechanism, see :func:`list_mechanisms`.
    query, key, value : Tensor
        (batch, heads, queries, dim), (batch, heads, keys, dim), (batch, heads, keys, value_dim).
    causal : bool
        Query i sees keys up to i, counted so that the last query sees the last key. A recurrent
        mechanism without it reads its final state with every query.
    mask : Tensor of bool, optional
        Broadcastable to (batch, heads, queries, keys); True where attention is allowed. A row
        without any allowed key reads zeros. Recurrent mechanisms take masks of keys, (..., 1,
        keys): a hidden key is not written, while decay by position goes on.
    scale : float, optional
        Factor on the logits or on the query; the mechanism's page names its default.
    form, backend : str
        One of the mechanism's own, or ``"auto"``.
    initial_state : dict of str to Tensor, optional
        State of a recurrent mechanism after earlier tokens, as ``return_state`` gave it.
    return_state : bool
        Also return the state after the last token.
    explain : bool
        Also return the :class:`Plan`: which form and backend ran, and why.
    **parameters
        The mechanism's own parameters.

    Returns
    -------
    Tensor
        (batch, heads, queries, value_dim), dtype of the query; followed by the state and the plan
        where they are asked for.

    Raises
    ------
    UnknownNameError
        Unknown mechanism, form, backend or parameter.
    InputError
        Shapes that do not fit, a parameter out of its range, a mask that is not bool, a causal
        request to a mechanism without a causal form, or a form that a backend does not have.
    MissingExtraError
        A backend whose package is not installed.
    """
    spec = get(name)
    _check_shapes(query, key, value)
    mask = _checked_mask(spec, mask, query, key)
    filled = _filled(spec, parameters, query, key, value)
    _check_causal_and_scale(spec, causal, scale)
    if not spec.cross and query.shape[-2] != key.shape[-2]:
        raise InputError(
            f"attention={name!r} reads its own tokens; {query.shape[-2]} queries and "
            f"{key.shape[-2]} keys came, needed is the same number."
        )
    stateful = return_state or initial_state is not None
    request = _request(query, key, value, causal, mask, stateful, filled)
    run, plan = choose(spec, request, form, backend)
    common = {"causal": causal, "mask": mask, "scale": scale}
    output, state = _call(run, query, key, value, common, initial_state, filled)
    returned = [output, *([state] if return_state else []), *([plan] if explain else [])]
    return returned[0] if len(returned) == 1 else tuple(returned)


def weights(
    name: str,
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **parameters: Any,
) -> Tensor:
    """Return the explicit weights (batch, heads, queries, keys) of a mechanism that has them.

    Parameters
    ----------
    name, query, key, causal, mask, scale, **parameters
        As in :func:`attend`.

    Returns
    -------
    Tensor
        (batch, heads, queries, keys), dtype of the query.

    Raises
    ------
    InputError
        If the mechanism has no explicit matrix, or what :func:`attend` raises.
    """
    spec = get(name)
    _check_shapes(query, key, key)
    mask = _checked_mask(spec, mask, query, key)
    filled = _filled(spec, parameters, query, key, key)
    if spec.weights is None:
        raise InputError(f"attention={name!r} has no explicit matrix of weights.")
    _check_causal_and_scale(spec, causal, scale)
    low = query.dtype
    if low.itemsize == 2:
        query, key = query.float(), key.float()
    filled = _cast(filled, query.dtype)
    found = spec.weights(query, key, causal=causal, mask=mask, scale=scale, **filled)
    return found.to(low)


def choose(spec: Mechanism, request: Request, form: str, backend: str) -> tuple[Run, Plan]:
    """Return the implementation for a request, and why it was taken.

    Raises
    ------
    UnknownNameError, InputError, MissingExtraError
        As :func:`attend`.
    """
    if form == backend == "auto":
        fits: list[Run] = list(spec.runs)
    else:
        _check_offered(spec, "form", form, spec.forms, FORMS)
        _check_offered(spec, "backend", backend, spec.backends, BACKENDS)
        fits = [
            run
            for run in spec.runs
            if form in ("auto", run.form) and backend in ("auto", run.backend)
        ]
    if not fits:
        pairs = ", ".join(f"{run.form}/{run.backend}" for run in spec.runs)
        raise InputError(
            f"attention={spec.name!r} has no form={form!r} on backend={backend!r}; it has {pairs}."
        )
    passed: list[str] = []
    second: tuple[Run, int, str] | None = None
    for run in fits:
        label = f"{run.form}/{run.backend}"
        why = _refusal(spec, run, request)
        if why:
            passed.append(f"{label}: {why}")
            continue
        avoided = run.avoids(request)
        if avoided and second is None:
            second = run, len(passed), avoided
        if avoided:
            passed.append(f"{label}: {avoided}")
            continue
        return run, _plan(run, passed, form, backend)
    if second is not None:
        run, place, avoided = second
        del passed[place]
        plan = _plan(run, passed, form, backend)
        return run, replace(plan, reason=f"{plan.reason}; although {avoided}")
    kind = MissingExtraError if all(missing(run.backend) for run in fits) else InputError
    raise kind(f"attention={spec.name!r} cannot run here: {'; '.join(passed)}.")


def _check_offered(
    spec: Mechanism, what: str, name: str, offered: Iterable[str], known: Iterable[str]
) -> None:
    if name in ("auto", *offered):
        return
    if name in known:
        raise InputError(
            f"attention={spec.name!r} has no {what}={name!r}; it has {', '.join(offered)}."
        )
    check_name(what, name, ("auto", *offered))


def _plan(run: Run, passed: list[str], form: str, backend: str) -> Plan:
    asked = "asked for" if "auto" not in (form, backend) else "first that fits"
    return Plan(run.form, run.backend, "; ".join([asked, *(f"not {each}" for each in passed)]))


def _refusal(spec: Mechanism, run: Run, request: Request) -> str:
    if request.state and not run.stateful:
        return "it has no state"
    if request.state and request.causal and request.queries > request.keys:
        return "with a state it takes no more queries than keys"
    return unavailable(run.backend, request) or run.refuses(request)


def _call(
    run: Run,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    common: dict[str, Any],
    initial_state: State | None,
    parameters: Mapping[str, Any],
) -> tuple[Tensor, State]:
    dtype = query.dtype
    if dtype.itemsize == 2 and not run.half:
        query, key, value = query.float(), key.float(), value.float()
    parameters = _cast(parameters, query.dtype)
    if not run.stateful:
        return run.function(query, key, value, **common, **parameters).to(dtype), {}
    queries, keys = query.shape[-2], key.shape[-2]
    early = max(0, queries - keys) if common["causal"] else 0
    if common["causal"]:
        # One query a token: those before the first read nothing, absent ones are made up.
        query = F.pad(query[:, :, early:], (0, 0, max(0, keys - queries), 0))
    before = None if initial_state is None else _checked_state(initial_state, query)
    try:
        output, state = run.function(
            query, key, value, **common, initial_state=before, **parameters
        )
    except KeyError as error:
        if initial_state is None or error.args[0] in initial_state:
            raise
        raise InputError(
            f"initial_state lacks {error}; it has {sorted(initial_state)}. It must be what "
            "return_state=True gave for the same mechanism."
        ) from error
    foreign = set(before or {}) - set(state)
    if foreign:
        raise InputError(
            f"initial_state has {sorted(foreign)}, which this mechanism does not know; it keeps "
            f"{sorted(state)}."
        )
    if common["causal"]:
        output = F.pad(output[:, :, max(0, keys - queries) :], (0, 0, early, 0))
    return output.to(dtype), state


def _checked_state(state: State, query: Tensor) -> State:
    if not isinstance(state, Mapping):
        raise InputError(
            f"initial_state is {type(state).__name__}; needed is what return_state=True gave."
        )
    for name, each in state.items():
        if isinstance(each, Tensor) and each.ndim == 0:
            continue  # a count that all heads share
        if not isinstance(each, Tensor) or each.shape[:2] != query.shape[:2]:
            found = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise InputError(
                f"initial_state's {name} is {found}; needed is a tensor that begins with (batch, "
                f"heads) = {tuple(query.shape[:2])}, as return_state=True gave it."
            )
    return state


def _check_causal_and_scale(spec: Mechanism, causal: bool, scale: float | None) -> None:
    if not isinstance(causal, bool):
        raise InputError(f"causal={causal!r} must be True or False.")
    if causal not in spec.causal:
        without = "no causal form" if causal else "a causal form only"
        raise InputError(f"attention={spec.name!r} has {without}; set causal={not causal}.")
    if scale is None:
        return
    if not spec.scale:
        raise InputError(f"attention={spec.name!r} has no scale; leave scale={scale!r} out.")
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not number or not math.isfinite(scale):
        raise InputError(f"scale={scale!r} must be a finite number, or None for the default.")


def _cast(parameters: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return the parameters, numbers in tensors in the dtype of the computation."""
    return {
        name: each.to(dtype) if isinstance(each, Tensor) and each.is_floating_point() else each
        for name, each in parameters.items()
    }


def _request(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    mask: Tensor | None,
    state: bool,
    parameters: Mapping[str, Any],
) -> Request:
    tensors = (query, key, value, *(x for x in parameters.values() if isinstance(x, Tensor)))
    return Request(
        device=query.device.type,
        dtype=query.dtype,
        queries=query.shape[-2],
        keys=key.shape[-2],
        dim=query.shape[-1],
        value_dim=value.shape[-1],
        causal=causal,
        masked=mask is not None,
        gradient=torch.is_grad_enabled() and any(each.requires_grad for each in tensors),
        state=state,
        parameters=parameters,
    )


def _filled(
    spec: Mechanism, given: Mapping[str, Any], query: Tensor, key: Tensor, value: Tensor
) -> dict[str, Any]:
    """Return all parameters, checked."""
    for name in given:
        if name not in spec.parameters:
            known = ", ".join(spec.parameters) or "none"
            raise UnknownNameError(
                f"attention={spec.name!r} has no parameter {name!r}"
                f"{did_you_mean(name, spec.parameters) or '.'} Allowed: {known}."
            )
    sizes = dict(zip(("batch", "heads", "queries", "dim"), query.shape, strict=True))
    sizes |= {"keys": key.shape[-2], "value_dim": value.shape[-1]}
    filled = {}
    for name, parameter in spec.parameters.items():
        if name in given:
            parameter.check(spec.name, name, given[name], sizes)
        elif parameter.required:
            raise InputError(
                f"attention={spec.name!r} needs {name}: {parameter.sentence} "
                f"({parameter.allowed}); MultiheadAttention learns it."
            )
        filled[name] = given.get(name, parameter.default)
    return filled


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    if not all(isinstance(each, Tensor) for each in (query, key, value)):
        kinds = ", ".join(type(each).__name__ for each in (query, key, value))
        raise InputError(f"query, key, value are {kinds}; needed are torch tensors.")
    fits = query.ndim == key.ndim == value.ndim == 4 and (
        query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.shape[-1] == key.shape[-1]
        and key.shape[-2] == value.shape[-2]
    )
    if not fits:
        shapes = [tuple(tensor.shape) for tensor in (query, key, value)]
        raise InputError(
            f"query, key, value have shapes {shapes}; needed are (batch, heads, queries, dim), "
            "(batch, heads, keys, dim) and (batch, heads, keys, value_dim)."
        )
    if not query.dtype == key.dtype == value.dtype or not query.is_floating_point():
        kinds = ", ".join(str(tensor.dtype) for tensor in (query, key, value))
        raise InputError(f"query, key, value are {kinds}; needed is one floating dtype for all.")


def _checked_mask(
    spec: Mechanism, mask: Tensor | None, query: Tensor, key: Tensor
) -> Tensor | None:
    """Return the mask with four dimensions."""
    if mask is None:
        return None
    shape = (*query.shape[:3], key.shape[2])
    sizes = (1,) * (4 - mask.ndim) + tuple(mask.shape)
    fits = len(sizes) == 4 and all(a in (1, b) for a, b in zip(sizes, shape, strict=True))
    # A fused kernel would add a mask of numbers to the logits.
    if mask.dtype != torch.bool or not fits:
        raise InputError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}; needed is bool, True where "
            f"attention is allowed, that broadcasts to (batch, heads, queries, keys) = {shape}."
        )
    if spec.mask == "none":
        raise InputError(f"attention={spec.name!r} takes no mask; leave it out.")
    if spec.mask == "keys" and sizes[2] != 1:
        raise InputError(
            f"attention={spec.name!r} hides keys from all queries alike; the mask has "
            f"{sizes[2]} rows, needed is (batch, heads, 1, keys)."
        )
    return mask.reshape(sizes)
