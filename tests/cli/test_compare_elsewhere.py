"""compare with workers: the same run as here, and a scheduler that is asked first."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroattn import tasks
from neuroattn.cli.main import main
from tests.cli.recipes import COMPARE, write
from tests.cluster import two_workers

RIDGE = {**COMPARE, "encoders": {"ridge": COMPARE["encoders"]["ridge"]}}


def test_a_comparison_fitted_elsewhere_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches other weights, an address among what a run keeps, and options that are not read."""
    monkeypatch.chdir(tmp_path)
    command = ["compare", "--config", str(write(tmp_path, RIDGE)), "--run"]
    used: list[tasks.Workers] = []
    original = tasks.run_tasks
    monkeypatch.setattr(
        "neuroattn.encoders.voxel_blocks.run_tasks",
        lambda *given, **where: (
            used.append(tasks.Workers(where["jobs"], where["scheduler"]))
            or original(*given, **where)
        ),
    )
    assert main([*command, "here"]) == 0
    with two_workers() as address:
        assert main([*command, "there", "--scheduler", address]) == 0
    assert {each.scheduler for each in used} == {None, address}
    weights = sorted(path.relative_to("here") for path in Path("here").rglob("*.safetensors"))
    assert weights
    for each in weights:
        assert (Path("here") / each).read_bytes() == (Path("there") / each).read_bytes()
    kept = Path("there/config.yaml").read_text("utf-8")
    assert "scheduler:" not in kept
    assert "jobs:" not in kept
    assert address not in kept


def test_a_scheduler_is_asked_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a wrong address that is told after the features were extracted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "PATIENCE", 1)
    command = ["compare", "--config", str(write(tmp_path, RIDGE)), "--run", "run"]
    assert main([*command, "--scheduler", "tcp://127.0.0.1:9"]) == 2
    told = capsys.readouterr()
    assert "tcp://127.0.0.1:9" in told.err
    assert "does not answer" in told.err
    assert "fitting" not in told.out
    assert main([*command, "--scheduler", "tcp://127.0.0.1:9", "--jobs", "2"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert not Path("run").exists()
