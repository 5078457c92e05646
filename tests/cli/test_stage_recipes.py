"""The recipes of the three stages, and the published sizes that are laid over them."""

from __future__ import annotations

import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

import neuroattn
from neuroattn.cli import recipe
from neuroattn.cli.main import main
from neuroattn.encoders.incontext.network import PRESETS, SetTransformerConfig, weight_count
from neuroattn.io import read_json
from tests.cli.recipes import refused
from tests.data.layouts import algonauts23_mini
from tests.features.tiny_clip import clip

RECIPES = Path(__file__).resolve().parents[2] / "encoders"
STAGES = ("pretrain", "extend", "finetune")
#: Header, backbone, width of its embedding.
PUBLISHED = {
    "clip": ("97,074,852", "openai/clip-vit-base-patch32", 512),
    "dino": ("156,000,196", "facebook/dinov2-base", 768),
    "siglip": ("277,044,132", "google/siglip-so400m-patch14-384", 1152),
}
SMALL = {
    "data.episodes.least": 2,
    "data.episodes.most": 6,
    "data.episodes.queries": 3,
    "data.episodes.steps": 1,
    "data.evaluation.context": 6,
    "data.evaluation.lengths": "[6]",
    "data.evaluation.draws": 1,
    "data.split.train": 0.5,
    "data.split.validation": 0.25,
    "data.split.test": 0.25,
    "data.basis.init_args.name": "clip",
    "data.basis.init_args.local_files_only": "true",
    "model.init_args.network.width": 8,
    "model.init_args.network.heads": 2,
    "model.init_args.network.layers": 1,
    "model.init_args.network.feedforward": 8,
    "model.init_args.optimisation.epochs": 1,
    "model.init_args.optimisation.batch_size": 8,
}


def read(name):
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text())


def header(name):
    lines = (RECIPES / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Four subjects of the challenge and a CLIP, both tiny."""
    folder = tmp_path_factory.mktemp("stages")
    root = algonauts23_mini(folder / "algonauts")
    (root / "subj06").rename(root / "subj07")
    draw = np.random.default_rng(0)
    for subject in ("subj02", "subj05"):
        shutil.copytree(root / "subj01", root / subject)
        for path in (root / subject).glob("training_split/training_fmri/*.npy"):
            np.save(path, draw.standard_normal(np.load(path).shape).astype(np.float32))
    clip(folder / "clip")
    return folder


def laid_over(stage, size, run, *more, start="null"):
    """The words of a command that runs a stage at a published size, made small."""
    arguments = ["fit"]
    for name in (stage, size):
        arguments += ["--config", str(RECIPES / f"braincorl_{name}.yaml")]
    arguments += ["--run", run, *(f"--{key}={value}" for key, value in SMALL.items())]
    if stage != "pretrain":
        arguments.append(f"--model.init_args.start={start}")
    return [*arguments, *more]


def test_all_stages_have_the_data_and_the_network_of_the_tiny_preset():
    # Catches a stage that cannot start from the one before it.
    tiny = read("incontext_tiny")
    for stage in STAGES:
        found = read(f"braincorl_{stage}")
        for key in ("sources", "basis", "held_out", "split", "embedding", "evaluation", "seed"):
            assert found["data"][key] == tiny["data"][key], (stage, key)
        network = found["model"]["init_args"]["network"]
        assert network == tiny["model"]["init_args"]["network"]


def test_the_stages_are_the_three_of_the_paper_and_name_one_another():
    # Catches a fixed length in the second stage, and a start that the one before does not write.
    before = None
    for stage in STAGES:
        found = read(f"braincorl_{stage}")
        episodes = found["data"]["episodes"]
        assert (episodes["least"] == episodes["most"]) == (stage == "pretrain")
        assert ("synthetic" in found["data"]) == (stage != "finetune")
        assert found["model"]["init_args"].get("start") == before
        before = f"runs/braincorl_{stage}"
        command = f"neuroattn fit --config encoders/braincorl_{stage}.yaml --run {before}"
        assert command in header(f"braincorl_{stage}")
    assert [read("braincorl_pretrain")["data"]["episodes"][key] for key in ("least", "most")] == [
        100,
        100,
    ]


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_whose_start_is_not_there_is_one_message(stage, tmp_path, monkeypatch, capsys):
    # Catches a stage that silently starts from random weights.
    monkeypatch.chdir(tmp_path)
    sources = tmp_path / "sources.yaml"
    given = read(f"braincorl_{stage}")["data"]["sources"]
    given[0]["init_args"] |= {"scenes": 60, "subjects": 2, "size": 56, "voxels": [2, 2]}
    small = {"sources": given, "held_out": ["sub-02"], "embedding": {"components": 4}}
    small |= {"episodes": {"least": 4, "most": 8, "queries": 8}}
    small |= {"basis": {"class_path": "neuroattn.features.Pixels"}}
    sources.write_text(
        yaml.safe_dump({"data": {**small, "evaluation": {"context": 8, "lengths": [8]}}})
    )
    path = str(RECIPES / f"braincorl_{stage}.yaml")
    message = refused(capsys, "fit", "--config", path, "--config", str(sources), "--run", "new")
    start = read(f"braincorl_{stage}")["model"]["init_args"]["start"]
    assert f"start {start} does not exist" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("size", PUBLISHED)
def test_a_published_size_has_the_weights_that_its_header_tells(size):
    # Catches a width, depth or rectifier that is not the published one.
    count, model, embedding = PUBLISHED[size]
    found = read(f"braincorl_{size}")
    network = SetTransformerConfig(**found["model"]["init_args"]["network"])
    assert (embedding, network) == (
        PRESETS[size][0],
        SetTransformerConfig(width=PRESETS[size][1].width, dropout=0.5),
    )
    assert f"{weight_count(network, embedding):,}" == count
    assert count in header(f"braincorl_{size}")
    assert "not been run by us" in header(f"braincorl_{size}")
    assert found["data"]["basis"]["init_args"]["name"] == model
    subjects = [each["init_args"]["subject"] for each in found["data"]["sources"]]
    assert subjects == [1, 2, 5, 7]
    assert found["data"]["held_out"] == ["subj07"]


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_commands_of_a_header_chain(size):
    # Catches a command that names another recipe, or a start that none of them writes.
    text = re.sub(r" \\\n#\s+", " ", header(f"braincorl_{size}"))
    commands = re.findall(r"neuroattn fit (.*)", text)
    assert len(commands) == 3
    runs = []
    for stage, command in zip(STAGES, commands, strict=True):
        words = command.split()
        given = dict(pairwise(words))
        configs = [words[i + 1] for i, word in enumerate(words) if word == "--config"]
        assert configs == [f"encoders/braincorl_{name}.yaml" for name in (stage, size)]
        assert given.get("--model.init_args.start") == (runs[-1] if runs else None)
        assert ("--data.episodes.least 500" in command) == (stage == "pretrain")
        runs.append(given["--run"])


@pytest.mark.parametrize(("stage", "size"), [*zip(STAGES, PUBLISHED, strict=True)])
def test_a_published_size_laid_over_a_stage_trains_an_episode(
    room, stage, size, monkeypatch, capsys
):
    # Catches keys of the first recipe that do not go with those of the second.
    monkeypatch.chdir(room)
    monkeypatch.setenv("ALGONAUTS2023", "algonauts")
    assert main(laid_over(stage, size, "planned", "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert "1 tokens × 16 channels, embedded in 16" in shown
    assert "2 to 6 context images" in shown
    kind = "measured responses" if stage == "finetune" else "responses drawn from a prior"
    assert kind in shown
    assert "of subj07 to be written" in shown
    assert not (room / "planned").exists()


def test_a_run_of_two_recipes_knows_the_whole_of_both(room, monkeypatch, capsys):
    # Catches a second recipe that is forgotten where the run goes on by itself.
    monkeypatch.chdir(room)
    monkeypatch.setenv("ALGONAUTS2023", "algonauts")
    monkeypatch.setattr(recipe, "write_presentation", lambda run, title: None)
    assert main(laid_over("finetune", "clip", "run")) == 0
    config = yaml.safe_load((room / "run" / "config.yaml").read_text())
    sources = config["data"]["sources"]
    assert [each["init_args"]["subject"] for each in sources] == [1, 2, 5, 7]
    assert {each["init_args"]["path"] for each in sources} == {"algonauts"}
    assert config["data"]["embedding"] == {"view": "mean", "components": 0, "normalise": True}
    optimisation = config["model"]["init_args"]["optimisation"]
    assert (optimisation["warmup"], optimisation["weight_decay"]) == (0.02, 0.1)
    monkeypatch.delenv("ALGONAUTS2023")
    assert main(["fit", "--run", "run", "--ckpt_path", "last"]) == 0
    assert main(["validate", "run"]) == 0
    facts = read_json(room / "run" / "manifest.json")
    assert facts["encoders"][-2:] == ["empirical Bayes", "in-context"]
    written = neuroattn.load(room / "run").voxels_["subject"].values.astype(str)
    assert set(written) == {"subj07"}


@pytest.mark.parametrize("size", PUBLISHED)
def test_a_published_size_without_the_data_is_one_message(size, tmp_path, monkeypatch, capsys):
    # Catches a traceback where the environment variable is not set.
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALGONAUTS2023", raising=False)
    message = refused(capsys, *laid_over("pretrain", size, "run"))
    assert "ALGONAUTS2023" in message
