"""What every benchmark shares: facts of the machine, paired runs, peak memory, a result file."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from neuroattn.errors import NeuroattnError
from neuroattn.io import write_json

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "himalaya", "pytorch-lightning", "xarray")


class GateError(NeuroattnError):
    """The correctness check of a benchmark failed; no timing is written."""


def gate(name: str, holds: bool, found: object) -> None:
    """Go on only if a correctness check holds.

    Raises
    ------
    GateError
        If it does not; names the check and what was found.
    """
    if not holds:
        raise GateError(f"gate {name!r} failed: {found}. No timing was written.")


def machine_facts() -> dict[str, Any]:
    """Return processor, cores, threads, memory (GiB), load and versions."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "memory_gib": round(memory, 1),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def paired_runs(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> tuple[dict[str, Any], Any, Any]:
    """Time two callables in turn, so that a change of the machine's load meets both.

    Returns
    -------
    timing : dict
        ``ours_s`` and ``theirs_s`` (medians, seconds), ``ratio`` (median over pairs of theirs /
        ours: how many times faster ours is), ``cpu_ratio`` (the same of the processor time of
        this process, which other processes disturb less), ``runs`` (each pair's seconds).
    ours_result, theirs_result
        What the last calls returned.
    """
    runs = []
    first = second = None
    for _ in range(repeats):
        clocks = [_clocks()]
        first = ours()
        clocks.append(_clocks())
        second = theirs()
        clocks.append(_clocks())
        wall, cpu = (
            [after - before for before, after in pairwise(c)] for c in zip(*clocks, strict=True)
        )
        names = ("ours_s", "theirs_s", "ours_cpu_s", "theirs_cpu_s")
        runs.append(dict(zip(names, (*wall, *cpu), strict=True)))
    timing = {
        "ours_s": statistics.median(run["ours_s"] for run in runs),
        "theirs_s": statistics.median(run["theirs_s"] for run in runs),
        "ratio": statistics.median(run["theirs_s"] / run["ours_s"] for run in runs),
        "cpu_ratio": statistics.median(run["theirs_cpu_s"] / run["ours_cpu_s"] for run in runs),
        "runs": runs,
    }
    return timing, first, second


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def peak_memory(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the peak resident memory, in bytes, of a fresh process that makes one call.

    Parameters
    ----------
    function : callable
        Of a module's top level; its arguments are plain data.

    Raises
    ------
    GateError
        If the process fails; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        peak = int(receiver.recv())
    except EOFError as error:
        process.join()
        raise GateError(
            f"{function.__name__} ended with exit code {process.exitcode} in its own process."
        ) from error
    process.join()
    return peak


def _measured(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    function(*arguments)
    sender.send(_peak())


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss also counts the parent as it was at the fork; this line does not.
        line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_result(name: str, payload: dict[str, Any], out: str | Path = RESULTS) -> Path:
    """Write ``payload`` and the machine's facts to ``out/name.json`` and return the path."""
    path = Path(out) / f"{name}.json"
    write_json(path, {"benchmark": name, "machine": machine_facts(), **payload})
    return path


@dataclass(frozen=True)
class Target:
    """A number that a benchmark is to reach, and what was found."""

    what: str
    found: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return (self.least is None or self.found >= self.least) and (
            self.most is None or self.found <= self.most
        )

    def __str__(self) -> str:
        bound = f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"
        return f"{'met   ' if self.met else 'MISSED'} {self.what}: {self.found:.3g} ({bound})"


def options(description: str | None) -> argparse.Namespace:
    """Return ``quick``, ``repeats`` and ``out`` of the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, some seconds")
    parser.add_argument("--repeats", type=int, default=5, help="paired runs, their median counts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def conclude(
    name: str, payload: dict[str, Any], targets: Sequence[Target], chosen: argparse.Namespace
) -> None:
    """Write the result, a quick run's beside the full one's, and print targets and verdicts."""
    told = [{**asdict(target), "met": target.met} for target in targets]
    size = "quick" if chosen.quick else "full"
    full_name = name if size == "full" else f"{name}_quick"
    path = write_result(full_name, {"run": size, "targets": told, **payload}, chosen.out)
    if chosen.quick:
        print("a quick run; the targets are those of the full size")
    print(*targets, path, sep="\n")


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; a failed correctness check ends it with exit code 1."""
    try:
        main()
    except GateError as error:
        sys.exit(f"error: {error}")
