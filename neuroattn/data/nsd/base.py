"""What NSD's main experiment and NSD-synthetic have in common: files, voxels, pieces."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.nsd.betas import Betas, map_mgh, open_betas
from neuroattn.data.nsd.layout import (
    REPETITION_TIME,
    SIDES,
    Layout,
    check_choices,
    subject_number,
    times,
)
from neuroattn.data.nsd.rois import Selection, needed_files, select
from neuroattn.data.sessions import SessionReader, SourceFile
from neuroattn.data.volumes import check_same_grid, read_volume
from neuroattn.errors import MismatchError
from neuroattn.io import existing
from neuroattn.names import check_name

LICENCE = "NSD terms and conditions (naturalscenesdataset.org): no redistribution"


class NsdReader(SessionReader):
    """Betas of one subject of NSD in one space; a subclass says which files and trials."""

    spaces: tuple[str, ...]
    preparations: tuple[str, ...]
    licence = LICENCE

    def __init__(
        self,
        path: str,
        subject: int | str,
        space: str,
        preparation: str,
        format: str,
        roi: Sequence[str] | None,
    ) -> None:
        self.path = path
        self.subject = subject
        self.space = space
        self.preparation = preparation
        self.format = format
        self.roi = roi

    @abstractmethod
    def _stem(self, session: int) -> str:
        """Return the file name of a session's betas without hemisphere and ending."""

    @property
    def _layout(self) -> Layout:
        check_choices(self.space, self.spaces, self.format)
        check_name("preparation", self.preparation, self.preparations)
        number = subject_number(self.subject)
        return Layout(Path(self.path), number, self.space, self.preparation)

    def _betas_paths(self, session: int) -> dict[str, Path]:
        """Return where the betas of a session are: "both", or "left" and "right"."""
        layout, stem = self._layout, self._stem(session)
        if not layout.volume:
            ending = "mgh" if self.space == "fsaverage" else "hdf5"
            return {side: layout.betas / f"{mark}.{stem}.{ending}" for side, mark in SIDES.items()}
        hdf5, nifti = (layout.betas / f"{stem}.{ending}" for ending in ("hdf5", "nii.gz"))
        first = self.format != "nifti" and (self.format == "hdf5" or not nifti.exists())
        return {"both": hdf5 if first or (self.format == "auto" and hdf5.exists()) else nifti}

    def _source_files(self, sessions: Sequence[int], name: str) -> list[SourceFile]:
        """Return the label files and the betas; ``name`` says what a session is called."""
        found = [SourceFile(*each) for each in needed_files(self._layout, self.roi)]
        for session in sessions:
            found += [
                SourceFile(path, f"betas of {name.format(session)}")
                for path in self._betas_paths(session).values()
            ]
        return found

    @cached_property
    def _selection(self) -> Selection:
        existing(self.path, "NSD folder")
        return select(self._layout, self.roi)

    def _open(self, session: int, trials: int | None) -> dict[str, Betas]:
        """Open the betas of a session and check that they fit the ROI files and the design."""
        selection, opened = self._selection, {}
        for side, path in self._betas_paths(session).items():
            existing(path, f"betas of session {session}")
            betas = open_betas(path)
            self._layout.check_size(path, betas.size, side)
            if betas.size != selection.sizes[side]:
                raise MismatchError(
                    f"{path} has {times(betas.size)} voxels or vertices, {selection.source} has "
                    f"{times(selection.sizes[side])}: they are of different subjects or spaces."
                )
            if selection.grid is not None and path.suffix != ".hdf5":
                check_same_grid(path, selection.grid, selection.source)
            if trials is not None and betas.trials != trials:
                raise MismatchError(
                    f"{path} has {betas.trials} trials, the design has {trials} a session. The "
                    "file is truncated or of another experiment: download it again."
                )
            trials, opened[side] = betas.trials, betas
        return opened

    def _pieces(self, opened: dict[str, Betas]) -> Iterator[NDArray[np.float32]]:
        for side, betas in opened.items():
            keep = self._selection.keep[side]
            if len(keep):
                yield from betas.read(keep)

    def _attrs(self, source: str) -> dict[str, Any]:
        return {
            "space": "fsaverage" if self.space == "fsaverage" else "native",
            "tr": REPETITION_TIME.get(self.space, float("nan")),
            "units": "percent signal change",
            "zscored": "none",
            "source": f"{source}, {self._layout.name}, {self.space}, {self.preparation}",
            "licence": self.licence,
            **self._selection.attrs,
        }

    def _values(self, paths: Sequence[Path]) -> NDArray[np.float64] | None:
        """Return a map of the kept voxels from its file(s), None where one is not there."""
        if not all(path.exists() for path in paths):
            return None
        selection, parts = self._selection, []
        for path, (side, keep) in zip(paths, selection.keep.items(), strict=True):
            if selection.grid is not None:
                check_same_grid(path, selection.grid, selection.source)
            read = read_volume if selection.grid is not None else map_mgh
            values = read(path).ravel(order="F")
            if len(values) != np.prod(selection.sizes[side]):
                raise MismatchError(
                    f"{path} has {len(values)} vertices, {selection.source} has "
                    f"{times(selection.sizes[side])}; they are of different meshes."
                )
            parts.append(np.asarray(values[keep], dtype=np.float64))
        return np.concatenate(parts)
