"""``neuroattn verify [PATTERN ...]``: run claims; fail when one fails or a mutant survives."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroattn.cli.parser import PlainParser
from neuroattn.errors import FileError, InputError, RunExistsError
from neuroattn.names import check_name

if TYPE_CHECKING:
    from neuroattn.theory import Settings, Verdict

FORMATS = ("table", "json", "html")


def main(command: str, arguments: Sequence[str]) -> int:
    """Run the claims that match and print their verdicts; 1 if one fails, else 0.

    Raises
    ------
    InputError
        If no claim matches, or an option has an impossible value.
    RunExistsError, FileError
        If ``--out`` names a folder that holds something, or that cannot be made.
    """
    given = _parser().parse_args(list(arguments))
    if given.list and given.format != "table":
        raise InputError(f"--list prints names; it has no --format {given.format}.")
    check_name("--format", given.format, FORMATS)
    if given.out is not None:
        _check_out(given.out)
    from neuroattn.theory import Settings, get, list_claims
    from neuroattn.theory.claim_files import import_files
    from neuroattn.theory.verification import check_settings

    settings = Settings(given.device, given.dtype, given.backend, given.seed)
    check_settings(settings)
    import_files(given.claims)
    patterns = given.patterns or [None]
    found = dict.fromkeys(id for each in patterns for id in list_claims(each))
    if given.list:
        for id in found:
            slow = " (slow)" if get(id).slow else ""
            print(f"{id:<44} {get(id).finding:<10} {get(id).title}{slow}")
        return 0
    ids = [id for id in found if given.slow or not get(id).slow]
    if not ids:
        raise InputError(f"{', '.join(found)}: slow claims only; add --slow to run them.")
    finished: list[Verdict] = []
    try:
        _run(ids, settings, given, finished)
    finally:
        # Also after Ctrl-C: what was finished is told and kept.
        verdicts = sorted(finished, key=lambda each: ids.index(each.id))
        if verdicts:
            _tell(verdicts, settings, given)
        if len(verdicts) < len(ids):
            print(f"{len(ids) - len(verdicts)} of {len(ids)} claims not run.", file=sys.stderr)
    if all(each.passed is None for each in verdicts):
        raise InputError(f"nothing was held: {verdicts[0].id}: {verdicts[0].error}.")
    return 0 if all(each.ok for each in verdicts) else 1


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunExistsError(f"--out={out} is there already; name a new folder.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"--out={out} cannot be made: {error.strerror}.") from error
    if not os.access(out.parent, os.W_OK):
        raise FileError(f"--out={out}: no permission to write in {out.parent}.")


def _tell(verdicts: Sequence[Verdict], settings: Settings, given: argparse.Namespace) -> None:
    facts = _facts(settings, verdicts)
    if given.out is not None:
        from neuroattn.report.claims import write_verdicts

        write_verdicts(given.out, verdicts, facts)
    _print(verdicts, given.format, facts)
    if given.out is not None:
        print(f"verdicts, curves and report: {given.out}", file=sys.stderr)


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="neuroattn verify",
        description="Run claims of the attention literature, and their mutants. Exit code 1 when "
        "a claim fails or a mutant survives.",
    )
    parser.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help="families (sdm), ids of claims or patterns ('*.capacity*'); all by default",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:0")
    parser.add_argument("--dtype", default="float64", help="float64 (default), float32, bfloat16")
    parser.add_argument("--backend", default="auto", help="only this backend of the mechanisms")
    parser.add_argument("--seed", type=int, default=0, help="of every draw (0)")
    parser.add_argument("--slow", action="store_true", help="also those that train something")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=int, default=1, metavar="N", help="processes here (1)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler")
    parser.add_argument("--format", default="table", help=f"of what is printed: {FORMATS}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep verdicts, curves, a report")
    parser.add_argument(
        "--claims",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file that registers claims of your own; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="name the claims, run none")
    return parser


def _run(
    ids: Sequence[str], settings: Settings, given: argparse.Namespace, finished: list[Verdict]
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from neuroattn.theory.verification import verify

    # What is printed on stdout may be read by a program.
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("claims", total=len(ids))

        def seen(verdict: Verdict) -> None:
            finished.append(verdict)
            progress.update(task, advance=1, description=verdict.id)
            if not verdict.ok:
                console.print(f"{verdict.id}: {_word(verdict)}", style="red", highlight=False)

        verify(
            ids,
            settings,
            jobs=given.jobs,
            scheduler=given.scheduler,
            files=given.claims,
            seen=seen,
        )


def _word(verdict: Verdict) -> str:
    from neuroattn.report.claims import state

    return state(verdict) + (f" ({verdict.error})" if verdict.error else "")


def _facts(settings: Settings, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    from dataclasses import asdict

    import torch

    from neuroattn import __version__
    from neuroattn.training.manifest import git_revision, package_versions

    versions = package_versions()
    cuda = settings.device.startswith("cuda")
    return {
        **asdict(settings),
        "device_name": torch.cuda.get_device_name(settings.device) if cuda else "cpu",
        "neuroattn": __version__,
        "revision": git_revision(),
        "python": versions["python"],
        "torch": versions["torch"],
        "claims": len(verdicts),
        "seconds_of_claims": round(sum(each.seconds for each in verdicts), 1),
    }


def _print(verdicts: Sequence[Verdict], form: str, facts: dict[str, Any]) -> None:
    from neuroattn.report.claims import claims_page, headline, plain

    if form == "json":
        print(json.dumps(plain(verdicts), indent=2, ensure_ascii=False, allow_nan=False))
    elif form == "html":
        print(claims_page(verdicts, facts))
    else:
        for verdict in verdicts:
            _print_one(verdict)
        print(headline(verdicts))


def _print_one(verdict: Verdict) -> None:
    from neuroattn.report.claims import compact, state

    print(f"{verdict.id}  {state(verdict)}  {verdict.seconds:.1f} s")
    print(f"    {verdict.title}")
    print(f"    {verdict.paper}; {verdict.place}; {verdict.finding}")
    print(f"    {verdict.statement}")
    worst = verdict.worst
    if worst is not None:
        at = {key: compact(worst.at_worst(key)) for key in ("predicted", "measured", "error")}
        z = "" if worst.z is None else f", z {worst.at_worst('z'):.1f}"
        bound = compact(worst.at_worst("tolerance"))
        sign = {"=": "predicted", "<=": "at most", ">=": "at least"}[worst.relation]
        place = f" at {worst.where}" if worst.where else ""
        entries = sum(each.error.size for each in verdict.comparisons)
        print(
            f"    {sign} {at['predicted']}, measured {at['measured']}, error {at['error']} of "
            f"{bound} allowed{z}: {worst.name}{place}"
            + (f" (the worst of {entries})" if entries > 1 else "")
        )
    if verdict.proved is not None:
        checked = sum(step.checked for step in verdict.steps)
        print(f"    proof {'holds' if verdict.proved else 'FAILED'}, {checked} steps checked")
    if verdict.error:
        print(f"    {verdict.error}")
    for mutant in verdict.mutants:
        fate = "killed" if mutant.killed else f"SURVIVES: {mutant.by}"
        print(f"    mutant {fate}: {mutant.name}")
