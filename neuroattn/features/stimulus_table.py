"""Features of what was shown over time: a table an episode, read with a haemodynamic delay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import InputError, MismatchError
from neuroattn.features.base import FeatureBasis
from neuroattn.features.episode_tables import EpisodeTables
from neuroattn.images import Images


class StimulusTable(FeatureBasis):
    """Time courses of a movie's features; a token is a moment of the window before a response.

    The image id "friends-s01e02a-00123" is sample 123 (from 0) of the episode "friends-s01e02a".
    Its response follows what was shown ``delay`` samples before, so its tokens are the samples
    ``123 - delay - window + 1`` to ``123 - delay`` of the episode's table, oldest first, grid
    (1, ``window``). A window never reaches into another episode: where it begins before the first
    sample, that sample stands for those that are not there. (Leave the first
    ``delay + window - 1`` samples out of the responses, and it never does.)

    Parameters
    ----------
    path : str or sequence of str
        A folder with one file an episode (``.npy``, ``.csv``, ``.tsv`` with or without a header,
        ``.h5`` with one dataset), (sample, channel); or an HDF5 file with one dataset an episode.
        Several of them (vision, sound, language) are put side by side as channels, each episode
        as long as its shortest table. Files are called as the episode, "friends-s01e02a.npy", or
        "friends_s01e02a.npy", or "s01e02a.npy".
    delay : int
        Samples from the stimulus to the response, 0 or more; 3 are 4.5 s at a TR of 1.49 s.
    window : int
        Samples that a response is modelled with, 1 or more.

    Raises
    ------
    FileError
        If a folder or file is missing, damaged, or holds no table.
    InputError
        If ``delay`` or ``window`` is out of range.
    MismatchError
        If the tables of one folder differ in their number of channels.

    References
    ----------
    Gifford et al. (2025), The Algonauts Project 2025 Challenge, arXiv:2501.00504: the delay of 3
    and the window of 5 are those of its baseline.
    """

    name = "stimulus_table"

    def __init__(self, path: str | Sequence[str], delay: int = 3, window: int = 5) -> None:
        if delay < 0 or window < 1:
            raise InputError(
                f"delay={delay}, window={window}; allowed are 0 or more and 1 or more samples."
            )
        paths = [path] if isinstance(path, str | Path) else list(path)
        if not paths:
            raise InputError("path is empty; give a folder of tables, or several.")
        self.delay, self.window = int(delay), int(window)
        self._tables = [EpisodeTables(Path(place)) for place in paths]
        self._held: tuple[str, NDArray[np.float32]] | None = None
        self.grid = (1, self.window)
        self.channels = sum(table.channels for table in self._tables)

    def extract(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Refuse: samples of a movie belong to ids, not to pixels.

        Raises
        ------
        InputError
            Always; the message names :meth:`extract_images`.
        """
        raise InputError(
            f"StimulusTable looks samples up by id, and the {len(images)} arrays given have none; "
            "call extract_images(images, indices) or use the FeatureStore."
        )

    def extract_images(
        self, images: Images, indices: Sequence[int]
    ) -> dict[str, NDArray[np.float32]]:
        """Return ``{"tokens": (image, window, channel)}`` by id, without reading pixels.

        Raises
        ------
        InputError
            If an id does not end in the number of a sample.
        MismatchError
            If an episode has no table, or a sample lies beyond its end.
        """
        tokens = np.empty((len(indices), self.window, self.channels), np.float32)
        back = np.arange(1 - self.window, 1) - self.delay
        for place, index in enumerate(indices):
            episode, sample = sample_of(images.ids[index])
            table = self._table(episode)
            if sample - self.delay >= len(table):
                raise MismatchError(
                    f"image {images.ids[index]!r} needs sample {sample - self.delay} of "
                    f"{self._where(episode)}, which has {len(table)}: the scanner ran longer than "
                    "the movie. Leave these responses out (CNeuroMod does it with features=PATH)."
                )
            tokens[place] = table[np.maximum(sample + back, 0)]
        return {"tokens": tokens}

    def length(self, episode: str) -> int:
        """Return the number of samples of an episode (of its shortest table).

        Raises
        ------
        MismatchError
            If there is no table for it.
        """
        return min(table.shape(episode)[0] for table in self._tables)

    def spec(self) -> dict[str, Any]:
        """Return the arguments and a hash of the tables' files."""
        facts = {"delay": self.delay, "window": self.window, "channels": self.channels}
        return {"version": 1, **facts, "tables": [table.digest for table in self._tables]}

    def _table(self, episode: str) -> NDArray[np.float32]:
        if self._held is None or self._held[0] != episode:
            parts = [table.read(episode) for table in self._tables]
            samples = min(map(len, parts))
            joined = np.concatenate([part[:samples] for part in parts], axis=1, dtype=np.float32)
            self._held = (episode, joined)
        return self._held[1]

    def _where(self, episode: str) -> str:
        shortest = min(self._tables, key=lambda table: table.shape(episode)[0])
        return str(shortest.place(episode))


def sample_of(image: str) -> tuple[str, int]:
    """Return the episode and the sample (from 0) that an image id names.

    Raises
    ------
    InputError
        If it does not end in "-" and digits.
    """
    found = re.fullmatch(r"(.+)-(\d+)", image)
    if found is None:
        raise InputError(
            f"image {image!r} names no sample of an episode; needed: an id such as "
            "'friends-s01e02a-00123'."
        )
    return found[1], int(found[2])
