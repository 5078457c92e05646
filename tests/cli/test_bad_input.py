"""Every bad input: exit code 2, one message that names file or key, and no run."""

from __future__ import annotations

import os
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from neuroattn.cli import recipe
from neuroattn.cli.main import main
from neuroattn.io import read_json, write_json
from tests.cli.recipes import FIT, changed, refused, write
from tests.data.layouts import algonauts23_mini

OWN = changed(
    FIT,
    data__source={
        "class_path": "neuroattn.data.TableData",
        "init_args": {"images": {"path": "images"}, "responses": {"path": "responses.npy"}},
    },
    data__split={"train": 0.5, "validation": 0.25, "test": 0.25, "seed": 0},
    data__zscore=False,
)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's own data: twelve images and an array of responses."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(12):
        pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"im{number:02d}.png")
    np.save(tmp_path / "responses.npy", draw.normal(size=(12, 5)).astype(np.float32))
    return tmp_path


def told(capsys, folder, changes=None, **values) -> str:
    """The message of ``neuroattn fit``, after which there is no run."""
    path = write(folder, changed(OWN, **(changes or {}), **values))
    message = refused(capsys, "fit", "--config", path, "--run", "run")
    assert not (folder / "run").exists()
    assert not list(folder.glob(".run*"))
    return message


OPTIMISATION = "model__init_args__optimisation__"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"data__bassis": 1}, ["data.bassis", "did you mean 'data.basis'?"]),
        ({"modell": 1}, ["modell", "did you mean 'model'?"]),
        ({"trainer__max_epoch": 1}, ["trainer.max_epoch", "did you mean 'trainer.max_epochs'?"]),
        ({"model__init_args__netwrk": 1}, ["netwrk", "did you mean 'network'?"]),
        ({OPTIMISATION + "epoch": 1}, ["optimisation", "'epoch'", "did you mean 'epochs'?"]),
        ({"data__source__init_args__fodler": "x"}, ["'fodler'", "did you mean 'folder'?"]),
        ({OPTIMISATION + "epochs": "three"}, ["optimisation: epochs", "Expected int", "three"]),
        ({"data__zscore": "perhaps"}, ["data.zscore", "Expected bool", "perhaps"]),
        ({OPTIMISATION + "precision": "x"}, ["precision='x' is unknown", "16-mixed"]),
        ({"model__init_args__network__queries": "rio"}, ["queries='rio'", "did you mean 'roi'?"]),
        ({"data__basis__class_path": "neuroattn.features.Pixel"}, ["did you mean 'Pixels'?"]),
        ({"data__basis__init_args__grid": 5}, ["grid=5", "multiple of grid"]),
        ({"data__split__train": 0.9}, ["sum to 1.4"]),
        ({"data__split": {"train": 0.5, "validation": 0.0, "test": 0.5}}, ["'validation' is nee"]),
        ({"data__seed": -1}, ["seed=-1"]),
        ({"trainer__accelerator": "quantum"}, ["trainer:", "quantum"]),
        ({"model": None}, ["required: fit.model"]),
    ],
)
def test_a_wrong_recipe_is_told_by_key(own, capsys, changes, parts):
    # Catches a page of usage, a traceback, or a run that begins.
    message = told(capsys, own, changes)
    for part in parts:
        assert part in message, message


def test_missing_files_and_folders_are_named(own, capsys):
    # Catches an empty data set where a path is wrong.
    message = told(capsys, own, data__source__init_args__images={"path": "imags"})
    assert "imags does not exist" in message
    message = told(capsys, own, data__source__init_args__responses={"path": "r.npy"})
    assert "r.npy does not exist" in message
    assert "nope.yaml does not exist" in refused(
        capsys, "fit", "--config", "nope.yaml", "--run", "run"
    )


def test_responses_and_images_of_different_counts_are_refused(own, capsys):
    # Catches pairs that are cut to the shorter side.
    np.save(own / "responses.npy", np.ones((11, 5), np.float32))
    message = told(capsys, own)
    assert "responses.npy" in message
    assert "11" in message
    assert "12" in message


def test_an_image_that_cannot_be_decoded_is_named(own, capsys):
    # Catches Pillow's error, which does not say which of 73,000 images it was.
    (own / "images" / "im07.png").write_bytes(b"no picture")
    assert "im07.png" in told(capsys, own)


def test_truncated_arrays_are_named(own, capsys):
    # Catches rows of zeros, and the errors of numpy and HDF5.
    content = (own / "responses.npy").read_bytes()
    (own / "responses.npy").write_bytes(content[:-9])
    assert "responses.npy" in told(capsys, own)
    with h5py.File(own / "responses.h5", "w") as file:
        file["betas"] = np.ones((12, 5), np.float32)
    content = (own / "responses.h5").read_bytes()
    (own / "responses.h5").write_bytes(content[: len(content) // 2])
    assert "responses.h5" in told(
        capsys, own, data__source__init_args__responses={"path": "responses.h5"}
    )


def test_voxels_that_cannot_be_used_are_counted_and_told(own, capsys, monkeypatch):
    # Catches NaN that spreads through the network, and voxels that vanish in silence.
    monkeypatch.setattr(recipe, "write_presentation", lambda run, title: None)
    responses = np.load(own / "responses.npy")
    responses[3, 1] = np.nan
    responses[:, [2, 4]] = 7.0
    np.save(own / "responses.npy", responses)
    path = write(own, changed(OWN, model__init_args__network__queries="hemisphere"))
    assert main(["fit", "--config", path, "--run", "run"]) == 0
    shown = capsys.readouterr().out
    assert "left out 1 voxels with NaN and 2 constant ones; 2 are used" in shown
    data = read_json(own / "run" / "manifest.json")["data"]
    assert (data["dropped_nan_voxels"], data["dropped_constant_voxels"]) == (1, 2)


def test_responses_without_a_usable_voxel_are_refused(own, capsys):
    # Catches a training on nothing.
    np.save(own / "responses.npy", np.full((12, 5), np.nan, np.float32))
    message = told(capsys, own)
    assert "none of the 5 voxels can be used" in message


def test_a_training_that_diverges_is_told(own, capsys):
    # Catches weights of NaN in a finished run.
    wild = {OPTIMISATION + "learning_rate": 1e30, OPTIMISATION + "warmup": 0.0}
    path = write(own, changed(OWN, **wild, model__init_args__network__queries="hemisphere"))
    message = refused(capsys, "fit", "--config", path, "--run", "run")
    assert "the training diverged" in message
    assert not (own / "run" / "weights.safetensors").exists()


def test_a_store_whose_key_differs_is_refused(own, capsys):
    # Catches features of other settings under the right name.
    path = write(own, OWN)
    assert main(["features", path]) == 0
    sidecar = next((own / "store").glob("*/entry.json"))
    facts = read_json(sidecar)
    write_json(sidecar, {**facts, "key": "0" * 64})
    message = told(capsys, own)
    assert "entry.json has key='000" in message
    assert "belongs to another entry" in message


def test_a_store_that_was_cut_short_is_refused(own, capsys):
    # Catches zeros that are served as features.
    assert main(["features", write(own, OWN)]) == 0
    array = next((own / "store").glob("*/tokens.npy"))
    os.truncate(array, array.stat().st_size // 2)
    assert "tokens.npy" in told(capsys, own)


def test_a_missing_hemisphere_is_named(tmp_path, monkeypatch, capsys):
    # Catches half a brain that passes for a whole one.
    monkeypatch.chdir(tmp_path)
    root = algonauts23_mini(tmp_path / "algonauts")
    (root / "subj01/training_split/training_fmri/rh_training_fmri.npy").unlink()
    source = {
        "class_path": "neuroattn.data.Algonauts2023",
        "init_args": {"path": str(root), "subject": 1},
    }
    message = told(capsys, tmp_path, data__source=source)
    assert "rh_training_fmri.npy does not exist" in message
    shutil.rmtree(root / "subj01")
    assert "subj01" in told(capsys, tmp_path, data__source=source)


@pytest.mark.parametrize("file", ["weights.safetensors", "scores.nc", "config.json", "voxels.nc"])
def test_a_damaged_file_of_a_run_is_named(finished, tmp_path, file, capsys):
    # Catches a library's error without a file name, and a report on half a file.
    run = shutil.copytree(finished, tmp_path / "run")
    content = (run / file).read_bytes()
    (run / file).write_bytes(content[: len(content) // 2])
    assert file in refused(capsys, "report", str(run))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(recipe, "write_presentation", lambda run, title: None)
        assert main(["fit", "--config", write(folder, FIT), "--run", "run"]) == 0
    return folder / "run"


def test_a_full_disk_under_a_score_keeps_the_old_one(finished, tmp_path, monkeypatch, capsys):
    # Catches a scores.nc of half its length.
    run = shutil.copytree(finished, tmp_path / "run")
    before = (run / "scores.nc").read_bytes()
    replace = os.replace

    def full(source, target):
        if str(target).endswith("scores.nc"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    message = refused(capsys, "test", str(run))
    assert "scores.nc could not be written (No space left on device)" in message
    assert (run / "scores.nc").read_bytes() == before
    assert not list(run.glob("*.part"))
    assert not list(run.glob(".*"))
