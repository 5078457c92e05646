"""Run claims: one by one, on a pool of processes, or on a Dask cluster; the same verdicts."""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neuroattn.attention import get as get_mechanism
from neuroattn.errors import FileError, InputError, MissingExtraError
from neuroattn.theory.caught import Raised, caught
from neuroattn.theory.claim import Claim, get
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
    id, title, paper, statement : str
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
    statement: str
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
            "statement": self.statement,
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


def verify(
    ids: Sequence[str],
    settings: Settings | None = None,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    files: Sequence[Path] = (),
    seen: Callable[[Verdict], None] | None = None,
) -> list[Verdict]:
    """Run claims and their mutants.

    Parameters
    ----------
    ids : sequence of str
        Which, see :func:`neuroattn.theory.list_claims`.
    settings : Settings, optional
        Device, dtype, backend, seed.
    jobs : int
        Processes on this machine.
    scheduler : str, optional
        Address of a Dask scheduler to send them to instead, such as ``"tcp://host:8786"``.
    files : sequence of Path
        Python files that register claims of their own; imported wherever a claim runs.
    seen : callable, optional
        Called with each verdict as it comes.

    Returns
    -------
    list of Verdict
        In the order of ``ids``; but for ``seconds`` the same however they were run.

    Raises
    ------
    UnknownNameError
        If a claim does not exist.
    InputError
        If ``jobs`` is less than 1, or a device, dtype or backend does not exist here.
    FileError
        If one of ``files`` cannot be imported, or no scheduler answers at the address.
    MissingExtraError
        If ``scheduler`` is given and Dask is not installed.
    """
    settings = settings or Settings()
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise InputError(f"jobs={jobs!r} must be a whole number of at least 1.")
    check_settings(settings)
    import_files(files)
    claims = [get(id) for id in ids]
    if jobs > 1 or scheduler is not None:
        _check_elsewhere(claims)
    verdicts: dict[str, Verdict] = {}
    places = [str(Path(each).resolve()) for each in files]
    for verdict in _stream([claim.id for claim in claims], settings, jobs, scheduler, places):
        verdicts[verdict.id] = verdict
        if seen is not None:
            seen(verdict)
    return [verdicts[claim.id] for claim in claims]


def _check_elsewhere(claims: Sequence[Claim]) -> None:
    ours = __package__ + "."
    for claim in claims:
        home = getattr(claim.measure, "__module__", "")
        if not home.startswith((ours, _PREFIX)):
            raise InputError(
                f"claim {claim.id!r} is known to this process only; write it to a file and give "
                "files=[that file], or use jobs=1."
            )


def _stream(
    ids: Sequence[str], settings: Settings, jobs: int, scheduler: str | None, files: Sequence[str]
) -> Iterator[Verdict]:
    if scheduler is not None:
        yield from _on_dask(ids, settings, scheduler, files)
    elif jobs == 1 or len(ids) < 2:
        for id in ids:
            yield run(id, settings, files)
    else:
        # A fresh interpreter each: a fork would inherit torch's threads half-way.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            waiting = {pool.submit(run, id, settings, files): id for id in ids}
            try:
                for each in as_completed(waiting):
                    try:
                        yield each.result()
                    except BrokenProcessPool:
                        yield _lost(waiting[each])
            finally:
                pool.shutdown(cancel_futures=True)


def _lost(id: str) -> Verdict:
    claim = get(id)
    why = "its process died, for want of memory perhaps; run it again with fewer jobs"
    return Verdict(id, claim.title, claim.paper, claim.statement, passed=False, error=why)


def _on_dask(
    ids: Sequence[str], settings: Settings, address: str, files: Sequence[str]
) -> Iterator[Verdict]:
    try:
        from distributed import Client
        from distributed import as_completed as completed
    except ImportError as error:
        raise MissingExtraError(
            "--scheduler needs Dask: pip install 'neuroattn[dask]', or from a clone "
            "pip install -c constraints.txt '.[dask]'."
        ) from error
    try:
        # As a default it would also be what xarray locks its files with, afterwards.
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise FileError(
            f"scheduler={address!r} does not answer ({error}); start one with `dask scheduler` and "
            "give the address that it prints, such as tcp://127.0.0.1:8786."
        ) from error
    with client, client.as_current():
        futures = [client.submit(run, id, settings, files, pure=False) for id in ids]
        for future in completed(futures):
            yield future.result()


def run(id: str, settings: Settings, files: Sequence[str] = ()) -> Verdict:
    """Run one claim and its mutants, on one thread.

    An error inside the claim is its failure, and is told.
    """
    import_files([Path(each) for each in files])
    claim = get(id)
    common = (claim.id, claim.title, claim.paper, claim.statement)
    why = left_out(claim, settings)
    if why:
        return Verdict(*common, passed=None, error=why)
    # Sums in another order have other last digits: one thread, however many claims run at once.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        with torch.no_grad():  # FlexAttention refuses inputs with gradients on the CPU
            outcome = _outcome(claim, Lab(claim.id, settings))
    finally:
        torch.set_num_threads(threads)
    return Verdict(*common, **outcome, seconds=time.perf_counter() - start)


def _outcome(claim: Claim, lab: Lab) -> dict[str, Any]:
    proof, proved = Proof(), None
    comparisons: tuple[Comparison, ...] = ()
    mutants: tuple[MutantVerdict, ...] = ()
    errors: list[str] = []
    if claim.prove is not None:
        told = caught(partial(claim.prove, proof))
        proved = not isinstance(told, Raised) and any(step.checked for step in proof.steps)
        if isinstance(told, Raised):
            errors.append(f"proof: {told.message}")
    found = caught(lambda: tuple(claim.measure(lab)))
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


def _mutant(claim: Claim, lab: Lab, name: str) -> MutantVerdict:
    found = caught(lambda: tuple(claim.measure(lab, **claim.mutants[name])))
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


def check_settings(settings: Settings) -> None:
    """Raise an :class:`InputError` for a device, dtype, backend or seed that is impossible."""
    from neuroattn.attention.backends import BACKENDS
    from neuroattn.names import check_name

    check_name("dtype", settings.dtype, DTYPES)
    check_name("backend", settings.backend, ("auto", *BACKENDS))
    kind = settings.device.split(":")[0]
    check_name("device", kind, ("cpu", "cuda"))
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("device='cuda' is not there: torch sees no CUDA device; use device='cpu'.")
    if not isinstance(settings.seed, int) or isinstance(settings.seed, bool) or settings.seed < 0:
        raise InputError(f"seed={settings.seed!r} must be a whole number of at least 0.")


_IMPORTED: set[str] = set()
_PREFIX = "claims_of_"


def import_files(files: Sequence[Path]) -> None:
    """Import Python files that register claims, each once.

    Raises
    ------
    FileError
        If one is not there or is no Python file.
    InputError
        If it raises while it is imported.
    """
    for path in (Path(each).resolve() for each in files):
        if str(path) in _IMPORTED:
            continue
        if path.suffix != ".py" or not path.is_file():
            raise FileError(f"claims file {path} is not a Python file; give a .py that registers.")
        spec = importlib.util.spec_from_file_location(f"{_PREFIX}{path.stem}", path)
        if spec is None or spec.loader is None:
            raise FileError(f"claims file {path} cannot be imported.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        found = caught(partial(spec.loader.exec_module, module))
        if isinstance(found, Raised):
            raise InputError(f"claims file {path} cannot be imported: {found.message}")
        _IMPORTED.add(str(path))
