"""``neuroattn attention bench --capacity``: how many associations each mechanism holds."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroattn.errors import InputError

if TYPE_CHECKING:
    from neuroattn.theory import Settings
    from neuroattn.theory.capacity import Capacity, Exponent

DIMS = (16, 32, 64, 128, 256)


def add_options(bench: argparse.ArgumentParser) -> None:
    """Add the options of ``--capacity`` to those of ``bench``."""
    group = bench.add_argument_group("capacity")
    group.add_argument(
        "--capacity", action="store_true", help="how many associations it holds, instead of time"
    )
    group.add_argument("--dims", type=int, nargs="+", metavar="D", help="widths (16 to 256)")
    group.add_argument("--law", default="sphere", help="of keys: sphere, gaussian, rademacher")
    group.add_argument("--snr", type=float, default=1.0, help="the criterion (1)")
    group.add_argument("--noise", type=float, default=0.0, help="of the query (0)")
    group.add_argument("--draws", type=int, default=64, help="lists of associations (64)")
    group.add_argument("--largest", type=int, metavar="N", help="associations tried at most (4096)")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--figure", type=Path, metavar="FILE", help="write a PNG there too")


def main(given: argparse.Namespace) -> None:
    """Measure, print the tables, and write what is asked for."""
    from rich.console import Console
    from rich.progress import track

    from neuroattn.attention import list_mechanisms
    from neuroattn.io import atomic_path, write_json
    from neuroattn.theory.capacity import CASES, exponent, table
    from neuroattn.theory.lab import Settings
    from neuroattn.theory.verification import check_settings

    names = list(dict.fromkeys(given.names)) or list_mechanisms()
    dims = sorted(set(given.dims or DIMS))
    if dims[0] < 1:
        raise InputError(f"--dims={dims} must be widths of at least 1.")
    settings = Settings(given.device, given.dtype, given.backend, given.seed)
    check_settings(settings)
    options = {name: getattr(given, name) for name in ("snr", "law", "noise", "draws")}
    if given.largest is not None:
        options["largest"] = given.largest
    console = Console(stderr=True)
    start = time.perf_counter()
    found = list(
        track(
            table(names, dims, settings=settings, **options),
            "measuring",
            total=len(dims) * len(names) * len(CASES),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    )
    seconds = time.perf_counter() - start
    of = {
        (name, case): [each for each in found if (each.mechanism, each.case) == (name, case)]
        for case in CASES
        for name in names
    }
    fits = {key: exponent(several) for key, several in of.items()}
    for case in CASES:
        _print_case(case, dims, {n: (of[n, case], fits[n, case]) for n in names})
    _print_notes(found)
    print(f"{seconds:.0f} s")
    if given.json is not None:
        rows = [each.as_dict() for each in found]
        fitted = [each.as_dict() for each in fits.values()]
        facts = {**_facts(settings), **options, "seconds": round(seconds, 1)}
        write_json(given.json, {"facts": facts, "rows": rows, "exponents": fitted})
        print(given.json)
    if given.figure is not None:
        from neuroattn.report import capacity_figure, png

        drawn = png(capacity_figure(found))
        with atomic_path(given.figure) as beside:
            beside.write_bytes(drawn)
        print(given.figure)


def _facts(settings: Settings) -> dict[str, object]:
    import platform
    from dataclasses import asdict

    import torch

    from neuroattn import __version__

    cuda = settings.device.startswith("cuda")
    name = torch.cuda.get_device_name(settings.device) if cuda else platform.machine()
    versions = {"neuroattn": __version__, "torch": torch.__version__}
    return {**asdict(settings), "device_name": name, **versions}


def _print_case(
    case: str, dims: Sequence[int], rows: dict[str, tuple[list[Capacity], Exponent]]
) -> None:
    columns = "".join(f"{f'dim {dim}':>22}" for dim in dims)
    print(f"{f'associations, {case} case':<28}{columns}{'exponent':>16}")
    for name, (found, fit) in rows.items():
        if any(each.capacity is not None for each in found):
            cells = "".join(f"{cell(each):>22}" for each in found)
            print(f"{name:<28}{cells}{power(fit):>16}")
    print()


def cell(found: Capacity) -> str:
    """Return a capacity and its interval; ≥ where retrieval held at the largest tried."""
    if found.capacity is None:
        return "–"
    if found.censored:
        return f"≥{found.capacity:,}"
    high = "…" if found.high is None else f"{found.high:,}"
    return f"{found.capacity:,} [{found.low:,}, {high}]"


def power(fit: Exponent) -> str:
    """Return a fitted exponent and its standard error, marked where it is no power law."""
    if fit.exponent is None or fit.error is None:
        return "–"
    return f"{fit.exponent:.2f} ± {fit.error:.2f}{'*' if (fit.misfit or 0) > 3 else ''}"


def _print_notes(found: Sequence[Capacity]) -> None:
    taken: dict[str, str] = {}
    refused: dict[str, list[str]] = {}
    for each in found:
        if each.reason:
            refused.setdefault(f"{each.mechanism} {each.reason}", []).append(each.case)
        elif each.taken:
            taken[each.mechanism] = each.taken
    for name, words in taken.items():
        print(f"given: {name}: {words}.")
    for words, cases in refused.items():
        only = " (worst case)" if set(cases) == {"worst"} else ""
        print(f"not asked{only}: {words}.")
    print("[low, high]: confidence interval; ≥: still held at the largest number tried.")
    print("exponent: of capacity - 1 over dim; *: no power law, the error covers the misfit.")
