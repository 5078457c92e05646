"""Features that a person gave: categories or ratings of each image, as one token."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.features.base import FeatureBasis
from neuroattn.images import Images
from neuroattn.io import existing
from neuroattn.names import did_you_mean


class Labels(FeatureBasis):
    """A table from image id to categories or numbers; one token, grid (1, 1).

    Parameters
    ----------
    table : mapping or str or Path
        Image id to a category (str), several categories (list of str), or numbers (list of
        float, the same length for each image). Or a CSV file whose first column is the image id:
        with only numbers in the other columns these are the channels, else each other column
        gives one category an image (empty: none).

    Attributes
    ----------
    channel_names : tuple of str
        The categories, sorted, one channel of 0 and 1 each; or the numbers' column names.

    Raises
    ------
    InputError
        If the table is empty, mixes categories with numbers, or its rows differ in length.
    FileError
        If the CSV file is missing, has no header, a repeated id, or an incomplete row.

    Examples
    --------
    >>> from neuroattn.features import Labels
    >>> labels = Labels({"a": "face", "b": ["food", "hand"]})
    >>> labels.channel_names
    ('face', 'food', 'hand')
    """

    name = "labels"

    def __init__(self, table: Mapping[str, Any] | str | Path) -> None:
        names: Sequence[str] = ()
        if isinstance(table, str | Path):
            table, names = _read_csv(Path(table))
        if not table:
            raise InputError("table is empty; it maps image ids to categories or numbers.")
        rows = {str(image): _as_list(image, value) for image, value in table.items()}
        kinds = {isinstance(entry, str) for row in rows.values() for entry in row}
        if len(kinds) != 1:
            raise InputError(
                "table must hold categories (str) for all images or numbers for all images, "
                + ("but mixes them." if kinds else "but every entry is empty.")
            )
        if kinds == {True}:
            self.channel_names = tuple(sorted({entry for row in rows.values() for entry in row}))
            rows = {i: [float(c in row) for c in self.channel_names] for i, row in rows.items()}
        else:
            length = len(next(iter(rows.values())))
            self.channel_names = tuple(names) or tuple(f"label {n}" for n in range(length))
        self._rows = {i: np.asarray(row, np.float32) for i, row in rows.items()}
        self._check_rows()
        self.grid = (1, 1)
        self.channels = len(self.channel_names)

    def _check_rows(self) -> None:
        length = len(self.channel_names)
        for image, row in self._rows.items():
            if len(row) != length or not np.isfinite(row).all():
                raise InputError(
                    f"table[{image!r}] = {row.tolist()}: each image has {length} finite numbers."
                )

    def extract(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Refuse: labels belong to ids, not to pixels.

        Raises
        ------
        InputError
            Always; the message names :meth:`extract_images`.
        """
        raise InputError(
            f"Labels look images up by id, and the {len(images)} arrays given have none; "
            "call extract_images(images, indices) or use the FeatureStore."
        )

    def extract_images(
        self, images: Images, indices: Sequence[int]
    ) -> dict[str, NDArray[np.float32]]:
        """Return ``{"tokens": (image, 1, channel)}`` by id, without reading pixels.

        Raises
        ------
        MismatchError
            If an image is not in the table.
        """
        wanted = [images.ids[index] for index in indices]
        missing = [image for image in wanted if image not in self._rows]
        if missing:
            raise MismatchError(
                f"{len(missing)} of {len(wanted)} images are not in the label table, the first is "
                f"{missing[0]!r}{did_you_mean(missing[0], self._rows)}. Add a row for each image."
            )
        rows = [self._rows[image] for image in wanted]
        return {"tokens": np.array(rows, np.float32).reshape(len(rows), 1, self.channels)}

    def spec(self) -> dict[str, Any]:
        """Return the channel names and a hash of the table."""
        rows = {image: row.tolist() for image, row in self._rows.items()}
        text = json.dumps(rows, sort_keys=True)
        return {
            "version": 1,
            "channels": list(self.channel_names),
            "table": hashlib.sha256(text.encode()).hexdigest(),
        }


def _as_list(image: str, value: Any) -> list[Any]:
    if isinstance(value, str | float | int | np.number):
        value = [value]
    entries = np.asarray(value).tolist() if isinstance(value, np.ndarray) else list(value)
    if not all(isinstance(entry, str | float | int | np.number) for entry in entries):
        raise InputError(
            f"table[{image!r}] = {value!r}; allowed: a category, a list of them, or numbers."
        )
    return entries


def _read_csv(path: Path) -> tuple[dict[str, Any], Sequence[str]]:
    try:
        with existing(path, "label table").open(newline="", encoding="utf-8-sig") as stream:
            header, *lines = list(csv.reader(stream))
    except (ValueError, csv.Error, IsADirectoryError) as error:
        raise FileError(f"label table {path} is not a CSV file with a header: {error}.") from error
    table: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header) or len(line) < 2 or line[0] in table:
            raise FileError(
                f"{path}, line {number}: {line}; each line has {len(header)} entries, at least "
                "two, and starts with an image id that no other line has."
            )
        table[line[0]] = line[1:]
    try:
        return {i: [float(entry) for entry in row] for i, row in table.items()}, header[1:]
    except ValueError:
        return {i: [entry for entry in row if entry] for i, row in table.items()}, ()
