"""The noise-ceiling SNR: recovered from simulated betas, and compared with a shipped map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuroattn.data.nsd import NSD, compare_ncsnr
from neuroattn.data.preparation import prepare
from neuroattn.data.transforms import add_ncsnr, average_repetitions
from neuroattn.errors import InputError, MismatchError
from tests.data.nsd_mini import INVALID, Mini, nsd_mini


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    """Three sessions of 300 trials: 300 images, most of them three times, 210 voxels."""
    return nsd_mini(
        tmp_path_factory.mktemp("large"),
        sessions=3,
        trials=300,
        dims=(5, 6, 7),
        volume=("hdf5",),
        surfaces=False,
    )


def truth(mini: Mini, data) -> np.ndarray:
    return mini.snr[data["i"].values, data["j"].values, data["k"].values]


def test_the_simulated_snr_is_recovered(large: Mini) -> None:
    """Catches a noise variance with ddof 0, repeats that are not those of an image, lost z-scores.

    With 300 images, the signal variance has a standard error of sqrt(2 / 300) = 8 %, its root 4 %:
    0.06 at the largest true value, 1.5. Over 180 voxels the mean error is far smaller.
    """
    data = NSD(str(large.root), 1, roi=["all"]).responses()
    estimate, true = add_ncsnr(data)["ncsnr"].values, truth(large, data)
    finite = np.isfinite(estimate)
    # Only the voxel that is invalid in a session may differ: its repeats are fewer.
    error = estimate[finite] - true[finite]
    assert finite.sum() >= large.snr.size - 1
    assert np.abs(error).max() < 0.25
    assert np.sqrt((error**2).mean()) < 0.08
    assert abs(error.mean()) < 0.015
    assert np.corrcoef(estimate[finite], true[finite])[0, 1] > 0.98


def test_prepare_gives_the_same_snr(large: Mini) -> None:
    """Catches a preparation that estimates after averaging, or keeps the invalid voxel."""
    data = NSD(str(large.root), 1, roi=["all"]).responses()
    ready = prepare(data)
    assert ready.attrs["dropped_nan_voxels"] == 1
    places = np.stack([ready[axis].values for axis in "ijk"], axis=1)
    assert list(INVALID) not in places.tolist()
    error = ready["ncsnr"].values - truth(large, ready)
    assert np.sqrt((error**2).mean()) < 0.08
    assert abs(error.mean()) < 0.015
    assert ready.sizes["presentation"] == len(np.unique(large.shown))


def test_wrong_trials_lose_the_snr(large: Mini) -> None:
    """Catches a test that cannot fail: with images shifted by one trial nothing repeats."""
    data = NSD(str(large.root), 1, roi=["all"]).responses()
    shifted = data.assign_coords(image=("presentation", np.roll(data["image"].values, 1)))
    assert np.nanmedian(add_ncsnr(shifted)["ncsnr"].values) < 0.3


def test_the_comparison_finds_the_shipped_map_equal_but_for_noise(large: Mini) -> None:
    """Catches the shipped map read in another order of voxels than the responses."""
    reader = NSD(str(large.root), 1, roi=["all"])
    data = add_ncsnr(reader.responses())
    shipped = reader.shipped_ncsnr()
    np.testing.assert_allclose(shipped, truth(large, data), rtol=1e-6)
    found = compare_ncsnr(data, shipped)
    assert found["voxels"] == large.snr.size
    assert found["compared"] + found["only_shipped"] == found["voxels"]
    assert found["correlation"] > 0.98
    assert found["median_absolute_difference"] < 0.06
    backwards = compare_ncsnr(data, shipped[::-1])
    assert backwards["correlation"] < 0.5


def test_the_comparison_counts_what_is_missing_in_either() -> None:
    """Catches NaN that spread into the correlation, and differences of the wrong sign or size."""
    import xarray as xr

    data = xr.Dataset({"ncsnr": ("voxel", [1.0, 2.0, np.nan, 4.0, 0.5])})
    found = compare_ncsnr(data, [1.5, 2.0, 3.0, np.nan, 0.25])
    assert (found["compared"], found["only_recomputed"], found["only_shipped"]) == (3, 1, 1)
    assert found["median_absolute_difference"] == 0.25
    assert (found["median_recomputed"], found["median_shipped"]) == (1.0, 1.5)
    expected = np.corrcoef([1.0, 2.0, 0.5], [1.5, 2.0, 0.25])[0, 1]
    assert found["correlation"] == pytest.approx(expected)
    assert np.isnan(compare_ncsnr(data, np.ones(5))["correlation"])
    assert np.isnan(compare_ncsnr(data, np.full(5, np.nan))["median_absolute_difference"])


def test_the_comparison_needs_both_maps_of_the_same_voxels(mini: Mini) -> None:
    """Catches maps of different selections compared by position."""
    data = NSD(str(mini.root), 1).responses()
    with pytest.raises(InputError, match="add_ncsnr"):
        compare_ncsnr(data, np.ones(data.sizes["voxel"]))
    with pytest.raises(MismatchError, match="voxels"):
        compare_ncsnr(add_ncsnr(data), np.ones(3))


def test_repeats_are_counted_in_the_average(tmp_path: Path) -> None:
    """Catches repeats lost between the reader and the average."""
    mini = nsd_mini(tmp_path, volume=("hdf5",), surfaces=False)
    averaged = average_repetitions(NSD(str(mini.root), 1).responses())
    ids, counts = np.unique(mini.shown, return_counts=True)
    found = dict(zip(averaged["image"].values, averaged["repeats"].values, strict=True))
    assert found == {f"nsd-{n:05d}": c for n, c in zip(ids, counts, strict=True)}
