"""NSD-synthetic: same voxels, its own trials and stimuli."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from neuroattn.data.nsd import NSD, NSDSynthetic
from neuroattn.errors import FileError, MismatchError
from tests.data.nsd_mini import MESHES, Mini, surface_labels, write_volume

TRIALS = 30
FOLDER = "nsdsyntheticbetas_fithrf_GLMdenoise_RR"


@dataclass
class Synthetic:
    root: Path
    shown: np.ndarray  # (trial,) from 1
    values: np.ndarray  # int16 (x, y, z, trial)
    surface: dict[str, np.ndarray]


@pytest.fixture
def synthetic(own: Mini) -> Synthetic:
    rng = np.random.default_rng(5)
    shown = rng.choice([1, 2, 100, 220, 221, 284], TRIALS)
    values = rng.integers(-900, 900, (*own.dims, TRIALS)).astype(np.int16)
    betas = own.root / "nsddata_betas/ppdata/subj01/func1pt8mm" / FOLDER
    write_volume(betas / "betas_nsdsynthetic.nii.gz", values)
    with h5py.File(betas / "betas_nsdsynthetic.hdf5", "w") as file:
        file["betas"] = values.T
    surface = {}
    for side, count in MESHES.items():
        surface[side] = rng.integers(-900, 900, (TRIALS, count)).astype(np.int16)
        path = own.root / "nsddata_betas/ppdata/subj01/nativesurface" / FOLDER
        path.mkdir(parents=True, exist_ok=True)
        with h5py.File(path / f"{side}.betas_nsdsynthetic.hdf5", "w") as file:
            file["betas"] = surface[side]
    design = own.root / "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
    design.parent.mkdir(parents=True)
    savemat(design, {"masterordering": shown[None].astype(float)})
    stimuli = own.root / "nsddata_stimuli/stimuli/nsdsynthetic"
    stimuli.mkdir(parents=True)
    names = {"nsdsynthetic_stimuli": (220, 0), "nsdsynthetic_colorstimuli_subj01": (64, 7)}
    for name, (count, shift) in names.items():
        with h5py.File(stimuli / f"{name}.hdf5", "w") as file:
            pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.uint8(shift)
            file["imgBrick"] = np.broadcast_to(pixels, (count, 4, 6, 3))
    return Synthetic(own.root, shown, values, surface)


def names(shown: np.ndarray) -> list[str]:
    owner = ["" if number <= 220 else "subj01-" for number in shown]
    return [f"nsdsynthetic-{o}{n - 1:03d}" for o, n in zip(owner, shown, strict=True)]


@pytest.mark.parametrize("format", ["hdf5", "nifti"])
def test_values_and_voxels_are_those_of_the_same_mask(synthetic: Synthetic, format: str) -> None:
    """Catches axes, the factor 300, and voxels in another order than the main experiment's."""
    data = NSDSynthetic(str(synthetic.root), 1, format=format).responses()
    main = NSD(str(synthetic.root), 1).labels()
    for axis in "ijk":
        assert np.array_equal(data[axis], main[axis])
    i, j, k = (data[axis].values for axis in "ijk")
    np.testing.assert_allclose(data["response"], synthetic.values[i, j, k].T / 300, rtol=1e-6)
    assert data["image"].values.tolist() == names(synthetic.shown)


def test_the_native_surface_is_left_first(synthetic: Synthetic) -> None:
    """Catches swapped hemispheres."""
    data = NSDSynthetic(str(synthetic.root), 1, space="nativesurface").responses()
    parts = [
        synthetic.surface[side][:, surface_labels("nativesurface", side)["nsdgeneral"] == 1]
        for side in ("lh", "rh")
    ]
    np.testing.assert_allclose(data["response"], np.concatenate(parts, axis=1) / 300, rtol=1e-6)


def test_stimuli_come_from_both_files(synthetic: Synthetic) -> None:
    """Catches the colour stimuli counted from the first file's start, or off by one."""
    reader = NSDSynthetic(str(synthetic.root), 1)
    index, images = reader.stimuli(), reader.images()
    shown = np.unique(synthetic.shown)
    assert list(images.ids) == index["image"] == names(shown)
    for place, number in enumerate(shown):
        pixel = number - 1 if number <= 220 else number - 221 + 7
        assert (images.read(place) == pixel).all()
        assert index["index"][place] == (number - 1 if number <= 220 else number - 221)
        assert (synthetic.root / index["file"][place]).exists()
        assert index["file"][place].endswith(
            "nsdsynthetic_stimuli.hdf5" if number <= 220 else "colorstimuli_subj01.hdf5"
        )
    assert reader.splits()["synthetic"]["test"] == images.ids


def test_a_table_of_trials_takes_the_place_of_the_design(
    synthetic: Synthetic, tmp_path: Path
) -> None:
    """Catches a table that is read from 0, and runs that are lost."""
    before = NSDSynthetic(str(synthetic.root), 1).responses()
    table = tmp_path / "trials.csv"
    lines = [f"{number},{trial // 10 + 1}" for trial, number in enumerate(synthetic.shown)]
    table.write_text("\n".join(["stimulus,run", *lines]) + "\n")
    reader = NSDSynthetic(str(synthetic.root), 1, trials=str(table))
    after = reader.responses()
    assert after["image"].values.tolist() == before["image"].values.tolist()
    assert after["run"].values.tolist() == [1] * 10 + [2] * 10 + [3] * 10
    assert reader.files()[0].path == table
    table.write_text("\n".join(["image,run", *lines]) + "\n")
    with pytest.raises(FileError, match="needed: 'stimulus'"):
        NSDSynthetic(str(synthetic.root), 1, trials=str(table)).labels()
    table.write_text("stimulus\n0\n")
    with pytest.raises(FileError, match="holds the value 0"):
        NSDSynthetic(str(synthetic.root), 1, trials=str(table)).labels()


def test_without_trials_the_message_says_both_ways(synthetic: Synthetic) -> None:
    """Catches a reader that makes up an order."""
    (synthetic.root / "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat").unlink()
    with pytest.raises(FileError, match=r"nsdsynthetic_expdesign\.mat.*trials="):
        NSDSynthetic(str(synthetic.root), 1).sessions()
    assert NSDSynthetic(str(synthetic.root), 1).files()


def test_a_design_of_other_length_is_refused(synthetic: Synthetic) -> None:
    """Catches the main experiment's trials in this place."""
    path = synthetic.root / "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
    savemat(path, {"masterordering": synthetic.shown[None, :25].astype(float)})
    with pytest.raises(MismatchError, match=r"betas_nsdsynthetic.*30 trials, the design has 25"):
        NSDSynthetic(str(synthetic.root), 1).responses()


def test_a_stimulus_file_of_other_length_is_refused(synthetic: Synthetic) -> None:
    """Catches the two stimulus files swapped."""
    folder = synthetic.root / "nsddata_stimuli/stimuli/nsdsynthetic"
    with h5py.File(folder / "nsdsynthetic_stimuli.hdf5", "w") as file:
        file["imgBrick"] = np.zeros((64, 4, 6, 3), np.uint8)
    with pytest.raises(MismatchError, match="64 images, there should be 220"):
        NSDSynthetic(str(synthetic.root), 1).images()
