"""Real data: one slice of Haxby et al. (2001), and what a sound analysis of it finds."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score

from neuroattn.cli.main import main
from neuroattn.data.bids import BIDS, Glm, StimulusLabels, Trials, fir_response
from neuroattn.encoders import RidgeEncoder
from neuroattn.encoders.comparison import Comparison
from neuroattn.features import Labels
from neuroattn.metrics import Score, ncsnr, noise_ceiling
from neuroattn.metrics.ceiling import split_half_ceiling

pytestmark = pytest.mark.realdata

RECIPE = Path(__file__).parents[3] / "encoders/haxby2001.yaml"
BEST = Glm(hrf="glover", noise_model="ols", high_pass=0.0078125)


@pytest.fixture(scope="module")
def reader(realdata):
    trials = Trials(merge=2.5, repeats="trial_type")
    return BIDS(str(realdata / "haxby_bids_mini"), "1", glm=BEST, trials=trials)


@pytest.fixture(scope="module")
def data(reader):
    return reader.responses()


@pytest.fixture(scope="module")
def kinds(reader):
    return np.array(reader.stimuli()["trial_type"])


@pytest.fixture(scope="module")
def fir(reader):
    return fir_response(reader)


def test_the_folder_has_twelve_runs_of_eight_blocks(reader, data, kinds, realdata):
    # Catches rows taken for trials, and runs that are missed.
    files = sorted((realdata / "haxby_bids_mini/sub-1/func").glob("*_bold.nii.gz"))
    assert [run.images[0] for run in reader.runs] == files
    assert len(files) == 12
    assert data.sizes == {"presentation": 96, "voxel": 530, "roi": 0}
    assert all(len(set(kinds[data["run"].values == run])) == 8 for run in range(1, 13))
    lengths = [float(seconds) for seconds in reader.stimuli()["seconds"]]
    assert set(lengths) == {22.5}
    assert np.isfinite(data["response"]).all()
    assert data.attrs["tr"] == 2.5


def test_the_response_peaks_seven_and_a_half_seconds_after_the_onset(fir):
    # Catches onsets that are shifted by a volume or more, and a run's model without its onsets.
    held = fir["held_out_r"].values
    course = fir["response"].mean("trial_type").values[:, held > np.percentile(held, 90)]
    mean = course.mean(axis=1)
    assert fir["delay"].values[mean.argmax()] == 7.5
    # The block lasts 22.5 s: over 5 s later the response is gone.
    assert mean[fir["delay"].values > 27].max() < 0.3 * mean.max()


def test_a_model_of_categories_predicts_the_time_series_of_other_runs(fir):
    # Catches events of another run or subject, which predict nothing.
    held = fir["held_out_r"].values
    assert np.percentile(held, 90) == pytest.approx(0.49, abs=0.06)
    assert held.max() == pytest.approx(0.71, abs=0.07)


def decoded(data, kinds):
    run = data["run"].values
    values = data["response"].values.astype(np.float64)
    for number in np.unique(run):
        here = run == number
        values[here] = (values[here] - values[here].mean(0)) / values[here].std(0)
    model = RidgeClassifier(alpha=100.0)
    return cross_val_score(model, values, kinds, groups=run, cv=LeaveOneGroupOut()).mean()


def test_categories_are_decoded_from_the_betas_of_left_out_runs(data, kinds):
    # Catches betas of the wrong trials or of noise: chance is .125.
    assert decoded(data, kinds) == pytest.approx(0.77, abs=0.06)


def test_permuted_labels_are_decoded_at_chance(data, kinds):
    # Catches a leak between runs.
    draw = np.random.default_rng(0)
    runs = data["run"].values
    chance = []
    for _ in range(5):
        shuffled = kinds.copy()
        for run in np.unique(runs):
            shuffled[runs == run] = draw.permutation(shuffled[runs == run])
        chance.append(decoded(data, shuffled))
    assert np.mean(chance) == pytest.approx(0.125, abs=0.06)


def test_voxels_are_as_reliable_as_published(data, kinds):
    # Catches betas that are right on average and noisy each, or of other voxels in other runs.
    halves = split_half_ceiling(data["response"].values, kinds, 0)
    assert np.nanmedian(halves) == pytest.approx(0.39, abs=0.06)
    assert np.nanpercentile(halves, 90) == pytest.approx(0.87, abs=0.03)


def test_the_ceiling_is_of_categories(data, kinds):
    # Catches an ncsnr over images (each shown once) and one of averages.
    expected = ncsnr(data["response"].values, kinds)
    np.testing.assert_allclose(data["ncsnr"].values, expected, rtol=1e-4, atol=1e-5)
    # Of twelve averaged trials it is the split-half reliability, another estimate of the same.
    twelve = noise_ceiling(data["ncsnr"].values, 12)
    halves = split_half_ceiling(data["response"].values, kinds, 0)
    good = twelve > 0.5
    assert np.abs(twelve - halves)[good].mean() < 0.07


@pytest.mark.parametrize("choice", ["lss", "library"])
def test_other_choices_find_the_same_brain(realdata, data, choice):
    # Catches a model or library that changes what is responding instead of how well.
    library = realdata / "hrf_library_glmsingle/getcanonicalhrflibrary.tsv"
    glm = Glm(model="lss") if choice == "lss" else Glm(hrf=f"library:{library}")
    other = BIDS(str(realdata / "haxby_bids_mini"), 1, glm=glm, trials=Trials(merge=2.5))
    mean = other.responses()["response"].mean("presentation").values
    assert np.corrcoef(mean, data["response"].mean("presentation").values)[0, 1] > 0.9


def scored(reader, basis, store):
    made = Comparison(reader, basis, {"ridge": RidgeEncoder(seed=0)}, folds="run", store=str(store))
    score = made.run(lambda line: None)[0]["ridge"]
    assert len(made.splits) == 12
    assert {len(split["test"]) for split in made.splits} == {8}
    return score, float(score.by_roi(resamples=50).sel(roi="all")["mean"])


def test_a_category_encoder_explains_what_categories_can(reader, tmp_path):
    # Catches folds that divide runs, and a ceiling of averages instead of single trials.
    score, mean = scored(reader, StimulusLabels(reader, "trial_type"), tmp_path)
    assert mean == pytest.approx(0.59, abs=0.1)
    good = score.dataset["ceiling"].values > 0.3
    assert 0.6 < float(score.dataset["normalised"].values[good].mean()) < 1.1


def test_an_encoder_of_permuted_labels_explains_nothing(reader, kinds, tmp_path):
    # Catches labels that reach the encoder by another way than the features.
    ids = reader.stimuli()["image"]
    shuffled = np.random.default_rng(0).permutation(kinds)
    wrong = Labels(dict(zip(ids, shuffled.tolist(), strict=True)))
    assert scored(reader, wrong, tmp_path)[1] < 0.05


def test_the_recipe_goes_from_the_folder_to_maps(realdata, tmp_path, monkeypatch, capsys):
    # Catches a recipe that does not run, and maps in another place than the data.
    monkeypatch.setenv("NEUROATTN_REALDATA", str(realdata))
    run = tmp_path / "run"
    main(["compare", "--config", str(RECIPE), "--run", str(run), "--store", str(tmp_path / "s")])
    assert "in each of 12 folds" in capsys.readouterr().out
    source = nibabel.load(next((realdata / "haxby_bids_mini/sub-1/func").glob("*run-01_bold*")))
    written = nibabel.load(run / "maps/sub-1_raw.nii.gz")
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.shape == source.shape[:3]
    score = Score.load(run / "scores.nc").dataset
    place = tuple(score[axis].values for axis in "ijk")
    np.testing.assert_allclose(written.get_fdata()[place], score["raw"].values, rtol=1e-5)
