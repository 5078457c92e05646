"""Files: nothing is ever half-written, and nothing foreign is executed."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroattn.errors import FileError, NeuroattnError

if TYPE_CHECKING:
    import h5py
    import torch
    import xarray as xr

# git-annex leaves such a link or short text, "../.git/annex/objects/...", in place of content.
_POINTER = re.compile(rb"[./][\w./-]*annex/objects/")
_POINTER_BYTES = 1024


@contextmanager
def atomic_path(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Yield a sibling path to write to; on success it takes the place of ``path``, else it goes.

    Works for files and for directories (a directory replaces an existing one as a whole).

    Parameters
    ----------
    path : str or Path
        The final place. Its parent is created.
    sync : bool
        Wait until a file is on the disk; without, it is whole after a kill but may be lost in a
        power cut.

    Raises
    ------
    FileError
        When the operating system refuses (full disk, no permission); the old file stays.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _replace(beside, target, sync)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{target} could not be written ({error.strerror or error}); nothing was changed "
            "there. Free space or choose another folder, then run the same command again."
        ) from error
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        elif beside.exists():
            beside.unlink()


def _replace(beside: Path, target: Path, sync: bool) -> None:
    if beside.is_dir() and target.is_dir():
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
        os.replace(target, old)
        try:
            os.replace(beside, target)
        except OSError:
            os.replace(old, target)
            raise
        shutil.rmtree(old)
        return
    if sync and beside.is_file():
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
    os.replace(beside, target)


def write_json(path: str | Path, data: Any) -> None:
    """Write ``data`` as indented UTF-8 JSON, atomically; NaN is refused by ``json``."""
    with atomic_path(path) as beside:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        beside.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    FileError
        If it is missing or is not JSON; the message names file, line and column.
    """
    path = existing(path, "JSON file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path} is not valid JSON: {error}.") from error


def read_yaml(path: str | Path, what: str = "YAML file") -> Any:
    """Read a YAML file of plain data.

    Raises
    ------
    FileError
        If it is missing, a folder, or is not YAML; the message names file, line and column.
    """
    import yaml

    path = existing(path, what)
    if path.is_dir():
        raise FileError(f"{what} {path} is a folder; give a file.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise FileError(f"{what} {path} is not valid YAML: {reason}.") from error


def write_netcdf(path: str | Path, dataset: xr.Dataset, **options: Any) -> None:
    """Write a dataset as netCDF 4, atomically.

    The HDF5 library can crash the process when a disk fills up, so it writes to memory, and the
    bytes go to the disk by our own hand.

    Parameters
    ----------
    path : str or Path
        The final place.
    dataset : xarray.Dataset
        Held in memory once more while it is written.
    **options
        As for :meth:`xarray.Dataset.to_netcdf`.

    Raises
    ------
    FileError
        When the operating system refuses; an older file stays as it was.
    """
    with atomic_path(path) as beside:
        beside.write_bytes(dataset.to_netcdf(engine="h5netcdf", **options))


def read_netcdf(path: str | Path, what: str = "netCDF file") -> xr.Dataset:
    """Read a dataset that :func:`write_netcdf` wrote, whole into memory.

    Parameters
    ----------
    path : str or Path
        The file.
    what : str
        What messages call it.

    Raises
    ------
    FileError
        If it is missing or damaged; names the file.
    """
    import xarray as xr

    place = existing(path, what)
    try:
        return xr.load_dataset(place, engine="h5netcdf")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FileError(
            f"{what} {place} is not whole ({place.stat().st_size} bytes): {error}"
        ) from error


def existing(path: str | Path, what: str) -> Path:
    """Return ``path`` as a :class:`~pathlib.Path` if it is there.

    Raises
    ------
    FileError
        If it is not; the message names the nearest parent that exists, or the command that
        brings what a link of DataLad stands for.
    """
    path = Path(path)
    if path.exists():
        return path
    if path.is_symlink():
        raise FileError(f"{what} {path} is a link to a file that is not here: {_fetch(path)}.")
    parent = next((p for p in path.absolute().parents if p.exists()), Path("/"))
    raise FileError(f"{what} {path} does not exist (the path exists as far as {parent}).")


def _fetch(path: Path) -> str:
    return f"with git-annex or DataLad, run `datalad get {path}`; else copy the file itself"


@contextmanager
def open_hdf5(
    path: str | Path, what: str, advice: str = "Copy it again and compare sizes."
) -> Iterator[h5py.File]:
    """Yield an HDF5 file, open for reading; what is damaged is told when it is read, too.

    Parameters
    ----------
    path : str or Path
        The file.
    what : str
        What messages call it.
    advice : str
        What to do about a damaged file, a sentence.

    Raises
    ------
    FileError
        If it is missing, not fetched by git-annex or DataLad, truncated or not HDF5, or if
        something in the block cannot be read.
    """
    import h5py

    place = existing(path, what)
    size = place.stat().st_size
    try:
        if size < _POINTER_BYTES and _POINTER.match(place.read_bytes()):
            raise FileError(
                f"{what} {place} ({size} bytes) is a text in the place of content that was not "
                f"fetched: {_fetch(place)}."
            )
        with h5py.File(place, "r") as file:
            yield file
    except NeuroattnError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        raise FileError(
            f"{what} {place} ({size} bytes) is truncated or not HDF5: {error}. {advice}"
        ) from error


def check_own_values(dataset: Any, path: str | Path) -> None:
    """Refuse an HDF5 dataset whose values lie in another file.

    HDF5 has links to other files, datasets that are pieces of other files, and raw bytes of any
    file as values: a file that was sent could show what lies elsewhere on this machine.

    Parameters
    ----------
    dataset : h5py.Dataset
        As it was opened.
    path : str or Path
        The file that was asked for it.

    Raises
    ------
    FileError
        If its values lie elsewhere.
    """
    home = str(dataset.file.filename)
    foreign = os.path.realpath(home) != os.path.realpath(path)
    if foreign or dataset.is_virtual or dataset.external:
        raise FileError(
            f"{path}: the values of {dataset.name} lie in another file"
            f"{f' ({home})' if foreign else ''}; read are those of the file itself alone. Get a "
            "file that holds them."
        )


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write named tensors and string metadata as safetensors, atomically.

    Raises
    ------
    FileError
        When the operating system refuses (full disk, no permission); the old file stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as beside:
        try:
            save_file(plain, beside, metadata=dict(metadata))
        except SafetensorError as error:  # how safetensors tells a full disk
            raise OSError(str(error)) from error
        beside.chmod(0o644)  # safetensors writes for the owner alone


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors and metadata of a safetensors file.

    Raises
    ------
    FileError
        If it is missing, truncated or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    path = existing(path, "weights file")
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            return tensors, dict(handle.metadata() or {})
    except SafetensorError as error:
        size = path.stat().st_size
        raise FileError(
            f"{path} is not a whole safetensors file ({size} bytes): {error}. "
            "Copy it again, or load a checkpoint of the run instead."
        ) from error
