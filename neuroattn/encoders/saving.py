"""An encoder on disk: weights.safetensors, voxels.nc and config.json, without pickle."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from neuroattn import __version__
from neuroattn.data.rules import as_text
from neuroattn.errors import FileError, InputError, MismatchError, RunExistsError
from neuroattn.io import (
    existing,
    read_json,
    read_tensors,
    write_json,
    write_netcdf,
    write_tensors,
)

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS, VOXELS = "config.json", "weights.safetensors", "voxels.nc"
_ATTRS = "neuroattn_attributes"
_KEYS = ("class", "version", "parameters", "features", "state", "tensors")


def write_encoder(
    directory: str | Path,
    tensors: Mapping[str, torch.Tensor],
    voxels: xr.Dataset,
    config: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write an encoder; ``config.json`` comes last, so its presence says that all is there.

    Raises
    ------
    RunExistsError
        If an encoder is there and ``overwrite`` is false.
    FileError
        If the operating system refuses.
    """
    folder = Path(directory)
    if (folder / CONFIG).exists():
        if not overwrite:
            raise RunExistsError(
                f"{folder} holds an encoder already ({CONFIG} is there). "
                "Choose another folder, or pass overwrite=True."
            )
        (folder / CONFIG).unlink()
    config = {
        **config,
        "version": __version__,
        "tensors": {name: list(tensor.shape) for name, tensor in sorted(tensors.items())},
    }
    write_tensors(folder / WEIGHTS, tensors, {"class": str(config["class"])})
    _write_voxels(folder / VOXELS, voxels)
    write_json(folder / CONFIG, config)


def read_config(directory: str | Path) -> dict[str, Any]:
    """Read and check ``config.json`` of a folder that holds an encoder.

    Raises
    ------
    FileError
        If the folder or the file is missing, or the file is not an encoder's configuration.
    """
    folder = existing(directory, "encoder folder")
    if not (folder / CONFIG).is_file():
        raise FileError(
            f"{folder} holds no fitted encoder: {CONFIG} is not there. "
            "Give the folder of a finished run, or of Encoder.save."
        )
    config = read_json(folder / CONFIG)
    missing = [key for key in _KEYS if not isinstance(config, dict) or key not in config]
    if missing:
        raise FileError(
            f"{folder / CONFIG} is not an encoder's configuration: it lacks {', '.join(missing)}. "
            "Give the folder of a finished run, or of Encoder.save."
        )
    if not isinstance(config["class"], str):
        raise FileError(f"{folder / CONFIG}: class is {config['class']!r}, it must be a name.")
    return dict(config)


def read_encoder(
    directory: str | Path,
) -> tuple[dict[str, Any], dict[str, torch.Tensor], xr.Dataset]:
    """Read configuration, tensors and voxel table of a folder that :func:`write_encoder` made.

    Raises
    ------
    FileError
        If a file is missing or broken.
    """
    config = read_config(directory)
    tensors, metadata = read_tensors(Path(directory) / WEIGHTS)
    if metadata.get("class") != config["class"]:
        raise MismatchError(
            f"{Path(directory) / WEIGHTS} holds weights of {metadata.get('class')}, but {CONFIG} "
            f"beside it says {config['class']}. Restore the two files of one run."
        )
    return config, tensors, _read_voxels(existing(Path(directory) / VOXELS, "voxel table"))


def _write_voxels(path: Path, voxels: xr.Dataset) -> None:
    # netCDF attributes have no nested lists and no None: one JSON text keeps them exactly.
    stored = voxels.drop_attrs().assign_attrs({_ATTRS: json.dumps(voxels.attrs)})
    text = {
        name: (stored[name].dims, stored[name].values.astype(object))
        for name in stored.coords
        if stored[name].dtype.kind in "UTO"
    }
    write_netcdf(path, stored.assign_coords(text))


def _read_voxels(path: Path) -> xr.Dataset:
    try:
        with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as opened:
            stored = opened.load().drop_encoding()
        attrs = json.loads(stored.attrs[_ATTRS])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FileError(
            f"{path} ({path.stat().st_size} bytes) is not a whole voxel table: {error}. "
            "Copy it again."
        ) from error
    text = {
        name: (stored[name].dims, as_text(stored[name].values))
        for name in stored.coords
        # A text of length 0 comes back as numbers.
        if stored[name].dtype.kind in "TO" or stored[name].size == 0
    }
    return stored.assign_coords(text).drop_attrs().assign_attrs(attrs)


def check_weights(
    directory: str | Path,
    name: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Check that configuration and weights are of class ``name`` and of one another.

    Raises
    ------
    MismatchError
        If they are not; names the class, or the first tensor and both shapes.
    """
    if config["class"] != name:
        raise MismatchError(
            f"{directory} holds a {config['class']}, not a {name}. "
            "Load it with neuroattn.load(directory), which picks the class."
        )
    found = {key: list(tensor.shape) for key, tensor in tensors.items()}
    for key in sorted({*found, *config["tensors"]}):
        if found.get(key) != config["tensors"].get(key):
            raise MismatchError(
                f"{Path(directory) / WEIGHTS} holds {key} of shape {found.get(key, 'missing')}, "
                f"but {CONFIG} expects {config['tensors'].get(key, 'missing')}. "
                "Restore the weights of this run."
            )


def plain(name: str, value: Any) -> Any:
    """Return a constructor parameter as plain JSON data.

    Raises
    ------
    InputError
        If it is not made of numbers, strings, lists and dicts of them.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(name, dataclasses.asdict(value))
    if isinstance(value, np.ndarray | np.generic):
        return plain(name, value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(name, item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InputError(
        f"parameter {name}={value!r} cannot be saved: only finite numbers, strings, lists and "
        "dicts of them can. Construct the encoder with plain data."
    )
