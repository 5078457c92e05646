"""``neuroattn score|report|maps RUN``: tables, pages and maps of a run that is there."""

from __future__ import annotations

from collections.abc import Sequence

from neuroattn.cli.finish import (
    read_encoder,
    read_scores,
    write_brain_maps,
    write_presentation,
)
from neuroattn.cli.parser import PlainParser
from neuroattn.io import existing, read_json
from neuroattn.report.brain_maps import FORMATS
from neuroattn.training.run_directory import RunDirectory


def main(command: str, arguments: Sequence[str]) -> None:
    """Run ``neuroattn score``, ``report`` or ``maps``."""
    parser = PlainParser(prog=f"neuroattn {command}")
    parser.add_argument("run", help="a run directory")
    if command == "score":
        parser.add_argument("--csv", help="also write the table as CSV to this path")
    if command == "report":
        parser.add_argument("--title", help="by default as when the run was finished")
    if command == "maps":
        parser.add_argument(
            "--format",
            nargs="+",
            choices=FORMATS,
            metavar="FORMAT",
            help=f"any of {', '.join(FORMATS)}; by default all that the voxels allow",
        )
    given = parser.parse_args(list(arguments))
    run = RunDirectory(existing(given.run, "run directory"))
    if command == "score":
        _score(run, given.csv)
    elif command == "report":
        known = read_json(run.manifest) if run.manifest.exists() else {}
        title = str(known.get("title", "Encoders of the visual brain"))
        write_presentation(run, given.title or title)
        print(f"report: {run.report}")
    else:
        score = list(read_scores(run).values())[-1]
        for path in write_brain_maps(run, read_encoder(run), score, given.format):
            print(path)


def _score(run: RunDirectory, csv: str | None) -> None:
    from neuroattn.io import atomic_path
    from neuroattn.report import print_table, summary_table

    table = summary_table(read_scores(run))
    print_table(table)
    if csv:
        with atomic_path(csv) as beside:
            table.to_csv(beside)
        print(f"table: {csv}")
