"""CNeuroMod as the Algonauts 2025 challenge published it: parcels while four people watch films."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.episodes import Episode, read_episodes
from neuroattn.data.film_splits import missing_episodes, published_splits
from neuroattn.data.parcels import NETWORKS, read_parcel_names
from neuroattn.data.schema import count_repetitions
from neuroattn.data.sessions import Session, SessionReader, SourceFile, labels
from neuroattn.data.split import Split
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.features.stimulus_table import StimulusTable, sample_of
from neuroattn.images import NamedStimuli
from neuroattn.io import open_hdf5
from neuroattn.names import check_name

SUBJECTS = (1, 2, 3, 5)
TASKS = ("friends", "movie10")
TR = 1.49
log = logging.getLogger(__name__)


class CNeuroMod(SessionReader):
    """One subject of CNeuroMod watching Friends and movie10, 1000 parcels, every 1.49 s.

    A presentation is one sample of the scanner, its image id the episode and the sample, counted
    from 0 at the start of the run ("friends-s01e02a-00123"): whatever is dropped or missing, no
    other sample takes its number. The second showing of a film has the same ids and repetition 1.
    Features come from a :class:`~neuroattn.features.StimulusTable`.

    Parameters
    ----------
    path : str
        The folder ``algonauts_2025.competitors``, which holds ``fmri``.
    subject : int or str
        1, 2, 3 or 5, or "sub-01".
    tasks : sequence of str
        "friends" (seasons 1 to 6), "movie10" (four films), or both.
    roi : sequence of str, optional
        Keep the parcels of these networks only; needs ``parcels``.
    drop : int
        Samples left out at both ends of each run; the challenge's baseline leaves out 5.
    features : str or sequence of str, optional
        Tables of the stimuli, as for :class:`~neuroattn.features.StimulusTable`. Where the
        scanner ran longer than the film, the samples after its end are left out and told.
    parcels : str, optional
        Label file of the parcels, see :func:`neuroattn.data.parcels.read_parcel_names`. Gives
        names, hemispheres and the seven networks as ROIs; without it parcels have numbers from 1.

    References
    ----------
    Gifford et al. (2025), The Algonauts Project 2025 Challenge: How the Human Brain Makes Sense of
    Multimodal Movies, arXiv:2501.00504. Schaefer et al. (2018), Cerebral Cortex 28, 3095-3114.
    """

    licence = "CC0 1.0 (responses); the films are under copyright"
    reference = "Gifford et al. (2025), arXiv:2501.00504"

    def __init__(
        self,
        path: str,
        subject: int | str = 1,
        tasks: Sequence[str] = TASKS,
        roi: Sequence[str] | None = None,
        drop: int = 5,
        features: str | Sequence[str] | None = None,
        parcels: str | None = None,
    ) -> None:
        self.path = path
        self.subject = subject
        self.tasks = tasks
        self.roi = roi
        self.drop = drop
        self.features = features
        self.parcels = parcels

    def files(self) -> list[SourceFile]:
        """Return the HDF5 file of each task, the tables of features, the labels of the parcels."""
        found = [SourceFile(self._file(task), f"responses to {task}") for task in self._tasks()]
        tables = [self.features] if isinstance(self.features, str) else self.features or ()
        found += [
            SourceFile(Path(table), "tables of features: how long films are") for table in tables
        ]
        if self.parcels is not None:
            found.append(SourceFile(Path(self.parcels), "labels of the parcels"))
        return found

    def sessions(self) -> list[Session]:
        """Return the runs, by task, session and key.

        Raises
        ------
        FileError
            If a file is missing, not fetched, damaged, or has keys of another form.
        MismatchError
            If recordings differ in their number of parcels, or two are the same.
        InputError
            If ``drop`` leaves nothing of a run.
        """
        return [Session(f"{run.path.name}:{run.key}", run.rows, (run.path,)) for run in self._runs]

    def labels(self) -> xr.Dataset:
        """Return what is known of samples and parcels.

        Returns
        -------
        xarray.Dataset
            ``session`` is the number in the key (1000 more for movie10, so that no session is
            there twice), ``run`` counts the runs of a session from 1. Space "none": a parcel is
            many voxels; :func:`neuroattn.data.parcels.parcel_volume` makes maps. Attribute
            ``missing_episodes`` lists what was not recorded, ``truncated_samples`` how many
            samples of which run came after the end of the film.

        Raises
        ------
        FileError, MismatchError, InputError
            As for :meth:`sessions`; or if a network is unknown.
        """
        runs = self._runs
        counts = [run.rows for run in runs]
        known, _ = missing_episodes(self._number(), [run.name for run in runs])
        order = count_repetitions([run.session for run in runs]) + 1
        voxel, masks = self._voxels()
        return labels(
            presentation={
                "image": np.array([image for run in runs for image in run.images]),
                "session": np.repeat([run.session for run in runs], counts),
                "run": np.repeat(order, counts),
            },
            voxel=voxel,
            roi=masks,
            attrs={
                "space": "none",
                "tr": TR,
                "units": "as published",
                "atlas": "Schaefer 2018, 1000 parcels, 7 networks, MNI152NLin2009cAsym",
                "source": f"CNeuroMod (Algonauts 2025), {self._name()}, {'+'.join(self._tasks())}",
                "licence": self.licence,
                "missing_episodes": known,
                "truncated_samples": self._truncated(runs),
            },
        )

    def read(self, index: int) -> Iterator[NDArray[np.float32]]:
        """Yield the values of a run, in one piece (a run is a few megabytes).

        Parameters
        ----------
        index : int
            Place of the run in :meth:`sessions`.

        Raises
        ------
        FileError
            If the file is damaged there, or samples hold NaN in every parcel.
        """
        run = self._runs[index]
        with open_hdf5(run.path, "file of responses") as file:
            values = np.asarray(file[run.key][run.start : run.stop], dtype=np.float32)
        nothing = np.flatnonzero(np.isnan(values).all(axis=1))
        if nothing.size:
            raise FileError(
                f"{run.path}:{run.key}: sample {run.start + nothing[0]} and {nothing.size - 1} "
                "others are NaN in every parcel. Copy the file again."
            )
        yield values if self._kept is None else values[:, self._kept]

    def stimuli(self) -> Mapping[str, Sequence[str | int]]:
        """Return the samples: episode, sample, file of the movie, how often shown.

        ``file`` is empty: a sample is a moment of a movie, and no picture.
        """
        shown = Counter(image for run in self._runs for image in run.images)
        movies = {run.name: run.movie for run in self._runs}
        parts = [sample_of(image) for image in shown]
        return {
            "image": list(shown),
            "file": [""] * len(shown),
            "dataset": [""] * len(shown),
            "index": [-1] * len(shown),
            "episode": [episode for episode, _ in parts],
            "sample": [sample for _, sample in parts],
            "movie": [movies[episode] for episode, _ in parts],
            "repeats": list(shown.values()),
        }

    def images(self) -> NamedStimuli:
        """Return the ids of the samples; there are no pixels."""
        ids = list(dict.fromkeys(image for run in self._runs for image in run.images))
        return NamedStimuli(ids, "CNeuroMod shows films, and a sample is 1.49 s of one.")

    def splits(self) -> Mapping[str, Split]:
        """Return the splits by film whose parts are all there.

        Returns
        -------
        mapping of str to Split
            "algonauts2025": the challenge's baseline, Friends 1 to 5 and movie10 against Friends 6
            (the responses to its own test films are not published). "friends6": Friends 1 to 4,
            validation on 5, test on 6. "movie10-twice": tests on the two films that were shown
            twice, where repeats give a ceiling.
        """
        return published_splits({run.name: run.images for run in self._runs})

    def _number(self) -> int:
        found = re.fullmatch(r"(?:sub-)?0?(\d)", str(self.subject))
        if found is None or int(found[1]) not in SUBJECTS:
            raise InputError(f"subject={self.subject!r}; the challenge has {SUBJECTS} ('sub-01').")
        return int(found[1])

    def _name(self) -> str:
        return f"sub-{self._number():02d}"

    def _tasks(self) -> list[str]:
        tasks = [self.tasks] if isinstance(self.tasks, str) else list(self.tasks)
        for task in tasks:
            check_name("tasks", task, TASKS)
        if not tasks or len(set(tasks)) < len(tasks):
            raise InputError(f"tasks={tasks}; give any of {', '.join(TASKS)}, once each.")
        return sorted(tasks)

    def _file(self, task: str) -> Path:
        folder = Path(self.path) / "fmri" / self._name() / "func"
        begin = f"{self._name()}_task-{task}_"
        found = sorted(folder.glob(f"{begin}*_bold.h5"))
        if len(found) > 1:
            raise FileError(
                f"{folder} has {len(found)} files of {task}: {', '.join(p.name for p in found)}. "
                "Move all but one of them away."
            )
        seasons = "desc-s123456_" if task == "friends" else ""
        default = (
            f"{begin}space-MNI152NLin2009cAsym_atlas-Schaefer18_parcel-1000Par7Net_{seasons}bold.h5"
        )
        return found[0] if found else folder / default

    @cached_property
    def _runs(self) -> list[Episode]:
        if self.drop < 0:
            raise InputError(f"drop={self.drop}; allowed is 0 or more samples.")
        table = None if self.features is None else StimulusTable(self.features)
        runs = [
            run
            for task in self._tasks()
            for run in read_episodes(self._file(task), task, self.drop, table)
        ]
        for run in runs:
            if run.parcels != runs[0].parcels:
                raise MismatchError(
                    f"{run.path}:{run.key} has {run.parcels} parcels, {runs[0].path}:{runs[0].key} "
                    f"has {runs[0].parcels}: they were made with different atlases."
                )
        known, unexplained = missing_episodes(self._number(), [run.name for run in runs])
        if known:
            log.info("%s: %s was not recorded", self._name(), ", ".join(known))
        if unexplained:
            log.warning("%s: no responses to %s", self._name(), ", ".join(unexplained))
        for key, count in self._truncated(runs).items():
            log.warning("%s: %d samples after the end of the film left out", key, count)
        return runs

    def _truncated(self, runs: Sequence[Episode]) -> dict[str, int]:
        after = {run.key: run.samples - self.drop - run.stop for run in runs}
        return {key: count for key, count in after.items() if count}

    def _voxels(self) -> tuple[dict[str, Any], dict[str, NDArray[np.bool_]]]:
        """Return the coordinates and the networks of the parcels that are kept."""
        count = self._runs[0].parcels
        subject = self._name()
        if self.parcels is None:
            if self.roi is not None:
                raise InputError(
                    f"roi={list(self.roi)} needs parcels: the label file that says which parcel "
                    "belongs to which network."
                )
            names = [f"parcel-{number:04d}" for number in range(1, count + 1)]
            return {"subject": subject, "hemisphere": "both", "name": names}, {}
        known = read_parcel_names(self.parcels)
        if len(known.name) != count:
            raise MismatchError(
                f"{self.parcels} names {len(known.name)} parcels, {self._runs[0].path} has {count}."
            )
        network = np.array(known.network)
        keep = self._kept if self._kept is not None else np.arange(count)
        masks = {name: network[keep] == name for name in NETWORKS}
        voxel = {
            "subject": subject,
            "hemisphere": np.array(known.hemisphere)[keep],
            "name": np.array(known.name)[keep],
        }
        return voxel, masks

    @cached_property
    def _kept(self) -> NDArray[np.intp] | None:
        if self.roi is None or self.parcels is None:
            return None
        for name in self.roi:
            check_name("roi", name, NETWORKS)
        return np.flatnonzero(np.isin(read_parcel_names(self.parcels).network, list(self.roi)))
