"""A room imports only from rooms on lower floors; import-linter reads it from pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.rules.source import PACKAGE, ROOT, rooms

LINT = "import sys; from importlinter.cli import lint_imports_command as main; main(sys.argv[1:])"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LINT, "--config", "pyproject.toml", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def contract() -> list[str]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers: list[str] = table["tool"]["importlinter"]["contracts"][0]["layers"]
    return layers


def test_no_room_imports_from_a_floor_above() -> None:
    """Catches e.g. a metric that reaches into an encoder."""
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


def test_every_room_and_every_top_module_has_its_floor() -> None:
    """Catches a new room that no contract binds."""
    named = {part.strip(" ()") for layer in contract() for part in layer.split("|")}
    single = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert {*rooms(), *single} <= {name.removeprefix("neuroattn.") for name in named}


def test_the_linter_sees_an_import_that_goes_up(tmp_path: Path) -> None:
    """Catches a contract that names nothing, or names rooms in the wrong order."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text("utf-8"), "utf-8")
    package = tmp_path / "neuroattn"
    for layer in contract():
        for part in layer.split("|"):
            room = package / part.strip(" ()").removeprefix("neuroattn.")
            room.mkdir(parents=True)
            (room / "__init__.py").touch()
    (package / "__init__.py").touch()
    assert lint(tmp_path).returncode == 0
    for low, high in [("metrics", "encoders"), ("data", "training"), ("encoders", "theory")]:
        (package / low / "__init__.py").write_text(f"import neuroattn.{high}\n", "utf-8")
        result = lint(tmp_path)
        assert result.returncode == 1, (low, high)
        assert f"neuroattn.{low} -> neuroattn.{high}" in result.stdout
        (package / low / "__init__.py").write_text("", "utf-8")
