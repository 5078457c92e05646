"""Run one claim and its mutants, and say what became of them."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neuroattn.attention.registry import get as get_mechanism
from neuroattn.errors import InputError
from neuroattn.theory.caught import Raised, caught
from neuroattn.theory.claim import Claim, get
from neuroattn.theory.claim_files import import_files
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import AGREEMENT, DTYPES, Lab, Settings
from neuroattn.theory.proof import Proof, Step


@dataclass(frozen=True)
class MutantVerdict:
    """What became of one mutant.

    Attributes
    ----------
    name : str
        What is wrong in it.
    killed : bool
        Whether a comparison failed, as it must.
    by : str
        Which comparison, with its error over its tolerance; or why none failed.
    """

    name: str
    killed: bool
    by: str


@dataclass(frozen=True)
class Verdict:
    """What became of one claim.

    Attributes
    ----------
    id, title, paper, place, statement, hypotheses, finding, found
        As in the claim.
    passed : bool or None
        Whether every comparison and every step of the proof holds; None if it could not run with
        these settings.
    proved : bool or None
        Whether the symbolic proof holds; None if there is none.
    seconds : float
        Time of the proof, the measurement and the mutants.
    comparisons : tuple of Comparison
        All of them.
    mutants : tuple of MutantVerdict
        All of them.
    steps : tuple of Step
        Of the proof.
    paths : mapping of str to list of str
        Which forms and backends of which mechanisms ran.
    error : str
        The error that ended it, or why it could not run, or "".
    """

    id: str
    title: str
    paper: str
    place: str
    statement: str
    hypotheses: tuple[str, ...]
    finding: str
    found: str
    passed: bool | None
    proved: bool | None = None
    seconds: float = 0.0
    comparisons: tuple[Comparison, ...] = ()
    mutants: tuple[MutantVerdict, ...] = ()
    steps: tuple[Step, ...] = field(default=(), compare=False)
    paths: dict[str, list[str]] = field(default_factory=dict)
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing failed: the claim holds, or was left out, and no mutant survived."""
        return self.passed is not False and all(each.killed for each in self.mutants)

    @property
    def worst(self) -> Comparison | None:
        """The comparison that is nearest to failing, or fails most."""
        return max(self.comparisons, key=lambda each: each.strain, default=None)

    def summary(self) -> dict[str, Any]:
        """Return plain data: the worst entry of the worst comparison, and all comparisons."""
        worst = self.worst
        numbers = ("predicted", "measured", "error", "tolerance")
        head = {key: _plain(worst.at_worst(key)) if worst else None for key in numbers}
        has_z = worst is not None and worst.z is not None
        return {
            "id": self.id,
            "title": self.title,
            "paper": self.paper,
            "place": self.place,
            "statement": self.statement,
            "hypotheses": list(self.hypotheses),
            "finding": self.finding,
            "found": self.found,
            **head,
            "z": _plain(worst.at_worst("z")) if worst and has_z else None,
            "seconds": round(self.seconds, 3),
            "passed": self.passed,
            "proved": self.proved,
            "mutants": [asdict(each) for each in self.mutants],
            "paths": self.paths,
            "error_message": self.error,
            "comparisons": [_told(each) for each in self.comparisons],
        }


def _told(each: Comparison) -> dict[str, Any]:
    numbers = ("predicted", "measured", "error", "tolerance")
    return {
        "name": each.name,
        "relation": each.relation,
        "at": each.where,
        **{key: _plain(each.at_worst(key)) for key in numbers},
        "z": None if each.z is None else _plain(each.at_worst("z")),
        "expected_error": _plain(each.expected),
        "entries": int(each.error.size),
        "reason": each.reason,
        "passed": each.passed,
    }


def _plain(number: float) -> float | None:
    """Return a number that JSON has."""
    return number if math.isfinite(number) else None


_LOCK = threading.Lock()
#: How many claims run now, and the number of threads to go back to.
_RUNNING: list[int] = []


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    # Sums in another order have other last digits: one thread, however many claims run at once.
    with _LOCK:
        _RUNNING.append(_RUNNING[0] if _RUNNING else torch.get_num_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            threads = _RUNNING.pop()
            if not _RUNNING:
                torch.set_num_threads(threads)


def run(id: str, settings: Settings, files: Sequence[str] = ()) -> Verdict:
    """Run one claim and its mutants, on one thread.

    An error inside the claim is its failure, and is told. What it prints goes to stderr.
    """
    import_files([Path(each) for each in files])
    claim = get(id)
    why = left_out(claim, settings)
    if why:
        return Verdict(**told(claim), passed=None, error=why)
    start = time.perf_counter()
    # FlexAttention refuses inputs with gradients on the CPU.
    with _one_thread(), torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        outcome = _outcome(claim, Lab(claim.id, settings))
    return Verdict(**told(claim), **outcome, seconds=time.perf_counter() - start)


def told(claim: Claim) -> dict[str, Any]:
    """Return what a verdict repeats of its claim."""
    names = ("id", "title", "paper", "place", "statement", "hypotheses", "finding", "found")
    return {name: getattr(claim, name) for name in names}


def _outcome(claim: Claim, lab: Lab) -> dict[str, Any]:
    proof, proved = Proof(), None
    comparisons: tuple[Comparison, ...] = ()
    mutants: tuple[MutantVerdict, ...] = ()
    errors: list[str] = []
    if claim.prove is not None:
        shown = caught(partial(claim.prove, proof))
        proved = not isinstance(shown, Raised) and any(step.checked for step in proof.steps)
        if isinstance(shown, Raised):
            errors.append(f"proof: {shown.message}")
    found = caught(lambda: _comparisons(claim.measure(lab)))
    if isinstance(found, Raised):
        errors.append(found.message)
    else:
        comparisons = (*found, *_paths_agree(lab))
        paths = {name: list(each) for name, each in lab.paths.items()}
        mutants = tuple(_mutant(claim, lab, name) for name in claim.mutants)
        lab.paths = paths
    held = bool(comparisons) and all(each.passed for each in comparisons)
    return {
        "passed": held and proved is not False and not errors,
        "proved": proved,
        "comparisons": comparisons,
        "mutants": mutants,
        "steps": tuple(proof.steps),
        "paths": {name: list(each) for name, each in lab.paths.items()},
        "error": "; ".join(errors),
    }


def _comparisons(yielded: Iterable[Any]) -> tuple[Comparison, ...]:
    found = tuple(yielded)
    wrong = [each for each in found if not isinstance(each, Comparison)]
    if wrong or not found:
        what = f"a {type(wrong[0]).__name__}" if wrong else "nothing"
        raise InputError(f"measure yielded {what}; it must yield what lab.equal and its kin give.")
    return found


def _mutant(claim: Claim, lab: Lab, name: str) -> MutantVerdict:
    found = caught(lambda: _comparisons(claim.measure(lab, **claim.mutants[name])))
    if isinstance(found, Raised):
        return MutantVerdict(name, False, f"raised instead of failing: {found.message}")
    failed = [each for each in found if each.defined and not each.passed]
    if not failed:
        return MutantVerdict(name, False, "every comparison passed")
    worst = max(failed, key=lambda each: each.strain)
    return MutantVerdict(name, True, f"{worst.name}: error {worst.strain:.3g} x tolerance")


def _paths_agree(lab: Lab) -> Iterator[Comparison]:
    for name, share in lab.disagreement.items():
        yield lab.near(
            f"forms and backends of {name} agree: {', '.join(lab.paths[name])}",
            share,
            0.0,
            tolerance=1.0,
            expected=0.1,
            reason=f"in units of {AGREEMENT:g} roundings of the largest output",
        )


def left_out(claim: Claim, settings: Settings) -> str:
    """Return why a claim cannot be held with these settings, or ""."""
    if DTYPES[settings.dtype].itemsize == 2 and not claim.half:
        return f"not held in half precision, {settings.dtype} was asked for"
    if settings.backend != "auto":
        known = {name: get_mechanism(name).backends for name in claim.mechanisms}
        if not any(settings.backend in each for each in known.values()):
            return f"no mechanism of it has backend={settings.backend!r}"
    return ""
