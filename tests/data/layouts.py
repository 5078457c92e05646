"""Published layouts in miniature, written with numbers that a test can compute again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

from neuroattn.data.schema import response_set

NAMES = {
    "prf-visualrois": ["Unknown", "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"],
    "floc-bodies": ["Unknown", "EBA", "FBA-1", "FBA-2", "mTL-bodies"],
    "floc-faces": ["Unknown", "OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"],
    "floc-places": ["Unknown", "OPA", "PPA", "RSC"],
    "floc-words": ["Unknown", "OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"],
    "streams": [
        "Unknown",
        "early",
        "midventral",
        "midlateral",
        "midparietal",
        "ventral",
        "lateral",
        "parietal",
    ],
}
MESH = 200
TRAIN, TEST = 24, 6


def small_set(presentations: int = 9, voxels: int = 5, seed: int = 0, **changes) -> xr.Dataset:
    """A surface response set: images a to d in turn, two sessions, overlapping and empty ROIs."""
    rng = np.random.default_rng(seed)
    vertex = np.arange(voxels) * 3 + 1
    arguments = {
        "response": rng.standard_normal((presentations, voxels)).astype(np.float32),
        "presentation": {
            "image": [f"img-{'abcd'[n % 4]}" for n in range(presentations)],
            "session": [n // 5 for n in range(presentations)],
        },
        "voxel": {
            "subject": "s1",
            "hemisphere": ["left" if n < voxels // 2 else "right" for n in range(voxels)],
            "vertex": vertex,
        },
        "roi": {
            "FFA": np.arange(voxels) < 3,
            "ventral": np.arange(voxels) > 1,
            "aTL-faces": np.zeros(voxels, dtype=bool),
        },
        "attrs": {"space": "fsaverage5", "vertices_left": 10242, "vertices_right": 10242},
    }
    arguments |= changes
    return response_set(arguments.pop("response"), **arguments)


def algonauts23_mini(root: Path, seed: int = 0) -> Path:
    """Two subjects; subj06 has fewer vertices; one ROI is empty, one vertex is in two ROIs."""
    rng = np.random.default_rng(seed)
    for subject, sizes in {"subj01": (40, 44), "subj06": (37, 41)}.items():
        folder = root / subject
        for split, prefix, count in (("training", "train", TRAIN), ("test", "test", TEST)):
            images = folder / f"{split}_split" / f"{split}_images"
            images.mkdir(parents=True)
            ids = rng.permutation(1000)[:count] + (1000 if split == "test" else 0)
            for row, image in enumerate(ids, start=1):
                pixels = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(images / f"{prefix}-{row:04d}_nsd-{image:05d}.png")
        for side, size in zip(("lh", "rh"), sizes, strict=True):
            _hemisphere(folder, side, size, rng)
        for kind, names in NAMES.items():
            np.save(folder / f"roi_masks/mapping_{kind}.npy", dict(enumerate(names)))
    return root


def _hemisphere(folder: Path, side: str, size: int, rng: np.random.Generator) -> None:
    fmri = folder / "training_split/training_fmri"
    masks = folder / "roi_masks"
    fmri.mkdir(parents=True, exist_ok=True)
    masks.mkdir(exist_ok=True)
    np.save(fmri / f"{side}_training_fmri.npy", rng.standard_normal((TRAIN, size), np.float32))
    vertices = np.sort(rng.permutation(MESH)[:size])
    mesh = np.zeros(MESH)
    mesh[vertices] = 1
    np.save(masks / f"{side}.all-vertices_fsaverage_space.npy", mesh)
    for kind, names in NAMES.items():
        labels = rng.integers(0, len(names), size)
        if kind == "floc-faces":
            # aTL-faces is empty in both hemispheres, vertex 0 is FFA-1 and ventral at once.
            labels[labels == names.index("aTL-faces")] = 0
            labels[0] = names.index("FFA-1")
        if kind == "streams":
            labels[0] = names.index("ventral")
        np.save(masks / f"{side}.{kind}_challenge_space.npy", labels)
        whole = np.zeros(MESH, dtype=int)
        whole[vertices] = labels
        np.save(masks / f"{side}.{kind}_fsaverage_space.npy", whole)


def add_test_responses(root: Path, subject: str, sizes: tuple[int, int], seed: int = 1) -> None:
    """Write the responses and noise ceilings of the test split, as who obtained them has them."""
    rng = np.random.default_rng(seed)
    for side, size in zip(("lh", "rh"), sizes, strict=True):
        for name, array in {
            "test_fmri": rng.standard_normal((TEST, size), np.float32),
            "noise_ceiling": rng.uniform(0, 1, size),
        }.items():
            folder = root / subject / "test_split" / name
            folder.mkdir(exist_ok=True)
            np.save(folder / f"{side}_{name}.npy", array)
