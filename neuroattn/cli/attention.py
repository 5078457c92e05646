"""``neuroattn attention list|show NAME|bench [NAME ...]``: the registry of mechanisms."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroattn.cli import capacity
from neuroattn.cli.parser import PlainParser
from neuroattn.errors import InputError
from neuroattn.names import check_name

if TYPE_CHECKING:
    from neuroattn.attention import Mechanism

LENGTHS = (256, 512, 1024, 2048, 4096)


def main(command: str, arguments: Sequence[str]) -> None:
    """List the mechanisms, show one, or measure some."""
    given = _parser().parse_args(list(arguments))
    {"list": _list, "show": _show, "bench": _bench}[given.action](given)


def _parser() -> PlainParser:
    parser = PlainParser(prog="neuroattn attention")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=PlainParser)
    listing = actions.add_parser("list", help="names, one a line")
    listing.add_argument("--family", help="only this family")
    listing.add_argument("--causal", action="store_true", help="only those with a causal form")
    listing.add_argument("--recurrent", action="store_true", help="only those with a state")
    actions.add_parser("show", help="what is known of one").add_argument("name")
    bench = actions.add_parser("bench", help="time and memory by length, or --capacity")
    bench.add_argument("names", nargs="*", metavar="NAME", help="all by default")
    bench.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), metavar="N")
    bench.add_argument("--form", default="auto", help="only this form")
    bench.add_argument("--backend", default="auto", help="only this backend")
    bench.add_argument("--dim", type=int, default=64, help="width of a head (64)")
    bench.add_argument("--heads", type=int, default=1, help="number of heads (1)")
    bench.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    bench.add_argument("--dtype", default="float32", choices=("float16", "bfloat16", "float32"))
    bench.add_argument("--repeats", type=int, default=3, help="their median counts (3)")
    bench.add_argument("--no-memory", action="store_true", help="time only, twice as fast")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    capacity.add_options(bench)
    return parser


def _list(given: argparse.Namespace) -> None:
    from neuroattn.attention import get, list_mechanisms
    from neuroattn.attention.registry import FAMILIES

    if given.family is not None:
        check_name("--family", given.family, FAMILIES)
    names = list_mechanisms(given.family, given.causal or None, given.recurrent or None)
    for name in names:
        print(f"{name:<20} {textwrap.shorten(get(name).summary, 79, placeholder=' …')}")


def _show(given: argparse.Namespace) -> None:
    from neuroattn.attention import get
    from neuroattn.attention.describe import facts, parameters

    spec = get(given.name)
    for label, words in facts(spec).items():
        print(textwrap.fill(words, 100, initial_indent=f"{label:<18}", subsequent_indent=" " * 18))
    for name, default, allowed, sentence in parameters(spec):
        text = f"{name} = {default}: {sentence} ({allowed})"
        print(
            textwrap.fill(
                text, 100, initial_indent="parameter         ", subsequent_indent=" " * 20
            )
        )
    for law in spec.laws.values():
        print(
            textwrap.fill(law, 100, initial_indent="law               ", subsequent_indent=" " * 20)
        )


def _fits(spec: Mechanism, form: str, backend: str) -> bool:
    """Say whether a mechanism has a form on a backend."""
    return any(form in ("auto", run.form) and backend in ("auto", run.backend) for run in spec.runs)


def _bench(given: argparse.Namespace) -> None:
    if given.capacity:
        plain = _parser().parse_args(["bench"])
        of_time = ("lengths", "form", "dim", "heads", "repeats", "no_memory")
        for option in of_time:
            if getattr(given, option) != getattr(plain, option):
                name = option.replace("_", "-")
                raise InputError(f"--{name} is of time and memory; --capacity has --dims.")
        capacity.main(given)
        return
    if given.dims is not None or given.figure is not None:
        raise InputError("--dims and --figure are of --capacity; time has --dim and no figure.")
    _time(given)


def _time(given: argparse.Namespace) -> None:
    # Torch's profiler would announce every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import torch
    from rich.console import Console
    from rich.progress import track

    from neuroattn.attention import get, list_mechanisms
    from neuroattn.attention.backends import BACKENDS
    from neuroattn.attention.bench import measure
    from neuroattn.attention.describe import FORMS
    from neuroattn.io import write_json

    for option in ("dim", "heads", "repeats"):
        if getattr(given, option) < 1:
            raise InputError(f"--{option}={getattr(given, option)} must be at least 1.")
    if min(given.lengths) < 1:
        raise InputError(f"--lengths={given.lengths} must be positive numbers of tokens.")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device=cuda: torch sees no CUDA device here; use --device=cpu.")
    names = given.names or list_mechanisms()
    check_name("--form", given.form, ("auto", *FORMS))
    check_name("--backend", given.backend, ("auto", *BACKENDS))
    for name in names:
        get(name)
    lengths = sorted(set(given.lengths))
    columns = "".join(f"{n:>10,}" for n in lengths)
    print(f"{'ms by number of tokens':<34}{columns}{'slope':>8}{'peak MB':>10}{'slope':>7}")
    rows = []
    progress = Console(stderr=True)
    quiet = not progress.is_terminal
    if not given.names:
        names = [name for name in names if _fits(get(name), given.form, given.backend)]
    for name in track(names, "measuring", console=progress, transient=True, disable=quiet):
        for row in measure(
            name,
            lengths,
            form=given.form,
            backend=given.backend,
            dim=given.dim,
            heads=given.heads,
            device=given.device,
            dtype=getattr(torch, given.dtype),
            repeats=given.repeats,
            memory=not given.no_memory,
        ):
            rows.append(row.as_dict())
            times = "".join(f"{1000 * each:>10.2f}" for each in row.seconds)
            times += " " * (10 * (len(lengths) - len(row.seconds)))
            peak = (
                f"{max(row.peak_bytes) / 1e6:>10.1f}{row.memory_slope:>7.2f}"
                if row.peak_bytes
                else ""
            )
            label = f"{row.name} {row.form}/{row.backend}"
            slope = f"{row.slope:>8.2f}" if row.slope == row.slope else f"{'–':>8}"
            print(f"{label:<34}{times}{slope}{peak}", flush=True)
    if given.json is not None:
        write_json(given.json, {"rows": rows})
        print(given.json)
