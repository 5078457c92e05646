"""One entry of the feature store: what identifies it, its sidecar, and how it grows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.features.arrays import load_array, sample_hash, write_rows
from neuroattn.features.base import FeatureBasis
from neuroattn.images import Images
from neuroattn.io import read_json, write_json
from neuroattn.names import check_name

SIDECAR = "entry.json"
LAYOUT = 1


def identify(basis: FeatureBasis, images: Images, dtype: str) -> dict[str, Any]:
    """Return what identifies an entry."""
    check_name("dtype", dtype, ("float16", "float32"))
    if len(images) == 0:
        raise InputError("images is empty; there is nothing to store.")
    content = hashlib.sha256()
    for index, name in enumerate(images.ids):
        content.update(json.dumps([name, images.digest(index)]).encode())
    return {
        "layout": LAYOUT,
        "basis": basis.name,
        "key": basis.key(),
        "images": len(images),
        "content": content.hexdigest(),
        "dtype": dtype,
        "rows": basis.grid[0],
        "columns": basis.grid[1],
    }


def entry_name(facts: dict[str, Any]) -> str:
    """Return the folder's name: the basis and a hash of everything that identifies the entry."""
    text = json.dumps(facts, sort_keys=True)
    return f"{facts['basis']}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def read_state(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the sidecar of an entry whose files are all there and whole."""
    state = read_json(folder / SIDECAR)
    if not isinstance(state, dict) or {"outputs", "done", "samples"} - set(state):
        raise FileError(f"{folder / SIDECAR} is no sidecar of a store; {remedy(folder)}")
    for name, value in facts.items():
        if state.get(name) != value:
            raise MismatchError(
                f"{folder / SIDECAR} has {name}={state.get(name)!r} where {value!r} was expected: "
                f"it belongs to another entry. {remedy(folder)}"
            )
    for name, shape in state["outputs"].items():
        array = load_array(folder / f"{name}.npy", tuple(shape), facts["dtype"], remedy(folder))
        if state["done"] == facts["images"] and state["samples"].get(name) != sample_hash(array):
            raise FileError(
                f"{folder / name}.npy does not hold what was written there: sampled rows have "
                f"another hash than the sidecar says. {remedy(folder)}"
            )
    return state


def remedy(folder: Path) -> str:
    """Return the next step for a user whose entry is damaged."""
    return f"Remove the folder {folder} and fill it again."


def append(folder: Path, state: dict[str, Any], rows: dict[str, Any]) -> None:
    """Write rows, flush them to the disk, and only then count them in the sidecar."""
    if set(rows) != set(state["outputs"]):
        raise MismatchError(
            f"the basis gave {sorted(rows)} where {folder} holds {sorted(state['outputs'])}; "
            "every batch must have the same outputs."
        )
    count = 0
    for name, values in rows.items():
        write_rows(folder / f"{name}.npy", state["done"], values)
        count = len(values)
    state["done"] += count
    if state["done"] == state["images"]:
        for name, shape in state["outputs"].items():
            array = load_array(folder / f"{name}.npy", tuple(shape), state["dtype"], remedy(folder))
            state["samples"][name] = sample_hash(array)
    write_json(folder / SIDECAR, state)
