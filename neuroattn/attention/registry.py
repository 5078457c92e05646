"""The registry: what is known of every attention mechanism, under its name."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from neuroattn.attention.learned import Learned
from neuroattn.attention.parameters import Parameter
from neuroattn.errors import InputError
from neuroattn.names import check_name

#: One package a family; a module in it registers its mechanisms when it is imported.
FAMILIES: tuple[str, ...] = ("softmax", "linear", "regression", "memory")

#: The forms that a run can have.
FORMS: tuple[str, ...] = ("parallel", "recurrent", "chunked")

#: The memory of a recurrent mechanism after some tokens: named tensors.
State = dict[str, Tensor]


@dataclass(frozen=True)
class Request:
    """What the choice of a form and a backend depends on.

    Attributes
    ----------
    device : str
        Type of the device: ``"cpu"``, ``"cuda"``.
    dtype : torch.dtype
        Of the query.
    queries, keys, dim, value_dim : int
        Sizes.
    causal, masked : bool
        Whether a causal read, and whether a mask is asked for.
    gradient : bool
        Whether an input requires a gradient and gradients are recorded.
    state : bool
        Whether an initial state is given or the final one is wanted.
    parameters : mapping
        The mechanism's parameters, defaults filled in.
    """

    device: str
    dtype: torch.dtype
    queries: int
    keys: int
    dim: int
    value_dim: int
    causal: bool
    masked: bool
    gradient: bool
    state: bool
    parameters: Mapping[str, Any]


def never(request: Request) -> str:
    """Object to nothing."""
    return ""


@dataclass(frozen=True)
class Run:
    """One implementation of a mechanism.

    Attributes
    ----------
    form : {"parallel", "recurrent", "chunked"}
        All pairs at once, token by token, or blocks of tokens as matrix products.
    backend : str
        ``"reference"`` for plain torch, see :mod:`neuroattn.attention.backends` for the others.
    function : callable
        ``function(query, key, value, *, causal, mask, scale, **parameters)`` to the output; with
        ``stateful`` also ``initial_state``, and the final state returned beside the output.
    stateful : bool
        Whether it takes and returns a state. Such a run is called with as many queries as keys
        when the read is causal.
    half : bool
        Whether it takes half-precision inputs as they are; others are given float32.
    refuses : callable
        From a :class:`Request` to the reason why it cannot be done, or "".
    avoids : callable
        From a :class:`Request` to the reason why ``"auto"`` goes on to the next run, or "".
    order : float
        Power of the length with which its time grows in the end; what the benchmark holds it to.
        A stateful run has 1; NaN where it is no single power.
    """

    form: str
    backend: str
    function: Callable[..., Any]
    stateful: bool = False
    half: bool = False
    refuses: Callable[[Request], str] = never
    avoids: Callable[[Request], str] = never
    order: float = 2.0


@dataclass(frozen=True)
class Mechanism:
    """What is known of one attention mechanism.

    Attributes
    ----------
    name, family, paper : str
        Registered name, family (the package that defines it) and citation with the equation.
    summary : str
        One sentence: what it does.
    formula : str
        The read in LaTeX, in our symbols.
    runs : tuple of Run
        The implementations, those that ``"auto"`` prefers first. The reference of its first form
        is what all others are tested against.
    weights : callable or None
        ``weights(query, key, *, causal, mask, scale, **parameters)`` where an explicit matrix
        (batch, heads, queries, keys) exists, such that the output is ``weights @ value``.
    parameters : mapping of str to Parameter
        The mechanism's own parameters.
    causal : tuple of bool
        The values of ``causal`` that it takes.
    cross : bool
        Whether queries may come from elsewhere than keys.
    queries_apart : bool
        Whether, without ``causal``, a query's read depends on no other query: then queries may be
        read in blocks.
    mask : {"any", "keys", "none"}
        Any mask, one that hides keys from all queries (padding), or none.
    scale : str
        The default of ``scale`` in words, "" if the mechanism has none.
    cost : str
        Time and memory in n (keys), m (queries) and d (dim).
    laws : mapping of str to str
        Name of a test to the law that it checks and the mistake that would break it.
    symbols : mapping of str to str
        The paper's symbols to our names.
    module : callable or None
        ``module(dim, heads, token_dim, **options)``, what the mechanism learns.
    options : mapping of str to Parameter
        The options of ``module``.
    projections : tuple of str
        What the block projects: of ``query``, ``key``, ``value``, ``output``; what is not
        projected is passed as slices, one a head.
    whole_key : bool
        Whether all heads read the tokens whole as their keys, instead of a slice each.
    """

    name: str
    family: str
    paper: str
    summary: str
    formula: str
    runs: tuple[Run, ...]
    cost: str
    weights: Callable[..., Tensor] | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    causal: tuple[bool, ...] = (False, True)
    cross: bool = True
    queries_apart: bool = True
    mask: str = "any"
    scale: str = "1/sqrt(dim)"
    laws: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    symbols: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    module: Callable[..., Learned] | None = None
    options: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    projections: tuple[str, ...] = ("query", "key", "value", "output")
    whole_key: bool = False

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms it has, preferred first."""
        return tuple(dict.fromkeys(run.form for run in self.runs))

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends it has, preferred first."""
        return tuple(dict.fromkeys(run.backend for run in self.runs))

    @property
    def recurrent(self) -> bool:
        """Whether a state of fixed size stands for all tokens read so far."""
        return any(run.stateful for run in self.runs)


_REGISTRY: dict[str, Mechanism] = {}


def register(mechanism: Mechanism) -> Mechanism:
    """Add a mechanism under its name.

    Raises
    ------
    InputError
        If the name is taken or is no identifier, the family is unknown, or no run is the plain
        reference.
    """
    # Ours come first, so that a name of theirs cannot stand in their way.
    if not sys._getframe(1).f_globals.get("__name__", "").startswith(f"{__package__}."):
        _loaded()
    check_name("family", mechanism.family, FAMILIES)
    if not mechanism.name.isidentifier():
        raise InputError(f"mechanism name={mechanism.name!r} must be letters, digits and _.")
    if "reference" not in mechanism.backends:
        raise InputError(
            f"mechanism {mechanism.name!r} needs a Run(form, 'reference', ...): what its other "
            f"runs are tested against; it has {mechanism.backends}."
        )
    for run in mechanism.runs:
        check_name("form", run.form, FORMS)
    if mechanism.name in _REGISTRY:
        raise InputError(f"mechanism name={mechanism.name!r} is registered already.")
    _REGISTRY[mechanism.name] = mechanism
    return mechanism


_LOADED: list[str] = []


def _loaded() -> dict[str, Mechanism]:
    if not _LOADED:
        for family in FAMILIES:
            package = importlib.import_module(f"neuroattn.attention.{family}")
            for module in sorted(each.name for each in pkgutil.iter_modules(package.__path__)):
                importlib.import_module(f"{package.__name__}.{module}")
        _LOADED.append("all")
    return _REGISTRY


def get(name: str) -> Mechanism:
    """Return the specification of a mechanism.

    Raises
    ------
    UnknownNameError
        If no mechanism has that name; the message lists those that exist and the closest.
    """
    known = _loaded()
    if not isinstance(name, str):
        raise InputError(f"attention={name!r} must be the name of a mechanism.")
    return known[name] if name in known else known[check_name("attention", name, known)]


def list_mechanisms(
    family: str | None = None, causal: bool | None = None, recurrent: bool | None = None
) -> list[str]:
    """Return the names of the mechanisms, in alphabetical order.

    Parameters
    ----------
    family : str, optional
        Only those of this family, see :data:`FAMILIES`.
    causal : bool, optional
        Only those that have a causal form (True), or that have none (False).
    recurrent : bool, optional
        Only those with a state of fixed size (True), or without (False).

    Raises
    ------
    UnknownNameError
        If there is no such family.
    """
    if family is not None:
        check_name("family", family, FAMILIES)
    return sorted(
        name
        for name, spec in _loaded().items()
        if family in (None, spec.family)
        and causal in (None, True in spec.causal)
        and recurrent in (None, spec.recurrent)
    )
