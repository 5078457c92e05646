"""Small BIDS data sets with known responses, written for the tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
from scipy.stats import gamma

STEP = 0.01
AFFINE = np.array([[-3.0, 0, 0, 10], [0, 3, 0, -20], [0, 0, 3.5, 5], [0, 0, 0, 1]])


def spm(times):
    """Return SPM's response function from its definition: gamma(6) - gamma(16) / 6."""
    return gamma.pdf(times, 6) - 0.167 * gamma.pdf(times, 16)


def late(times):
    """Return a response that peaks at 9 s."""
    return gamma.pdf(times, 10)


def course(onset, duration, frames, shape=spm):
    """Return a trial's response at the frames with a peak of 1, by a fine sum."""
    times = np.arange(0, 60, STEP)
    box = np.zeros_like(times)
    box[: max(1, round(duration / STEP))] = 1
    response = np.convolve(shape(times), box)[: len(times)]
    return np.interp(frames - onset, times, response / response.max(), left=0, right=0)


@dataclass
class Mini:
    """What a mini data set was made of."""

    root: Path
    betas: list = field(default_factory=list)  # one (trial, voxel) a run
    onsets: list = field(default_factory=list)
    types: list = field(default_factory=list)
    mask: np.ndarray | None = None


def events_text(onsets: Sequence[float], durations, types, **columns) -> str:
    head = ["onset", "duration", "trial_type", *columns]
    rows = zip(onsets, durations, types, *columns.values(), strict=True)
    return "\n".join("\t".join(map(str, row)) for row in [head, *rows]) + "\n"


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_nifti(path: Path, values, tr=None, affine=AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, affine)
    if tr is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
        image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)


def write_gifti(path: Path, values) -> None:
    """Write (time, vertex) as one array a time point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [
        nibabel.gifti.GiftiDataArray(row.astype(np.float32), intent="NIFTI_INTENT_TIME_SERIES")
        for row in values
    ]
    nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), path)


def mini(
    root: Path,
    *,
    runs: int = 2,
    shape=(3, 4, 2),
    trials: int = 8,
    frames: int = 90,
    tr: float = 1.5,
    noise: float = 0.05,
    gap: float = 12.0,
    duration: float = 2.0,
    response=spm,
    start: float = 0.0,
    seed: int = 0,
) -> Mini:
    """Write a raw data set: sub-01, task look, runs 1 to n, a brain mask, two trial types."""
    draw = np.random.default_rng(seed)
    write_json(root / "dataset_description.json", {"Name": "mini", "License": "CC0"})
    write_json(root / "task-look_bold.json", {"RepetitionTime": tr, "TaskName": "look"})
    inside = np.ones(shape, dtype=bool)
    inside[0, 0, 0] = inside[-1, 1, -1] = False
    made = Mini(root, mask=inside)
    write_nifti(
        root / "derivatives/masks/sub-01/func/sub-01_desc-brain_mask.nii.gz",
        inside.astype(np.uint8),
    )
    times = start + np.arange(frames) * tr
    base = draw.uniform(500, 900, int(inside.sum()))
    for run in range(1, runs + 1):
        onsets = np.round(6 + gap * np.arange(trials) + draw.uniform(0, 1, trials), 3)
        betas = draw.normal(1, 1, (trials, len(base)))
        types = [("cat", "dog")[(n + run) % 2] for n in range(trials)]
        design = np.stack([course(o, duration, times, response) for o in onsets])
        change = betas.T @ design + 0.5 * np.sin(2 * np.pi * times / 400)
        change += noise * draw.normal(size=change.shape)
        volume = np.zeros((*shape, frames), dtype=np.float32)
        # Fortran order of voxels, as readers have them.
        flat = np.flatnonzero(inside.ravel(order="F"))
        place = np.unravel_index(flat, shape, order="F")
        volume[place] = base[:, None] * (1 + change / 100)
        stem = root / "sub-01" / "func" / f"sub-01_task-look_run-{run}"
        write_nifti(Path(f"{stem}_bold.nii.gz"), volume, tr)
        Path(f"{stem}_events.tsv").write_text(events_text(onsets, [duration] * trials, types))
        made.betas.append(betas)
        made.onsets.append(onsets)
        made.types.append(types)
    return made
