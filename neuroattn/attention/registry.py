"""The registry of attention mechanisms and the one door to all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from neuroattn.errors import InputError, UnknownNameError
from neuroattn.names import check_name, did_you_mean

#: One module a family; importing it registers its mechanisms.
FAMILIES: tuple[str, ...] = ("softmax",)


@dataclass(frozen=True)
class Mechanism:
    """What is known of one attention mechanism.

    Attributes
    ----------
    name, family, paper : str
        Registered name, family (the module that defines it) and citation.
    forward : callable
        ``forward(query, key, value, *, causal, mask, scale, backend, **parameters)``.
    weights : callable or None
        ``weights(query, key, *, causal, mask, scale, **parameters)`` where an explicit matrix
        (batch, heads, query, key) exists.
    parameters : mapping of str to (default, sentence)
        The mechanism's own parameters with their defaults and allowed ranges in words.
    causal, cross : bool
        Whether it has a causal form, and whether queries may come from elsewhere than keys.
    forms, backends : tuple of str
        What :func:`attend` accepts for ``form`` and ``backend`` beside ``"auto"``.
    cost : str
        Time and memory in n (keys), m (queries) and d (dim).
    """

    name: str
    family: str
    paper: str
    forward: Callable[..., Tensor]
    weights: Callable[..., Tensor] | None
    causal: bool
    cross: bool
    forms: tuple[str, ...]
    backends: tuple[str, ...]
    cost: str
    parameters: Mapping[str, tuple[Any, str]] = field(default_factory=lambda: MappingProxyType({}))


_REGISTRY: dict[str, Mechanism] = {}


def register(mechanism: Mechanism) -> Mechanism:
    """Add a mechanism under its name.

    Raises
    ------
    InputError
        If the name is taken.
    """
    if mechanism.name in _REGISTRY:
        raise InputError(f"mechanism name={mechanism.name!r} is registered already.")
    _REGISTRY[mechanism.name] = mechanism
    return mechanism


def _loaded() -> dict[str, Mechanism]:
    for family in FAMILIES:
        importlib.import_module(f"neuroattn.attention.{family}")
    return _REGISTRY


def get(name: str) -> Mechanism:
    """Return the specification of a mechanism.

    Raises
    ------
    UnknownNameError
        If no mechanism has that name; the message lists those that exist and the closest.
    """
    return _loaded()[check_name("attention", name, _loaded())]


def list_mechanisms(family: str | None = None, causal: bool | None = None) -> list[str]:
    """Return the names of all mechanisms, or of those of a family or with a causal form."""
    return sorted(
        name
        for name, spec in _loaded().items()
        if family in (None, spec.family) and causal in (None, spec.causal)
    )


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
    **parameters: Any,
) -> Tensor:
    """Attend through a registered mechanism.

    Parameters
    ----------
    name : str
        A registered mechanism, see :func:`list_mechanisms`.
    query, key, value : Tensor
        (batch, heads, queries, dim), (batch, heads, keys, dim), (batch, heads, keys, value_dim).
    causal : bool
        Query i sees keys up to i, counted so that the last query sees the last key.
    mask : Tensor of bool, optional
        Broadcastable to (batch, heads, queries, keys); True where attention is allowed. A row
        without any allowed key reads zeros.
    scale : float, optional
        Factor on the logits, 1/sqrt(dim) by default.
    form, backend : str
        One of the mechanism's own, or ``"auto"``.
    **parameters
        The mechanism's own parameters.

    Returns
    -------
    Tensor
        (batch, heads, queries, value_dim), dtype of the query.

    Raises
    ------
    UnknownNameError
        Unknown mechanism, form, backend or parameter.
    InputError
        Shapes that do not fit, a mask that is not bool, or a causal request to a mechanism
        without a causal form.
    """
    spec = get(name)
    _check_parameters(spec, parameters)
    check_name("form", form, ("auto", *spec.forms))
    check_name("backend", backend, ("auto", *spec.backends))
    _check_shapes(query, key, value)
    mask = _checked_mask(mask, query, key)
    if causal and not spec.causal:
        raise InputError(f"attention={name!r} has no causal form; set causal=False.")
    return spec.forward(
        query, key, value, causal=causal, mask=mask, scale=scale, backend=backend, **parameters
    )


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

    Raises
    ------
    InputError
        If the mechanism has no explicit matrix, or the shapes do not fit.
    """
    spec = get(name)
    _check_parameters(spec, parameters)
    if spec.weights is None:
        raise InputError(f"attention={name!r} has no explicit matrix of weights.")
    _check_shapes(query, key, key)
    mask = _checked_mask(mask, query, key)
    return spec.weights(query, key, causal=causal, mask=mask, scale=scale, **parameters)


def allowed(
    queries: int, keys: int, causal: bool, mask: Tensor | None, device: torch.device
) -> Tensor | None:
    """Join a causal request and a mask into one mask, or None where everything is allowed."""
    if not causal:
        return mask
    shift = keys - queries
    lower = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(shift)
    return lower if mask is None else lower & mask


def _check_parameters(spec: Mechanism, given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in spec.parameters:
            known = ", ".join(spec.parameters) or "none"
            raise UnknownNameError(
                f"attention={spec.name!r} has no parameter {name!r}"
                f"{did_you_mean(name, spec.parameters) or '.'} Allowed: {known}."
            )


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (query, key, value)]
    fits = all(len(shape) == 4 for shape in shapes) and (
        query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.shape[-1] == key.shape[-1]
        and key.shape[-2] == value.shape[-2]
    )
    if not fits:
        raise InputError(
            f"query, key, value have shapes {shapes}; needed are (batch, heads, queries, dim), "
            "(batch, heads, keys, dim) and (batch, heads, keys, value_dim)."
        )


def _checked_mask(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
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
    return mask.reshape(sizes)
