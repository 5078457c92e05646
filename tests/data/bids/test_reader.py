from __future__ import annotations

import pickle
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from neuroattn.data import validate
from neuroattn.data.bids import BIDS, Glm, Trials
from neuroattn.errors import FileError, MismatchError
from neuroattn.metrics import ncsnr
from tests.data.bids.builders import course, events_text, late, mini, spm, write_gifti, write_json
from tests.data.bids.test_confounds import MOTION, write_confounds

OLS = Glm(noise_model="ols")


def betas_of(made, reader):
    """Return (found, true) betas, runs one below the other."""
    return reader.responses()["response"].values, np.concatenate(made.betas)


@pytest.mark.parametrize("model", ["lsa", "lss"])
@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_known_betas_come_back(tmp_path, model, noise_model):
    # Catches units, voxel order, run order and trials: every step from files to responses.
    made = mini(tmp_path, gap=13)
    reader = BIDS(str(tmp_path), "01", glm=Glm(model=model, noise_model=noise_model))
    found, true = betas_of(made, reader)
    error = found - true
    assert error.std() < (0.12 if model == "lsa" else 0.45)
    slope = (found * true).sum() / (true**2).sum()
    assert slope == pytest.approx(1, abs=0.04 if model == "lsa" else 0.1)


def test_labels_say_what_the_responses_are(tmp_path):
    # Catches presentations, voxels and units that are not those of the files.
    mini(tmp_path, runs=2)
    data = validate(BIDS(str(tmp_path), 1).responses())
    assert data.sizes["presentation"] == 16
    assert data.sizes["voxel"] == 22
    assert data["run"].values.tolist() == [1] * 8 + [2] * 8
    assert set(data["session"].values.tolist()) == {1}
    assert data["image"].values[[0, 15]].tolist() == [
        "sub-01_run-1_trial-001",
        "sub-01_run-2_trial-008",
    ]
    assert data.attrs["units"] == "percent signal change"
    assert data.attrs["tr"] == 1.5
    assert data.attrs["space"] == "native"
    assert data.attrs["source"] == "mini, sub-01, task look"
    assert data.attrs["licence"] == "CC0"
    assert data.attrs["header"]
    assert set(data["subject"].values) == {"sub-01"}


def test_the_right_response_function_beats_a_wrong_one(tmp_path):
    # Catches an hrf option without effect.
    made = mini(tmp_path, response=late)
    times = np.arange(0, 40, 0.1)
    np.savetxt(tmp_path / "late.tsv", late(times))
    errors = {}
    for hrf in ("spm", "glover", f"library:{tmp_path / 'late.tsv'}:0"):
        found, true = betas_of(made, BIDS(str(tmp_path), 1, glm=Glm(hrf=hrf, noise_model="ols")))
        errors[hrf] = np.sqrt(((found - true) ** 2).mean())
    right = errors.pop(f"library:{tmp_path / 'late.tsv'}:0")
    assert right < 0.1
    assert min(errors.values()) > 4 * right


def test_each_voxel_gets_the_best_response_of_the_library(tmp_path):
    # Catches one choice for all voxels, a choice from one run, and the worst instead of the best.
    times = np.arange(0, 40, 0.1)
    shapes = [lambda t, f=f: spm(t / f) for f in (0.7, 0.85, 1.0, 1.2, 1.5)]
    np.savetxt(tmp_path / "library.tsv", np.stack([shape(times) for shape in shapes], axis=1))
    slow, fast = (mini(tmp_path / name, response=shapes[n]) for name, n in (("s", 4), ("f", 1)))
    # Half of the voxels have the slow response, half the fast one.
    for run in (1, 2):
        name = f"sub-01/func/sub-01_task-look_run-{run}_bold.nii.gz"
        one, two = (nibabel.load(made.root / name) for made in (slow, fast))
        values = np.where(np.arange(4)[None, :, None, None] < 2, one.get_fdata(), two.get_fdata())
        nibabel.save(
            nibabel.Nifti1Image(values.astype(np.float32), None, one.header), slow.root / name
        )
    glm = Glm(hrf=f"library:{tmp_path / 'library.tsv'}", noise_model="ols")
    reader = BIDS(str(slow.root), 1, glm=glm)
    found, true = betas_of(slow, reader)
    expected = np.where(reader.labels()["j"].values < 2, 4, 1)
    np.testing.assert_array_equal(reader._choice, expected)
    assert np.sqrt(((found - true) ** 2).mean()) < 0.1


def derivative(made, spaces=("T1w",), amplitude=3.0):
    """Turn a raw set's images into fMRIPrep's, with motion that is in the data."""
    out = made.root / "derivatives/fmriprep"
    func = out / "sub-01/func"
    func.mkdir(parents=True)
    for run in (1, 2):
        stem = f"sub-01_task-look_run-{run}"
        image = nibabel.load(made.root / f"sub-01/func/{stem}_bold.nii.gz")
        frames = image.shape[-1]
        written = write_confounds(
            func / f"{stem}_desc-confounds_timeseries.tsv", run, frames=frames
        )
        moved = sum(written[name] for name in MOTION)
        values = image.get_fdata() * (1 + amplitude / 100 * moved)
        for space in spaces:
            name = f"{stem}_space-{space}_desc"
            moving = nibabel.Nifti1Image(values.astype(np.float32), image.affine, image.header)
            nibabel.save(moving, func / f"{name}-preproc_bold.nii.gz")
            mask = nibabel.Nifti1Image(made.mask.astype(np.uint8), image.affine)
            nibabel.save(mask, func / f"{name}-brain_mask.nii.gz")
    shutil.rmtree(made.root / "derivatives/masks")
    return out


def test_confounds_are_taken_out(tmp_path):
    # Catches confounds that are read and not used, and the table of another run.
    made = mini(tmp_path)
    derivative(made, ("T1w", "MNI152NLin2009cAsym"))
    errors = {}
    for strategy in ("none", "motion"):
        reader = BIDS(
            str(tmp_path), 1, space="T1w", derivatives="derivatives/fmriprep",
            glm=Glm(noise_model="ols", confounds=strategy),
        )  # fmt: skip
        found, true = betas_of(made, reader)
        errors[strategy] = np.sqrt(((found - true) ** 2).mean())
    assert errors["motion"] < 0.15
    assert errors["none"] > 5 * errors["motion"]
    assert reader.labels().attrs["bids_space"] == "T1w"
    listed = [file.what for file in reader.files()]
    for what in ("images", "events", "mask", "confounds"):
        assert [f"{what} of run-{n}" for n in (1, 2)] == [w for w in listed if what in w]
    with pytest.raises(FileError, match=r"spaces MNI152NLin2009cAsym, T1w"):
        _ = BIDS(str(tmp_path), 1, derivatives="derivatives/fmriprep").runs
    with pytest.raises(FileError, match=r"no .*confounds_timeseries.tsv"):
        BIDS(str(tmp_path), 1, glm=Glm(confounds="motion")).sessions()
    template = BIDS(
        str(tmp_path), 1, space="MNI152NLin2009cAsym", derivatives="derivatives/fmriprep"
    )
    assert template.labels().attrs["space"] == "MNI"


def test_nothing_of_one_run_is_in_another(tmp_path):
    # Catches a model over concatenated runs: a late response that leaks into the next run.
    made = mini(tmp_path, runs=3)
    whole = BIDS(str(tmp_path), 1, glm=OLS).responses()["response"].values
    name = "sub-01/func/sub-01_task-look_run-2"
    image = nibabel.load(tmp_path / f"{name}_bold.nii.gz")
    values = image.get_fdata() * (1 + 0.1 * np.random.default_rng(0).normal(size=90))
    changed = nibabel.Nifti1Image(values.astype(np.float32), image.affine, image.header)
    nibabel.save(changed, tmp_path / f"{name}_bold.nii.gz")
    again = BIDS(str(tmp_path), 1, glm=OLS).responses()["response"].values
    np.testing.assert_array_equal(again[:8], whole[:8])
    np.testing.assert_array_equal(again[16:], whole[16:])
    assert np.abs(again[8:16] - whole[8:16]).max() > 1
    alone = BIDS(str(tmp_path), 1, entities={"run": "3"}, glm=OLS).responses()
    np.testing.assert_array_equal(alone["response"].values, whole[16:])
    assert len(made.betas) == 3


def test_a_slice_time_reference_moves_the_model(tmp_path):
    # Catches StartTime that is read and not used.
    made = mini(tmp_path, start=0.75)
    wrong = BIDS(str(tmp_path), 1, glm=OLS)
    first = np.abs(np.subtract(*betas_of(made, wrong))).mean()
    write_json(tmp_path / "task-look_bold.json", {"RepetitionTime": 1.5, "StartTime": 0.75})
    second = np.abs(np.subtract(*betas_of(made, BIDS(str(tmp_path), 1, glm=OLS)))).mean()
    assert second < 0.7 * first


def test_a_voxel_without_a_mean_is_nan_in_that_run_alone(tmp_path):
    # Catches infinite betas outside the brain, and voxels that are lost in all runs.
    mini(tmp_path)
    place = tmp_path / "sub-01/func/sub-01_task-look_run-1_bold.nii.gz"
    image = nibabel.load(place)
    values = image.get_fdata().astype(np.float32)
    values[1, 0, 0] = 0
    nibabel.save(nibabel.Nifti1Image(values, image.affine, image.header), place)
    reader = BIDS(str(tmp_path), 1)
    found = reader.responses()["response"].values
    assert np.isnan(found[:8, 0]).all()
    assert np.isfinite(found[8:]).all()
    assert np.isfinite(found[:, 1:]).all()
    values[:] = 0
    values += np.random.default_rng(0).normal(size=90).astype(np.float32)[None] - 9
    nibabel.save(nibabel.Nifti1Image(values, image.affine, image.header), place)
    with pytest.raises(FileError, match=r"run-1_bold.nii.gz: no voxel has finite.*demeaned"):
        BIDS(str(tmp_path), 1).responses()


def test_pieces_are_the_whole_whatever_their_width(tmp_path, monkeypatch):
    # Catches a choice of response or a mask of usable voxels that is not moved with the block.
    mini(tmp_path)
    np.savetxt(
        tmp_path / "l.tsv", np.stack([spm(np.arange(0, 40, 0.1)), late(np.arange(0, 40, 0.1))], 1)
    )
    for model in ("lsa", "lss"):
        reader = BIDS(str(tmp_path), 1, glm=Glm(model=model, hrf=f"library:{tmp_path / 'l.tsv'}"))
        # Which response is best does not matter here; that it changes within a block does.
        vars(reader)["_choice"] = np.arange(22) // 3 % 2
        whole = reader.responses()["response"].values
        monkeypatch.setattr("neuroattn.data.bids.reader._BLOCK", 5)
        pieces = list(reader.read(1))
        assert [piece.shape[1] for piece in pieces] == [5, 5, 5, 5, 2]
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole[8:], rtol=1e-5, atol=1e-6)
        monkeypatch.undo()


def test_surfaces_are_read_as_vertices(tmp_path):
    # Catches betas of the wrong hemisphere, and surfaces that need a mask.
    made = mini(tmp_path)
    for run in (1, 2):
        stem = f"sub-01_task-look_run-{run}"
        values = nibabel.load(tmp_path / f"sub-01/func/{stem}_bold.nii.gz").get_fdata()
        series = values.reshape(24, -1, order="F").T
        for side, part in {"L": series[:, :10], "R": series[:, 10:]}.items():
            name = f"{stem}_space-fsaverage5_hemi-{side}_bold.func.gii"
            write_gifti(tmp_path / "derivatives/fmriprep/sub-01/func" / name, part)
    glm = Glm(noise_model="ols")
    reader = BIDS(str(tmp_path), 1, space="fsaverage5", derivatives="derivatives/fmriprep", glm=glm)
    data = validate(reader.responses())
    assert data.attrs["space"] == "fsaverage5"
    assert data.attrs["vertices_right"] == 14
    assert data["hemisphere"].values.tolist() == ["left"] * 10 + ["right"] * 14
    volume = BIDS(str(tmp_path), 1, glm=glm).responses()["response"].values
    inside = made.mask.ravel(order="F")
    found = data["response"].values
    np.testing.assert_allclose(found[:, inside], volume, rtol=1e-4, atol=1e-4)
    assert np.isnan(found[:, ~inside]).all()


def test_surface_betas_are_those_of_nilearns_model_on_a_surface_image(tmp_path):
    # Catches a model of our own where nilearn's was promised: drift, confounds, order of trials.
    import pandas as pd
    from nilearn.datasets import load_fsaverage
    from nilearn.glm.first_level import FirstLevelModel
    from nilearn.surface import SurfaceImage

    made = mini(tmp_path, runs=1)
    draw = np.random.default_rng(0)
    stem = "sub-01_task-look_run-1"
    frames = np.arange(90) * 1.5
    design = np.stack([course(onset, 2.0, frames) for onset in made.onsets[0]])
    parts = {}
    for side, letter in {"left": "L", "right": "R"}.items():
        betas = draw.normal(size=(10242, 8))
        noise = 0.2 * draw.normal(size=(10242, 90))
        parts[side] = (600 * (1 + (betas @ design + noise) / 100)).astype(np.float32)
        name = f"{stem}_space-fsaverage5_hemi-{letter}_bold.func.gii"
        write_gifti(tmp_path / "derivatives/fmriprep/sub-01/func" / name, parts[side].T)
    glm = Glm(noise_model="ols")
    reader = BIDS(str(tmp_path), 1, space="fsaverage5", derivatives="derivatives/fmriprep", glm=glm)
    ours = reader.responses()
    events = pd.DataFrame(
        {"onset": made.onsets[0], "duration": 2.0, "trial_type": [f"t{n}" for n in range(8)]}
    )
    model = FirstLevelModel(
        t_r=1.5, hrf_model="spm", noise_model="ols", signal_scaling=0, high_pass=glm.high_pass
    )
    model.fit(SurfaceImage(load_fsaverage("fsaverage5")["inflated"], parts), events)
    effects = [model.compute_contrast(f"t{n}", output_type="effect_size") for n in range(8)]
    theirs = np.stack(
        [
            np.concatenate([effect.data.parts[side].ravel() for side in ("left", "right")])
            for effect in effects
        ]
    )
    # A beta of ours is the height of the peak, theirs belongs to a regressor of another scale,
    # which for some onsets is a sample (of 67) shorter or longer.
    slopes = (ours["response"].values * theirs).sum(axis=1) / (theirs**2).sum(axis=1)
    np.testing.assert_allclose(slopes, np.median(slopes), rtol=0.02)
    scaled = slopes[:, None] * theirs
    np.testing.assert_allclose(ours["response"].values, scaled, rtol=1e-3, atol=0.01)


def test_the_ceiling_is_of_the_column_that_repeats(tmp_path):
    # Catches an ncsnr over images that are shown once, or one that stays when nobody asked.
    mini(tmp_path, runs=3)
    reader = BIDS(str(tmp_path), 1, trials=Trials(repeats="trial_type"))
    data = reader.responses()
    kinds = reader.stimuli()["trial_type"]
    expected = ncsnr(data["response"].values, kinds, data["session"].values)
    np.testing.assert_allclose(data["ncsnr"].values, expected, rtol=1e-4, atol=1e-5)
    assert "trial_type" in data.attrs["ncsnr_of"]
    assert "ncsnr" not in BIDS(str(tmp_path), 1).labels()


def test_images_are_trials_types_or_files(tmp_path):
    # Catches a stimulus index that does not fit the images, and files that are not found.
    mini(tmp_path)
    names = ["a/x.png", "y.png"] * 4
    for run in (1, 2):
        place = tmp_path / f"sub-01/func/sub-01_task-look_run-{run}_events.tsv"
        table = [line.split("\t") for line in place.read_text().splitlines()[1:]]
        onsets, durations, types = zip(*table, strict=True)
        place.write_text(events_text(onsets, durations, types, stim_file=names, index=range(8)))
    kinds = BIDS(str(tmp_path), 1, trials=Trials(image="trial_type"))
    assert kinds.stimuli()["image"] == ["dog", "cat"]
    assert kinds.stimuli()["shown"] == [8, 8]
    assert kinds.responses()["repetition"].values.max() == 7
    files = BIDS(str(tmp_path), 1, trials=Trials(image="stim_file"))
    with pytest.raises(FileError, match=r"'a/x.png' has no pixels.*stimuli does not exist"):
        files.images().read(0)
    for name in set(names):
        (tmp_path / "stimuli" / name).parent.mkdir(parents=True, exist_ok=True)
        colour = (200, 0, 0) if "x" in name else (0, 90, 0)
        Image.new("RGB", (3, 2), colour).save(tmp_path / "stimuli" / name)
    images = files.images()
    assert images.ids == ("a/x.png", "y.png")
    assert images.read(0)[0, 0].tolist() == [200, 0, 0]
    trials = BIDS(str(tmp_path), 1)
    index = trials.stimuli()
    assert index["file"][:2] == ["stimuli/a/x.png", "stimuli/y.png"]
    assert index["index"] == [-1] * 16
    assert index["event_index"][:3] == ["0", "1", "2"]
    assert index["first_run"] == ["run-1"] * 8 + ["run-2"] * 8
    assert {len(column) for column in index.values()} == {16}
    with pytest.raises(FileError, match=r"'trial', which are no files"):
        trials.images().read(0)


def test_merged_blocks_are_one_trial(tmp_path):
    # Catches betas of rows instead of blocks.
    made = mini(tmp_path, trials=4, gap=30, duration=6)
    for run in (1, 2):
        place = tmp_path / f"sub-01/func/sub-01_task-look_run-{run}_events.tsv"
        rows = [line.split("\t") for line in place.read_text().splitlines()[1:]]
        parts = [(float(o) + n, 1, kind) for o, _, kind in rows for n in range(6)]
        place.write_text(events_text(*zip(*parts, strict=True)))
    assert [part.rows for part in BIDS(str(tmp_path), 1, glm=OLS).sessions()] == [24, 24]
    reader = BIDS(str(tmp_path), 1, glm=OLS, trials=Trials(merge=0.5))
    assert [part.rows for part in reader.sessions()] == [4, 4]
    assert np.subtract(*betas_of(made, reader)).std() < 0.1
    assert reader.stimuli()["seconds"] == ["6"] * 8


def test_what_does_not_belong_together_is_refused(tmp_path):
    # Catches a copied run, events of a longer run, and a derivative without its raw events.
    made = mini(tmp_path / "raw")
    out = derivative(made)
    with pytest.raises(FileError, match=r"2 of 2 runs have no events file.*derivatives"):
        BIDS(str(out), 1, space="T1w").sessions()
    events = tmp_path / "raw/sub-01/func/sub-01_task-look_run-1_events.tsv"
    events.write_text(events.read_text() + "400\t2\tcat\n")
    with pytest.raises(MismatchError, match=r"1 of 9 begin after the end of the run, 135 s"):
        BIDS(str(tmp_path / "raw"), 1).sessions()
    first = tmp_path / "raw/sub-01/func/sub-01_task-look_run-1_bold.nii.gz"
    shutil.copy(first, str(first).replace("run-1", "run-2"))
    with pytest.raises(MismatchError, match=r"same content"):
        BIDS(str(tmp_path / "raw"), 1, trials=Trials(end_margin=0)).sessions()


def test_sessions_of_any_name_are_numbered(tmp_path):
    # Catches runs of two sessions that have the same numbers, and text where numbers belong.
    mini(tmp_path / "a"), mini(tmp_path / "b", seed=1)
    for name, number in (("a", "retest"), ("b", "test")):
        func = tmp_path / f"all/sub-01/ses-{number}/func"
        func.mkdir(parents=True)
        for file in (tmp_path / name / "sub-01/func").iterdir():
            shutil.copy(file, func / file.name.replace("sub-01_", f"sub-01_ses-{number}_"))
    shutil.copy(tmp_path / "a/task-look_bold.json", tmp_path / "all")
    reader = BIDS(str(tmp_path / "all"), 1, mask="all", glm=OLS)
    known = reader.labels()
    assert known["session"].values.tolist() == [1] * 16 + [2] * 16
    assert known["run"].values.tolist() == ([1] * 8 + [2] * 8) * 2
    assert known.attrs["session_names"] == ["retest", "retest", "test", "test"]
    assert known["image"].values[-1] == "sub-01_ses-test_run-2_trial-008"
    only = BIDS(str(tmp_path / "all"), 1, session="test", mask="all", glm=OLS).responses()
    np.testing.assert_array_equal(only["response"], reader.responses()["response"][16:])


def test_a_reader_goes_to_another_process(tmp_path):
    # Catches a reader that cannot be sent to a worker, before and after it was used.
    mini(tmp_path)
    times = np.arange(0, 40, 0.1)
    np.savetxt(tmp_path / "l.tsv", np.stack([spm(times), late(times)], axis=1))
    glm = Glm(hrf=f"library:{tmp_path / 'l.tsv'}", noise_model="ols")
    reader = BIDS(str(tmp_path), 1, glm=glm)
    sent = pickle.loads(pickle.dumps(reader))
    expected = np.concatenate(list(reader.read(0)), axis=1)
    np.testing.assert_array_equal(np.concatenate(list(sent.read(0)), axis=1), expected)
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(np.concatenate(list(again.read(0)), axis=1), expected)
