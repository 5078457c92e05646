"""The Algonauts 2023 challenge data: NSD responses of eight subjects, cortical surface."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.arrays import read_npy
from neuroattn.data.label_map import read_mapping
from neuroattn.data.sessions import Session, SessionReader, SourceFile, labels
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.images import ImageFolder, Images
from neuroattn.io import existing
from neuroattn.names import check_name

#: The ROI files of each hemisphere, in the order in which their ROIs are listed.
ROI_FILES = (
    "prf-visualrois",
    "floc-bodies",
    "floc-faces",
    "floc-places",
    "floc-words",
    "streams",
)
SPLITS = ("training", "test")
_SIDES = {"left": "lh", "right": "rh"}
_UNLABELLED = 0
_PIECE_BYTES = 64 * 2**20


class Algonauts2023(SessionReader):
    """One subject of the Algonauts 2023 challenge, as published.

    Responses are betas on the fsaverage vertices that the challenge kept ("challenge space"),
    z-scored per vertex and session and averaged over the available repeats by its authors.

    Parameters
    ----------
    path : str
        The folder that holds ``subj01`` … ``subj08``.
    subject : int or str
        1, or "subj01".
    hemispheres : sequence of str
        "left", "right", or both, in the order wanted.
    split : {"training", "test"}
        The test split has images; its responses and noise ceilings only if you obtained them.

    References
    ----------
    Gifford et al. (2023), "The Algonauts Project 2023 Challenge: How the Human Brain Makes Sense
    of Natural Scenes", arXiv:2301.03198. Allen et al. (2022), Nature Neuroscience 25, 116-126.
    """

    def __init__(
        self,
        path: str,
        subject: int | str,
        hemispheres: Sequence[str] = ("left", "right"),
        split: str = "training",
    ) -> None:
        self.path = path
        self.subject = subject
        self.hemispheres = hemispheres
        self.split = split

    def images(self) -> NsdImages:
        """Return the images of the split, with ids such as "nsd-00013", in the order of the rows.

        Raises
        ------
        FileError
            If the folder is missing, a file has another kind of name, or a row is missing.
        """
        prefix = "train" if self._split() == "training" else "test"
        return NsdImages(self._image_folder(), prefix)

    def files(self) -> list[SourceFile]:
        """Return what is read: responses, masks, names of ROIs, noise ceilings, images."""
        sides, masks = self._sides(), Path(self.path) / self._name() / "roi_masks"
        found = [SourceFile(self._betas_path(side), f"responses, {side}") for side in sides]
        found += [SourceFile(self._mesh_path(side), f"vertices, {side}") for side in sides]
        for kind in ROI_FILES:
            found += [
                SourceFile(self._labels_path(kind, side), f"{kind}, {side}") for side in sides
            ]
            names = [masks / f"mapping_{kind}{ending}" for ending in (".npy", ".json", ".npz")]
            known = next((path for path in names if path.exists()), names[0])
            found.append(SourceFile(known, f"names of {kind}"))
        ceilings = [
            SourceFile(self._ceiling_path(side), f"noise ceiling, {side}", required=False)
            for side in sides
            if self._split() == "test"
        ]
        return [*found, *ceilings, SourceFile(self._image_folder(), "images")]

    def sessions(self) -> list[Session]:
        """Return one session: the responses are averages over scanning sessions."""
        files = tuple(self._betas_path(side) for side in self._sides())
        return [Session(f"{self._split()} split", len(self._betas(self._sides()[0])), files)]

    def read(self, index: int) -> Iterator[NDArray[np.float32]]:
        """Yield blocks of vertices, left before right where both are wanted in this order."""
        for side in self._sides():
            betas = self._betas(side)
            width = max(1, _PIECE_BYTES // (4 * len(betas)))
            for start in range(0, betas.shape[1], width):
                yield np.ascontiguousarray(betas[:, start : start + width])

    def stimuli(self) -> Mapping[str, Sequence[str | int]]:
        """Return id and file of each image."""
        images = NsdImages(self._image_folder(), "train" if self._split() == "training" else "test")
        folder = self._image_folder().relative_to(self.path)
        count = len(images)
        return {
            "image": images.ids,
            "file": [(folder / f"{stem}.png").as_posix() for stem in images.stems],
            "dataset": [""] * count,
            "index": [-1] * count,
        }

    def labels(self) -> xr.Dataset:
        """Return what is known of the images and vertices of the split.

        Returns
        -------
        xarray.Dataset
            ``vertex`` is the fsaverage vertex; a ROI holds the vertices of both hemispheres;
            ROIs overlap, and some are empty. ``ceiling`` where noise ceilings are there.

        Raises
        ------
        FileError
            If a file is missing, truncated or not what the layout says; the message names it.
        MismatchError
            If the counts of images, rows, vertices or masks differ; names the files and counts.
        """
        sides = self._sides()
        images = self.images()
        blocks = [self._betas(side) for side in sides]
        for side, block in zip(sides, blocks, strict=True):
            if len(block) != len(images):
                raise MismatchError(
                    f"{self._betas_path(side)} has {len(block)} rows, the {self._split()} split "
                    f"has {len(images)} images; one row an image."
                )
        meshes = [self._mesh(side) for side in sides]
        vertices = [np.flatnonzero(mesh) for mesh in meshes]
        counts = [block.shape[1] for block in blocks]
        for side, count, vertex in zip(sides, counts, vertices, strict=True):
            if len(vertex) != count:
                raise MismatchError(
                    f"{self._mesh_path(side)} marks {len(vertex)} vertices, "
                    f"{self._betas_path(side)} has {count}."
                )
        attrs: dict[str, Any] = {
            "space": "challenge",
            "units": "z",
            "zscored": "session",
            "source": f"Algonauts 2023, {self._name()}, {self._split()} split",
            "licence": "NSD terms and conditions",
            **{f"vertices_{side}": len(mesh) for side, mesh in zip(sides, meshes, strict=True)},
        }
        return labels(
            presentation={"image": images.ids},
            voxel={
                "subject": self._name(),
                "hemisphere": np.repeat(sides, counts),
                "vertex": np.concatenate(vertices),
            },
            roi=self._rois(dict(zip(sides, counts, strict=True))),
            ceiling=self._ceiling(dict(zip(sides, counts, strict=True))),
            attrs=attrs,
        )

    def _split(self) -> str:
        return check_name("split", self.split, SPLITS)

    def _sides(self) -> list[str]:
        sides = [self.hemispheres] if isinstance(self.hemispheres, str) else list(self.hemispheres)
        for side in sides:
            check_name("hemispheres", side, _SIDES)
        if not sides or len(set(sides)) < len(sides):
            raise InputError(f"hemispheres={sides}; give 'left', 'right', or both, once each.")
        return sides

    def _name(self) -> str:
        name = f"subj{self.subject:02d}" if isinstance(self.subject, int) else str(self.subject)
        if not re.fullmatch(r"subj\d\d", name):
            raise InputError(f"subject={self.subject!r} is no subject; give 1, or 'subj01'.")
        return name

    def _folder(self) -> Path:
        root = existing(self.path, "Algonauts 2023 folder")
        folder = root / self._name()
        if not folder.is_dir():
            found = sorted(place.name for place in root.glob("subj*")) or "no subject"
            raise FileError(f"{root} has no folder {self._name()}; it holds {found}.")
        return folder

    def _image_folder(self) -> Path:
        return self._folder() / f"{self._split()}_split" / f"{self._split()}_images"

    def _ceiling_path(self, side: str) -> Path:
        folder = self._folder() / f"{self._split()}_split" / "noise_ceiling"
        return folder / f"{_SIDES[side]}_noise_ceiling.npy"

    def _labels_path(self, kind: str, side: str) -> Path:
        return self._folder() / f"roi_masks/{_SIDES[side]}.{kind}_challenge_space.npy"

    def _betas_path(self, side: str) -> Path:
        split = self._split()
        return self._folder() / f"{split}_split/{split}_fmri/{_SIDES[side]}_{split}_fmri.npy"

    def _mesh_path(self, side: str) -> Path:
        return self._folder() / f"roi_masks/{_SIDES[side]}.all-vertices_fsaverage_space.npy"

    def _betas(self, side: str) -> NDArray[np.float32]:
        path = self._betas_path(side)
        if self._split() == "test" and not path.exists():
            raise FileError(
                f"responses of the {side} hemisphere {path} do not exist: the challenge did not "
                "publish those of the test split. Use split='training', or put them there."
            )
        existing(path, f"responses of the {side} hemisphere")
        array = read_npy(path)
        if array.ndim != 2 or array.dtype != np.float32:
            raise FileError(
                f"{path} is {array.dtype} of shape {array.shape}; needed: float32 (image, vertex)."
            )
        return np.asarray(array, dtype=np.float32)

    def _mesh(self, side: str) -> NDArray[np.bool_]:
        mask = read_npy(self._mesh_path(side))
        if mask.ndim != 1 or not np.isin(mask, (0, 1)).all():
            raise FileError(
                f"{self._mesh_path(side)} has shape {mask.shape} and values from {mask.min()} to "
                f"{mask.max()}; needed: one 0 or 1 for each fsaverage vertex."
            )
        return np.asarray(mask == 1)

    def _ceiling(self, counts: dict[str, int]) -> NDArray[np.float64] | None:
        folder = self._folder() / f"{self._split()}_split" / "noise_ceiling"
        if self._split() != "test" or not folder.exists():
            return None
        parts = []
        for side, count in counts.items():
            path = self._ceiling_path(side)
            existing(path, f"noise ceilings of the {side} hemisphere")
            part = read_npy(path)
            if part.shape != (count,):
                raise MismatchError(
                    f"{path} has shape {part.shape}, {self._betas_path(side)} has {count} vertices."
                )
            parts.append(np.asarray(part, dtype=np.float64))
        return np.concatenate(parts)

    def _rois(self, counts: dict[str, int]) -> dict[str, NDArray[np.bool_]]:
        masks: dict[str, NDArray[np.bool_]] = {}
        for kind in ROI_FILES:
            names = read_mapping(self._folder() / f"roi_masks/mapping_{kind}")
            label = np.concatenate(
                [self._labels(kind, side, count, names) for side, count in counts.items()]
            )
            for number, name in names.items():
                if number == _UNLABELLED:
                    continue
                if name in masks:
                    raise FileError(
                        f"roi {name!r} of mapping_{kind} in {self._folder() / 'roi_masks'} is "
                        "named twice; ROI names must be unique."
                    )
                masks[name] = label == number
        return masks

    def _labels(
        self, kind: str, side: str, count: int, names: dict[int, str]
    ) -> NDArray[np.generic]:
        path = self._labels_path(kind, side)
        existing(path, f"ROI mask of the {side} hemisphere")
        label = read_npy(path)
        if label.shape != (count,):
            raise MismatchError(
                f"{path} has shape {label.shape}, {self._betas_path(side)} has {count} vertices; "
                "a challenge-space mask has one label a vertex."
            )
        unknown = sorted(set(np.unique(label).tolist()) - {_UNLABELLED, *names})
        if unknown:
            raise FileError(
                f"{path} holds the label {unknown[0]}, which mapping_{kind} does not name; "
                f"it names {sorted(names)}."
            )
        return label


class NsdImages(Images):
    """The images of a split under their NSD ids; the row number of each name is checked.

    Parameters
    ----------
    folder : Path
        Of the images.
    prefix : {"train", "test"}
        What file names begin with.

    Attributes
    ----------
    stems : tuple of str
        File names without their ending.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self._files = ImageFolder(folder, "*.png")
        ids = []
        for row, stem in enumerate(self._files.ids, start=1):
            match = re.fullmatch(rf"{prefix}-(\d{{4}})_(nsd-\d{{5}})", stem)
            if match is None:
                raise FileError(
                    f"{folder / stem}.png: the name is not like '{prefix}-0001_nsd-00013.png'."
                )
            if int(match[1]) != row:
                raise FileError(
                    f"{folder}: image {row} is missing or there twice, the next file is "
                    f"{stem}.png. Unpack the split again."
                )
            ids.append(match[2])
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise FileError(f"{folder}: {twice} stands in two files; unpack the split again.")
        self.ids, self.stems = tuple(ids), self._files.ids

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode image ``index``, (height, width, 3)."""
        return self._files.read(index)

    def digest(self, index: int) -> str:
        """Return the digest of the file of image ``index``."""
        return self._files.digest(index)
