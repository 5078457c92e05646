"""From the events file of a run to its trials: what gets a response of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuroattn.data.bids.layout import check_filled
from neuroattn.data.tables import numbers, read_table
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.names import check_name

OTHERS = ("model", "ignore")
_MISSING = ("", "n/a")


@dataclass(frozen=True)
class Trial:
    """One trial, or one event that is no trial.

    Parameters
    ----------
    onset : float
        Seconds from the start of the run.
    duration : float
        Seconds.
    columns : mapping of str to str
        The cells of its (first) row in the events file.
    events : int
        How many rows it was merged from.
    """

    onset: float
    duration: float
    columns: Mapping[str, str]
    events: int = 1

    @property
    def kind(self) -> str:
        """The trial type; "" where the events have none."""
        return self.columns.get("trial_type", "")


@dataclass(frozen=True)
class Trials:
    """How the rows of an events file become trials, and trials images.

    Parameters
    ----------
    merge : float, optional
        Consecutive rows of one trial type with less than so many seconds from the end of one to
        the onset of the next are one trial: a block whose images stand in rows of their own.
    image : str
        What the image of a trial is: "trial" (each trial is its own image, with an id of subject,
        run and number), "trial_type", "stim_file", or another column of the events.
    types : sequence of str, optional
        The trial types that are trials; left out, all.
    others : {"model", "ignore"}
        Rows of other types are a regressor each type, or are left out of the model (a rest that
        is the baseline).
    end_margin : float, optional
        Trials that begin later than so many seconds before the end of the run are left out.
        Without it one that begins after the end is an error.
    repeats : str, optional
        A column, such as "trial_type": trials with the same entry count as repeats of one
        condition in the estimate of ``ncsnr``. Left out, repeats are of the image.
    """

    merge: float | None = None
    image: str = "trial"
    types: Sequence[str] | None = None
    others: str = "model"
    end_margin: float | None = None
    repeats: str | None = None


def read_trials(path: Path, options: Trials, end: float) -> tuple[list[Trial], list[Trial]]:
    """Return the trials of a run, and the other events that its model holds, by onset.

    Parameters
    ----------
    path : Path
        The events file.
    options : Trials
        How rows become trials.
    end : float
        Seconds from the start to the end of the run.

    Raises
    ------
    FileError
        If the file is missing, empty, or lacks a column; if an onset or duration is no number.
    MismatchError
        If an event begins after the end of the run.
    InputError
        If no trial is left, or an option is none of those allowed.
    """
    check_name("trials.others", options.others, OTHERS)
    rows = _rows(path)
    _require(rows, options, path)
    if options.end_margin is None:
        late = [row for row in rows if row.onset >= end]
        if late:
            raise MismatchError(
                f"events {path}: {len(late)} of {len(rows)} begin after the end of the run, "
                f"{end:.4g} s (the first at {late[0].onset:.4g} s). They belong to another run, or "
                "the scan was stopped: trials.end_margin=0 leaves them out."
            )
    wanted = [row for row in rows if options.types is None or row.kind in options.types]
    rest = [row for row in rows if options.types is not None and row.kind not in options.types]
    trials = wanted if options.merge is None else _merged(rows, wanted, options.merge)
    last = np.inf if options.end_margin is None else end - options.end_margin
    trials = [trial for trial in trials if trial.onset < last]
    if not trials:
        kinds = sorted({row.kind for row in rows})
        raise InputError(
            f"events {path}: no trial is left of {len(rows)} rows (trial types {kinds}; "
            f"trials.types={options.types}, trials.end_margin={options.end_margin})."
        )
    modelled = [row for row in rest if options.others == "model" and row.onset < end]
    return trials, modelled


def image_ids(trials: Sequence[Trial], options: Trials, prefix: str, path: Path) -> list[str]:
    """Return the image of each trial.

    Parameters
    ----------
    trials : sequence of Trial
        Of one run.
    options : Trials
        Its ``image`` says what is taken.
    prefix : str
        Subject and run, which ids of trials begin with.
    path : Path
        The events file, for the message.

    Raises
    ------
    FileError
        If a trial has no entry.
    """
    if options.image == "trial":
        return [f"{prefix}_trial-{number:03d}" for number in range(1, len(trials) + 1)]
    ids = [trial.columns[options.image] for trial in trials]
    if any(name in _MISSING for name in ids):
        where = next(t for t, name in zip(trials, ids, strict=True) if name in _MISSING)
        raise FileError(
            f"events {path}: the trial at {where.onset:.4g} s has no {options.image}; name the "
            "trials in trials.types, or choose another column as trials.image."
        )
    return ids


def _rows(path: Path) -> list[Trial]:
    table = read_table(check_filled(path, "events"))
    for column in ("onset", "duration"):
        if column not in table:
            raise FileError(f"events {path} has the columns {list(table)}; {column} is missing.")
    onset = numbers(table["onset"], "onset", path)
    # BIDS writes n/a for a duration that nobody noted: an impulse.
    length = ["0" if cell == "n/a" else cell for cell in table["duration"]]
    duration = numbers(length, "duration", path)
    bad = np.flatnonzero(~np.isfinite(onset) | ~(duration >= 0))
    if bad.size:
        row = int(bad[0])
        raise FileError(
            f"events {path}, data row {row + 1}: onset {table['onset'][row]!r}, duration "
            f"{table['duration'][row]!r}; needed: a number, and one of 0 or more."
        )
    cells = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    order = np.argsort(onset, kind="stable")
    return [Trial(float(onset[n]), float(duration[n]), cells[n]) for n in order]


def _require(rows: list[Trial], options: Trials, path: Path) -> None:
    have = rows[0].columns
    wanted = {"trials.repeats": options.repeats}
    if options.image != "trial":
        wanted["trials.image"] = options.image
    if options.merge is not None:
        wanted["trials.merge"] = "trial_type"
    if options.types is not None:
        wanted["trials.types"] = "trial_type"
    for argument, column in wanted.items():
        if column is not None and column not in have:
            raise InputError(
                f"{argument} needs the column {column!r}, which events {path} lacks; it has "
                f"{', '.join(have)}."
            )
    unknown = set(options.types or ()) - {row.kind for row in rows}
    if unknown and not set(options.types or ()) & {row.kind for row in rows}:
        raise InputError(
            f"trials.types={sorted(unknown)}: events {path} has none of them, but "
            f"{sorted({row.kind for row in rows})}."
        )


def _merged(rows: list[Trial], wanted: list[Trial], gap: float) -> list[Trial]:
    """Join neighbours of one type; a row of another type between two keeps them apart."""
    chosen = {id(row) for row in wanted}
    blocks: list[list[Trial]] = []
    before: Trial | None = None
    for row in rows:
        if id(row) in chosen:
            joins = before is not None and id(before) in chosen and row.kind == before.kind
            if joins and row.onset - max(r.onset + r.duration for r in blocks[-1]) < gap:
                blocks[-1].append(row)
            else:
                blocks.append([row])
        before = row
    return [
        Trial(
            block[0].onset,
            max(row.onset + row.duration for row in block) - block[0].onset,
            block[0].columns,
            len(block),
        )
        for block in blocks
    ]
