"""A subject of random numbers in the published layout and size of the Natural Scenes Dataset.

``python -m benchmarks.nsd_shaped FOLDER --sessions 4`` writes 1.05 GB a session in some seconds:
int16 betas as HDF5, design, stimulus table and label volumes; no stimuli. The published files hold
few voxels of all trials in each HDF5 chunk; here these are the voxels of a line along x.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import nibabel
import numpy as np
from scipy.io import savemat

DIMS = (81, 104, 83)
TRIALS = 750
PREPARATION = "betas_fithrf_GLMdenoise_RR"
_AFFINE = np.diag([1.8, 1.8, 1.8, 1.0])
_SUBJECTS = 8


def betas_path(root: Path, session: int) -> Path:
    """Return where the betas of a session (from 1) of subject 1 lie."""
    folder = root / f"nsddata_betas/ppdata/subj01/func1pt8mm/{PREPARATION}"
    return folder / f"betas_session{session:02d}.hdf5"


def write_subject(
    root: Path, sessions: int, trials: int = TRIALS, dims: tuple[int, int, int] = DIMS
) -> int:
    """Write subject 1; return the bytes of its betas as int16.

    Each image is shown three times. No voxel is 0 throughout and no trial is empty.
    """
    _write_design(root, sessions * trials)
    _write_labels(root, dims)
    x, y, z = dims
    for session in range(1, sessions + 1):
        path = betas_path(root, session)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(session)
        with h5py.File(path, "w") as file:
            data = file.create_dataset("betas", (trials, z, y, x), "i2", chunks=(trials, 1, 1, x))
            for layer in range(z):
                data[:, layer] = draw.integers(-1500, 1500, (trials, y, x), dtype=np.int16)
    return sessions * trials * x * y * z * 2


def _write_design(root: Path, count: int) -> None:
    positions = -(-count // 3)
    shared = max(2, positions // 10)
    own = positions - shared
    draw = np.random.default_rng(0)
    ordering = draw.permutation(np.repeat(np.arange(positions), 3)[:count])
    ids = [np.r_[:shared, shared + own * s + np.arange(own)] for s in range(_SUBJECTS)]
    table = np.stack(ids)
    folder = root / "nsddata/experiments/nsd"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "masterordering": ordering[None] + 1.0,
        "subjectim": table + 1.0,
        "sharedix": np.arange(shared)[None] + 1.0,
    }
    savemat(folder / "nsd_expdesign.mat", arrays)
    often = np.zeros(positions, dtype=int)
    shown = np.zeros((positions, 3), dtype=int)
    for trial, position in enumerate(ordering, start=1):
        shown[position, often[position]] = trial
        often[position] += 1
    _write_table(folder / "nsd_stim_info_merged.csv", table, shown, shared)


def _write_table(path: Path, table: np.ndarray, shown: np.ndarray, shared: int) -> None:
    """Write which image (from 0) each subject saw in which trials (from 1, 0 for never)."""
    images = int(table.max()) + 1
    trials = np.zeros((images, _SUBJECTS, 3), dtype=int)
    for subject in range(_SUBJECTS):
        trials[table[subject], subject] = shown
    people = range(1, _SUBJECTS + 1)
    names = [f"subject{k}" for k in people]
    names += [f"subject{k}_rep{r}" for k in people for r in range(3)]
    lines = [",cocoId,cocoSplit,cropBox,loss,nsdId,flagged,BOLD5000,shared1000," + ",".join(names)]
    for image in range(images):
        marks = [*trials[image].any(axis=1).astype(int), *trials[image].ravel()]
        lines.append(
            f'{image},{image},val2017,"(0, 0, 0.1, 0.2)",0.1,{image},False,False,'
            f"{image < shared},{','.join(map(str, marks))}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_labels(root: Path, dims: tuple[int, int, int]) -> None:
    folder = root / "nsddata/ppdata/subj01/func1pt8mm"
    (folder / "roi").mkdir(parents=True, exist_ok=True)
    values = np.full(dims, -1, dtype=np.int16)
    values[:, 1:] = 0
    values[:, : dims[1] // 4 + 1] += 1  # about a fiftieth of NSD's voxels are labelled; here more
    inside = np.ones(dims, dtype=np.uint8)
    for name in ("nsdgeneral", "lh.nsdgeneral", "rh.nsdgeneral"):
        half = values.copy()
        if name.startswith("rh"):
            half[: dims[0] // 2] = -1
        if name.startswith("lh"):
            half[dims[0] // 2 :] = -1
        nibabel.save(nibabel.Nifti1Image(half, _AFFINE), folder / f"roi/{name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(inside, _AFFINE), folder / "brainmask.nii.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sessions", type=int, default=4)
    chosen = parser.parse_args()
    print(f"{write_subject(chosen.folder, chosen.sessions):,} bytes of betas in {chosen.folder}")


if __name__ == "__main__":
    main()
