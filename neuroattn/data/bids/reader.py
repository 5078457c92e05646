"""A BIDS data set as responses: one beta for each trial and voxel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.bids.ceiling import ConditionNcsnr
from neuroattn.data.bids.confounds import (
    STRATEGIES,
    confounds_files,
    desc_of,
    read_confounds,
)
from neuroattn.data.bids.design import Design, Frames, make_design
from neuroattn.data.bids.events import Trial, Trials, image_ids, read_trials
from neuroattn.data.bids.glm import Glm, estimate, estimators, unexplained
from neuroattn.data.bids.hrf import Kernel, kernels
from neuroattn.data.bids.layout import BoldRun, Layout, Query, bold_runs
from neuroattn.data.bids.settings import settings_of
from neuroattn.data.bids.signals import (
    Voxels,
    check_distinct,
    find_voxels,
    frames_of,
    percent_change,
    read_signal,
)
from neuroattn.data.sessions import Session, SessionReader, SourceFile, labels
from neuroattn.errors import FileError
from neuroattn.images import ImageFolder, Images, NamedStimuli
from neuroattn.io import read_json
from neuroattn.names import check_name

_BLOCK = 8192
_SPACES = {"fsaverage": "fsaverage", "fsaverage5": "fsaverage5", "": "native", "T1w": "native"}
_RESERVED = ("image", "file", "dataset", "index", "shown")


@dataclass(frozen=True)
class RunModel:
    """What the model of a run is made of.

    Parameters
    ----------
    trials, others : list of Trial
        What gets a beta, and what else happened.
    frames : Frames
        When the volumes were taken.
    confounds : ndarray or None
        (time, regressor).
    """

    trials: list[Trial]
    others: list[Trial]
    frames: Frames
    confounds: NDArray[np.float64] | None


class BIDS(SessionReader):
    """One subject and task of a BIDS data set: single-trial betas by nilearn's GLM, run by run.

    Every run has its own model, so nothing crosses from one run into another, but for the choice
    of a voxel's response function where ``glm.hrf`` is a whole library: it is made over all runs,
    those that are tested later included, without looking at trial types. A response is the height
    of the modelled response to one trial at its peak, in percent of the voxel's mean over the run;
    a voxel without a positive mean, or that is constant, is NaN in that run.

    Parameters
    ----------
    path : str
        The raw data set: events, and images unless ``derivatives`` is given.
    subject : str
        "01", "sub-01" or 1.
    task : str, optional
        May be left out where there is one.
    session : str, optional
        Left out: all sessions.
    space : str, optional
        Of derivative images: "MNI152NLin2009cAsym", "T1w", "MNI152NLin2009cAsym:res-2", or
        surfaces: "fsnative", "fsaverage5", ... Left out: images without a space in their name.
    derivatives : str, optional
        fMRIPrep's folder (relative to ``path``, or anywhere).
    mask : str, optional
        NIfTI mask of volumes, or "all"; left out, the brain masks found beside the images of all
        runs, or in ``derivatives/*`` of the data set.
    entities : mapping of str to str, optional
        Further entities of the images: ``{"acq": "highres", "run": "2"}``.
    glm : Glm or mapping, optional
        Model (LSA or LSS), response function, confounds, drift, noise; ``{"model": "lss"}`` is
        ``Glm(model="lss")``.
    trials : Trials or mapping, optional
        How the rows of the events become trials, and trials images.

    References
    ----------
    Gorgolewski et al. (2016), "The brain imaging data structure", Scientific Data 3, 160044.
    Esteban et al. (2019), "fMRIPrep", Nature Methods 16, 111-116.
    """

    def __init__(
        self,
        path: str,
        subject: str | int,
        task: str | None = None,
        session: str | None = None,
        space: str | None = None,
        derivatives: str | None = None,
        mask: str | None = None,
        entities: Mapping[str, str] | None = None,
        glm: Glm | None = None,
        trials: Trials | None = None,
    ) -> None:
        self.path = path
        self.subject = subject
        self.task = task
        self.session = session
        self.space = space
        self.derivatives = derivatives
        self.mask = mask
        self.entities = entities
        self.glm: Glm = settings_of(Glm, "glm", glm)
        self.trials: Trials = settings_of(Trials, "trials", trials)

    def options(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain data."""
        plain = {"glm": asdict(self.glm), "trials": asdict(self.trials)}
        if self.entities is not None:
            plain["entities"] = dict(self.entities)
        return {**super().options(), **plain}

    @cached_property
    def runs(self) -> list[BoldRun]:
        """The runs that are read, by session and number.

        Raises
        ------
        FileError
            If no image fits, or a run has no events; the message says what there is.
        """
        self.glm.check()
        check_name("glm.confounds", self.glm.confounds, STRATEGIES)
        query = Query(
            self.subject,
            self.task,
            self.session,
            self.space,
            self.entities,
            desc_of(self.glm.confounds),
        )
        runs = bold_runs(self._raw, query, self._derivatives)
        silent = [run for run in runs if run.events is None]
        if silent:
            task = silent[0].entities.get("task", "")
            raise FileError(
                f"{len(silent)} of {len(runs)} runs have no events file (the first is "
                f"{silent[0].images[0].name}): no *_task-{task}_*events.tsv applies in "
                f"{self._raw.root}. fMRIPrep's folder has none: give the raw data set as path and "
                "fMRIPrep's folder as derivatives."
            )
        return runs

    def files(self) -> list[SourceFile]:
        """Return images, events, masks, confounds and the HRF library."""
        found = []
        for run in self.runs:
            found += [SourceFile(path, f"images of {run.name}") for path in run.images]
            found.append(SourceFile(Path(str(run.events)), f"events of {run.name}"))
            if run.mask is not None and self.mask is None:
                found.append(SourceFile(run.mask, f"mask of {run.name}"))
            if self.glm.confounds != "none":
                tables = confounds_files(run)
                found += [SourceFile(path, f"confounds of {run.name}") for path in tables]
        if self.mask not in (None, "all"):
            found.append(SourceFile(Path(str(self.mask)), "mask"))
        return found

    def sessions(self) -> list[Session]:
        """Return one session a run.

        Raises
        ------
        FileError
            If an image is missing, empty or damaged.
        MismatchError
            If two runs have the same content, or events do not fit a run.
        """
        check_distinct(self.runs)
        return [
            Session(run.name, len(model.trials), run.images)
            for run, model in zip(self.runs, self.models, strict=True)
        ]

    @cached_property
    def models(self) -> list[RunModel]:
        """Trials, volumes and confounds of each run."""
        return [self._model(run) for run in self.runs]

    def labels(self) -> xr.Dataset:
        """Return the response set without ``response``.

        ``session`` and ``run`` are the numbers in the file names, or count from 1. With
        ``trials.repeats`` there is an ``ncsnr``, estimated over trials with the same entry in that
        column (see :class:`neuroattn.data.bids.ceiling.ConditionNcsnr`); for that all betas are
        estimated once, session by session.

        Raises
        ------
        FileError
            If a file is missing, empty or damaged.
        MismatchError
            If runs, masks and events do not belong together.
        """
        rows = [len(model.trials) for model in self.models]
        return labels(
            presentation={
                "image": [image for ids in self._images for image in ids],
                "session": np.repeat(self._session_numbers, rows),
                "run": np.repeat(self._run_numbers, rows),
            },
            voxel={"subject": f"sub-{self._label}", **self._voxels.columns},
            ncsnr=None if self.trials.repeats is None else self._ncsnr,
            attrs=self._attrs(),
        )

    def read(self, index: int) -> Iterator[NDArray[np.float32]]:
        """Yield the betas of run ``index``, (trial, some voxels), percent signal change.

        Parameters
        ----------
        index : int
            Number of the run, from 0.

        Raises
        ------
        FileError
            If the images are damaged, or no voxel has a positive mean.
        """
        run, model = self.runs[index], self.models[index]
        choice = self._choice
        models = estimators(self._designs(index), self.glm)
        for start, change, usable in self._blocks(run, model):
            betas = np.full((len(model.trials), len(usable)), np.nan, dtype=np.float32)
            if usable.any():
                mine = choice[start : start + len(usable)][usable]
                betas[:, usable] = estimate(change[:, usable], models, mine)
            yield betas

    def stimuli(self) -> Mapping[str, Sequence[str | int]]:
        """Return one line an image: file, and what the events say of its first trial.

        Columns of the events whose names are taken begin with ``event_``; ``shown`` counts the
        trials of an image.
        """
        first: dict[str, tuple[Trial, BoldRun]] = {}
        shown: dict[str, int] = {}
        for run, model, ids in zip(self.runs, self.models, self._images, strict=True):
            for image, trial in zip(ids, model.trials, strict=True):
                first.setdefault(image, (trial, run))
                shown[image] = shown.get(image, 0) + 1
        columns: dict[str, list[str | int]] = {
            "image": list(first),
            "file": [self._stimulus_file(trial) for trial, _ in first.values()],
            "dataset": [""] * len(first),
            "index": [-1] * len(first),
            "shown": [shown[image] for image in first],
        }
        names = list(dict.fromkeys(key for trial, _ in first.values() for key in trial.columns))
        for name in (name for name in names if name not in ("onset", "duration")):
            key = f"event_{name}" if name in _RESERVED else name
            columns[key] = [trial.columns.get(name, "") for trial, _ in first.values()]
        if self.trials.image == "trial":
            columns["first_run"] = [run.name for _, run in first.values()]
            columns["onset"] = [f"{trial.onset:g}" for trial, _ in first.values()]
            columns["seconds"] = [f"{trial.duration:g}" for trial, _ in first.values()]
        return columns

    def images(self) -> Images:
        """Return the files in ``stimuli/`` where images are stim_file; else ids without pixels."""
        ids = list(dict.fromkeys(image for run in self._images for image in run))
        folder = self._raw.root / "stimuli"
        if self.trials.image == "stim_file" and folder.is_dir():
            every = ImageFolder(folder, "**/*", ids="path")
            return every.subset(every.find(ids))
        why = (
            f"{folder} does not exist."
            if self.trials.image == "stim_file"
            else f"the images of this data set are {self.trials.image!r}, which are no files."
        )
        return NamedStimuli(ids, why)

    def series(self, index: int) -> NDArray[np.float64]:
        """Return the time series of run ``index`` as its model sees them.

        Parameters
        ----------
        index : int
            Number of the run, from 0.

        Returns
        -------
        ndarray
            (kept volume, voxel), percent signal change; an undefined voxel is NaN.
        """
        run, model = self.runs[index], self.models[index]
        parts = [np.where(usable, change, np.nan) for _, change, usable in self._blocks(run, model)]
        return np.concatenate(parts, axis=1)

    @cached_property
    def _raw(self) -> Layout:
        return Layout(self.path)

    @cached_property
    def _derivatives(self) -> Layout | None:
        if self.derivatives is None:
            return None
        inside = Path(self.path) / self.derivatives
        return Layout(inside if inside.is_dir() else self.derivatives)

    @cached_property
    def _label(self) -> str:
        return (self._derivatives or self._raw).subject(self.subject)

    @cached_property
    def _voxels(self) -> Voxels:
        return find_voxels(self.runs, self._raw, self.mask)

    @cached_property
    def _kernels(self) -> list[Kernel]:
        return kernels(self.glm.hrf)

    @cached_property
    def _session_numbers(self) -> list[int]:
        names = [run.entities.get("ses", "1") for run in self.runs]
        return _numbers(names)

    @cached_property
    def _run_numbers(self) -> list[int]:
        """Numbers of the file names, if they tell the runs of a session apart; else a count."""
        names = [run.entities.get("run", "1") for run in self.runs]
        numbers = [int(name) if name.isdigit() else 0 for name in names]
        pairs = set(zip(self._session_numbers, numbers, strict=True))
        return numbers if len(pairs) == len(numbers) else list(range(1, len(numbers) + 1))

    @cached_property
    def _images(self) -> list[list[str]]:
        return [
            image_ids(model.trials, self.trials, self._prefix(run), Path(str(run.events)))
            for run, model in zip(self.runs, self.models, strict=True)
        ]

    def _prefix(self, run: BoldRun) -> str:
        parts = [f"{key}-{run.entities[key]}" for key in ("ses", "run") if key in run.entities]
        return "_".join([f"sub-{self._label}", *parts])

    def _stimulus_file(self, trial: Trial) -> str:
        """Return the file of an image that is one: not of a category, nor of a block."""
        name = trial.columns.get("stim_file", "")
        if self.trials.image not in ("trial", "stim_file") or trial.events > 1 or not name:
            return ""
        return f"stimuli/{name}" if (self._raw.root / "stimuli" / name).is_file() else ""

    def _model(self, run: BoldRun) -> RunModel:
        frames = frames_of(run, self.glm.tr)
        confounds, kept = read_confounds(run, self.glm.confounds)
        end = float(frames.times[-1]) + frames.tr
        trials, others = read_trials(Path(str(run.events)), self.trials, end)
        return RunModel(trials, others, replace(frames, kept=kept), confounds)

    @cached_property
    def _made(self) -> dict[int, list[Design]]:
        return {}

    def _designs(self, index: int) -> list[Design]:
        """Return the model of a run with each response function, made once."""
        if index not in self._made:
            run, model = self.runs[index], self.models[index]
            self._made[index] = [
                make_design(
                    model.trials,
                    model.others,
                    model.frames,
                    kernel,
                    high_pass=self.glm.high_pass,
                    confounds=model.confounds,
                    name=f"{run.name} ({run.images[0].name})",
                )
                for kernel in self._kernels
            ]
        return self._made[index]

    def _blocks(
        self, run: BoldRun, model: RunModel
    ) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.bool_]]]:
        """Yield the first voxel of a block, its percent signal change, and which are usable."""
        values = read_signal(run, self._voxels)
        if model.frames.kept is not None:
            values = values[model.frames.kept]
        found = False
        for start in range(0, values.shape[1], _BLOCK):
            change, usable = percent_change(values[:, start : start + _BLOCK])
            found |= bool(usable.any())
            yield start, change, usable
        if not found:
            raise FileError(
                f"{run.images[0]}: no voxel has finite, changing values with a mean above 0, so "
                "there is no percent signal change. Give data that were not demeaned, and a mask "
                "of the same brain."
            )

    @cached_property
    def _choice(self) -> NDArray[np.intp]:
        """Which response function each voxel has: the one whose models explain most."""
        count = len(self._voxels.flat)
        if len(self._kernels) == 1:
            return np.zeros(count, dtype=np.intp)
        left = np.zeros((len(self._kernels), count))
        for index, (run, model) in enumerate(zip(self.runs, self.models, strict=True)):
            designs = self._designs(index)
            for start, change, _ in self._blocks(run, model):
                left[:, start : start + change.shape[1]] += unexplained(change, designs)
        return np.asarray(left.argmin(axis=0), dtype=np.intp)

    @cached_property
    def _ncsnr(self) -> NDArray[np.float64]:
        column = str(self.trials.repeats)
        kinds = [[t.columns[column] for t in model.trials] for model in self.models]
        ratio = ConditionNcsnr([k for run in kinds for k in run], len(self._voxels.flat))
        numbers = np.array(self._session_numbers)
        for number in dict.fromkeys(self._session_numbers):
            here = np.flatnonzero(numbers == number).tolist()
            betas = np.concatenate(
                [np.concatenate(list(self.read(index)), axis=1) for index in here]
            )
            ratio.add(betas, [kind for index in here for kind in kinds[index]])
        return ratio.value()

    def _attrs(self) -> dict[str, Any]:
        about = self._raw.root / "dataset_description.json"
        content = read_json(about) if about.exists() else {}
        known = content if isinstance(content, dict) else {}
        task = self.runs[0].entities.get("task", "")
        space = self.runs[0].entities.get("space", "")
        attrs: dict[str, Any] = {
            **self._voxels.attrs,
            "space": "MNI" if space.startswith("MNI") else _SPACES.get(space, "native"),
            "bids_space": space,
            "tr": self.models[0].frames.tr,
            "units": "percent signal change",
            "response": "peak of the modelled response to a trial, percent of the run's mean",
            "source": f"{known.get('Name', self._raw.root.name)}, sub-{self._label}, task {task}",
            "licence": str(known.get("License", "")),
            "session_names": [run.entities.get("ses", "") for run in self.runs],
            "run_names": [run.name for run in self.runs],
            **{f"glm_{key}": value for key, value in vars(self.glm).items() if value is not None},
        }
        if self.trials.repeats is not None:
            attrs["ncsnr_of"] = (
                f"repeats of the same {self.trials.repeats}: signal is what it explains"
            )
        return attrs


def _numbers(names: Sequence[str]) -> list[int]:
    if all(name.isdigit() for name in names):
        return [int(name) for name in names]
    order = sorted(set(names))
    return [order.index(name) + 1 for name in names]
