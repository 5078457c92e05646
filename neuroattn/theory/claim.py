"""A claim: what a paper says, how it is proved, how it is measured, and what must fail."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from neuroattn.errors import InputError
from neuroattn.names import check_name, did_you_mean
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.families import FAMILIES
from neuroattn.theory.proof import Proof

#: What became of the literature's statement.
FINDINGS: tuple[str, ...] = ("confirmed", "sharpened", "refuted")


@dataclass(frozen=True, eq=False)
class Claim:
    """One statement that can fail.

    Attributes
    ----------
    id : str
        ``family.topic.detail`` in lower case, words of a part joined by hyphens.
    title : str
        The statement in one line of words.
    paper, place : str
        Citation with its year, and where in it; who derived the statement, if not the paper.
    statement : str
        In LaTeX, without the dollars.
    hypotheses : tuple of str
        What has to hold; a sentence each.
    finding : {"confirmed", "sharpened", "refuted"}
        What became of the statement of the literature.
    found : str
        What we found, in a few sentences for a reader of the paper.
    measure : callable
        ``measure(lab, **variant)`` to its comparisons; a variant's default is the truth.
    mutants : mapping of str to mapping
        What is wrong, in words, to the variant of ``measure`` that makes it so. At least one
        comparison of a mutant must fail.
    mechanisms : tuple of str
        The registered mechanisms that it runs.
    prove : callable or None
        ``prove(proof)``, symbolically.
    half : bool
        Whether it can be held in half precision.
    slow : bool
        Whether it takes more than half a minute; run with ``--slow`` only.
    """

    id: str
    title: str
    paper: str
    place: str
    statement: str
    hypotheses: tuple[str, ...]
    finding: str
    found: str
    measure: Callable[..., Iterable[Comparison]]
    mutants: Mapping[str, Mapping[str, Any]]
    mechanisms: tuple[str, ...] = ()
    prove: Callable[[Proof], None] | None = None
    half: bool = False
    slow: bool = False

    @property
    def family(self) -> str:
        """The first part of the id."""
        return self.id.split(".")[0]


_CLAIMS: dict[str, Claim] = {}
_LOADED: list[str] = []
_ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9]+(-[a-z0-9]+)*)+")


def register(claim: Claim) -> Claim:
    """Add a claim under its id.

    Raises
    ------
    InputError
        If the id is taken or malformed, there is no mutant, no hypothesis, or no such finding, or
        a mutant changes what ``measure`` does not take.
    """
    # Ours come first, so that an id of theirs cannot stand in their way.
    if not sys._getframe(1).f_globals.get("__name__", "").startswith(f"{__package__}."):
        loaded()
    if not isinstance(claim.id, str) or not _ID.fullmatch(claim.id):
        raise InputError(
            f"claim id={claim.id!r} must be family.topic in lower case, words joined by hyphens."
        )
    if claim.id in _CLAIMS:
        raise InputError(f"claim id={claim.id!r} is registered already.")
    if not claim.mutants:
        raise InputError(
            f"claim {claim.id!r} has no mutants; a claim that no mutant can break is not a claim. "
            "Give at least one variant of measure for which the check must fail."
        )
    if not isinstance(claim.hypotheses, tuple):
        raise InputError(f"claim {claim.id!r}: hypotheses must be a tuple of sentences.")
    if not claim.hypotheses:
        raise InputError(f"claim {claim.id!r} has no hypotheses; say what has to hold.")
    check_name("finding", claim.finding, FINDINGS)
    taken = inspect.signature(claim.measure).parameters
    anything = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    for mutant, variant in claim.mutants.items():
        for name in variant:
            if name not in taken and not anything:
                raise InputError(
                    f"claim {claim.id!r}, mutant {mutant!r}: measure takes no {name!r}"
                    f"{did_you_mean(name, taken) or '.'} It takes {', '.join(taken)}."
                )
    _CLAIMS[claim.id] = claim
    return claim


def loaded(family: str | None = None) -> Mapping[str, Claim]:
    """Return all claims, with those of this package imported: all, or one family's."""
    wanted = [family] if family in FAMILIES else list(FAMILIES)
    for each in wanted:
        if each not in _LOADED:
            room = importlib.import_module(f"{__package__}.{each}")
            for module in sorted(x.name for x in pkgutil.iter_modules(room.__path__)):
                importlib.import_module(f"{room.__name__}.{module}")
            _LOADED.append(each)
    return MappingProxyType(_CLAIMS)


def registered() -> frozenset[str]:
    """Return the ids that are registered so far; importing nothing."""
    return frozenset(_CLAIMS)


def forget(ids: Iterable[str]) -> None:
    """Take claims out of the registry, for a file that is imported again."""
    for id in ids:
        _CLAIMS.pop(id, None)


def get(id: str) -> Claim:
    """Return a claim.

    Raises
    ------
    UnknownNameError
        If there is none of that id; the message names the closest.
    """
    if not isinstance(id, str):
        raise InputError(f"claim={id!r} must be the id of a claim.")
    known = loaded(id.split(".")[0])
    return known[id] if id in known else known[check_name("claim", id, loaded())]


def list_claims(pattern: str | None = None, slow: bool | None = None) -> list[str]:
    """Return the ids of the claims, family by family.

    Parameters
    ----------
    pattern : str, optional
        A claim's id, the beginning of ids up to a dot (``"sdm"``), or a pattern with ``*``, ``?``
        and ``[...]``.
    slow : bool, optional
        Only the slow ones (True), or only the others (False).

    Raises
    ------
    InputError
        If no claim matches; the message names the closest.
    """
    known = loaded(None if pattern is None else pattern.split(".")[0])
    order = {family: place for place, family in enumerate(FAMILIES)}
    ids = sorted(known, key=lambda id: (order.get(known[id].family, len(order)), id))
    if pattern is not None:
        ids = [id for id in ids if _matches(id, pattern)]
        if not ids:
            parts = {part for id in loaded() for part in _beginnings(id)}
            hint = did_you_mean(pattern, parts) or "."
            raise InputError(
                f"no claim matches pattern={pattern!r}{hint} Families: {', '.join(FAMILIES)}."
            )
    return [id for id in ids if slow in (None, known[id].slow)]


def _matches(id: str, pattern: str) -> bool:
    return id == pattern or id.startswith(f"{pattern}.") or fnmatch.fnmatchcase(id, pattern)


def _beginnings(id: str) -> list[str]:
    parts = id.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]
