"""BOLD5000 in miniature: published names, sessions and run counts, small volumes, known numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

DIMS = (5, 6, 4)
AFFINE = np.array([[-2.0, 0, 0, 71], [0, 2, 0.1, -84], [0, -0.1, 2, -50], [0, 0, 0, 1]])
#: Published run counts: 37 trials a run, ten runs in these sessions, nine in the others.
RUNS = {
    "CSI1": [10, 10, 10, 9, 10, 9, 10, 9, 9, 10, 9, 9, 9, 9, 10],
    "CSI2": [10, 9, 10, 10, 10, 9, 9, 9, 9, 9, 10, 10, 9, 10, 9],
    "CSI3": [10, 9, 10, 9, 10, 10, 10, 9, 9, 9, 10, 9, 9, 9, 10],
    "CSI4": [10, 9, 9, 10, 9, 9, 9, 9, 10],
}
MISNAMED = {
    "CSI2": {"LHLOC": "LHLO", "RHLOC": "RHLO", "RHRSC": "RHRRSC"},
    "CSI3": {"LHLOC": "LHLO", "RHLOC": "RHLO"},
}
ROIS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
TYPED = "TYPED-FITHRF-GLMDENOISE-RR"


@dataclass
class Mini:
    """What was written."""

    root: Path
    subject: str
    brain: np.ndarray  # bool (i, j, k)
    masks: dict[str, np.ndarray]  # "LHLOC" -> bool (i, j, k)
    names: list[str]  # as in the file of names, one a trial
    images: list[str]  # the id of each trial
    values: np.ndarray  # (trial, brain voxel, i fastest)
    snr: np.ndarray  # (brain voxel,)
    repeated: list[str]


def file_name(image: str) -> str:
    """The name of an image file: ImageNet ends in JPEG."""
    return f"{image}.JPEG" if image.startswith("n0") else f"{image}.jpg"


def trials_of(subject: str, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """The image of each trial (113 of them 2 to 4 times) and the repeated ones."""
    count = 37 * sum(RUNS[subject])
    kinds = (
        lambda n: f"COCO_train2014_{n:012d}",
        lambda n: f"n{n:08d}_{n * 7}",
        lambda n: f"abbey{n}",
    )
    repeated = [kinds[n % 3](n + 1) for n in range(113)]
    trials = [name for n, name in enumerate(repeated) for _ in range(2 + n % 3)]
    trials += [kinds[n % 3](n + 1000) for n in range(count - len(trials))]
    return [trials[n] for n in rng.permutation(count)], repeated


def bold5000_mini(root: Path, subject: str = "CSI4", seed: int = 0) -> Mini:
    """Write volumes, masks (under their published names), image names and some images."""
    rng = np.random.default_rng(seed)
    brain = np.zeros(DIMS, dtype=bool)
    brain[1:, 1:5, :3] = rng.random((4, 4, 3)) < 0.8
    brain[1, 1, 0] = brain[4, 3, 2] = True
    images, repeated = trials_of(subject, rng)
    # Repeated images are listed with a prefix in some of the lists of names.
    names = [("rep_" if image in repeated[::2] else "") + file_name(image) for image in images]
    voxels = int(brain.sum())
    snr = rng.uniform(0.3, 1.5, voxels)
    places = np.unique(images, return_inverse=True)[1]
    signal = rng.standard_normal((places.max() + 1, voxels)) * snr
    values = (signal[places] + rng.standard_normal((len(images), voxels))).astype(np.float32)
    ends = np.cumsum(37 * np.array(RUNS[subject]))
    for number, (end, runs) in enumerate(zip(ends, RUNS[subject], strict=True), start=1):
        rows = slice(end - 37 * runs, end)
        values[rows] = values[rows] * (1 + number % 3) + number
        write_betas(root, subject, number, values[rows], brain)
    save(root / f"{subject}_brainmask.nii.gz", brain.astype(np.uint8))
    (root / f"{subject}_imgnames.txt").write_text("\n".join(names) + "\n")
    masks = write_masks(root, subject, brain, rng)
    folder = root / "BOLD5000_Stimuli/Scene_Stimuli"
    write_images(folder / "Presented_Stimuli", list(dict.fromkeys(images[:370])))
    (folder / "repeated_stimuli_113_list.txt").write_text("\n".join(map(file_name, repeated)))
    return Mini(root, subject, brain, masks, names, images, values, snr, repeated)


def write_betas(
    root: Path, subject: str, number: int, values: np.ndarray, brain: np.ndarray, **changes
) -> Path:
    """Write a session: NaN outside the brain, and an affine of no scan, as published."""
    volume = np.full((*brain.shape, len(values)), np.nan, dtype=np.float32)
    flat = volume.reshape(-1, len(values), order="F")
    flat[np.flatnonzero(brain.ravel(order="F"))] = values.T
    path = root / f"{subject}_GLMbetas-{TYPED}_ses-{number:02d}.nii.gz"
    volume = flat.reshape(*brain.shape, len(values), order="F")
    return save(path, volume, **{"affine": np.eye(4), **changes})


def write_masks(
    root: Path, subject: str, brain: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Write the ten ROI masks; left is i < 3; LOC and OPA overlap, right RSC is empty."""
    masks = {}
    left = np.arange(DIMS[0])[:, None, None] < 3
    for roi in ROIS:
        drawn = brain & (rng.random(DIMS) < 0.3)
        drawn[1, 1, 0] = roi in ("LOC", "OPA")
        masks[f"LH{roi}"], masks[f"RH{roi}"] = drawn & left, drawn & ~left
    masks["RHRSC"] = np.zeros(DIMS, dtype=bool)
    for label, mask in masks.items():
        shown = MISNAMED.get(subject, {}).get(label, label)
        folder = root / f"derivatives/spm/sub-{subject}"
        save(folder / f"sub-{subject}_mask-{shown}.nii.gz", mask.astype(np.float32))
    return masks


def write_images(folder: Path, images: list[str]) -> None:
    """Write 8 x 8 images, each of one colour that is its place in the list."""
    for place, image in enumerate(images):
        kind = {"C": "COCO", "n": "ImageNet"}.get(image[0], "Scene")
        path = folder / kind / file_name(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), place % 256, dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")


def write_tables(mini: Mini) -> None:
    """Write the ready-made tables of the ROIs, misnamed as the masks are."""
    folder = mini.root / "BOLD5000_GLMsingle_ROI_betas/py"
    folder.mkdir(parents=True)
    places = np.flatnonzero(mini.brain.ravel(order="F"))
    for label, mask in mini.masks.items():
        shown = MISNAMED.get(mini.subject, {}).get(label, label)
        inside = mask.ravel(order="F")[places]
        name = f"{mini.subject}_GLMbetas-{TYPED}_allses_{shown}.npy"
        np.save(folder / name, mini.values[:, inside])


def write_lists(mini: Mini) -> None:
    """Write the lists that the images were shown from, and take the list of names away."""
    (mini.root / f"{mini.subject}_imgnames.txt").unlink()
    folder = mini.root / f"BOLD5000_Stimuli/Stimuli_Presentation_Lists/{mini.subject}"
    row = 0
    for number, runs in enumerate(RUNS[mini.subject], start=1):
        place = folder / f"{mini.subject}_sess{number:02d}"
        place.mkdir(parents=True)
        for run in range(1, runs + 1):
            text = "\n".join(mini.names[row : row + 37])
            (place / f"CSI_sess{number:02d}_run{run:02d}.txt").write_text(text)
            row += 37


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write a volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path
