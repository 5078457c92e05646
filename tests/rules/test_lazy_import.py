"""Importing the package or a room is cheap, and every name that a room promises is there."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys

import pytest

import neuroattn
from tests.rules.source import PACKAGE, ROOT, rooms

HEAVY = {
    *("torch", "pytorch_lightning", "lightning", "xarray", "pandas", "scipy", "sklearn", "nilearn"),
    *("nibabel", "matplotlib", "himalaya", "transformers", "sympy", "zarr", "h5py", "jsonargparse"),
}
#: Seconds; what `import neuroattn` may take (it takes about a hundredth of it). The processor's
#: time is asked, not the clock on the wall, so that a busy machine fails nothing.
IMPORT_LIMIT = 0.3

PROBE = """
import json, sys, time
start = time.process_time()
{statement}
seconds = time.process_time() - start
print(json.dumps([seconds, sorted({{name.split(".")[0] for name in sys.modules}})]))
"""


def probe(statement: str) -> tuple[float, set[str]]:
    """Run a statement in a fresh interpreter; return its seconds and the packages it loaded."""
    command = [sys.executable, "-c", PROBE.format(statement=statement)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(done.stdout.splitlines()[-1])
    return seconds, set(loaded)


def test_importing_the_package_loads_nothing_heavy_and_is_quick() -> None:
    """Catches a top-level import that makes every `neuroattn --help` wait for torch."""
    runs = [probe("import neuroattn") for _ in range(5)]
    assert runs[0][1] & HEAVY == set()
    assert statistics.median(seconds for seconds, _ in runs) < IMPORT_LIMIT


@pytest.mark.parametrize("room", rooms())
def test_importing_a_room_loads_nothing_heavy(room: str) -> None:
    """Catches a room whose __init__ imports its modules instead of naming them."""
    assert probe(f"import neuroattn.{room}")[1] & HEAVY == set()


def test_the_command_finds_its_help_without_anything_heavy() -> None:
    """Catches a subcommand that is imported before it is asked for."""
    statement = "from neuroattn.cli.main import main; main(['--help'])"
    assert probe(statement)[1] & HEAVY == set()


def test_the_probe_sees_a_heavy_import_and_its_time() -> None:
    """Catches a probe that would let everything pass."""
    seconds, loaded = probe("import neuroattn, scipy.stats\nfor _ in range(10**6): pass")
    assert "scipy" in loaded & HEAVY
    assert seconds > 0.01


@pytest.mark.parametrize("room", ["", *rooms()])
def test_every_promised_name_is_there(room: str) -> None:
    """Catches an export whose module or name was renamed."""
    module = importlib.import_module(f"neuroattn.{room}" if room else "neuroattn")
    promised = getattr(module, "__all__", [])
    missing = [name for name in promised if not hasattr(module, name)]
    assert missing == []
    assert set(dir(module)) - {"__version__"} >= set(promised) - {"__version__"}


@pytest.mark.parametrize("room", rooms())
def test_no_promised_name_hides_behind_a_module_of_the_same_name(room: str) -> None:
    """Catches ``split`` the function being replaced by ``split`` the module once that is loaded."""
    module = importlib.import_module(f"neuroattn.{room}")
    submodules = {path.stem for path in (PACKAGE / room).glob("*.py")}
    hidden = [
        name
        for name in set(getattr(module, "__all__", [])) & submodules
        if getattr(module, name).__name__ != f"neuroattn.{room}.{name}"
    ]
    assert hidden == []


def test_every_room_is_promised_by_the_package() -> None:
    """Catches a room that ``neuroattn.<room>`` does not find."""
    assert set(rooms()) - {"cli"} <= set(neuroattn.__all__)
