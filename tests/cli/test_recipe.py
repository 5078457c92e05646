"""fit, validate, test and predict: one run directory, from start to finish and from anywhere."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

import neuroattn
from neuroattn.cli import recipe
from neuroattn.cli.main import main
from neuroattn.data import SimulatedCortex
from neuroattn.data.preparation import prepare
from neuroattn.data.split import Split
from neuroattn.data.storage import open_responses
from neuroattn.features import FeatureStore, GaborPyramid
from neuroattn.io import read_json, read_tensors
from neuroattn.metrics import Score
from tests.cli.recipes import FIT, changed, refused, write
from tests.tolerances import TOLERANCE

FLOAT = TOLERANCE["float32"]


PROMISED = [
    "checkpoints",
    "config.json",
    "config.yaml",
    "figures",
    "manifest.json",
    "maps",
    "predictions.zarr",
    "report.html",
    "scores.nc",
    "split.json",
    "voxels.nc",
    "weights.safetensors",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a recipe whose paths are relative, and a finished run."""
    folder = tmp_path_factory.mktemp("made")
    write(folder, FIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", "recipe.yaml", "--run", "run"]) == 0
        assert os.getcwd() == str(folder)
    return folder


@pytest.fixture
def bare(monkeypatch):
    """Leave out maps, figures and report, which take seconds."""
    monkeypatch.setattr(recipe, "write_presentation", lambda run, title: None)


def weights(run):
    return read_tensors(run / "weights.safetensors")[0]


def assert_same_weights(one, other):
    for name, value in weights(one).items():
        assert torch.equal(weights(other)[name], value), name


def test_a_run_holds_what_was_promised_and_nothing_else(made):
    # Catches files that are forgotten, and leftovers of writing.
    assert sorted(os.listdir(made / "run")) == PROMISED
    assert sorted(os.listdir(made)) == ["recipe.yaml", "run", "store"]
    facts = read_json(made / "run" / "manifest.json")
    assert facts["encoders"] == ["TransformerEncoder"]
    assert facts["data"]["source"].startswith("neuroattn SimulatedCortex")
    split = Split.load(made / "run" / "split.json")
    images = [image for part in split.parts.values() for image in part]
    assert len(images) == len(set(images)) == 41
    scored = Score.load(made / "run" / "scores.nc").dataset["image"].values.astype(str)
    assert sorted(scored) == sorted(split["test"])


def test_the_encoder_comes_back_and_predicts_what_was_written(made):
    # Catches predictions of the last epoch beside weights of the best one.
    encoder = neuroattn.load(made / "run")
    source = SimulatedCortex(**FIT["data"]["source"]["init_args"])
    basis = GaborPyramid(**FIT["data"]["basis"]["init_args"])
    features = FeatureStore(made / "store").open(basis, source.images())
    written = open_responses(made / "run" / "predictions.zarr")
    np.testing.assert_array_equal(encoder.predict(features).values, written["response"].values)
    assert written["image"].values.tolist() == list(source.images().ids)
    score = Score.load(made / "run" / "scores.nc").dataset
    rows = [list(source.images().ids).index(image) for image in score["image"].values.astype(str)]
    np.testing.assert_allclose(score["prediction"], written["response"][rows], **FLOAT)


@pytest.mark.usefixtures("bare")
def test_a_run_is_enough_for_later_commands_wherever_one_stands(
    made, tmp_path, monkeypatch, capsys
):
    # Catches relative paths of the recipe that are looked up elsewhere, and a second store.
    monkeypatch.chdir(tmp_path)
    run = made / "run"
    before = Score.load(run / "scores.nc").dataset
    expected = open_responses(run / "predictions.zarr").load()
    shutil.rmtree(run / "predictions.zarr")
    capsys.readouterr()
    assert main(["validate", str(run)]) == 0
    shown = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert set(shown) == {"validation_loss", "validation_explained_variance"}
    images = Split.load(run / "split.json")["validation"]
    truth = prepare(SimulatedCortex(**FIT["data"]["source"]["init_args"]).responses())
    residual = [
        expected["response"].values[expected["image"].values == image]
        - truth["response"].values[truth["image"].values == image]
        for image in images
    ]
    loss = float((np.concatenate(residual) ** 2).mean())
    assert float(shown["validation_loss"]) == pytest.approx(loss, rel=1e-4)
    assert main(["test", str(run)]) == 0
    xr.testing.assert_allclose(Score.load(run / "scores.nc").dataset, before, rtol=1e-5, atol=1e-6)
    assert main(["predict", str(run)]) == 0
    found = open_responses(run / "predictions.zarr")
    np.testing.assert_allclose(found["response"], expected["response"], rtol=1e-4, atol=1e-5)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("bare")
def test_the_resolved_configuration_gives_the_same_run_again(made, tmp_path, monkeypatch):
    # Catches defaults that are not written down, and a configuration that cannot be read back.
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((made / "run" / "config.yaml").read_text())
    assert config["model"]["init_args"]["optimisation"]["weight_decay"] == 0.01
    assert config["base"] == str(made)
    assert main(["fit", "--config", str(made / "run/config.yaml"), "--run", "again"]) == 0
    assert_same_weights(tmp_path / "again", made / "run")
    assert os.listdir(tmp_path) == ["again"]


@pytest.mark.usefixtures("bare")
def test_a_finished_run_can_be_resumed_and_stays_as_it_was(made, monkeypatch):
    # Catches one epoch more, or an error, where there is nothing left to do.
    shutil.copytree(made / "run", made / "twice")
    monkeypatch.chdir(made)
    assert main(["fit", "--run", "twice", "--ckpt_path", "last"]) == 0
    assert_same_weights(made / "twice", made / "run")


def test_a_run_is_never_overwritten(made, monkeypatch, capsys):
    # Catches a second run in the same folder.
    monkeypatch.chdir(made)
    before = (made / "run" / "weights.safetensors").stat().st_mtime_ns
    message = refused(capsys, "fit", "--config", "recipe.yaml", "--run", "run")
    assert "run exists already and is never overwritten" in message
    message = refused(capsys, "fit", "--config", "recipe.yaml", "--run", "recipe.yaml")
    assert "recipe.yaml exists already" in message
    assert (made / "run" / "weights.safetensors").stat().st_mtime_ns == before


def test_a_resume_without_a_checkpoint_is_an_error_and_makes_nothing(made, monkeypatch, capsys):
    # Catches Lightning's silent start from scratch.
    monkeypatch.chdir(made)
    arguments = ("fit", "--config", "recipe.yaml", "--run", "new", "--ckpt_path", "last")
    assert "there is no checkpoint" in refused(capsys, *arguments)
    assert not (made / "new").exists()


def test_a_run_goes_on_only_with_the_recipe_it_began_with(made, monkeypatch, capsys):
    # Catches weights that belong to no configuration.
    monkeypatch.chdir(made)
    other = changed(FIT, model__init_args__optimisation__epochs=9)
    write(made, other, "other.yaml")
    message = refused(
        capsys, "fit", "--config", "other.yaml", "--run", "run", "--ckpt_path", "last"
    )
    assert "model.init_args.optimisation.epochs=4, but 9 was given" in message


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_of_another_model_is_refused_by_its_first_weight(
    made, command, monkeypatch, capsys
):
    # Catches a page of size mismatches.
    monkeypatch.chdir(made)
    wide = ["--model.init_args.network.dim", "16"]
    best = str(made / "run" / "checkpoints" / "best.ckpt")
    arguments = ["test", "run", *wide]
    if command == "fit":
        arguments = ["fit", "--config", "recipe.yaml", "--run", "new", "--ckpt_path", best, *wide]
    message = refused(capsys, *arguments)
    assert "best.ckpt is a checkpoint of another model: network." in message
    assert "is [8] in it and [16] in this TransformerModule" in message
    assert not (made / "new").exists()


def test_a_truncated_checkpoint_is_refused(made, tmp_path, monkeypatch, capsys):
    # Catches torch's own error.
    monkeypatch.chdir(made)
    content = (made / "run" / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    message = refused(capsys, "predict", "run", "--ckpt_path", str(tmp_path / "cut.ckpt"))
    assert "cut.ckpt is not a whole checkpoint" in message


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_folder_that_is_no_finished_run_is_refused(made, tmp_path, command, capsys):
    # Catches scores of a run that was cut short.
    assert "is not a run directory" in refused(capsys, command, str(tmp_path / "nope"))
    (tmp_path / "cut").mkdir()
    shutil.copy(made / "run" / "config.yaml", tmp_path / "cut")
    message = refused(capsys, command, str(tmp_path / "cut"))
    assert "is not finished" in message
    assert "--ckpt_path last" in message
    assert "nothing to run" in refused(capsys, command)


def test_ctrl_c_ends_with_130_and_keeps_the_last_checkpoint(made, monkeypatch, capsys):
    # Catches Lightning's exit code 1, and a report on a training that was broken off.
    from neuroattn.training.module import EncoderModule

    def pressed(self, batch, index):
        raise KeyboardInterrupt

    monkeypatch.chdir(made)
    monkeypatch.setattr(EncoderModule, "training_step", pressed)
    assert main(["fit", "--config", "recipe.yaml", "--run", "stopped"]) == 130
    assert "interrupted; what was finished is kept" in capsys.readouterr().err
    assert sorted(os.listdir(made / "stopped")) == ["checkpoints", "config.yaml", "split.json"]


@pytest.mark.usefixtures("bare")
def test_two_processes_write_the_run_of_one(made, monkeypatch):
    # Catches a network that exists in the other processes only, and files written twice.
    monkeypatch.chdir(made)
    plain = changed(FIT, model__init_args__network__dropout=0.0)
    write(made, plain, "plain.yaml")
    two = changed(plain, trainer__strategy="ddp_fork", trainer__devices=2)
    write(made, two, "two.yaml")
    assert main(["fit", "--config", "plain.yaml", "--run", "one"]) == 0
    assert main(["fit", "--config", "two.yaml", "--run", "two"]) == 0
    found, expected = (Score.load(made / name / "scores.nc").dataset for name in ("two", "one"))
    np.testing.assert_allclose(found["prediction"], expected["prediction"], rtol=1e-3, atol=1e-4)
    assert main(["test", "two"]) == 0
    tested = Score.load(made / "two" / "scores.nc").dataset
    np.testing.assert_allclose(tested["prediction"], found["prediction"], rtol=1e-4, atol=1e-5)


def test_a_dry_run_writes_no_run(made, monkeypatch, capsys):
    # Catches a plan that starts the training.
    monkeypatch.chdir(made)
    assert main(["fit", "--config", "recipe.yaml", "--run", "planned", "--dry-run"]) == 0
    assert "12 steps of 8 images" in capsys.readouterr().out
    assert not (made / "planned").exists()
