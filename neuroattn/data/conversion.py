"""From a published layout to a response set on disk: session by session, resumable, verified."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from filelock import FileLock, Timeout

from neuroattn.data.chunk_files import CHECKSUM, lazy_response, write_chunk
from neuroattn.data.conversion_plan import conversion_plan, require_same
from neuroattn.data.sessions import (
    Session,
    SessionReader,
    checked,
    rebatched,
    session_rows,
    with_response,
)
from neuroattn.data.split import Split
from neuroattn.data.stimulus_index import stimulus_index, write_stimuli
from neuroattn.data.storage import (
    check_zarr,
    chunk_shape,
    create_response,
    finish_zarr,
    open_response,
)
from neuroattn.data.transforms import add_ncsnr, zscore_block
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.io import atomic_path, read_json, write_json
from neuroattn.progress import ticker
from neuroattn.tasks import Workers, run_tasks

RESPONSES, STIMULI, SPLITS, RECORD = "responses.zarr", "stimuli.csv", "splits", "conversion.json"
_WORK = ".unfinished"


def convert(
    reader: SessionReader,
    out: str | Path,
    *,
    zscore: bool = False,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Write a published data set as a response set, a stimulus index and its splits.

    One session at a time is in memory, in blocks of voxels. A conversion that was killed goes on
    where it was when the same call comes again; one that is finished is verified: the sources have
    the same sizes and ends (64 KiB; what changed in the middle of a file is not seen), every file
    of ``out`` is as it was written, every number is read, and nothing is written.

    Parameters
    ----------
    reader : SessionReader
        Of a published layout, e.g. :class:`neuroattn.data.NSD`.
    out : str or Path
        A folder that is not there, empty, or of the same conversion. Nothing is written outside.
    zscore : bool
        Z-score each voxel within each session; by default responses keep the published unit and
        training does it, see :func:`neuroattn.data.prepare`.
    jobs : int
        Sessions converted at once, each in a process of its own.
    scheduler : str, optional
        Address of a Dask scheduler whose workers see the same files; the result is the same.
    progress : bool, optional
        Show a bar; by default where stderr is a terminal.

    Returns
    -------
    dict
        What ``conversion.json`` holds: ``reader``, ``options``, ``files``, ``sessions``,
        ``presentations``, ``images``, ``voxels``, ``ncsnr`` (its agreement with the map that the
        data set ships, where it does); and ``verified``: whether all was there already.

    Raises
    ------
    FileError
        If a file is missing, damaged or has changed since, or ``out`` holds something else.
    InputError, MismatchError
        If files do not belong together, or ``zscore`` is impossible.
    """
    Workers(jobs, scheduler)  # a mistake is told before anything is made
    place = _checked_place(Path(out), reader)
    plan = conversion_plan(reader, zscore)
    if (place / RECORD).exists():
        return _verified(place, plan, reader, progress)
    published = reader.labels()
    parts = reader.sessions()
    labels = _scaled_labels(published, parts) if zscore else published
    scale = labels.attrs["zscored"] != published.attrs["zscored"]
    rows = session_rows(parts)
    if (rows[-1].stop if rows else 0) != labels.sizes["presentation"]:
        raise MismatchError(
            f"{type(reader).__name__} has {labels.sizes['presentation']} presentations, its "
            f"{len(parts)} sessions {rows[-1].stop if rows else 0}."
        )
    # What is written last is asked for first: a mistake must not cost the hours between.
    index = stimulus_index(reader, labels), reader.splits()
    shape = labels.sizes["presentation"], labels.sizes["voxel"]
    chunks = chunk_shape(shape, [part.rows for part in parts])
    work = place / _WORK
    _begin(work, plan, shape, chunks)
    try:
        with FileLock(work / "lock", timeout=0):
            _convert_sessions(
                reader, place, parts, chunks[0], scale, Workers(jobs, scheduler), progress
            )
            return _finish(place, plan, reader, labels, *index)
    except Timeout as error:
        raise FileError(
            f"another conversion is writing to {place} now; wait for it, or choose another folder."
        ) from error


def _convert_sessions(
    reader: SessionReader,
    place: Path,
    parts: Sequence[Session],
    height: int,
    scale: bool,
    workers: Workers,
    progress: bool | None,
) -> None:
    """Convert the sessions that are not converted yet."""
    work, group, rows = place / _WORK, _group(place), session_rows(parts)
    done = [_is_done(work, index) for index in range(len(parts))]
    with ticker(len(parts), "sessions", progress, sum(done)) as tick:
        for wave in [range(len(parts))] if workers.here else _waves(rows, height):
            todo = [index for index in wave if not done[index]]
            shared = (reader, str(group.absolute()), scale)
            tasks = [(index, parts[index], rows[index]) for index in todo]
            for position, _ in run_tasks(
                _convert_session,
                tasks,
                shared=shared,
                jobs=workers.jobs,
                scheduler=workers.scheduler,
            ):
                write_json(_mark(work, todo[position]), {"rows": parts[todo[position]].rows})
                tick(1)


def _checked_place(out: Path, reader: SessionReader) -> Path:
    source = Path(str(getattr(reader, "path", "")))
    if source.exists() and out.exists() and source.resolve() == out.resolve():
        raise InputError(f"out={str(out)!r} is the source itself; give another folder.")
    if out.is_file():
        raise FileError(f"out={str(out)!r} is a file; give a folder.")
    known = {RESPONSES, STIMULI, SPLITS, RECORD, _WORK}
    if out.is_dir() and not (out / RECORD).exists() and not (out / _WORK).exists():
        foreign = sorted({each.name for each in out.iterdir()} - _half_written(out))
        if foreign:
            raise FileError(
                f"out={str(out)!r} holds {foreign[0]!r} and is no conversion; choose a new folder."
            )
    for name in known:
        if (out / name).is_symlink():
            raise FileError(
                f"{out / name} is a link; a conversion writes nothing outside its folder. "
                "Remove the link, or choose another folder."
            )
    return out


def _scaled_labels(labels: xr.Dataset, parts: Sequence[Session]) -> xr.Dataset:
    """Return the labels of responses that are z-scored part by part, if a part is a session."""
    if labels.attrs["zscored"] == "session":
        return labels
    named = labels["session"].values
    sessions = [set(named[rows].tolist()) for rows in session_rows(parts)]
    if any(len(each) > 1 for each in sessions) or len(set().union(*sessions)) < len(sessions):
        raise InputError(
            "zscore=True: this layout is read in parts that are not whole sessions. Leave it out: "
            "training z-scores within session, see neuroattn.data.prepare."
        )
    return labels.assign_attrs(zscored="session", units="z")


def _begin(
    work: Path, plan: Mapping[str, Any], shape: tuple[int, int], chunks: tuple[int, int]
) -> None:
    """Make the folder of an unfinished conversion, or see that it is of this one."""
    if work.exists():
        require_same(read_json(work / "plan.json"), plan, work)
        return
    with atomic_path(work) as beside:
        (beside / "done").mkdir(parents=True)
        write_json(beside / "plan.json", plan)
        create_response(beside / RESPONSES, shape, chunks)


def _group(place: Path) -> Path:
    """Return where the responses are: moved to their final name as the last but one step."""
    final = place / RESPONSES
    return final if final.exists() else place / _WORK / RESPONSES


def _mark(work: Path, index: int) -> Path:
    return work / "done" / f"{index:04d}.json"


def _is_done(work: Path, index: int) -> bool:
    return _mark(work, index).exists()


def _waves(rows: Sequence[slice], height: int) -> list[list[int]]:
    """Deal sessions so that no two of a wave write to the same chunk.

    Writing a part of a chunk reads and writes all of it, so two at once would lose rows.
    """
    waves: list[list[int]] = []
    last: list[int] = []
    for index, here in enumerate(rows):
        first, end = here.start // height, (here.stop - 1) // height
        for number, used in enumerate(last):
            if used < first:
                waves[number].append(index)
                last[number] = end
                break
        else:
            waves.append([index])
            last.append(end)
    return waves


def _convert_session(
    reader: SessionReader, group: str, scale: bool, index: int, part: Session, rows: slice
) -> None:
    """Write the rows of a session; done twice, the same bytes are there."""
    array = open_response(Path(group))
    height, width = array.chunks
    # Where a session is one row of chunks each chunk is written as it is, without a copy.
    alone = rows.start % height == 0 and part.rows == height
    column, pieces = 0, checked(reader.read(index), part, array.shape[1])
    for piece in rebatched(pieces, part.rows, width):
        infinite = np.isinf(piece)
        if infinite.any():
            row = int(np.flatnonzero(infinite.any(axis=1))[0])
            raise FileError(
                f"{part.name} ({part.files[0]}) holds infinity in presentation {row}; responses "
                "are finite or NaN."
            )
        values = zscore_block(piece)[0].astype(np.float32) if scale else piece
        if alone:
            write_chunk(Path(group) / "response", (rows.start // height, column // width), values)
        else:
            array[rows, column : column + piece.shape[1]] = values
        column += piece.shape[1]


def _finish(
    place: Path,
    plan: Mapping[str, Any],
    reader: SessionReader,
    labels: xr.Dataset,
    stimuli: Mapping[str, Sequence[str | int]],
    splits: Mapping[str, Split],
) -> dict[str, Any]:
    """Estimate the ceiling, write the labels, move all to its name; the record comes last."""
    group = _group(place)
    _require_all_chunks(group, place)
    whole = with_response(labels, lazy_response(group / "response"))
    images = np.unique(labels["image"].values)
    agreement: dict[str, float] = {}
    if len(images) < labels.sizes["presentation"]:
        estimated = add_ncsnr(whole)["ncsnr"]
        agreement = _agreement_with_shipped(reader, whole, estimated)
        if "ncsnr" not in labels:
            whole = whole.assign(ncsnr=estimated)
    finish_zarr(group, whole.drop_vars("response"))
    if group != place / RESPONSES:
        os.replace(group, place / RESPONSES)
    write_stimuli(place / STIMULI, stimuli)
    for name, split in splits.items():
        split.save(place / SPLITS / f"{name}.json")
    _remove_half_written(place)
    record = {
        **plan,
        "sessions": [{"name": part.name, "rows": part.rows} for part in reader.sessions()],
        "presentations": labels.sizes["presentation"],
        "images": len(images),
        "voxels": labels.sizes["voxel"],
        "ncsnr": agreement,
        "written": _written(place),
    }
    write_json(place / RECORD, record)
    shutil.rmtree(place / _WORK)
    return {**record, "verified": False}


def _require_all_chunks(group: Path, place: Path) -> None:
    """See that no chunk was lost between the day it was written and now."""
    array = open_response(group)
    for half_written in group.rglob("*.part*"):  # what a kill left behind
        half_written.unlink()
    whole = 4 * array.chunks[0] * array.chunks[1] + CHECKSUM
    blocks = (file for file in (group / "response" / "c").rglob("*") if file.is_file())
    there = sum(file.stat().st_size == whole for file in blocks)
    if there != array.nchunks:
        raise FileError(
            f"{group} holds {there} of {array.nchunks} blocks of {whole} bytes, though every "
            f"session was converted: files were lost, in a power cut perhaps. Remove "
            f"{place / _WORK} and convert again."
        )


def _half_written(place: Path) -> set[str]:
    """Return the names that a kill left in a folder, see :func:`neuroattn.io.atomic_path`."""
    names = (_WORK, STIMULI, RECORD)
    return {each.name for name in names for each in place.glob(f".{name}.????????.part")}


def _remove_half_written(place: Path) -> None:
    for name in _half_written(place):
        if (place / name).is_dir():
            shutil.rmtree(place / name)
        else:
            (place / name).unlink()
    for beside in (place / SPLITS).glob(".*.json.????????.part"):
        beside.unlink()


def _written(place: Path) -> dict[str, str]:
    """Return the digest of every file of a conversion but the responses, which have their own."""
    files = [place / STIMULI, *(place / SPLITS).glob("*.json"), *(place / RESPONSES).rglob("*")]
    values = place / RESPONSES / "response" / "c"
    return {
        file.relative_to(place).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
        if file.is_file() and not file.is_relative_to(values)
    }


def _agreement_with_shipped(
    reader: SessionReader, whole: xr.Dataset, estimated: xr.DataArray
) -> dict[str, float]:
    """Compare the ncsnr with the map that the data set ships, estimated as that was."""
    shipped = whole["ncsnr"].values if "ncsnr" in whole else reader.shipped_ncsnr()
    if shipped is None:
        return {}
    _, counts = np.unique(whole["image"].values, return_counts=True)
    repeats = reader.shipped_repeats
    if repeats in counts and not set(counts.tolist()) <= {1, repeats}:
        estimated = add_ncsnr(whole, repeats)["ncsnr"]
    return _agreement(estimated.values, shipped)


def _agreement(ours: Any, shipped: Any) -> dict[str, float]:
    """Compare the recomputed ncsnr with the map that the data set ships."""
    both = np.isfinite(ours) & np.isfinite(shipped)
    one, other = ours[both], shipped[both]
    varies = both.sum() > 1 and one.std() > 0 and other.std() > 0
    agreement = {"voxels": float(both.sum())}
    if varies:
        agreement["correlation"] = float(np.corrcoef(one, other)[0, 1])
    if both.any():
        agreement["median_absolute_difference"] = float(np.median(np.abs(one - other)))
    return agreement


def _verified(
    place: Path, plan: Mapping[str, Any], reader: SessionReader, progress: bool | None
) -> dict[str, Any]:
    record: dict[str, Any] = read_json(place / RECORD)
    require_same(record, plan, place)
    now = _written(place)
    for name, digest in record.get("written", {}).items():
        if now.get(name) != digest:
            raise FileError(
                f"{place / name} {'is another' if name in now else 'is not there'}, and not as it "
                f"was written: the conversion is damaged or not whole. Remove {place} and convert "
                "again."
            )
    if (place / _WORK).exists():  # killed after the record was written
        shutil.rmtree(place / _WORK)
    known = reader.labels()
    if record["zscore"]:
        known = _scaled_labels(known, reader.sessions())
    total = record["presentations"] * record["voxels"]
    with ticker(total, "verifying", progress) as tick:
        for count in check_zarr(place / RESPONSES, known):
            tick(count)
    return {**record, "verified": True}
