"""Run claims: one by one, on a pool of processes, or on a Dask cluster; the same verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from neuroattn.attention.backends import BACKENDS
from neuroattn.errors import InputError
from neuroattn.names import check_name
from neuroattn.tasks import Workers, run_tasks
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
        If ``jobs`` is less than 1 or given beside ``scheduler``, or a device, dtype or backend does
        not exist here.
    FileError
        If one of ``files`` cannot be imported, or no scheduler answers at the address.
    MissingExtraError
        If ``scheduler`` is given and Dask is not installed.
    """
    settings = settings or Settings()
    if isinstance(ids, str):
        raise InputError(f"ids={ids!r} must be a list of ids; give list_claims({ids!r}).")
    workers = Workers(jobs, scheduler)
    check_settings(settings)
    import_files(files)
    places = [str(Path(each).resolve()) for each in files]
    claims = [get(id) for id in ids]
    if not workers.here:
        _check_elsewhere(claims, places)
    verdicts: dict[str, Verdict] = {}
    found = run_tasks(
        _run,
        [(claim.id, settings, places) for claim in claims],
        jobs=jobs,
        scheduler=scheduler,
        lost=lambda index, why: _lost(claims[index].id, why),
    )
    for _, verdict in found:
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


def _run(id: str, settings: Settings, files: Sequence[str]) -> Verdict:
    # Also what comes before the claim: a worker that has not the file, say.
    found = caught(partial(run, id, settings, files))
    return _lost(id, found.message) if isinstance(found, Raised) else found


def _lost(id: str, why: str) -> Verdict:
    return Verdict(**told(get(id)), passed=False, error=why)


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
