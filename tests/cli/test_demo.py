"""The demo on few scenes: what it promises, twice the same, and nothing beside it."""

from __future__ import annotations

import os

import numpy as np
import pytest
import xarray as xr

import neuroattn
from neuroattn.cli import demo
from neuroattn.cli.main import main
from neuroattn.encoders import FactorizedEncoder, TransformerEncoder
from neuroattn.metrics import Score
from neuroattn.training.optimisation import Optimisation
from tests.cli.recipes import refused

PROMISED = [
    "baselines",
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
def told(tmp_path_factory):
    """A folder with two demos of the same seed, and what they printed."""
    folder = tmp_path_factory.mktemp("demo")
    short = Optimisation(epochs=1)
    original = demo.comparison

    def small(seed, store, scenes):
        made = original(seed, store, scenes)
        for encoder in made.encoders.values():
            if isinstance(encoder, TransformerEncoder | FactorizedEncoder):
                encoder.set_params(optimisation=short)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(demo, "comparison", small)
        assert main(["demo", "--scenes", "150", "--seed", "3", "--out", "one"]) == 0
        patch.setattr(demo, "write_presentation", lambda *_: None)
        assert main(["demo", "--scenes", "150", "--seed", "3", "--out", "two"]) == 0
    return folder


def test_the_demo_writes_what_it_promises_and_nothing_beside(told):
    # Catches stores and temporary files that are left behind.
    assert sorted(os.listdir(told)) == ["one", "two"]
    assert sorted(os.listdir(told / "one")) == PROMISED
    baselines = sorted(os.listdir(told / "one" / "baselines"))
    assert baselines == ["factorized", "pooled ridge", "ridge"]
    assert type(neuroattn.load(told / "one")) is TransformerEncoder


@pytest.mark.parametrize("encoder", [".", "baselines/ridge", "baselines/factorized"])
def test_the_same_seed_gives_the_same_digits(told, encoder):
    # Catches a generator that nobody seeds.
    one, two = (Score.load(told / run / encoder / "scores.nc") for run in ("one", "two"))
    xr.testing.assert_identical(one.dataset, two.dataset)
    xr.testing.assert_identical(one.by_roi(resamples=50), two.by_roi(resamples=50))
    weights = [
        (told / run / encoder / "weights.safetensors").read_bytes() for run in ("one", "two")
    ]
    assert weights[0] == weights[1]
    assert np.isfinite(one.dataset["raw"]).all()


def test_a_demo_is_never_overwritten_and_checks_its_arguments(told, capsys):
    # Catches a second demo over the first one, and a run directory of nothing.
    message = refused(capsys, "demo", "--out", str(told / "one"))
    assert "exists already" in message
    assert "--ckpt_path" not in message  # a demo cannot be continued
    assert "scenes=0" in refused(capsys, "demo", "--out", str(told / "no"), "--scenes", "0")
    assert not (told / "no").exists()
