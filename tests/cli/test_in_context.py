"""fit and what follows it on a run with a held-out subject; the stages chain."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import xarray as xr

import neuroattn
from neuroattn.cli import recipe
from neuroattn.cli.in_context import FOLDS
from neuroattn.cli.main import main
from neuroattn.data import SimulatedCortex
from neuroattn.data.split import Split
from neuroattn.data.storage import open_responses
from neuroattn.encoders import RidgeEncoder
from neuroattn.features import FeatureStore, GaborPyramid
from neuroattn.io import read_json, read_netcdf, read_tensors
from neuroattn.metrics import Score
from tests.cli import mortal
from tests.cli.recipes import FIT, IN_CONTEXT, changed, refused, write

ENCODERS = ["group average", "ridge", "empirical Bayes", "in-context"]
SOURCE = IN_CONTEXT["data"]["sources"][0]
OPTIMISATION = "model__init_args__optimisation__"
PROMISED = [
    "attention.nc",
    "baselines",
    "checkpoints",
    "config.json",
    "config.yaml",
    "contexts.json",
    "excess.nc",
    "figures",
    "manifest.json",
    "maps",
    "predictions.zarr",
    "report.html",
    "scaling.nc",
    "scores.nc",
    "split.json",
    "voxels.nc",
    "weights.safetensors",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a recipe, a finished run, and what was printed."""
    folder = tmp_path_factory.mktemp("in-context")
    write(folder, IN_CONTEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        assert main(["fit", "--config", "recipe.yaml", "--run", "run"]) == 0
    return folder


@pytest.fixture
def bare(monkeypatch):
    """Leave out maps, figures and report, which take seconds."""
    monkeypatch.setattr(recipe, "write_presentation", lambda run, title: None)


def features(folder):
    source = SimulatedCortex(**SOURCE["init_args"])
    basis = GaborPyramid(**IN_CONTEXT["data"]["basis"]["init_args"])
    return FeatureStore(folder / "store").open(basis, source.images())


def weights(run):
    return read_tensors(run / "weights.safetensors")[0]


def assert_same_weights(one, other):
    found, expected = weights(one), weights(other)
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_run_holds_every_encoder_curve_and_context(made):
    # Catches a baseline that is not saved, files that are forgotten, and leftovers of writing.
    run = made / "run"
    assert sorted(os.listdir(run)) == PROMISED
    assert sorted(os.listdir(run / "baselines")) == sorted(ENCODERS[:-1])
    assert read_json(run / "manifest.json")["encoders"] == ENCODERS
    folders = [*(run / "baselines" / name for name in ENCODERS[:-1]), run]
    scores = [Score.load(folder / "scores.nc").dataset for folder in folders]
    for score in scores:
        assert set(score["subject"].values.astype(str)) == {"sub-03"}
        xr.testing.assert_identical(score["response"], scores[0]["response"])
    kinds = [type(neuroattn.load(folder)).__name__ for folder in folders]
    assert kinds == [
        "GroupAverageEncoder",
        "RidgeEncoder",
        "EmpiricalBayesEncoder",
        "InContextEncoder",
    ]
    curve = read_netcdf(run / "scaling.nc")
    assert curve["encoder"].values.astype(str).tolist() == ENCODERS
    assert curve["length"].values.tolist() == [10, 30]  # 1,000 images are not there
    assert curve.attrs["reference"] == "ridge"
    excess = read_netcdf(run / "excess.nc")
    np.testing.assert_allclose(excess["excess"], excess["risk"] - excess["oracle"])


def test_contexts_are_of_training_images_alone(made):
    # Catches a test image in a context, and contexts that were not written down.
    contexts = read_json(made / "run" / "contexts.json")
    split = Split.load(made / "run" / "split.json")
    drawn = [contexts["context"], *contexts["scaling draws"]]
    assert [len(each) for each in drawn] == [20, 30, 30]
    for context in drawn:
        assert len(set(context)) == len(context)
        assert set(context) <= set(split["train"])
        assert not set(context) & {*split["test"], *split["validation"]}
    curve = read_netcdf(made / "run" / "scaling.nc")
    assert curve["images"].values.astype(str).tolist() == contexts["scaling draws"]
    loaded = neuroattn.load(made / "run")
    assert sorted(loaded.context_) == sorted(contexts["context"])


def test_the_encoder_comes_back_and_predicts_what_was_written(made):
    # Catches predictions and scores of other weights than those that were saved.
    encoder, stored = neuroattn.load(made / "run"), features(made)
    written = open_responses(made / "run" / "predictions.zarr")
    np.testing.assert_array_equal(encoder.predict(stored).values, written["response"].values)
    score = Score.load(made / "run" / "scores.nc").dataset
    rows = [list(stored["image"].values).index(i) for i in score["image"].values.astype(str)]
    np.testing.assert_allclose(score["prediction"], written["response"][rows], rtol=1e-4, atol=1e-6)


def test_the_report_of_a_run_is_whole_again_after_the_fact(made, tmp_path, monkeypatch, capsys):
    # Catches figures, tables and remarks that only the training itself can make.
    run = shutil.copytree(made / "run", tmp_path / "run")
    before = (run / "report.html").read_text()
    pictures = sorted(os.listdir(run / "figures"))
    assert {"scaling.png", "which-images-wrote-a-voxel.png"} < set(pictures)
    for name in pictures:
        if not name.startswith("which"):
            (run / "figures" / name).unlink()
    (run / "report.html").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run)]) == 0
    after = (run / "report.html").read_text()
    assert after == before
    title = f"InContextEncoder on {read_json(run / 'manifest.json')['data']['source']}"
    assert f"<h1>{title}</h1>" in after
    assert sorted(os.listdir(run / "figures")) == pictures
    for part in (
        "Scaling.</b>",
        "Which images wrote a voxel.</b>",
        "<h2>Scaling curve</h2>",
        "<h2>Distance from the Bayes oracle</h2>",
        "Held out: sub-03, of whom nothing was trained on",
        "were given 20 context images",
    ):
        assert part in after, part
    assert main(["report", str(run), "--title", "Again"]) == 0
    assert "<h1>Again</h1>" in (run / "report.html").read_text()


def test_a_damaged_curve_is_named(made, tmp_path, capsys):
    # Catches a library's error without a file name.
    run = shutil.copytree(made / "run", tmp_path / "run")
    content = (run / "scaling.nc").read_bytes()
    (run / "scaling.nc").write_bytes(content[: len(content) // 2])
    assert "scaling.nc is not whole" in refused(capsys, "report", str(run))


@pytest.mark.usefixtures("bare")
def test_later_commands_need_the_run_alone(made, tmp_path, monkeypatch, capsys):
    # Catches validation episodes that are drawn anew, and scores of other weights or contexts.
    run = shutil.copytree(made / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    before = Score.load(run / "scores.nc").dataset
    capsys.readouterr()
    shown = []
    for _ in range(2):
        assert main(["validate", str(run)]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    names = [line.split(": ")[0] for line in shown[0].splitlines()]
    assert names == ["validation_loss", "validation_explained_variance"]
    contexts = (run / "contexts.json").read_text()
    assert main(["test", str(run)]) == 0
    assert (run / "contexts.json").read_text() == contexts
    xr.testing.assert_identical(Score.load(run / "scores.nc").dataset, before)
    expected = open_responses(run / "predictions.zarr")["response"].values
    shutil.rmtree(run / "predictions.zarr")
    assert main(["predict", str(run)]) == 0
    found = open_responses(run / "predictions.zarr")["response"].values
    np.testing.assert_array_equal(found, expected)
    capsys.readouterr()
    assert main(["score", str(run)]) == 0
    assert all(name.split()[0] in capsys.readouterr().out for name in ENCODERS[-1:])
    shutil.rmtree(run / "maps")
    assert main(["maps", str(run)]) == 0
    assert os.listdir(run / "maps")
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.usefixtures("bare")
def test_what_is_printed_fits_the_screen_and_comes_in_order(made, tmp_path, monkeypatch, capsys):
    # Catches a table of twelve columns that no terminal holds.
    run = shutil.copytree(made / "run", tmp_path / "run")
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    assert main(["test", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    told = ["group average: by", "left out: contexts of 1000", "minus ridge", "Bayes oracle"]
    places = [text.index(part) for part in told]
    assert places == sorted(places)
    rows = [line for line in lines if line.strip().startswith(("10 ", "30 "))]
    assert len(rows) == 4  # a length is said once in each of two tables


def test_a_run_killed_and_resumed_has_the_same_weights(made):
    # Catches episodes, dropout or optimiser that start anew on a resume.
    arguments = ["fit", "--config", str(made / "recipe.yaml"), "--run", str(made / "killed")]
    arguments += ["--data.store", str(made / "store")]
    assert mortal.run(arguments, ("in_training_step", 7)) == -signal.SIGKILL
    assert not (made / "killed" / "manifest.json").exists()
    # Without --config: the run knows its own.
    assert mortal.run(["fit", "--run", str(made / "killed"), "--ckpt_path", "last"]) == 0
    assert_same_weights(made / "killed", made / "run")
    found, expected = (Score.load(made / name / "scores.nc").dataset for name in ("killed", "run"))
    np.testing.assert_array_equal(found["prediction"], expected["prediction"])


def test_a_dry_run_writes_no_run(made, monkeypatch, capsys):
    # Catches a plan that starts the training, and that counts images instead of episodes.
    monkeypatch.chdir(made)
    assert main(["fit", "--config", "recipe.yaml", "--run", "planned", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "12 episodes of 8 voxels, 5 to 30 context images, in 3 epochs" in shown
    assert "(measured responses)" in shown
    assert "of sub-03 to be written" in shown
    assert not (made / "planned").exists()
    more = ["--data.episodes.most", "3000"]
    assert main(["fit", "--config", "recipe.yaml", "--run", "planned", "--dry-run", *more]) == 0
    # 54 training images less 8 queries.
    assert "5 to 46 (of 3000 asked) context images" in capsys.readouterr().out


def test_the_features_of_several_sources_are_filled_beforehand(tmp_path, monkeypatch, capsys):
    # Catches a store of the first source alone, or one that `fit` does not find.
    monkeypatch.chdir(tmp_path)
    other = {**SOURCE, "init_args": {**SOURCE["init_args"], "scenes": 40, "seed": 1}}
    # Scenes of two seeds have the same names: a data set must say which images are its own.
    clash = write(tmp_path, changed(IN_CONTEXT, data__sources=[SOURCE, other]), "clash.yaml")
    assert "stands for different images" in refused(capsys, "features", clash)
    fewer = {**SOURCE, "init_args": {**SOURCE["init_args"], "repeats": 1}}
    path = write(tmp_path, changed(IN_CONTEXT, data__sources=[SOURCE, fewer]))
    assert main(["features", path]) == 0
    assert capsys.readouterr().out.startswith("90 × 49 × ")
    entry = next((tmp_path / "store").glob("gabor*"))
    before = (entry / "tokens.npy").stat().st_mtime_ns
    assert main(["fit", "--config", write(tmp_path, IN_CONTEXT), "--run", "run", "--dry-run"]) == 0
    assert [entry] == list((tmp_path / "store").glob("gabor*"))
    assert (entry / "tokens.npy").stat().st_mtime_ns == before


@pytest.mark.usefixtures("bare")
def test_the_stages_chain_and_outlive_what_they_started_from(made, monkeypatch, capsys):
    # Catches a stage that starts from nothing, or that cannot be read once its start is gone.
    monkeypatch.chdir(made)
    synthetic = {"exponent": 1.0, "signal": [0.2, 0.6]}
    fixed = changed(
        IN_CONTEXT,
        data__synthetic=synthetic,
        data__episodes__least=20,
        data__episodes__most=20,
        data__evaluation__lengths=[10],
        **{OPTIMISATION + "epochs": 1},
    )
    drawn = changed(fixed, data__episodes__least=5, model__init_args__start="one")
    real = changed(drawn, data__synthetic=None, model__init_args__start="two")
    still = changed(real, **{OPTIMISATION + "learning_rate": 0.0}, data__episodes__steps=1)
    for number, stage in (("one", fixed), ("two", drawn), ("three", real), ("still", still)):
        write(made, stage, f"{number}.yaml")
        assert main(["fit", "--config", f"{number}.yaml", "--run", number]) == 0
    # A stage that learns nothing has the weights of its start, and others have not.
    assert network(made / "still").keys() == network(made / "two").keys()
    for name, value in network(made / "two").items():
        assert torch.equal(network(made / "still")[name], value), name
    assert not same(network(made / "one"), network(made / "two"))
    assert not same(network(made / "two"), network(made / "three"))
    shutil.rmtree(made / "two")
    assert main(["validate", "three"]) == 0
    assert main(["fit", "--run", "three", "--ckpt_path", "last"]) == 0
    assert neuroattn.load(made / "three").start == "two"


def network(run):
    return {
        name: value for name, value in weights(run).items() if name.startswith("prior_network.")
    }


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"data__held_out": ["sub-09"]}, ["data.held_out names 'sub-09'", "sub-01, sub-02, sub"]),
        ({"data__held_out": ["sub-01", "sub-02", "sub-03"]}, ["leaves no subject to train on"]),
        ({"data__held_out": []}, ["give at least one source and one subject to hold out"]),
        ({"data__evaluation__context": 55}, ["data.evaluation.context=55", "54", "Give 5 to 54"]),
        ({"data__evaluation__lengths": [900]}, ["lengths=[900]", "54"]),
        ({"data__evaluation__lengths": [4, 20]}, ["lengths=[4, 20]", "at least 5"]),
        ({"data__evaluation__lengths": []}, ["lengths=[]"]),
        ({"data__evaluation__draws": 0}, ["draws=0"]),
        ({"data__episodes__leest": 5}, ["episodes", "leest", "did you mean 'least'?"]),
        ({"data__episodes__least": "few"}, ["episodes", "Expected int", "few"]),
        ({"data__episodes__least": 31}, ["least=31 and most=30"]),
        ({"data__episodes__queries": 53}, ["episode needs at least 55", "54 images"]),
        ({"data__embedding__view": "men"}, ["embedding.view='men'", "did you mean 'mean'?"]),
        ({"data__embedding__components": 0}, ["components=0"]),
        ({"data__synthetic": {"exponant": 1}}, ["exponant", "did you mean 'exponent'?"]),
        ({"data__split": {"train": 0.8, "validation": 0.0, "test": 0.2}}, ["no part 'validation'"]),
        ({"data__source": FIT["data"]["source"]}, ["data.source", "did you mean 'data.sources'?"]),
        ({"model__init_args__start": "runs/none"}, ["start runs/none does not exist"]),
        ({"model__init_args__start": "store"}, ["store"]),
        ({"model": FIT["model"]}, ["TransformerModule is trained on data.source,", "data.sources"]),
        ({"data": FIT["data"]}, ["InContextModule is trained on data.sources", "data.source."]),
        ({"model__class_path": "neuroattn.encoders.InContextModul"}, ["mean 'InContextModule'?"]),
    ],
)
def test_a_wrong_recipe_is_told_by_key_before_anything_is_trained(made, capsys, changes, parts):
    # Catches a page of usage, a traceback, and ten minutes of training before the message.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        path = write(made, changed(IN_CONTEXT, **changes), "wrong.yaml")
        message = refused(capsys, "fit", "--config", path, "--run", "wrong")
    for part in parts:
        assert part in message, message
    assert not (made / "wrong").exists()


@pytest.mark.usefixtures("bare")
def test_a_start_of_another_network_or_embedding_is_refused(made, monkeypatch, capsys):
    # Catches weights that are read into places where they mean something else, and scores of what
    # an earlier stage was trained on.
    monkeypatch.chdir(made)
    base = changed(IN_CONTEXT, model__init_args__start="run")
    for changes, part in (
        ({"model__init_args__network__width": 16}, "is of another network: "),
        ({"data__embedding__components": 5}, "another embedding"),
        ({"data__basis__init_args__scales": 3}, "was trained on features of basis"),
        ({"data__held_out": ["sub-01"]}, "has learned from 1 of the held-out subjects"),
        ({"data__split__seed": 5}, "of the test images of this stage"),
    ):
        path = write(made, changed(base, **changes), "start.yaml")
        assert part in refused(capsys, "fit", "--config", path, "--run", "started")
    assert not (made / "started").exists()


def test_the_least_context_is_enough_for_every_baseline():
    # Catches a ridge of more folds, which would refuse a context after the training.
    assert RidgeEncoder().folds == FOLDS


def test_contexts_are_plain_json(made):
    # Catches numpy strings and numbers in a file for other programs.
    text = (made / "run" / "contexts.json").read_text()
    assert json.loads(text).keys() == {"context", "scaling draws"}
