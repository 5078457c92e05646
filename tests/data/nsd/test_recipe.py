"""The recipe of NSD: its names are those of the classes, and its split is the published one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuroattn.cli import recipe
from neuroattn.cli.main import main
from neuroattn.data import NSD
from neuroattn.data.split import Split
from neuroattn.metrics import Score
from tests.data.nsd_mini import nsd_mini

RECIPE = Path(__file__).resolve().parents[3] / "encoders" / "nsd.yaml"


def test_the_recipe_fits_on_the_published_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a recipe whose keys left the classes, and a split drawn at random."""
    monkeypatch.setattr(recipe, "write_presentation", lambda run, title: None)
    monkeypatch.setenv("NSD_SUBJECT", str(tmp_path / "converted"))
    mini = nsd_mini(tmp_path / "nsd", volume=("hdf5",), surfaces=False)
    options = {"path": str(mini.root), "subject": 1}
    source = {"class_path": "neuroattn.data.NSD", "init_args": options}
    small = {"dim": 16, "heads": 2, "feedforward": 16}
    arguments = ["fit", "--config", str(RECIPE), "--run", str(tmp_path / "run")]
    arguments += ["--data.source", json.dumps(source), "--data.store", str(tmp_path / "store")]
    arguments += ["--data.basis", '{"class_path": "neuroattn.features.GaborPyramid"}']
    arguments += [f"--model.network.{name}={value}" for name, value in small.items()]
    # Two sessions of twelve trials are too few for a z-score that means anything.
    arguments += ["--model.optimisation.epochs=1", "--data.zscore=false"]
    assert main(arguments) == 0
    split = NSD(**options).splits()["shared515"]
    assert Split.load(tmp_path / "run" / "split.json") == split
    score = Score.load(tmp_path / "run" / "scores.nc").dataset
    assert sorted(score["image"].values.astype(str)) == sorted(split["test"])
    assert (score["repeats"].values == 3).all()
