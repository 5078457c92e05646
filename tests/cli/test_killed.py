"""A training killed at any moment and resumed ends as one that was never killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn.data.storage import open_responses
from neuroattn.io import read_tensors
from neuroattn.metrics import Score
from neuroattn.training.checkpoints import read_checkpoint
from tests.cli import mortal
from tests.cli.recipes import FIT, write


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A folder with a recipe, a filled store, and a run that was never killed."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = {**FIT, "data": {**FIT["data"], "store": str(folder / "store")}}
    path = write(folder, recipe)
    assert mortal.run(["fit", "--config", path, "--run", str(folder / "whole")]) == 0
    return folder


def fit(room: Path, name: str) -> list[str]:
    return ["fit", "--config", str(room / "recipe.yaml"), "--run", str(room / name)]


def assert_same_run(run: Path, whole: Path) -> None:
    """Weights, scores and predictions are the same to the last bit."""
    found, expected = (read_tensors(folder / "weights.safetensors")[0] for folder in (run, whole))
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    scores = [Score.load(folder / "scores.nc").dataset for folder in (run, whole)]
    xr.testing.assert_identical(*scores)
    predictions = [open_responses(folder / "predictions.zarr") for folder in (run, whole)]
    np.testing.assert_array_equal(*(each["response"].values for each in predictions))
    assert (run / "manifest.json").exists()


# Four epochs of three steps; two checkpoints an epoch (best, last) after the first one.
MOMENTS = {
    "in the first step": ("in_training_step", 1),
    "in the middle of the second epoch": ("in_training_step", 5),
    "while best.ckpt of the first epoch is written": ("in_checkpoint", 2),
    "between best.ckpt and last.ckpt": ("after_checkpoint", 2),
    "while last.ckpt is replaced": ("in_checkpoint", 5),
    "after the last checkpoint": ("in_score",),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_and_resumed_is_bit_identical(room, moment):
    # Catches dropout, order, optimiser, schedule or best epoch that start anew on a resume.
    name = moment.replace(" ", "-")
    assert mortal.run(fit(room, name), MOMENTS[moment]) == -signal.SIGKILL
    assert not (room / name / "manifest.json").exists()
    assert (room / name / "checkpoints" / "last.ckpt").exists()
    assert mortal.run([*fit(room, name), "--ckpt_path", "last"]) == 0
    assert_same_run(room / name, room / "whole")


def test_a_kill_while_the_run_is_made_leaves_no_run(room):
    # Catches a directory without a checkpoint, which can neither go on nor start again.
    assert mortal.run(fit(room, "unborn"), ("in_checkpoint", 1)) == -signal.SIGKILL
    assert not (room / "unborn").exists()
    assert mortal.run([*fit(room, "unborn"), "--ckpt_path", "last"]) == 2
    assert not (room / "unborn").exists()
    assert mortal.run(fit(room, "unborn")) == 0
    assert_same_run(room / "unborn", room / "whole")


def test_repeated_kills_at_random_moments_change_nothing(room):
    # Catches moments that nobody thought of; killed from outside after seeded delays.
    draw = np.random.default_rng(20)
    arguments, last = fit(room, "random"), room / "random" / "checkpoints" / "last.ckpt"
    killed = 0
    for _ in range(3):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = mortal.start(arguments)
        while process.is_alive() and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        arguments = [*fit(room, "random"), "--ckpt_path", "last"]
    assert killed >= 2
    assert mortal.run(arguments) == 0
    assert_same_run(room / "random", room / "whole")


def test_the_real_command_is_killed_and_goes_on(room):
    # Catches what differs between this process and `python -m neuroattn`.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "neuroattn", *fit(room, "real")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    last = room / "real" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 100
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.communicate()[1] is not None
    assert process.returncode == -signal.SIGKILL
    assert sorted(os.listdir(room / "real"))[:2] == ["checkpoints", "config.yaml"]
    assert read_checkpoint(last)["epoch"] < 4
    # Without --config: the run knows its own.
    resumed = ["fit", "--run", str(room / "real"), "--ckpt_path", "last"]
    assert mortal.run(resumed) == 0
    assert_same_run(room / "real", room / "whole")


@pytest.mark.parametrize(("share", "file"), [(8, "last.ckpt"), (2, "best.ckpt")])
def test_a_disk_that_fills_up_under_a_checkpoint_loses_what_was_not_saved(
    room, tmp_path, share, file
):
    # Catches a crash of a library, and a checkpoint of half its size. The first one is smaller.
    size = (room / "whole" / "checkpoints" / "last.ckpt").stat().st_size
    run, full = room / f"full-{share}", ("with_small_files", size // share)
    assert mortal.run(fit(room, run.name), full, tmp_path / "err") == 2
    error = (tmp_path / "err").read_text()
    assert f"{file} could not be written (File too large)" in error
    assert "Traceback" not in error
    assert not list(room.glob(".full*"))
    assert run.exists() == (file == "best.ckpt")
    if run.exists():
        assert os.listdir(run / "checkpoints") == ["last.ckpt"]
        assert mortal.run([*fit(room, run.name), "--ckpt_path", "last"]) == 0
        assert_same_run(run, room / "whole")


def test_a_disk_that_fills_up_under_the_score_keeps_the_training(room, tmp_path):
    # Catches a run that must be trained again because its last file did not fit.
    assert (
        mortal.run(fit(room, "score"), ("with_full_disk_for", "scores.nc"), tmp_path / "err") == 2
    )
    error = (tmp_path / "err").read_text()
    assert "scores.nc could not be written (No space left on device)" in error
    assert "Traceback" not in error
    assert not list((room / "score").glob("*scores.nc*"))
    assert mortal.run([*fit(room, "score"), "--ckpt_path", "last"]) == 0
    assert_same_run(room / "score", room / "whole")
