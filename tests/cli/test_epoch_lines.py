"""The progress of a training as lines of text."""

from __future__ import annotations

import re

import torch

from neuroattn.cli import recipe
from neuroattn.cli.epoch_lines import EpochLines
from neuroattn.cli.main import main
from neuroattn.training.checkpoints import BEST
from tests.cli.recipes import FIT, write


def test_a_log_file_shows_every_epoch_with_its_losses(tmp_path, monkeypatch, capsys):
    # Catches a training that is silent for hours, and the losses of another epoch.
    write(tmp_path, FIT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe, "write_presentation", lambda *given, **named: None)
    assert main(["fit", "--config", "recipe.yaml", "--run", "run"]) == 0
    lines = [each for each in capsys.readouterr().out.splitlines() if each.startswith("epoch ")]
    form = r"epoch (\d) of 4: train loss (\d+\.\d{4}), validation loss (\d+\.\d{4}), \d+ s"
    found = [re.fullmatch(form, line) for line in lines]
    assert [match and match.group(1) for match in found] == ["1", "2", "3", "4"]
    losses = [float(match.group(3)) for match in found if match]
    best = torch.load(tmp_path / "run" / "checkpoints" / BEST, weights_only=True)
    assert losses[best["epoch"]] == min(losses)
    kept = next(each for each in best["callbacks"].values() if "best_model_score" in each)
    assert losses[best["epoch"]] == round(float(kept["best_model_score"]), 4)


def test_other_processes_are_silent(capsys):
    # Catches every line once a GPU.
    lines = EpochLines()
    lines.disable()
    lines.on_train_epoch_end(None, None)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    lines.enable()
    assert lines.enabled
