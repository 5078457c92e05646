"""A layout of one .npy a session, to see what every layout goes through when it is converted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from neuroattn.data.sessions import Session, SessionReader, SourceFile, labels
from neuroattn.data.split import Split
from neuroattn.images import ImageFolder


class Toy(SessionReader):
    """Sessions ``session-0.npy`` … (presentation, voxel) and ``images/NAME.png`` under a path.

    The images of a session are named in ``session-0.txt``. ``deadly`` names a file: whoever reads
    the last session first waits for it, or dies of it.
    """

    def __init__(self, path: str, width: int = 3, subject: str = "s1", deadly: str = "") -> None:
        self.path = path
        self.width = width
        self.subject = subject
        self.deadly = deadly

    def _places(self) -> list[Path]:
        return sorted(Path(self.path).glob("session-*.npy"))

    def files(self) -> list[SourceFile]:
        return [
            *(SourceFile(place, f"values of {place.stem}") for place in self._places()),
            SourceFile(Path(self.path) / "design.txt", "design"),
            SourceFile(Path(self.path) / "notes.txt", "notes", required=False),
            SourceFile(Path(self.path) / "images", "images"),
        ]

    def sessions(self) -> list[Session]:
        return [
            Session(place.stem, len(np.load(place, mmap_mode="r")), (place,))
            for place in self._places()
        ]

    def labels(self):
        shown = (Path(self.path) / "design.txt").read_text().split()
        parts = self.sessions()
        voxels = np.load(self._places()[0], mmap_mode="r").shape[1]
        return labels(
            presentation={
                "image": shown,
                "session": np.repeat(np.arange(1, len(parts) + 1), [part.rows for part in parts]),
            },
            voxel={"subject": [self.subject] * voxels, "hemisphere": "left"},
            roi={"odd": np.arange(voxels) % 2 == 1},
            attrs={"units": "percent signal change", "source": "toy"},
        )

    def read(self, index: int) -> Iterator[np.ndarray]:
        if self.deadly and index == len(self.sessions()) - 1:
            _die_once(Path(self.deadly))
        values = np.load(self._places()[index], mmap_mode="r")
        for start in range(0, values.shape[1], self.width):
            yield np.array(values[:, start : start + self.width])

    def stimuli(self) -> Mapping[str, Sequence[str | int]]:
        images = self.images()
        return {
            "image": images.ids,
            "file": [f"images/{name}.png" for name in images.ids],
            "dataset": [""] * len(images),
            "index": [-1] * len(images),
            "brightness": [int(images.read(row).max()) for row in range(len(images))],
        }

    def images(self) -> ImageFolder:
        return ImageFolder(Path(self.path) / "images")

    def splits(self) -> Mapping[str, Split]:
        ids = self.images().ids
        return {"agreed": Split.from_lists(train=ids[1:], test=ids[:1])}


def _die_once(mark: Path) -> None:
    """Leave a mark and be killed; where the mark is already, go on."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    time.sleep(0.3)  # so that the others have written something
    os.kill(os.getpid(), signal.SIGKILL)


def write_toy(
    root: Path, lengths: Sequence[int] = (5, 5, 5), voxels: int = 11, images: int = 4, seed: int = 0
) -> Path:
    """Write a toy data set: every image shown again and again, in an order drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir()
    for number in range(images):
        pixels = np.full((4, 4, 3), 10 * number, np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"image{number}.png")
    for number, length in enumerate(lengths):
        values = rng.normal(size=(length, voxels)).astype(np.float32)
        np.save(root / f"session-{number}.npy", values)
    order = rng.permutation(np.arange(sum(lengths)) % images)
    (root / "design.txt").write_text("\n".join(f"image{number}" for number in order))
    return root
