"""Maps from the labels of a mask to the names of its ROIs, in the formats that data sets ship."""

from __future__ import annotations

from pathlib import Path

from neuroattn.data.arrays import open_npz
from neuroattn.data.safe_pickle import read_label_map
from neuroattn.errors import FileError
from neuroattn.io import existing, read_json


def read_mapping(path: str | Path) -> dict[int, str]:
    """Read label to name from the first of ``path`` + ``.npy``, ``.json``, ``.npz`` that exists.

    Parameters
    ----------
    path : str or Path
        Without ending. ``.npy`` is a pickled dictionary, see
        :func:`neuroattn.data.safe_pickle.read_label_map`; ``.json`` an object such as
        ``{"1": "V1v"}``; ``.npz`` has the arrays ``label`` (integers) and ``name`` (text).

    Raises
    ------
    FileError
        If there is none, or it is not such a map; the message names the file.
    """
    place = Path(path)
    readers = {".npy": read_label_map, ".json": _of_json, ".npz": _of_npz}
    for suffix, reader in readers.items():
        file = place.with_name(place.name + suffix)
        if file.exists():
            return reader(file)
    missing = existing(place.with_name(place.name + ".npy"), "ROI names (or as .json or .npz)")
    return read_label_map(missing)


def _of_json(path: Path) -> dict[int, str]:
    data = read_json(path)
    try:
        pairs = {int(key): name for key, name in data.items()}
    except (AttributeError, ValueError) as error:
        raise FileError(
            f'{path} is no mapping such as {{"0": "Unknown", "1": "V1v"}}: {error}.'
        ) from error
    wrong = [name for name in pairs.values() if not isinstance(name, str)]
    if wrong:
        raise FileError(f"{path} names a label {wrong[0]!r}; a name is text.")
    return pairs


def _of_npz(path: Path) -> dict[int, str]:
    with open_npz(path) as archive:
        if {"label", "name"} - set(archive):
            raise FileError(f"{path} holds {sorted(archive)}; needed: 'label' and 'name'.")
        labels, names = archive["label"], archive["name"]
    fits = labels.dtype.kind in "iu" and names.dtype.kind == "U"
    if not fits or labels.ndim != 1 or labels.shape != names.shape:
        raise FileError(
            f"{path}: label is {labels.dtype} {labels.shape}, name is {names.dtype} {names.shape}; "
            "needed: integers and text, one name a label."
        )
    return dict(zip(labels.tolist(), names.tolist(), strict=True))
