"""The Natural Scenes Dataset in miniature: every file, with numbers that a test can compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
from scipy.io import savemat

DIMS = (4, 5, 6)
MESHES = {"lh": 35, "rh": 45}
FSAVERAGE = 40
AFFINE = np.array([[1.8, 0, 0, -3], [0, 1.8, 0, -4], [0, 0, 1.8, -5], [0, 0, 0, 1.0]])
PREPARATION = "betas_fithrf_GLMdenoise_RR"
INVALID = (1, 2, 3)  # the voxel that is 0 in the last session
SUBJECTS = 8


@dataclass(frozen=True)
class Mini:
    """What was written, and the truth behind it."""

    root: Path
    subject: int
    sessions: int
    trials: int
    dims: tuple[int, int, int]
    seed: int
    ordering: np.ndarray  # (trial,) position among the subject's images, from 0
    table: np.ndarray  # (subject, position) 73k id, from 0
    shared: np.ndarray  # sorted 73k ids
    snr: np.ndarray  # (x, y, z) true sigma_signal / sigma_noise
    labels: dict[str, np.ndarray]  # label volumes (x, y, z)

    @property
    def shown(self) -> np.ndarray:
        """(trial,) the 73k id of each trial of the subject, from 0."""
        return self.table[self.subject - 1, self.ordering]

    @property
    def betas_folder(self) -> Path:
        return self.folder("func1pt8mm")

    def folder(self, space: str) -> Path:
        return self.root / f"nsddata_betas/ppdata/subj{self.subject:02d}/{space}/{PREPARATION}"

    @property
    def anatomy(self) -> Path:
        return self.root / f"nsddata/ppdata/subj{self.subject:02d}/func1pt8mm"

    @property
    def experiment(self) -> Path:
        return self.root / "nsddata/experiments/nsd"

    @property
    def stimuli(self) -> Path:
        return self.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"

    def session(self, number: int) -> np.ndarray:
        """int16 (x, y, z, trial) of a session, from 1: percent signal change times 300."""
        out = np.empty((*self.dims, self.trials), dtype=np.int16)
        for layer in range(self.dims[2]):
            out[:, :, layer] = self.layer(number, layer)
        return out

    def layer(self, number: int, layer: int) -> np.ndarray:
        """int16 (x, y, trial): one z of a session, so that large sets can be written bit by bit."""
        x, y, _ = self.dims
        first = (number - 1) * self.trials
        positions = self.ordering[first : first + self.trials]
        signal = np.random.default_rng([self.seed, 0, layer]).standard_normal(
            (self.table.shape[1], x, y), dtype=np.float32
        )
        noise = np.random.default_rng([self.seed, 1, number, layer]).standard_normal(
            (self.trials, x, y), dtype=np.float32
        )
        percent = 0.5 + self.snr[:, :, layer] * signal[positions] + noise
        stored = np.rint(np.moveaxis(percent, 0, -1) * 300).astype(np.int16)
        if number == self.sessions and layer == INVALID[2]:
            stored[INVALID[:2]] = 0
        return stored

    def surface(self, space: str, side: str, number: int) -> np.ndarray:
        """(trial, vertex): float32 percent on fsaverage, int16 (times 300) on the native mesh."""
        count = FSAVERAGE if space == "fsaverage" else MESHES[side]
        marks = [self.seed, 2, number, space == "fsaverage", side == "rh"]
        values = np.random.default_rng(marks).standard_normal((self.trials, count))
        if space == "fsaverage":
            return values.astype(np.float32)
        return np.rint(300 * values).astype(np.int16)


def nsd_mini(
    root: Path,
    *,
    subject: int = 1,
    sessions: int = 2,
    trials: int = 12,
    dims: tuple[int, int, int] = DIMS,
    snr: tuple[float, float] = (0.3, 1.5),
    seed: int = 0,
    volume: tuple[str, ...] = ("hdf5", "nii.gz"),
    surfaces: bool = True,
    chunks: tuple[int, int, int, int] | None = None,
) -> Mini:
    """Write the data set of one subject; ``volume`` says in which formats."""
    rng = np.random.default_rng(seed)
    ordering, shared_count = _ordering(sessions * trials, rng)
    table, shared, images = _images(int(ordering.max()) + 1, shared_count, rng)
    mini = Mini(
        root,
        subject,
        sessions,
        trials,
        dims,
        seed,
        ordering,
        table,
        shared,
        rng.uniform(*snr, dims).astype(np.float32),
        _labels(dims, rng),
    )
    write_design(mini)
    write_stimulus_table(mini, images)
    _write_stimuli(mini.stimuli, images, rng)
    _write_labels(mini)
    for number in range(1, sessions + 1):
        write_session(mini, number, volume, chunks)
        if surfaces:
            _write_surface_session(mini, number)
    if surfaces:
        _write_surface_labels(mini)
    write_volume(mini.betas_folder / "ncsnr.nii.gz", mini.snr.astype(np.float32))
    return mini


def write_volume(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def write_session(
    mini: Mini, number: int, formats: tuple[str, ...] = ("hdf5",), chunks=None
) -> None:
    mini.betas_folder.mkdir(parents=True, exist_ok=True)
    stem = mini.betas_folder / f"betas_session{number:02d}"
    x, y, z = mini.dims
    if "hdf5" in formats:
        shape = (mini.trials, z, y, x)
        with h5py.File(f"{stem}.hdf5", "w") as file:
            data = file.create_dataset(
                "betas", shape, np.int16, chunks=chunks or (mini.trials, 1, y, x)
            )
            for layer in range(z):
                data[:, layer] = mini.layer(number, layer).transpose(2, 1, 0)
    if "nii.gz" in formats:
        write_volume(Path(f"{stem}.nii.gz"), mini.session(number))


def write_design(mini: Mini, **changes: np.ndarray) -> None:
    """Write ``nsd_expdesign.mat``, all of it from 1."""
    mini.experiment.mkdir(parents=True, exist_ok=True)
    arrays = {
        "masterordering": mini.ordering[None] + 1.0,
        "subjectim": mini.table + 1.0,
        "sharedix": mini.shared[None] + 1.0,
        "stimpattern": _pattern(mini),
    }
    savemat(mini.experiment / "nsd_expdesign.mat", arrays | changes)


def write_stimulus_table(mini: Mini, images: int) -> None:
    """Write ``nsd_stim_info_merged.csv``: images from 0, trials from 1, 0 for never."""
    trials = np.zeros((images, SUBJECTS, 3), dtype=int)
    for row in range(SUBJECTS):
        often = np.zeros(images, dtype=int)
        for trial, image in enumerate(mini.table[row, mini.ordering], start=1):
            trials[image, row, often[image]] = trial
            often[image] += 1
    people = range(1, SUBJECTS + 1)
    columns = [f"subject{k}" for k in people] + [
        f"subject{k}_rep{r}" for k in people for r in range(3)
    ]
    lines = [
        ",cocoId,cocoSplit,cropBox,loss,nsdId,flagged,BOLD5000,shared1000," + ",".join(columns)
    ]
    for image in range(images):
        seen = [str(int(each.any())) for each in trials[image]]
        marks = [str(number) for number in trials[image].ravel()]
        lines.append(
            f'{image},{500 + 7 * image},val2017,"(0, 0, 0.1, 0.2)",0.1,{image},False,False,'
            f"{image in mini.shared}," + ",".join(seen + marks)
        )
    (mini.experiment / "nsd_stim_info_merged.csv").write_text("\n".join(lines) + "\n")


def _ordering(count: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Show each position three times, the last shared one twice, the last of all as is left."""
    positions = -(-(count + 1) // 3)
    shared = max(4, positions // 10)
    often = np.full(positions, 3)
    often[shared - 1] = 2
    often[-1] = count - often[:-1].sum()
    return rng.permutation(np.repeat(np.arange(positions), often)), shared


def _images(
    positions: int, shared: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return (subject, position) ids, the sorted shared ones, and how many images there are."""
    own = positions - shared
    images = max(20, shared + own)
    drawn = rng.permutation(images)
    common, rest = np.sort(drawn[:shared]), drawn[shared:]
    rows = [
        np.r_[common, rest[(2 * person + np.arange(own)) % len(rest)]] for person in range(SUBJECTS)
    ]
    return np.stack(rows), common, images


def _pattern(mini: Mini) -> np.ndarray:
    """(session, run, slot) 1 where a stimulus is: two runs, the first with a blank slot."""
    first = mini.trials // 2
    second = mini.trials - first
    pattern = np.zeros((mini.sessions, 2, max(first + 1, second)), dtype=np.uint8)
    pattern[:, 0, : first + 1] = 1
    pattern[:, 0, 1] = 0
    pattern[:, 1, :second] = 1
    return pattern


def _labels(dims: tuple[int, int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """-1 outside cortex (the edge along x), 0 in it, labels from 1."""
    outside = np.zeros(dims, dtype=bool)
    outside[:, 0] = True
    volumes = {}
    for name, top in {"nsdgeneral": 1, "prf-visualrois": 7, "floc-faces": 4}.items():
        # Of the five labels of floc-faces the last, aTL-faces, is empty.
        values = rng.integers(0, top + 1, dims).astype(np.int16)
        values[outside] = -1
        volumes[name] = values
    volumes["nsdgeneral"][INVALID] = 1
    return volumes


def _write_labels(mini: Mini) -> None:
    left = np.arange(mini.dims[0])[:, None, None] < mini.dims[0] // 2
    for name, values in mini.labels.items():
        write_volume(mini.anatomy / f"roi/{name}.nii.gz", values)
        for mark, inside in {"lh": left, "rh": ~left}.items():
            half = np.where(inside, values, -1).astype(np.int16)
            write_volume(mini.anatomy / f"roi/{mark}.{name}.nii.gz", half)
    write_volume(
        mini.anatomy / "brainmask.nii.gz", (mini.labels["nsdgeneral"] >= 0).astype(np.uint8)
    )
    folder = mini.root / f"nsddata/freesurfer/subj{mini.subject:02d}/label"
    folder.mkdir(parents=True, exist_ok=True)
    names = ("Unknown", "OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces")
    lines = [f"{number} {name} 0 0 0 0" for number, name in enumerate(names)]
    (folder / "floc-faces.mgz.ctab").write_text("\n".join(lines) + "\n")


def surface_labels(space: str, side: str) -> dict[str, np.ndarray]:
    """(vertex,) labels of both files; the hemispheres differ."""
    count = FSAVERAGE if space == "fsaverage" else MESHES[side]
    vertex = np.arange(count)
    shift = 0 if side == "lh" else 1
    return {
        "nsdgeneral": ((vertex + shift) % 3 == 0).astype(np.int32),
        "prf-visualrois": np.where(vertex % 2 == shift, vertex % 8, 0).astype(np.int32),
    }


def _write_mgh(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.MGHImage(values, np.eye(4)), path)


def _write_surface_labels(mini: Mini) -> None:
    owners = {"fsaverage": "fsaverage", "nativesurface": f"subj{mini.subject:02d}"}
    for space, owner in owners.items():
        for side in MESHES:
            for name, values in surface_labels(space, side).items():
                folder = mini.root / f"nsddata/freesurfer/{owner}/label"
                _write_mgh(folder / f"{side}.{name}.mgz", values[:, None, None])
            count = len(values)
            level = np.linspace(0.1, 1.0, count, dtype=np.float32) + (side == "rh")
            _write_mgh(mini.folder(space) / f"{side}.ncsnr.mgh", level[:, None, None])


def _write_surface_session(mini: Mini, number: int) -> None:
    for side in MESHES:
        values = mini.surface("fsaverage", side, number)
        path = mini.folder("fsaverage") / f"{side}.betas_session{number:02d}.mgh"
        _write_mgh(path, np.ascontiguousarray(values.T)[:, None, None, :])
        path = mini.folder("nativesurface") / f"{side}.betas_session{number:02d}.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["betas"] = mini.surface("nativesurface", side, number)


def _write_stimuli(path: Path, images: int, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["imgBrick"] = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
