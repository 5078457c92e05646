from __future__ import annotations

import resource

import numpy as np
import pytest
import xarray as xr

from neuroattn.errors import FileError, InputError, MismatchError, UnknownNameError
from neuroattn.metrics import Score
from neuroattn.metrics.moments import METRICS, PairMoments
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
CEILING = np.array([0.5, 0.8, 0.05, np.nan, 0.1, 1.0, 0.6])


def arrays(images: int = 41, seed: int = 0) -> dict[str, xr.DataArray]:
    """Seven voxels: ceilings under, at and over the threshold or unknown; one constant."""
    rng = np.random.default_rng(seed)
    response = rng.standard_normal((images, 7)).astype(np.float32)
    prediction = 0.5 * response + 0.4 * rng.standard_normal((images, 7)).astype(np.float32)
    prediction[:, 1] *= -1
    response[:, 6] = 2
    coords = {
        "image": [f"scene-{i:02d}" for i in range(images)],
        "subject": ("voxel", ["s1"] * 4 + ["s2"] * 3),
        "hemisphere": ("voxel", ["left", "right"] * 3 + ["left"]),
        "vertex": ("voxel", np.arange(7) * 3),
    }
    masks = np.array([[1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 1, 1]], bool)
    return {
        "prediction": xr.DataArray(prediction, coords, ("image", "voxel")),
        "response": xr.DataArray(response, coords, ("image", "voxel")),
        "ceiling": xr.DataArray(CEILING, dims="voxel"),
        "roi": xr.DataArray(masks, {"roi": ["V1", "empty", "FFA"]}, ("roi", "voxel")),
        "repeats": xr.DataArray(np.arange(images) % 3 + 1, dims="image"),
    }


def score(metric: str = "explained_variance", **changes) -> Score:
    given = arrays() | changes
    return Score.from_predictions(**given, metric=metric, encoder="ridge")


def raw_scores(metric: str, rows=slice(None)) -> np.ndarray:
    given, moments = arrays(), PairMoments()
    moments.update(given["prediction"].values[rows], given["response"].values[rows])
    return moments.metric(metric)


@pytest.mark.parametrize("metric", METRICS)
def test_normalised_is_raw_over_the_ceiling_in_its_own_units(metric):
    # Catches r divided by a ceiling of variance, a clipped score and a low ceiling let in.
    found, raw = score(metric).dataset, raw_scores(metric)
    limit = np.where(CEILING >= 0.1, CEILING, np.nan)
    expected = raw / (np.sqrt(limit) if metric == "pearson" else limit)
    np.testing.assert_array_equal(found["raw"], raw)
    np.testing.assert_allclose(found["normalised"], expected, **EXACT)
    np.testing.assert_array_equal(found["ceiling"], CEILING)
    defined = [True, True, False, False, True, True, False]
    np.testing.assert_array_equal(np.isfinite(found["normalised"]), defined)
    assert found["normalised"][1] < 0


def test_the_dataset_carries_what_a_reader_must_know():
    # Catches a score that travels without its rules, its images or its voxels' places.
    found = score().dataset
    attrs = {k: found.attrs[k] for k in ("metric", "images", "repeats_min", "repeats_max")}
    assert attrs == {
        "metric": "explained_variance",
        "images": 41,
        "repeats_min": 1,
        "repeats_max": 3,
    }
    assert found.attrs["threshold"] == 0.1
    assert found.attrs["encoder"] == "ridge"
    assert "then the mean over the voxels" in found.attrs["averaging"]
    assert found["vertex"].values.tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert found["image"].values[1] == "scene-01"


def test_repeats_come_from_the_coordinate_or_are_unknown():
    # Catches repeats that are claimed to be 1 where nobody said so.
    given = arrays()
    response = given["response"].assign_coords(repeats=("image", np.full(41, 4)))
    assert score(repeats=None, response=response).dataset.attrs["repeats_max"] == 4
    assert score(repeats=None).dataset.attrs["repeats_min"] == 0


def test_rois_average_their_defined_voxels_and_count_the_rest():
    # Catches excluded voxels averaged as 0, a missing row "all", and a clipped negative score.
    found, dataset = score().by_roi(resamples=0), score().dataset
    normalised, raw = dataset["normalised"].values, dataset["raw"].values
    assert found["roi"].values.tolist() == ["V1", "empty", "FFA", "all"]
    members = [[0, 1], [], [1, 4, 5], [0, 1, 4, 5]]
    means = [normalised[m].mean() if m else np.nan for m in members]
    np.testing.assert_allclose(found["mean"], means, **EXACT)
    medians = [np.median(normalised[m]) if m else np.nan for m in members]
    np.testing.assert_allclose(found["median"], medians, **EXACT)
    ceilings = [CEILING[m].mean() if m else np.nan for m in members]
    np.testing.assert_allclose(found["ceiling"], ceilings, **EXACT)
    raws = [raw[:4].mean(), np.nan, raw[[1, 4, 5]].mean(), raw[:6].mean()]
    np.testing.assert_allclose(found["raw_mean"], raws, **EXACT)
    assert found["voxels"].values.tolist() == [4, 0, 4, 7]
    assert found["excluded"].values.tolist() == [2, 0, 0, 2]
    assert found["undefined"].values.tolist() == [0, 0, 1, 1]
    assert np.isnan(found["low"]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_resamples_images_and_keeps_the_ceiling(metric):
    # Catches an interval of raw scores, of another metric, or over voxels instead of images.
    from scipy import stats

    given = arrays()
    limit = np.sqrt(CEILING) if metric == "pearson" else CEILING

    def mean_of_first_roi(index, axis):
        rows = np.atleast_2d(index)
        values = []
        for row in rows:
            moments = PairMoments()
            moments.update(given["prediction"].values[row], given["response"].values[row])
            values.append((moments.metric(metric) / limit)[:2].mean())
        return np.array(values) if index.ndim == 2 else values[0]

    expected = stats.bootstrap(
        (np.arange(41),),
        mean_of_first_roi,
        n_resamples=200,
        confidence_level=0.8,
        batch=256,
        rng=np.random.default_rng(3),
    ).confidence_interval
    found = score(metric).by_roi(resamples=200, level=0.8, seed=3).sel(roi="V1")
    np.testing.assert_allclose([found["low"], found["high"]], expected, rtol=1e-7)
    assert found["interval"] == "BCa"
    assert found["low"] < found["mean"] < found["high"]


def test_without_any_ceiling_raw_scores_are_reported_and_normalised_ones_are_not():
    # Catches raw scores that pose as normalised ones.
    unknown = score(ceiling=xr.DataArray(np.full(7, np.nan), dims="voxel"))
    found = unknown.by_roi(resamples=50)
    assert np.isnan(found["mean"]).all()
    assert np.isnan(found["low"]).all()
    assert found["excluded"].values.tolist() == found["voxels"].values.tolist()
    assert (found["raw_low"] < found["raw_mean"])[[0, 2, 3]].all()
    compared = unknown.compare(other_score(ceiling=unknown.dataset["ceiling"]), resamples=50)
    assert compared.attrs["units"] == "raw"
    assert compared["voxels"].values.tolist() == [4, 0, 3, 6]


def other_score(noise: float = 0.5, **changes) -> Score:
    errors = np.random.default_rng(8).standard_normal((41, 7)).astype(np.float32)
    given = arrays() | changes
    given["prediction"] = given["prediction"] + np.float32(noise) * errors
    return Score.from_predictions(**given, encoder="worse")


def test_a_comparison_reports_normalised_differences_with_p_and_q():
    # Catches a difference with the wrong sign or units, and an FDR that counts the row "all".
    mine, other = score(), other_score()
    found = mine.compare(other, resamples=200, seed=1)
    difference = mine.dataset["normalised"].values - other.dataset["normalised"].values
    np.testing.assert_allclose(found["voxel_difference"], difference, **EXACT)
    expected = [difference[:2].mean(), np.nan, difference[[1, 4, 5]].mean()]
    np.testing.assert_allclose(found["difference"][:3], expected, **EXACT)
    assert (found["low"] < found["difference"])[[0, 2, 3]].all()
    assert (found["difference"] < found["high"])[[0, 2, 3]].all()
    p, q = found["p"].values, found["q"].values
    np.testing.assert_allclose(q[[0, 2]], [min(2 * p[0], max(p[[0, 2]])), max(p[[0, 2]])])
    assert q[3] == p[3]
    np.testing.assert_array_equal(np.isnan(found["voxel_q"]), np.isnan(difference))
    assert found.attrs["encoders"] == ["ridge", "worse"]
    assert found.attrs["units"] == "normalised"
    mirrored = other.compare(mine, resamples=200, seed=1)
    np.testing.assert_allclose(mirrored["difference"], -found["difference"], **EXACT)
    np.testing.assert_array_equal(mirrored["p"], found["p"])


def test_the_row_of_all_voxels_is_not_one_of_the_tested_rois():
    # Catches a q over the ROIs that depends on the row "all", and the reverse.
    found = score().compare(other_score(noise=0.2), resamples=400, seed=2)
    p, q = found["p"].values, found["q"].values
    assert len(set(p[[0, 2, 3]])) == 3
    low, high = np.sort(p[[0, 2]])
    np.testing.assert_allclose(np.sort(q[[0, 2]]), [min(2 * low, high), high])
    assert q[3] == p[3]


def test_a_voxel_is_counted_as_excluded_or_undefined_but_not_twice():
    # Catches columns that do not add up to the number of voxels.
    ceiling = xr.DataArray([0.5, 0.8, 0.05, np.nan, 0.1, 1.0, np.nan], dims="voxel")
    found = score(ceiling=ceiling).by_roi(resamples=0).sel(roi="all")
    assert (found["voxels"], found["excluded"], found["undefined"]) == (7, 3, 0)


def renamed(array: xr.DataArray, **coords) -> xr.DataArray:
    return array.assign_coords(coords)


@pytest.mark.parametrize("what", ["image", "response", "ceiling", "metric", "vertex", "roi_mask"])
def test_scores_of_different_test_sets_are_not_compared(what):
    # Catches a paired test over things that are not pairs.
    given = arrays()
    images = {"image": [f"other-{i}" for i in range(41)]}
    places = {"vertex": ("voxel", np.arange(7))}
    both = ("prediction", "response")
    other = {
        "image": lambda: score(**{k: renamed(given[k], **images) for k in both}),
        "vertex": lambda: score(**{k: renamed(given[k], **places) for k in both}),
        "response": lambda: score(response=given["response"] + 1),
        "ceiling": lambda: score(ceiling=given["ceiling"] * 0.9),
        "roi_mask": lambda: score(roi=~given["roi"]),
        "metric": lambda: score("pearson"),
    }[what]()
    with pytest.raises(MismatchError, match=f"differ in {what}"):
        score().compare(other)
    with pytest.raises(MismatchError, match=r"images \(41 and 30\)"):
        score().compare(Score.from_predictions(**arrays(30)))


def test_the_same_seed_gives_the_same_numbers():
    # Catches the global generator.
    first, second = (score().by_roi(resamples=60, seed=4) for _ in range(2))
    xr.testing.assert_identical(first, second)
    assert (first["low"] != score().by_roi(resamples=60, seed=5)["low"])[0]


@pytest.mark.parametrize("rois", [True, False])
def test_a_saved_score_comes_back_whole(tmp_path, rois):
    # Catches lost names, masks that turn into numbers, and a table of no ROI that cannot be read.
    saved = score() if rois else score(roi=None)
    saved.save(tmp_path / "deep" / "scores.nc")
    loaded = Score.load(tmp_path / "deep" / "scores.nc")
    xr.testing.assert_identical(loaded.dataset, saved.dataset)
    assert loaded.dataset["roi_mask"].dtype == bool
    assert loaded.dataset["prediction"].dtype == np.float32
    expected = saved.by_roi(resamples=20)
    xr.testing.assert_identical(loaded.by_roi(resamples=20), expected)
    assert loaded.compare(saved, resamples=9)["p"].values[-1] == 1


def test_a_full_disk_leaves_the_old_score(tmp_path):
    # Catches a file that is opened in place, and an HDF5 error that is not told as a file error.
    path = tmp_path / "scores.nc"
    score().save(path)
    before = path.read_bytes()
    big = arrays(40_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(FileError, match=r"scores\.nc could not be written"):
            Score.from_predictions(**big).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scores.nc"]


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_truncated_file_is_refused_by_name(tmp_path, keep):
    # Catches a raw HDF5 traceback.
    path = tmp_path / "scores.nc"
    score().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else keep])
    with pytest.raises(FileError, match=r"scores\.nc is not a whole score file"):
        Score.load(path)


def test_files_that_are_not_scores_are_refused(tmp_path):
    # Catches a KeyError long after loading.
    xr.Dataset({"x": ("a", [1.0])}).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with pytest.raises(FileError, match=r"x\.nc .*lacks averaging"):
        Score.load(tmp_path / "x.nc")
    with pytest.raises(FileError, match="does not exist"):
        Score.load(tmp_path / "none.nc")


def test_the_table_and_the_text_show_every_roi():
    # Catches a repr that bootstraps (it must be instant) or leaves out what was excluded.
    table = score().table(resamples=30)
    assert table.index.tolist() == ["V1", "empty", "FFA", "all"]
    np.testing.assert_array_equal(table["low"], score().by_roi(resamples=30)["low"])
    text = repr(score())
    assert "ridge: explained_variance over 41 images" in text
    assert f"{table.loc['FFA', 'mean']:.3f}" in text
    assert "excluded" in text


def test_what_does_not_fit_is_refused_with_what_came():
    # Catches percent ceilings, shuffled images and broadcasting, each of which gives wrong scores.
    given = arrays()
    with pytest.raises(InputError, match=r"ceiling holds 80.*percent"):
        score(ceiling=given["ceiling"] * 100 * 0.8)
    with pytest.raises(InputError, match="threshold=0"):
        score(threshold=0)
    with pytest.raises(UnknownNameError, match="metric='r3'"):
        score("r3")
    with pytest.raises(MismatchError, match="differ in image, first at position 0: scene-40"):
        score(prediction=given["prediction"][::-1])
    with pytest.raises(MismatchError, match="differ in vertex, first at position 1"):
        score(prediction=renamed(given["prediction"], vertex=("voxel", np.arange(7))))
    with pytest.raises(MismatchError, match="prediction has dimensions"):
        score(prediction=given["prediction"].T)
    with pytest.raises(MismatchError, match=r"ceiling has dimensions \{'voxel': 6\}"):
        score(ceiling=given["ceiling"][:6])
    with pytest.raises(MismatchError, match="repeats has dimensions"):
        score(repeats=given["repeats"][:3])
    with pytest.raises(InputError, match="2 images and 1 voxel"):
        Score.from_predictions(**arrays(1))
    with pytest.raises(InputError, match="'all'"):
        score(roi=renamed(given["roi"], roi=["V1", "all", "FFA"]))
    with pytest.raises(InputError, match="dataset lacks averaging, ceiling"):
        Score(xr.Dataset())
