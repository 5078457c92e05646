"""``neuroattn convert DATASET SOURCE OUT``: a published layout becomes a response set."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from neuroattn.cli.class_parser import ClassParser
from neuroattn.cli.messages import constructor_errors
from neuroattn.data.conversion import convert
from neuroattn.data.conversion_plan import needed_files
from neuroattn.data.sessions import SessionReader
from neuroattn.data.stimulus_index import stimulus_index
from neuroattn.errors import FileError, NeuroattnError
from neuroattn.names import check_name

#: Name on the command line: the reader, and what it reads.
DATASETS = {
    "algonauts2023": ("algonauts2023.Algonauts2023", "NSD as in the Algonauts 2023 challenge"),
    "bids": ("bids.BIDS", "a BIDS folder, raw or fMRIPrep: single-trial betas by GLM"),
    "bold5000": ("bold5000.BOLD5000", "BOLD5000, release 2 of the betas"),
    "cneuromod": ("cneuromod.CNeuroMod", "films, parcels: CNeuroMod as in Algonauts 2025"),
    "nsd": ("nsd.NSD", "the Natural Scenes Dataset: volumes and surfaces"),
    "nsd-synthetic": ("nsd.NSDSynthetic", "NSD's session of synthetic images"),
    "things": ("things.THINGS", "THINGS-fMRI: table of responses, or volumes"),
}


def main(command: str, arguments: Sequence[str]) -> None:
    """Convert, verify what is converted, or list the files that it takes.

    Raises
    ------
    InputError
        If the data set is unknown or an option does not fit.
    FileError
        If files are missing or damaged.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    name = check_name("DATASET", arguments[0], DATASETS)
    kind = reader_class(name)
    given = parser(name, kind).parse_args(with_lists(arguments[1:], kind))
    options = {key: given[key] for key in inspect.signature(kind).parameters if key != "path"}
    with constructor_errors():
        reader = kind(path=given.source, **options)  # type: ignore[call-arg]
    if given.dry_run:
        print_plan(reader, given)
        return
    record = convert(
        reader,
        given.out,
        zscore=given.zscore,
        jobs=given.jobs,
        scheduler=given.scheduler,
    )
    print_record(record, given.out)


def reader_class(name: str) -> type[SessionReader]:
    """Return the reader of a data set by its name on the command line."""
    module, _, kind = DATASETS[name][0].rpartition(".")
    found: type[SessionReader] = getattr(importlib.import_module(f"neuroattn.data.{module}"), kind)
    return found


def with_lists(arguments: Sequence[str], kind: type[SessionReader]) -> list[str]:
    """Return the arguments with several words of a list option joined: ``--roi V1 V2``."""
    lists, either = set[str](), set[str]()
    for name, parameter in inspect.signature(kind).parameters.items():
        outside, found = re.subn(r"\b(Sequence|list|tuple)\[[^]]*\]", "", str(parameter.annotation))
        if found:
            # A single word of ``int | Sequence[int]`` is the number, not a list of one.
            (either if re.search(r"\b(int|float|str)\b", outside) else lists).add(f"--{name}")
    made: list[str] = []
    words: list[str] | None = None
    for argument in [*arguments, "--"]:
        if argument.startswith("-") and words is not None:
            alone = len(words) == 1 and (words[0].startswith("[") or made[-1] in either)
            if words:
                made[-1] += f"={words[0] if alone else json.dumps(words)}"
            words = None
        if words is None:
            made.append(argument)
            words = [] if argument in lists | either else None
        else:
            words.append(argument)
    return made[:-1]


def parser(name: str, kind: type[SessionReader]) -> ClassParser:
    """Return the parser of a data set's options: those of its reader, and those of convert."""
    made = ClassParser(
        prog=f"neuroattn convert {name}",
        description=inspect.cleandoc(kind.__doc__ or "").splitlines()[0],
    )
    made.add_argument("source", type=str, metavar="SOURCE", help="folder of the published data")
    made.add_argument("out", type=str, metavar="OUT", help="folder to write; nothing else is")
    made.add_class_arguments(kind, skip={"path"}, as_group=False)
    made.add_argument("--jobs", type=int, default=1, help="sessions converted at once")
    made.add_argument("--scheduler", type=str, metavar="ADDRESS", help="of a Dask scheduler")
    made.add_argument("--zscore", action="store_true", help="z-score within session")
    made.add_argument("--dry-run", action="store_true", help="list files and sizes, write nothing")
    return made


def print_plan(reader: SessionReader, given: Namespace) -> None:
    """Print the files that a conversion reads, what is missing, and what it would write."""
    files = needed_files(reader)
    for file, size in files:
        state = "missing" if file.required else "not there, not needed"
        print(f"{state if size is None else _size(size):>21}  {file.path}  ({file.what})")
    there = [size for _, size in files if size is not None]
    missing = sum(size is None and file.required for file, size in files)
    print(f"{len(there)} files, {_size(sum(there))}; {missing} missing")
    if missing:
        return
    try:
        labels = reader.labels()
        stimulus_index(reader, labels)
    except NeuroattnError as error:
        raise FileError(f"the files do not fit together: {error}") from error
    rows, voxels = labels.sizes["presentation"], labels.sizes["voxel"]
    print(
        f"{rows} presentations of {len(set(labels['image'].values.tolist()))} images × {voxels} "
        f"voxels, {labels.sizes['roi']} ROIs: {_size(4 * rows * voxels)} in {given.out}"
    )


def print_record(record: dict[str, Any], out: str | Path) -> None:
    """Print what a conversion wrote or verified."""
    done = "verified, nothing written" if record["verified"] else "converted"
    print(
        f"{done}: {record['presentations']} presentations of {record['images']} images × "
        f"{record['voxels']} voxels in {out}"
    )
    if agreement := record["ncsnr"]:
        print(
            f"ncsnr against the map that the data set ships: "
            f"r = {agreement.get('correlation', float('nan')):.3f}, "
            f"median difference {agreement.get('median_absolute_difference', float('nan')):.4f}, "
            f"{agreement['voxels']:.0f} voxels"
        )
    kind = record["reader"].rpartition(".")[2]
    print(f"source: {{class_path: neuroattn.data.Converted, init_args: {{path: {out}}}}}  # {kind}")


def _usage() -> str:
    rows = [f"  {name:<15}{what}" for name, (_, what) in DATASETS.items()]
    explained = textwrap.fill(
        "A published layout becomes a response set (zarr) with a stimulus index and the published "
        "splits: session by session, resumable after a kill, verified when it is run again.",
        88,
    )
    return "\n".join(
        [
            "usage: neuroattn convert DATASET SOURCE OUT [--subject S] [options of the reader]",
            "                         [--jobs N] [--scheduler ADDRESS] [--zscore] [--dry-run]",
            "",
            explained,
            "",
            *rows,
            "",
            "`neuroattn convert DATASET --help` lists the options of a data set.",
        ]
    )


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
