"""The index of the stimuli: which images were shown, and where each is in the source."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import xarray as xr

from neuroattn.data.sessions import SessionReader
from neuroattn.errors import FileError, MismatchError
from neuroattn.io import atomic_path


def stimulus_index(reader: SessionReader, labels: xr.Dataset) -> Mapping[str, Sequence[str | int]]:
    """Return the stimulus index, if it lists the images of the presentations, each once."""
    columns = reader.stimuli()
    listed, shown = list(columns["image"]), set(labels["image"].values.tolist())
    if len(listed) != len(shown) or set(listed) != shown:
        raise MismatchError(
            f"the stimulus index of {type(reader).__name__} lists {len(listed)} images, "
            f"{len(shown)} were shown; needed is one line for each that was."
        )
    return columns


def write_stimuli(path: Path, columns: Mapping[str, Sequence[str | int]]) -> None:
    """Write the columns of a stimulus index as CSV."""
    with atomic_path(path) as beside, beside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def stimulus_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the lines of a stimulus index.

    Raises
    ------
    FileError
        If it is missing or has not the columns of one.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = csv.DictReader(stream)
            if not {"image", "file", "dataset", "index"} <= set(lines.fieldnames or ()):
                raise FileError(f"{path} has the columns {lines.fieldnames}, no stimulus index.")
            for line in lines:
                if None in line.values() or not re.fullmatch(r"-1|\d+", line["index"]):
                    raise FileError(
                        f"{path}, line {lines.line_num} is damaged: index {line['index']!r}; "
                        "needed is a whole number, and every column. Convert again."
                    )
                yield line
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} cannot be read: {error}. Convert again.") from error
