"""What decides the result of a conversion: reader, options, and what the source files are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroattn.data.sessions import SessionReader, SourceFile
from neuroattn.errors import FileError
from neuroattn.io import existing

_VERSION = 1
_ENDS = 2**16


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


def conversion_plan(reader: SessionReader, zscore: bool) -> dict[str, Any]:
    """Return what decides the result: reader, options, and what the source files are."""
    if isinstance(source := getattr(reader, "path", None), str):
        existing(source, "source")
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


def require_same(before: Any, now: Mapping[str, Any], where: Path) -> None:
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
