"""THINGS-fMRI in miniature: 12 sessions of 10 runs, tables and volumes of the same numbers."""

from __future__ import annotations

import csv
import pickle
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
from PIL import Image

DIMS = (4, 5, 3)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0]) + np.array([[0, 0, 0, -70], [0] * 4, [0] * 4, [0] * 4])
SESSIONS, RUNS, TRAIN, TEST = 12, 10, 3, 2
ROIS = ("V1", "hV4", "lFFA", "rFFA", "lRSC")


@dataclass
class Mini:
    """What was written."""

    root: Path
    brain: np.ndarray  # bool (i, j, k)
    places: np.ndarray  # (voxel, 3), rows of the table: k fastest
    images: list[str]  # of each trial of the table
    session: np.ndarray
    run: np.ndarray
    test: np.ndarray
    values: np.ndarray  # float64 (trial, voxel)
    rois: dict[str, np.ndarray]
    ceiling: np.ndarray  # nc_singletrial, percent
    snr: np.ndarray


def things_mini(root: Path, subject: str = "01", seed: int = 0) -> Mini:
    """Write ``betas_csv``, ``betas_vol`` and ``brainmasks`` of one subject."""
    rng = np.random.default_rng(seed)
    brain = rng.random(DIMS) < 0.6
    brain[0, 0, 0] = brain[-1, -1, -1] = True
    # nilearn's masker, which made the table, lets k run fastest.
    places = np.argwhere(brain)
    images, session, run, test = design(rng)
    snr = rng.uniform(0.3, 1.5, len(places))
    number = np.unique(images, return_inverse=True)[1]
    signal = rng.standard_normal((number.max() + 1, len(places))) * snr
    values = signal[number] + rng.standard_normal((len(images), len(places)))
    values = values * (1 + session % 3)[:, None] + session[:, None]
    rois = {name: rng.random(len(places)) < 0.3 for name in ROIS}
    rois["lRSC"][:] = False
    ceiling = 100 * kknc(values, images, session, test)
    mini = Mini(root, brain, places, images, session, run, test, values, rois, ceiling, snr)
    write_table(mini, subject)
    write_metadata(mini, subject)
    for n in range(1, SESSIONS + 1):
        for m in range(1, RUNS + 1):
            write_run(mini, subject, n, m)
    mask = root / f"brainmasks/sub-{subject}_space-T1w_brainmask.nii.gz"
    save(mask, brain.astype(np.uint8))
    return mini


def design(rng: np.random.Generator) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Each session shows 20 test images once, two a run, and 30 new train images."""
    tests = [f"object{n}_14s" for n in range(RUNS * TEST)]
    images, session, run, test = [], [], [], []
    new = 0
    for n in range(1, SESSIONS + 1):
        shuffled = [tests[m] for m in rng.permutation(len(tests))]
        for m in range(1, RUNS + 1):
            own = [(shuffled[TEST * (m - 1) + t], True) for t in range(TEST)]
            own += [(f"thing{new + t}_{n:02d}s", False) for t in range(TRAIN)]
            new += TRAIN
            for place in rng.permutation(len(own)):
                images.append(own[place][0])
                test.append(own[place][1])
            session += [n] * len(own)
            run += [m] * len(own)
    return images, np.array(session), np.array(run), np.array(test)


def kknc(values: np.ndarray, images: list[str], session: np.ndarray, test: np.ndarray):
    """The authors' ceiling of single trials: test images alone, z-scored (ddof 0) by session."""
    names = np.array(images)
    stack = []
    for n in range(1, SESSIONS + 1):
        rows = np.flatnonzero((session == n) & test)
        rows = rows[np.argsort(names[rows])]
        own = values[rows]
        stack.append((own - own.mean(axis=0)) / own.std(axis=0))
    noise = np.mean(np.var(np.stack(stack), axis=0, ddof=1), axis=0)
    ratio = np.clip(1 - noise, 0, None) / noise
    return ratio / (ratio + 1)


def write_table(mini: Mini, subject: str = "01", labels: str = "text", **changes) -> Path:
    """Write the responses as ``DataFrame.to_hdf`` does: voxels as rows, a block a type."""
    values = changes.get("values", mini.values)
    trials = changes.get("trials", list(range(len(values))))
    numbers = changes.get("numbers", np.arange(len(mini.places)))
    path = mini.root / f"betas_csv/sub-{subject}_ResponseData.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("ResponseData")
        group.attrs["pandas_type"] = np.bytes_(changes.get("format", "frame"))
        group.attrs["nblocks"] = 2
        columns = ["voxel_id", *trials]
        write_labels(group, "axis0", columns, labels)
        group["axis1"] = np.arange(len(numbers))
        write_labels(group, "block0_items", trials, labels)
        group["block0_values"] = values.T
        write_labels(group, "block1_items", ["voxel_id"], "text")
        group["block1_values"] = np.asarray(numbers)[:, None]
    return path


def write_labels(group: h5py.Group, name: str, labels: list, how: str) -> None:
    """Write labels as pytables does: text, numbers, or (of both) a pickled array of objects."""
    if how == "text":
        group[name] = np.array([str(label).encode() for label in labels])
        group[name].attrs["kind"] = np.bytes_("string")
    elif how == "numbers" and all(isinstance(label, int) for label in labels):
        group[name] = np.array(labels)
        group[name].attrs["kind"] = np.bytes_("integer")
    else:
        objects = np.empty(len(labels), dtype=object)
        objects[:] = labels
        protocol = int(how[-1]) if how[-1].isdigit() else 4
        content = np.frombuffer(pickle.dumps(objects, protocol), dtype=np.uint8)
        data = group.create_dataset(name, (1,), dtype=h5py.vlen_dtype(np.uint8))
        data[0] = content
        data.attrs["kind"] = np.bytes_("object")


def write_metadata(mini: Mini, subject: str = "01", **changes) -> None:
    """Write the tables of trials and of voxels."""
    folder = mini.root / "betas_csv"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        [("train", "test")[int(t)], n, m, int(subject), row, f"{image}.jpg", image.split("_")[0]]
        for row, (t, n, m, image) in enumerate(
            zip(mini.test, mini.session, mini.run, mini.images, strict=True)
        )
    ]
    header = ["trial_type", "session", "run", "subject_id", "trial_id", "stimulus", "concept"]
    write_csv(folder / f"sub-{subject}_StimulusMetadata.csv", header, rows)
    share = mini.ceiling / 100
    ratio = share / (1 - share)
    known = {
        "voxel_id": np.arange(len(mini.places)),
        "subject_id": np.full(len(mini.places), int(subject)),
        **dict(zip(("voxel_x", "voxel_y", "voxel_z"), mini.places.T, strict=True)),
        "nc_singletrial": mini.ceiling,
        "nc_testset": 100 * ratio / (ratio + 1 / 12),
        "splithalf_uncorrected": np.zeros(len(mini.places)),
        "prf-eccentricity": np.full(len(mini.places), 4.5),
        **{name: mask.astype(int) for name, mask in mini.rois.items()},
        **changes,
    }
    table = [list(row) for row in zip(*known.values(), strict=True)]
    write_csv(folder / f"sub-{subject}_VoxelMetadata.csv", list(known), table)


def write_run(mini: Mini, subject: str, session: int, run: int, **changes) -> tuple[Path, Path]:
    """Write a run's volume and conditions: sorted by name, with a catch trial among them."""
    rows = np.flatnonzero((mini.session == session) & (mini.run == run))
    names = {f"images/{mini.images[row]}.jpg": mini.values[row] for row in rows}
    names[f"images_catch_db/catch{run}.jpg"] = np.full(len(mini.places), 99.0)
    names[f"images/{'p' * run}_catch_{run:02d}.jpg"] = np.full(len(mini.places), 98.0)
    names = dict(sorted(names.items()))
    volume = np.zeros((*DIMS, len(names)))
    for place, values in enumerate(names.values()):
        volume[(*mini.places.T, place)] = values
    folder = mini.root / f"betas_vol/sub-{subject}/ses-things{session:02d}"
    stem = f"sub-{subject}_ses-things{session:02d}_run-{run:02d}"
    paths = folder / f"{stem}_betas.nii.gz", folder / f"{stem}_conditions.tsv"
    save(paths[0], changes.get("volume", volume), changes.get("affine", AFFINE))
    lines = [[n, name] for n, name in enumerate(names)]
    write_csv(paths[1], ["", "image_filename"], changes.get("lines", lines), "\t")
    return paths


def write_images(folder: Path, images: list[str]) -> None:
    """Write an image of one colour for each id, in a folder for each object."""
    for place, image in enumerate(images):
        path = folder / image.split("_")[0] / f"{image}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), place % 256, dtype=np.uint8)).save(path, format="PNG")


def write_csv(path: Path, header: list[str], rows: list[list], delimiter: str = ",") -> None:
    """Write a table."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """Write a volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
