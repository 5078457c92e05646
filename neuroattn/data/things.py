"""THINGS-fMRI: single-trial responses of three subjects to 8,740 images of 720 objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.bold5000_rois import as_mask
from neuroattn.data.named_files import below, files_by_name
from neuroattn.data.sessions import Session, SessionReader, SourceFile, labels
from neuroattn.data.split import Split
from neuroattn.data.things_tables import (
    Trials,
    Voxels,
    check_responses,
    image_id,
    read_responses,
    read_trials_table,
    read_voxels,
)
from neuroattn.data.things_volumes import Run, check_run, read_trials_of, run_files
from neuroattn.data.trial_volumes import check_distinct, defined, first_trial, pieces
from neuroattn.data.volumes import grid_of, mask_voxels, read_volume
from neuroattn.errors import InputError, MismatchError
from neuroattn.images import ImageFiles, Images, NamedStimuli
from neuroattn.io import existing
from neuroattn.names import check_name

SESSIONS = 12
_NO_IMAGES = (
    "THINGS-fMRI ships no images; they are the THINGS object images (osf.io/jum2f), with their "
    "own terms. Give their folder as the argument stimuli_folder."
)


class THINGS(SessionReader):
    """One subject of THINGS-fMRI, one estimate a trial; catch trials are left out.

    Parameters
    ----------
    path : str
        The folder that holds ``betas_csv`` or ``betas_vol``, and ``brainmasks``.
    subject : str
        "01", "02" or "03" ("sub-01" is the same).
    layout : {"table", "volumes"}
        ``betas_csv``: voxels as rows of one file, with ROIs and noise ceilings; or ``betas_vol``:
        a volume a run, without. The images of a run come in the order of its file, which in the
        volumes is alphabetical.
    sessions : sequence of int, optional
        Scanning sessions, from 1; left out, all (12).
    roi : sequence of str, optional
        Keep the voxels of these columns of ``VoxelMetadata.csv``, such as "V1", "lFFA", "rFFA";
        table only. Left out, all voxels.
    preparation : str
        Folder below ``betas_vol`` that holds the subjects, such as "scalematched"; empty text:
        ``betas_vol`` itself.
    stimuli_folder : str, optional
        The folder with the images, at any depth below it; below ``path`` to be converted.

    Notes
    -----
    The table's voxels come in the order of its rows; ``i``, ``j``, ``k`` say where they are.
    Without ``brainmasks/sub-01_space-T1w_brainmask.nii.gz`` the table's voxels have numbers and
    no places (``space`` "none"). ``ncsnr`` is made of the published ``nc_singletrial``. The
    authors do not say in which unit the responses are.

    References
    ----------
    Hebart et al. (2023), "THINGS-data, a multimodal collection of large-scale datasets for
    investigating object representations in human brain and behavior", eLife 12, e82580.
    """

    licence = "CC0 (images: terms of THINGS)"
    reference = "Hebart et al. (2023), eLife 12, e82580"

    def __init__(
        self,
        path: str,
        subject: str,
        layout: str = "table",
        sessions: Sequence[int] | None = None,
        roi: Sequence[str] | None = None,
        preparation: str = "",
        stimuli_folder: str | None = None,
    ) -> None:
        self.path = path
        self.subject = subject
        self.layout = layout
        self.sessions_wanted = sessions
        self.roi = roi
        self.preparation = preparation
        self.stimuli_folder = stimuli_folder

    def files(self) -> list[SourceFile]:
        """Return every file that is read, whether it is there or not."""
        if self._tabled():
            return [
                SourceFile(self._table("ResponseData.h5"), "responses"),
                SourceFile(self._table("StimulusMetadata.csv"), "image of each trial"),
                SourceFile(self._table("VoxelMetadata.csv"), "voxels, ROIs and ceilings"),
                SourceFile(self._brain(), "brain mask", False),
            ]
        found = [SourceFile(self._brain(), "brain mask")]
        for run in self._runs():
            where = f"session {run.session}, run {run.run}"
            found.append(SourceFile(run.betas, f"betas of {where}"))
            found.append(SourceFile(run.conditions, f"conditions of {where}"))
        return found

    def sessions(self) -> list[Session]:
        """Return the sessions wanted, with the number of their trials.

        Raises
        ------
        FileError
            If a file is missing or damaged.
        MismatchError
            If a session that was asked for is not there.
        """
        trials = self._trials()
        found = []
        for number in dict.fromkeys(trials.session.tolist()):
            runs = [run for run in self._runs() if run.session == number]
            paths = [path for run in runs for path in (run.betas, run.conditions)]
            own = [self._table("ResponseData.h5")] if self._tabled() else paths
            rows = int((trials.session == number).sum())
            found.append(Session(f"session {number}", rows, tuple(own)))
        return found

    def labels(self) -> xr.Dataset:
        """Return the response set without its values.

        Raises
        ------
        FileError
            If a file is missing, damaged, or not what its name says.
        MismatchError
            If files are of different subjects or spaces, or one is a copy of another.
        """
        trials = self._trials()
        voxel, masks, ncsnr, place = self._table_voxels() if self._tabled() else self._located()
        attrs: dict[str, Any] = {
            **place,
            "tr": 1.5,
            "units": "as published",
            "zscored": "none",
            "source": f"THINGS-fMRI, sub-{self._name()}, {self.layout} {self.preparation}".strip(),
            "licence": self.licence,
        }
        return labels(
            presentation={"image": trials.image, "session": trials.session, "run": trials.run},
            voxel={"subject": f"sub-{self._name()}", "hemisphere": "both", **voxel},
            roi=masks,
            ncsnr=ncsnr,
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
            If a file is truncated or a trial has no values.
        """
        part = self.sessions()[index]
        number = int(part.name.split()[-1])
        if not self._tabled():
            voxels, start = self._mask()[0], 0
            values = np.empty((part.rows, len(voxels)), dtype=np.float32)
            for run in self._runs():
                if run.session == number:
                    own = run.read(voxels)
                    values[start : start + len(own)] = own
                    start += len(own)
            yield from defined(pieces(values), part.name, part.files[0].parent)
            return
        every = self._every_trial()
        places = np.flatnonzero(every.session == number)
        rows = slice(int(places[0]), int(places[-1]) + 1)
        found = read_responses(part.files[0], rows, len(every.image), self._kept(self._voxels()))
        yield from defined(found, part.name, part.files[0])

    def stimuli(self) -> Mapping[str, Sequence[str | int]]:
        """Return the columns of the stimulus index, an image a line in the order of showing."""
        trials = self._trials()
        shown: dict[str, int] = {}
        for image in trials.image:
            shown[image] = shown.get(image, 0) + 1
        ids = list(shown)
        found = self._image_files(ids)
        tests = self._tests(trials)
        return {
            "image": ids,
            "file": below(found, Path(self.path)) if found else [""] * len(ids),
            "dataset": [""] * len(ids),
            "index": [-1] * len(ids),
            "concept": [image.rpartition("_")[0] for image in ids],
            "shown": list(shown.values()),
            "test": [int(image in tests) for image in ids],
        }

    def images(self) -> Images:
        """Return the images of the sessions wanted, in the order of their first showing.

        Raises
        ------
        FileError
            If ``stimuli_folder`` is given, and an image is not below it or is there twice.
        """
        ids = list(dict.fromkeys(self._trials().image))
        files = self._image_files(ids)
        return ImageFiles(files, ids) if files else NamedStimuli(ids, _NO_IMAGES)

    def splits(self) -> Mapping[str, Split]:
        """Return the split "published".

        Returns
        -------
        mapping of str to Split
            Part "test" holds the images of test trials (100, shown in every session), "train"
            those of train trials, shown once. Volumes do not say which trial is which: there,
            and without ``StimulusMetadata.csv``, images shown twice or more are the test images.
            Empty where one part would be.
        """
        trials = self._trials()
        tests = self._tests(trials)
        shown = list(dict.fromkeys(trials.image))
        train = [image for image in shown if image not in tests]
        test = [image for image in shown if image in tests]
        return {"published": Split.from_lists(train=train, test=test)} if train and test else {}

    # -- what was asked for ---------------------------------------------------------------------

    def _tabled(self) -> bool:
        known = check_name("layout", self.layout, ("table", "volumes"))
        if known == "volumes" and self.roi is not None:
            raise InputError(
                f"roi={self.roi}: the volumes come without ROIs. Use layout='table', whose voxel "
                "metadata name them."
            )
        return known == "table"

    def _name(self) -> str:
        text = str(self.subject).removeprefix("sub-")
        name = f"{int(text):02d}" if text.isdecimal() else text
        return check_name("subject", name, ("01", "02", "03"))

    def _chosen(self) -> list[int]:
        if self.sessions_wanted is None:
            return list(range(1, SESSIONS + 1))
        chosen = list(self.sessions_wanted)
        if not chosen or chosen != sorted(set(chosen)) or not 1 <= chosen[0] <= chosen[-1] <= 12:
            raise InputError(
                f"sessions={chosen}: give sessions in rising order, each once, from 1 to 12."
            )
        return chosen

    def _table(self, ending: str) -> Path:
        root, name = Path(self.path), f"sub-{self._name()}_{ending}"
        return root / name if (root / name).exists() else root / "betas_csv" / name

    def _brain(self) -> Path:
        return Path(self.path) / f"brainmasks/sub-{self._name()}_space-T1w_brainmask.nii.gz"

    def _runs(self) -> list[Run]:
        folder = Path(self.path) / "betas_vol" / self.preparation
        return run_files(folder, self._name(), self._chosen())

    # -- trials ---------------------------------------------------------------------------------

    def _every_trial(self) -> Trials:
        return read_trials_table(self._table("StimulusMetadata.csv"), self._name())

    def _trials(self) -> Trials:
        if not self._tabled():
            return read_trials_of(self._runs(), set())
        every = self._every_trial()
        there = sorted(set(every.session.tolist()))
        wanted = there if self.sessions_wanted is None else self._chosen()
        if not set(wanted) <= set(there):
            raise MismatchError(
                f"sessions={wanted}: {self._table('StimulusMetadata.csv')} has sessions {there}."
            )
        keep = np.flatnonzero(np.isin(every.session, wanted))
        images = [every.image[place] for place in keep]
        return Trials(images, every.session[keep], every.run[keep], every.test[keep])

    def _tests(self, trials: Trials) -> set[str]:
        """Return the repeated images, which the volumes do not tell."""
        if self._tabled() or self._table("StimulusMetadata.csv").exists():
            every = self._every_trial()
            return {image for image, test in zip(every.image, every.test, strict=True) if test}
        names, counts = np.unique(trials.image, return_counts=True)
        return set(names[counts > 1].tolist())

    def _image_files(self, ids: Sequence[str]) -> list[Path]:
        if self.stimuli_folder is None:
            return []
        folder = existing(self.stimuli_folder, "folder of the images")
        return files_by_name(folder, ids, image_id)

    # -- voxels ---------------------------------------------------------------------------------

    def _voxels(self) -> Voxels:
        return read_voxels(self._table("VoxelMetadata.csv"), self._name())

    def _kept(self, voxels: Voxels) -> NDArray[np.intp]:
        if self.roi is None:
            return np.arange(len(voxels.number))
        wanted = [self.roi] if isinstance(self.roi, str) else list(self.roi)
        if not wanted:
            raise InputError("roi is empty; give names of ROIs, or leave it out for all voxels.")
        masks = [voxels.rois[check_name("roi", name, voxels.rois)] for name in wanted]
        kept = np.flatnonzero(np.logical_or.reduce(masks))
        if not kept.size:
            raise InputError(f"roi={wanted}: no voxel of sub-{self._name()} is in any of them.")
        return kept

    def _table_voxels(
        self,
    ) -> tuple[dict[str, Any], dict[str, NDArray[np.bool_]], NDArray[np.float64], dict[str, Any]]:
        voxels = self._voxels()
        check_responses(
            self._table("ResponseData.h5"), len(self._every_trial().image), voxels.number
        )
        kept = self._kept(voxels)
        columns: dict[str, Any] = {"name": [f"voxel-{n:06d}" for n in voxels.number[kept]]}
        place: dict[str, Any] = {"space": "none"}
        if self._brain().exists():
            grid = grid_of(self._brain())
            self._check_places(voxels.places, as_mask(read_volume(self._brain()), self._brain()))
            columns |= dict(zip("ijk", voxels.places[kept].T, strict=True))
            place = {"space": "native", **grid.attrs()}
        share = voxels.ceiling["nc_singletrial"][kept] / 100
        with np.errstate(divide="ignore"):
            ratio = np.sqrt(share / (1 - share))
        return columns, {name: mask[kept] for name, mask in voxels.rois.items()}, ratio, place

    def _check_places(self, places: NDArray[np.int64], brain: NDArray[np.bool_]) -> None:
        """See that voxel_x, y, z count from 0 and lie in the brain of this subject."""
        table = self._table("VoxelMetadata.csv")
        fits = []
        for origin in (0, 1):
            own = places - origin
            inside = ((own >= 0) & (own < np.array(brain.shape))).all(axis=1)
            fits.append(brain[tuple(own[inside].T)].sum() / len(places))
        if fits[1] > fits[0]:
            raise MismatchError(
                f"voxel_x, voxel_y, voxel_z of {table} fit {self._brain()} if they count from 1 "
                f"({fits[1]:.0%} of the voxels; from 0: {fits[0]:.0%}). Published, they count from "
                "0: get the file again."
            )
        if fits[0] < 0.95:
            raise MismatchError(
                f"only {fits[0]:.0%} of the voxels of {table} are in {self._brain()}; take the "
                "files of one subject."
            )

    def _mask(self) -> tuple[NDArray[np.intp], dict[str, NDArray[np.intp]]]:
        brain = existing(self._brain(), "brain mask")
        return mask_voxels(as_mask(read_volume(brain), brain))

    def _located(
        self,
    ) -> tuple[dict[str, Any], dict[str, NDArray[np.bool_]] | None, None, dict[str, Any]]:
        _, places = self._mask()
        grid = grid_of(self._brain())
        for run in self._runs():
            check_run(run, grid, self._brain())
        paths = [run.betas for run in self._runs()]
        check_distinct(paths, [first_trial(path) for path in paths])
        return dict(places), None, None, {"space": "native", **grid.attrs()}


def compare_ceilings(responses: xr.Dataset) -> xr.Dataset:
    """Compare the noise ceilings that THINGS ships with those of its responses.

    Parameters
    ----------
    responses : xarray.Dataset
        Single trials with ``ncsnr``, as :class:`THINGS` reads the table; all sessions.

    Returns
    -------
    xarray.Dataset
        ``shipped`` and ``recomputed`` (voxel), percent of the variance of single trials. The
        second is from the images shown more than once alone, z-scored over them within session,
        as the authors did it.

    Raises
    ------
    InputError
        If there is no ``ncsnr``, or no image is repeated.

    References
    ----------
    Hebart et al. (2023), Methods, "Noise ceilings"; Allen et al. (2022), Methods.
    """
    from neuroattn.metrics import ncsnr, noise_ceiling

    if "ncsnr" not in responses:
        raise InputError("responses has no ncsnr to compare; read THINGS with layout='table'.")
    image = responses["image"].values
    names, counts = np.unique(image, return_counts=True)
    rows = np.flatnonzero(np.isin(image, names[counts > 1]))
    if not rows.size:
        raise InputError(f"responses holds {len(names)} images, none of them more than once.")
    some = responses.isel(presentation=rows)
    ratio = np.concatenate(
        [
            ncsnr(values, some["image"].values, some["session"].values)
            for values in _columns(some["response"])
        ]
    )
    both = {"shipped": responses["ncsnr"].values, "recomputed": ratio}
    return xr.Dataset({name: ("voxel", 100 * noise_ceiling(v, 1)) for name, v in both.items()})


def _columns(response: xr.DataArray) -> Iterator[NDArray[Any]]:
    width = max(1, 2**24 // max(1, response.sizes["presentation"]))
    for start in range(0, response.sizes["voxel"], width):
        yield np.asarray(response.isel(voxel=slice(start, start + width)).values)
