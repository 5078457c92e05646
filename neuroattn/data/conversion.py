"""From a published layout to a response set on disk: session by session, resumable, verified."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.chunk_files import lazy_response, write_chunk
from neuroattn.data.sessions import (
    Session,
    SessionReader,
    SourceFile,
    checked,
    rebatched,
    session_rows,
    with_response,
)
from neuroattn.data.split import Split
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
_VERSION = 1
_ENDS = 2**16


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
    plan = _plan(reader, zscore)
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
    index = _stimuli(reader, labels), reader.splits()
    shape = labels.sizes["presentation"], labels.sizes["voxel"]
    chunks = chunk_shape(shape, [part.rows for part in parts])
    work = place / _WORK
    _begin(work, plan, shape, chunks)
    group = _group(place)
    done = [_is_done(work, index) for index in range(len(parts))]
    with ticker(len(parts), "sessions", progress, sum(done)) as tick:
        alone = jobs == 1 and scheduler is None
        for wave in [range(len(parts))] if alone else _waves(rows, chunks[0]):
            todo = [index for index in wave if not done[index]]
            shared = (reader, str(group.absolute()), scale)
            tasks = [(index, parts[index], rows[index]) for index in todo]
            for position, _ in run_tasks(
                _convert_session, tasks, shared=shared, jobs=jobs, scheduler=scheduler
            ):
                write_json(_mark(work, todo[position]), {"rows": parts[todo[position]].rows})
                tick(1)
    return _finish(place, plan, reader, labels, *index)


def needed_files(reader: SessionReader) -> list[tuple[SourceFile, int | None]]:
    """Return the files that a conversion reads, each with its bytes, or None if it is missing."""
    return [(file, _bytes(file.path)) for file in reader.files()]


def _bytes(path: Path) -> int | None:
    if path.is_dir():
        return sum(size for _, size in _listed(path))
    return path.stat().st_size if path.is_file() else None


def _listed(folder: Path) -> list[tuple[str, int]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return sorted((file.relative_to(folder).as_posix(), file.stat().st_size) for file in files)


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


def _plan(reader: SessionReader, zscore: bool) -> dict[str, Any]:
    """Return what decides the result: reader, options, and what the source files are."""
    files = needed_files(reader)
    missing = [file for file, size in files if size is None and file.required]
    if missing:
        listed = "; ".join(f"{file.path} ({file.what})" for file in missing[:5])
        raise FileError(
            f"{len(missing)} of {len(files)} files are missing: {listed}"
            f"{' …' if len(missing) > 5 else ''}. List all of them with --dry-run."
        )
    kind = type(reader)
    return {
        "version": _VERSION,
        "reader": f"{kind.__module__}.{kind.__qualname__}",
        "options": _anywhere(reader.options()),
        "zscore": zscore,
        "files": [
            {"path": _relative(file.path, reader), "what": file.what, "bytes": size, **_ends(file)}
            for file, size in files
            if size is not None
        ],
    }


def _anywhere(options: dict[str, Any]) -> dict[str, Any]:
    """Name the source so that its images are found from another folder, too."""
    given = options.get("path")
    return {**options, "path": os.path.abspath(given)} if isinstance(given, str) else options


def _relative(path: Path, reader: SessionReader) -> str:
    source = Path(str(getattr(reader, "path", ".")))
    return path.relative_to(source).as_posix() if path.is_relative_to(source) else str(path)


def _ends(file: SourceFile) -> dict[str, str]:
    """Tell a file by its first and last 64 KiB: dates change when data are copied."""
    if file.path.is_dir():
        return {"sha256_of_names": hashlib.sha256(repr(_listed(file.path)).encode()).hexdigest()}
    with file.path.open("rb") as stream:
        digest = hashlib.sha256(stream.read(_ENDS))
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _ENDS))
        digest.update(stream.read())
    return {"sha256_of_ends": digest.hexdigest()}


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
        _require_same(read_json(work / "plan.json"), plan, work)
        return
    with atomic_path(work) as beside:
        (beside / "done").mkdir(parents=True)
        write_json(beside / "plan.json", plan)
        create_response(beside / RESPONSES, shape, chunks)


def _require_same(before: Any, now: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on with, or to verify, what came from other options or other files."""
    if not isinstance(before, dict) or not now.keys() <= before.keys():
        raise FileError(f"the record of {where} is not one of a conversion; convert again.")
    for key in ("version", "reader", "zscore"):
        if before[key] != now[key]:
            raise FileError(
                f"{where} is of a conversion with {key}={before[key]!r}, now it is {now[key]!r}; "
                "choose another folder, or remove this one."
            )
    for name in sorted({*before["options"], *now["options"]} - {"path"}):
        old, new = before["options"].get(name), now["options"].get(name)
        if old != new:
            raise FileError(
                f"{where} is of a conversion with {name}={old!r}, now it is {new!r}; choose "
                "another folder, or remove this one."
            )
    files = {file["path"]: file for file in before["files"]}
    for file in now["files"]:
        old = files.pop(file["path"], None)
        if old != file:
            found = "is new" if old is None else f"had {old['bytes']} bytes, has {file['bytes']}"
            raise FileError(
                f"{file['path']} ({file['what']}) {found} or another content since the conversion "
                f"in {where}. Put the file back, or convert into another folder."
            )
    if files:
        raise FileError(f"{next(iter(files))} is gone since the conversion in {where}.")


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
        shipped = labels["ncsnr"].values if "ncsnr" in labels else _shipped(reader)
        agreement = {} if shipped is None else _agreement(estimated.values, shipped)
        if "ncsnr" not in labels:
            whole = whole.assign(ncsnr=estimated)
    finish_zarr(group, whole.drop_vars("response"))
    if group != place / RESPONSES:
        os.replace(group, place / RESPONSES)
    _write_stimuli(place / STIMULI, stimuli)
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
    there = sum(file.is_file() for file in (group / "response" / "c").rglob("*"))
    if there != array.nchunks:
        raise FileError(
            f"{group} holds {there} of {array.nchunks} blocks, though every session was converted: "
            f"files were removed or lost. Remove {place / _WORK} and convert again."
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


def _shipped(reader: SessionReader) -> NDArray[np.float64] | None:
    """Return the ncsnr that a data set ships beside its responses, where its reader knows it."""
    found = getattr(reader, "shipped_ncsnr", None)
    shipped: NDArray[np.float64] | None = None if found is None else found()
    return shipped


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


def _stimuli(reader: SessionReader, labels: xr.Dataset) -> Mapping[str, Sequence[str | int]]:
    """Return the stimulus index, if it lists the images of the presentations, each once."""
    columns = reader.stimuli()
    listed, shown = list(columns["image"]), set(labels["image"].values.tolist())
    if len(listed) != len(shown) or set(listed) != shown:
        raise MismatchError(
            f"the stimulus index of {type(reader).__name__} lists {len(listed)} images, "
            f"{len(shown)} were shown; needed is one line for each that was."
        )
    return columns


def _write_stimuli(path: Path, columns: Mapping[str, Sequence[str | int]]) -> None:
    with atomic_path(path) as beside, beside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _verified(
    place: Path, plan: Mapping[str, Any], reader: SessionReader, progress: bool | None
) -> dict[str, Any]:
    record: dict[str, Any] = read_json(place / RECORD)
    _require_same(record, plan, place)
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
