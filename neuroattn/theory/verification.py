"""Run claims: one by one, on a pool of processes, or on a Dask cluster; the same verdicts."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from neuroattn.attention.backends import BACKENDS
from neuroattn.errors import FileError, InputError, MissingExtraError
from neuroattn.names import check_name
from neuroattn.theory.caught import Raised, caught
from neuroattn.theory.claim import Claim, get
from neuroattn.theory.claim_files import import_files, is_of
from neuroattn.theory.lab import DTYPES, Settings
from neuroattn.theory.verdict import Verdict, run, told


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
        Processes on this machine. In a script, more than one need the call to stand under
        ``if __name__ == "__main__":``.
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
    if isinstance(ids, str):
        raise InputError(f"ids={ids!r} must be a list of ids; give list_claims({ids!r}).")
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise InputError(f"jobs={jobs!r} must be a whole number of at least 1.")
    check_settings(settings)
    import_files(files)
    places = [str(Path(each).resolve()) for each in files]
    claims = [get(id) for id in ids]
    if jobs > 1 or scheduler is not None:
        _check_elsewhere(claims, places)
    verdicts: dict[str, Verdict] = {}
    for verdict in _stream([claim.id for claim in claims], settings, jobs, scheduler, places):
        verdicts[verdict.id] = verdict
        if seen is not None:
            seen(verdict)
    return [verdicts[claim.id] for claim in claims]


def _check_elsewhere(claims: Sequence[Claim], files: Sequence[str]) -> None:
    for claim in claims:
        ours = getattr(claim.measure, "__module__", "").startswith(f"{__package__}.")
        if not ours and not is_of(claim.id, files):
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
        yield from _on_pool(ids, settings, jobs, files)


def _on_pool(
    ids: Sequence[str], settings: Settings, jobs: int, files: Sequence[str]
) -> Iterator[Verdict]:
    # A fresh interpreter each: a fork would inherit torch's threads half-way.
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_stop_at_once
    )
    try:
        # All at once: each that is asked for starts a process.
        for start in [pool.submit(_ready) for _ in range(jobs)]:
            start.result()
    except BrokenProcessPool as error:
        raise InputError(
            f"jobs={jobs}: the processes could not start. In a script, call verify under "
            "`if __name__ == '__main__':`, because each process imports the script."
        ) from error
    waiting = {pool.submit(run, id, settings, files): id for id in ids}
    unfinished, through = dict.fromkeys(ids), False
    try:
        for each in as_completed(waiting):
            try:
                verdict = each.result()
            except BrokenProcessPool:
                continue
            del unfinished[verdict.id]
            yield verdict
        through = True
    finally:
        # After Ctrl-C, or when whoever reads stops, what runs is not waited for.
        if not through:
            for process in list((pool._processes or {}).values()):
                process.terminate()
        pool.shutdown(wait=through, cancel_futures=True)
    # One process that dies takes the pool with it; who killed it dies alone as well.
    for id in unfinished:
        yield _alone(id, settings, files)


def _ready() -> bool:
    return True


def _stop_at_once() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _alone(id: str, settings: Settings, files: Sequence[str]) -> Verdict:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_stop_at_once) as pool:
        try:
            return pool.submit(run, id, settings, files).result()
        except BrokenProcessPool:
            return _lost(id, "its process died, for want of memory perhaps")


def _lost(id: str, why: str) -> Verdict:
    return Verdict(**told(get(id)), passed=False, error=why)


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
        sent = {client.submit(run, id, settings, files, pure=False): id for id in ids}
        for future in completed(list(sent)):
            found = caught(future.result)
            yield _lost(sent[future], found.message) if isinstance(found, Raised) else found


def check_settings(settings: Settings) -> None:
    """Raise an :class:`InputError` for a device, dtype, backend or seed that is impossible."""
    check_name("dtype", settings.dtype, DTYPES)
    check_name("backend", settings.backend, ("auto", *BACKENDS))
    kind, _, place = settings.device.partition(":")
    check_name("device", kind, ("cpu", "cuda"))
    if kind == "cpu" and place:
        raise InputError(f"device={settings.device!r}: there is one 'cpu'.")
    count = torch.cuda.device_count()
    if kind == "cuda" and not count:
        raise InputError("device='cuda' is not there: torch sees no CUDA device; use device='cpu'.")
    if place and not (place.isdecimal() and int(place) < count):
        raise InputError(f"device={settings.device!r} is not there; torch sees {count} of them.")
    if not isinstance(settings.seed, int) or isinstance(settings.seed, bool) or settings.seed < 0:
        raise InputError(f"seed={settings.seed!r} must be a whole number of at least 0.")
