"""Files of a user's own claims: imported wherever a claim runs, again when they change."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from neuroattn.errors import FileError, InputError
from neuroattn.theory.caught import Raised, caught
from neuroattn.theory.claim import forget, registered

#: Path of a file to the hash of what was imported, and to the ids that it registered.
_IMPORTED: dict[str, tuple[str, frozenset[str]]] = {}
_LOCK = threading.Lock()


def import_files(files: Sequence[Path]) -> None:
    """Import Python files that register claims, each once for each content.

    Raises
    ------
    FileError
        If one is not there or is no Python file.
    InputError
        If it raises while it is imported; then nothing of it is registered.
    """
    for path in (Path(each).resolve() for each in files):
        if not path.exists():
            raise FileError(f"claims file {path} does not exist.")
        if path.suffix != ".py" or not path.is_file():
            raise FileError(f"claims file {path} is not a Python file; give a .py that registers.")
        # Threads of one worker may ask for the same file at once.
        with _LOCK:
            _import(path)


def is_of(id: str, files: Sequence[str]) -> bool:
    """Say whether one of these files, by its absolute path, registered a claim."""
    return any(id in _IMPORTED[path][1] for path in files if path in _IMPORTED)


def _import(path: Path) -> None:
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    known, ids = _IMPORTED.get(str(path), ("", frozenset()))
    if known == content:
        return
    forget(ids)
    place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"claims_of_{path.stem}_{place}", path)
    if spec is None or spec.loader is None:
        raise FileError(f"claims file {path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = registered()
    # What it prints must not stand among the verdicts.
    with contextlib.redirect_stdout(sys.stderr):
        found = caught(partial(spec.loader.exec_module, module))
    added = registered() - before
    if isinstance(found, Raised):
        forget(added)
        del sys.modules[spec.name]
        _IMPORTED.pop(str(path), None)
        raise InputError(f"claims file {path} cannot be imported: {found.message}")
    if not added:
        raise InputError(f"claims file {path} registers no claim; it needs register(Claim(...)).")
    _IMPORTED[str(path)] = content, added
