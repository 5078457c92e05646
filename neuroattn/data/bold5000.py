"""BOLD5000, release 2: GLMsingle responses of four subjects to 4,916 natural images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.arrays import read_npy
from neuroattn.data.bold5000_layout import (
    SESSIONS,
    TRIALS_PER_RUN,
    Places,
    published_rows,
    whose_shape,
    whose_trials,
)
from neuroattn.data.bold5000_rois import (
    ROIS,
    SIDES,
    as_mask,
    check_orientation,
    renamed,
    roi_masks,
    table_columns,
)
from neuroattn.data.bold5000_stimuli import (
    collection,
    image_id,
    key,
    one_spelling,
    part_of,
    presentation_lists,
    read_list,
)
from neuroattn.data.named_files import below, files_by_name
from neuroattn.data.sessions import Session, SessionReader, SourceFile, labels
from neuroattn.data.split import Split
from neuroattn.data.trial_volumes import (
    check_distinct,
    defined,
    first_trial,
    pieces,
    read_trials,
    volume_shape,
)
from neuroattn.data.volumes import Grid, grid_of, mask_voxels, read_volume
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.images import ImageFiles, Images, NamedStimuli
from neuroattn.io import existing
from neuroattn.names import check_name

_NO_IMAGES = (
    "BOLD5000_Stimuli.zip is not unpacked beside the data; its folder holds Scene_Stimuli. "
    "Unpack it there or give the argument stimuli_folder."
)


class BOLD5000(SessionReader):
    """One subject of BOLD5000, release 2, one estimate a trial, in percent signal change.

    Parameters
    ----------
    path : str
        The folder with ``CSI1_GLMbetas-..._ses-01.nii.gz``, ``CSI1_brainmask.nii.gz`` and
        ``CSI1_imgnames.txt`` (or a folder ``CSI1`` in it that holds them).
    subject : str
        "CSI1", "CSI2", "CSI3" or "CSI4".
    preparation : str
        The part of the file names between ``GLMbetas-`` and the session:
        "TYPED-FITHRF-GLMDENOISE-RR", "TYPEC-FITHRF-GLMDENOISE", "TYPEB-FITHRF" or
        "TYPEA-ASSUMEHRF".
    space : {"native", "roi"}
        The volumes, or the ready-made tables ``CSI1_GLMbetas-..._allses_LHEarlyVis.npy``, whose
        voxels have no places and stand twice where two ROIs overlap.
    sessions : sequence of int, optional
        Scanning sessions, from 1; left out, all (15, of CSI4 nine).
    roi : sequence of str, optional
        Keep the voxels of these ROIs of both hemispheres: EarlyVis, LOC, OPA, PPA, RSC. Left
        out, every voxel of the brain mask (of the tables in ``space="roi"``).
    mask : {"brainmask", "betas"}
        Which voxels the brain is: those of ``CSI1_brainmask.nii.gz``, or those with values in
        the first trial of every session read.
    masks : str, optional
        The folder of ``sub-CSI1_mask-LHLOC.nii.gz`` and so on; left out,
        ``derivatives/spm/sub-CSI1`` below ``path`` or ``path/ds001499``, ``path/sub-CSI1``,
        ``path/masks`` or ``path``. Empty text: no ROIs.
    stimuli_folder : str, optional
        The folder that holds ``Scene_Stimuli``; left out, ``path/BOLD5000_Stimuli`` or ``path``.

    Notes
    -----
    Places come from the brain mask: the responses were published with the affine of no scan.
    The attribute ``renamed_masks`` names ROI files that were published misnamed and are read as
    what they are. Units are as published; z-score within session before averaging.

    References
    ----------
    Chang et al. (2019), "BOLD5000, a public fMRI dataset while viewing 5000 visual images",
    Scientific Data 6, 49. Prince et al. (2022), "Improving the accuracy of single-trial fMRI
    response estimates using GLMsingle", eLife 11, e77599.
    """

    licence = "CC0 (images: terms of their collections)"
    reference = "Chang et al. (2019), Scientific Data 6, 49"

    def __init__(
        self,
        path: str,
        subject: str,
        preparation: str = "TYPED-FITHRF-GLMDENOISE-RR",
        space: str = "native",
        sessions: Sequence[int] | None = None,
        roi: Sequence[str] | None = None,
        mask: str = "brainmask",
        masks: str | None = None,
        stimuli_folder: str | None = None,
    ) -> None:
        self.path = path
        self.subject = subject
        self.preparation = preparation
        self.space = space
        self.sessions_wanted = sessions
        self.roi = roi
        self.mask = mask
        self.masks = masks
        self.stimuli_folder = stimuli_folder

    def files(self) -> list[SourceFile]:
        """Return every file that is read, whether it is there or not."""
        needs_names = not self._places().lists.is_dir()
        found = [SourceFile(self._places().names, "image of each trial", needs_names)]
        if self._volumes():
            found += [
                SourceFile(self._places().betas(number), f"betas of session {number}")
                for number in self._chosen()
            ]
            found.append(SourceFile(self._places().brain, "brain mask"))
        what = "mask" if self._volumes() else "betas"
        found += [
            SourceFile(path, f"{what} of {side}{roi}", bool(self.roi) or not self._volumes())
            for (side, roi), path in self._roi_files().items()
        ]
        listed = SourceFile(self._places().repeated, "list of the repeated images", False)
        return [*found, listed]

    def sessions(self) -> list[Session]:
        """Return the sessions wanted, with the number of their trials.

        Raises
        ------
        FileError
            If a file is missing or damaged.
        MismatchError
            If the trials of all sessions are not as many as the image names.
        """
        rows, names = self._rows(), self._names()
        if sum(rows.values()) != len(names):
            odd = [
                f"session {number} has {count}, published {known}"
                for (number, count), known in zip(
                    rows.items(), published_rows(self.subject).values(), strict=True
                )
                if count != known
            ]
            raise MismatchError(
                f"{self._places().names} names {len(names)} trials{whose_trials(len(names))}, the "
                f"sessions of {self.subject} have {sum(rows.values())} "
                f"({'; '.join(odd) or 'each as published'}). Take the files of one subject, "
                "complete."
            )
        files: dict[int, tuple[Path, ...]] = {
            number: (self._places().betas(number),)
            if self._volumes()
            else tuple(self._roi_files().values())
            for number in self._chosen()
        }
        return [Session(f"session {n}", rows[n], files[n]) for n in files]

    def labels(self) -> xr.Dataset:
        """Return the response set without its values.

        Raises
        ------
        FileError
            If a file is missing, damaged, or not what its name says.
        MismatchError
            If files are of different subjects, spaces or orientations, or one is a copy of
            another.
        """
        parts = dict(zip(self._chosen(), self.sessions(), strict=True))
        image, session, run = self._presentations({n: part.rows for n, part in parts.items()})
        voxel, masks, place = self._located() if self._volumes() else self._tabled()
        attrs: dict[str, Any] = {
            **place,
            "tr": 2.0,
            "units": "percent signal change",
            "zscored": "none",
            "source": f"BOLD5000 release 2, {self.subject}, {self.preparation}",
            "licence": self.licence,
        }
        return labels(
            presentation={"image": image, "session": session, "run": run},
            voxel={"subject": self.subject, **voxel},
            roi=masks,
            attrs=attrs,
        )

    def read(self, index: int) -> Iterator[NDArray[np.float32]]:
        """Yield the values of a session as (trial, voxel) pieces.

        Parameters
        ----------
        index : int
            Position in :meth:`sessions`.

        Raises
        ------
        FileError
            If the file is truncated or a trial has no values.
        """
        number = self._chosen()[index]
        if not self._volumes():
            table = next(iter(self._roi_files().values()))
            yield from defined(self._read_tables(number), f"session {number}", table)
            return
        path = self._places().betas(number)
        values = read_trials(path, self._voxels()[0])
        yield from defined(pieces(values), f"session {number}", path)

    def stimuli(self) -> Mapping[str, Sequence[str | int]]:
        """Return the columns of the stimulus index, an image a line in the order of showing."""
        shown = self._shown()
        ids = list(shown)
        found = self._image_files(ids)
        files = below(found, Path(self.path)) if found else [""] * len(ids)
        listed = self._repeated()
        return {
            "image": ids,
            "file": files,
            "dataset": [""] * len(ids),
            "index": [-1] * len(ids),
            "collection": [collection(image) for image in ids],
            "shown": list(shown.values()),
            "repeated": [int(key(image) in listed) for image in ids],
        }

    def images(self) -> Images:
        """Return the images of the sessions wanted, in the order of their first showing.

        Raises
        ------
        FileError
            If the stimuli are unpacked, and an image is not among them or is there twice.
        """
        ids = list(self._shown())
        files = self._image_files(ids)
        return ImageFiles(files, ids) if files else NamedStimuli(ids, _NO_IMAGES)

    def splits(self) -> Mapping[str, Split]:
        """Return the split "repeated", as most users make it.

        Returns
        -------
        mapping of str to Split
            Part "test" holds the images of ``repeated_stimuli_113_list.txt`` that were shown
            (without that file, those shown twice or more in all sessions), "validation" one in
            ten of the others by a fixed hash of the name that is the same for every subject,
            "train" the rest. Empty if no repeated image is among the sessions wanted.
        """
        listed = self._repeated()
        parts: dict[str, list[str]] = {}
        for image in self._shown():
            part = "test" if key(image) in listed else part_of(image)
            parts.setdefault(part, []).append(image)
        return {"repeated": Split.from_lists(**parts)} if "test" in parts else {}

    # -- what was asked for -------------------------------------------------------------------

    def _places(self) -> Places:
        return Places(self.path, self.subject, self.preparation, self.masks, self.stimuli_folder)

    def _volumes(self) -> bool:
        return check_name("space", self.space, ("native", "roi")) == "native"

    def _chosen(self) -> list[int]:
        last = SESSIONS[self._places().subject]
        if self.sessions_wanted is None:
            return list(range(1, last + 1))
        chosen = list(self.sessions_wanted)
        if (
            not chosen
            or chosen != sorted(set(chosen))
            or not set(chosen) <= set(range(1, last + 1))
        ):
            raise InputError(
                f"sessions={chosen}: give sessions of {self.subject} in rising order, each once, "
                f"from 1 to {last}."
            )
        return chosen

    def _rois(self) -> list[str]:
        if self.roi is None:
            return []
        wanted = [self.roi] if isinstance(self.roi, str) else list(self.roi)
        if not wanted:
            raise InputError("roi is empty; give names of ROIs, or leave it out for all voxels.")
        return [check_name("roi", name, ROIS) for name in wanted]

    def _roi_files(self) -> dict[tuple[str, str], Path]:
        wanted = self._rois() or ROIS
        if not self._volumes():
            tables = self._places().roi_tables()
            return {where: path for where, path in tables.items() if where[1] in wanted}
        if self.masks == "" and self.roi is not None:
            raise InputError(f"roi={self.roi} needs the ROI masks; leave masks out.")
        return self._places().roi_volumes()

    # -- trials ---------------------------------------------------------------------------------

    def _rows(self) -> dict[int, int]:
        """Return the trials of every session, since the image names run through all of them.

        Of a session that is not asked for and not there, the published number.
        """
        rows = published_rows(self.subject)
        for number in rows if self._volumes() else ():
            path = self._places().betas(number)
            if number not in self._chosen() and not path.exists():
                continue
            shape = volume_shape(existing(path, f"betas of session {number}"))
            if len(shape) != 4 or shape[3] % TRIALS_PER_RUN or not shape[3]:
                raise FileError(
                    f"betas of session {number} {path} have shape {shape}; needed is (i, j, k, "
                    f"trial) with {TRIALS_PER_RUN} trials a run."
                )
            rows[number] = shape[3]
        return rows

    def _names(self) -> list[str]:
        places = self._places()
        if places.names.exists() or not places.lists.is_dir():
            return one_spelling(read_list(places.names, "image names"))
        return one_spelling(
            presentation_lists(places.lists, self.subject, published_rows(self.subject))
        )

    def _image_files(self, ids: Sequence[str]) -> list[Path]:
        """Return the file of each image, none where the stimuli are not there."""
        folder = self._places().presented
        if self.stimuli_folder is not None:
            existing(folder, "folder of the images")
        if not folder.is_dir():
            return []
        return files_by_name(folder, ids, lambda name: key(image_id(name)))

    def _presentations(
        self, rows: Mapping[int, int]
    ) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        names, every = self._names(), self._rows()
        starts = dict(zip(every, np.cumsum([0, *every.values()]).tolist(), strict=False))
        image = [name for n, count in rows.items() for name in names[starts[n] : starts[n] + count]]
        session = np.repeat(list(rows), list(rows.values()))
        run = np.concatenate([np.arange(count) // TRIALS_PER_RUN + 1 for count in rows.values()])
        return image, session, run

    def _shown(self) -> dict[str, int]:
        parts = dict(zip(self._chosen(), self.sessions(), strict=True))
        shown: dict[str, int] = {}
        for image in self._presentations({n: part.rows for n, part in parts.items()})[0]:
            shown[image] = shown.get(image, 0) + 1
        return shown

    def _repeated(self) -> set[str]:
        """Return the keys of the repeated images: of the list, or those the names hold twice."""
        path = self._places().repeated
        if path.exists():
            return {key(image) for image in read_list(path, "list of the repeated images")}
        keys = [key(image) for image in self._names()]
        names, counts = np.unique(keys, return_counts=True)
        return set(names[counts > 1].tolist())

    # -- voxels ---------------------------------------------------------------------------------

    def _voxels(
        self,
    ) -> tuple[NDArray[np.intp], dict[str, Any], dict[str, NDArray[np.bool_]], Grid, str]:
        brain = self._places().brain
        grid = grid_of(existing(brain, "brain mask"))
        chosen = [self._places().betas(number) for number in self._chosen()]
        for path in chosen:
            shape = volume_shape(path)[:3]
            if shape != grid.shape:
                raise MismatchError(
                    f"{path} has {shape} voxels{whose_shape(shape)}, {brain} has {grid.shape}"
                    f"{whose_shape(grid.shape)}; take the files of one subject."
                )
        inside = as_mask(read_volume(brain), brain)
        if check_name("mask", self.mask, ("brainmask", "betas")) == "betas":
            trials = [first_trial(path) for path in chosen]
            filled = np.logical_and.reduce([np.isfinite(t) & (t != 0) for t in trials])
            inside = filled.reshape(grid.shape, order="F")
        flat, _ = mask_voxels(inside)
        files = self._roi_files()
        masks: dict[str, NDArray[np.bool_]] = {}
        hemisphere = np.full(len(flat), "both", dtype="<U5")
        if self.roi is not None or any(path.exists() for path in files.values()):
            masks, hemisphere = roi_masks(files, grid, brain, flat)
        if self.roi is not None:
            keep = np.flatnonzero(np.logical_or.reduce([masks[name] for name in self._rois()]))
            flat, hemisphere = flat[keep], hemisphere[keep]
            masks = {name: mask[keep] for name, mask in masks.items()}
        if not flat.size:
            raise MismatchError(
                f"no voxel is left of {brain} with roi={self.roi} and mask={self.mask!r}."
            )
        places = np.unravel_index(flat, grid.shape, order="F")
        voxel = {"hemisphere": hemisphere, **dict(zip("ijk", places, strict=True))}
        return flat, voxel, masks, grid, renamed(files) if masks else ""

    def _located(
        self,
    ) -> tuple[dict[str, Any], dict[str, NDArray[np.bool_]], dict[str, Any]]:
        _, voxel, masks, grid, note = self._voxels()
        chosen = [self._places().betas(number) for number in self._chosen()]
        trials = [first_trial(path) for path in chosen]
        check_distinct(chosen, trials)
        brain = self._places().brain
        if self.mask == "brainmask":
            check_orientation(as_mask(read_volume(brain), brain), trials[0], (brain, chosen[0]))
        place = {"space": "native", **grid.attrs(), **({"renamed_masks": note} if note else {})}
        return voxel, masks, place

    # -- tables of ROIs -------------------------------------------------------------------------

    def _tabled(
        self,
    ) -> tuple[dict[str, Any], dict[str, NDArray[np.bool_]], dict[str, Any]]:
        files, trials = self._roi_files(), len(self._names())
        counts = {where: table_columns(path, trials) for where, path in files.items()}
        owner = np.repeat(np.arange(len(counts)), list(counts.values()))
        where = list(counts)
        masks = {
            roi: np.isin(owner, [n for n, (_, own) in enumerate(where) if own == roi])
            for roi in dict.fromkeys(own for _, own in where)
        }
        voxel = {
            "hemisphere": np.array([SIDES[where[n][0]] for n in owner]),
            "name": [f"{side}{roi}-{n:04d}" for (side, roi), m in counts.items() for n in range(m)],
        }
        note = renamed(files)
        return voxel, masks, {"space": "none", **({"renamed_masks": note} if note else {})}

    def _read_tables(self, number: int) -> Iterator[NDArray[np.float32]]:
        every = self._rows()
        start = sum(count for other, count in every.items() if other < number)
        rows = slice(start, start + every[number])
        for path in self._roi_files().values():
            yield from pieces(np.array(read_npy(path)[rows], dtype=np.float32))
