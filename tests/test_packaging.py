"""What is declared in several places is declared alike, and the wheel holds what it has to."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import neuroattn

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
#: No pins: torch's CUDA builds each ask for one Triton of their own, and the CPU build for none.
UNPINNED_EXTRAS = {"gpu"}


def pins(lines: Iterable[str]) -> dict[str, str]:
    """Return version by canonical name of lines such as ``numpy==2.4.6``."""
    split = [line.strip().split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): version for name, version in split}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return pins(line for line in lines if not line.startswith("#"))


def requirements(*extras: str) -> list[Requirement]:
    """Return what the package and the extras ask for, without the package itself."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.name != "neuroattn"]


def unpinned(asked: Iterable[Requirement], pinned: dict[str, str]) -> list[str]:
    """Return the requirements without a pin inside their range."""
    versions = {str(one): pinned.get(canonicalize_name(one.name)) for one in asked}
    return [
        f"{one}: pinned {versions[str(one)]}"
        for one in asked
        if versions[str(one)] is None or not one.specifier.contains(versions[str(one)] or "")
    ]


def test_every_dependency_is_pinned_inside_its_range() -> None:
    """Catches a dependency that a fresh install takes at whatever version is newest."""
    assert unpinned(requirements(*set(EXTRAS) - UNPINNED_EXTRAS), constraints()) == []


def test_the_check_of_pins_finds_a_missing_and_an_outdated_one() -> None:
    asked = [Requirement("Zarr>=3.1"), Requirement("numpy>=2"), Requirement("h5py[x]>=3.12")]
    found = unpinned(asked, {"numpy": "1.26", "h5py": "3.12.1"})
    assert found == ["Zarr>=3.1: pinned None", "numpy>=2: pinned 1.26"]


def test_constraints_are_exact_sorted_and_say_why() -> None:
    """Catches a range, a path or an address in the file that every install goes through."""
    first, *lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert first.startswith("# ")
    assert "torch" in first
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert lines == sorted(lines, key=str.lower)
    assert len(constraints()) == len(lines)


def test_the_conda_environment_pins_what_constraints_pin() -> None:
    """Catches conda users on versions that nobody tested."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *packages, pip = environment["dependencies"]
    direct = {canonicalize_name(one.name) for one in requirements("hub")}
    found = pins(line for line in pip["pip"])
    assert found.keys() == direct
    assert found == {name: constraints()[name] for name in direct}
    assert [line for line in pip["pip"] if "==" not in line] == ["-c constraints.txt", "-e .[hub]"]
    python = next(line for line in packages if line.startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])


def test_the_version_is_the_same_everywhere() -> None:
    """Catches a release whose citation names the one before."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.search(r"^## \[(.+?)\]", changes, re.MULTILINE)
    assert newest is not None
    assert citation["version"] == newest[1] == neuroattn.__version__
    assert citation["license"] == PROJECT["license"]


def test_the_extras_are_those_that_the_documentation_names() -> None:
    """Catches an extra that is renamed under the feet of those who install it."""
    assert set(EXTRAS) == {"hub", "gpu", "dask", "test", "docs", "dev"}


def imported(source: str) -> set[str]:
    """Return the top packages that a module imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    froms = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in plain | froms} - {"", "neuroattn", "__future__"}


def test_everything_imported_is_declared() -> None:
    """Catches a package that is there only because another one happens to need it."""
    sources = (ROOT / "neuroattn").rglob("*.py")
    names = {name for path in sources for name in imported(path.read_text("utf-8"))}
    declared = {canonicalize_name(one.name) for one in requirements("hub", "gpu", "dask")}
    # Those of extras that are not installed with the tests cannot be asked for their packages.
    distributions = {"fla": ["flash-linear-attention"], **packages_distributions()}
    foreign = sorted(names - set(sys.stdlib_module_names))
    assert "torch" in foreign
    undeclared = [
        name
        for name in foreign
        if not declared & {canonicalize_name(one) for one in distributions.get(name, [name])}
    ]
    assert undeclared == []


def test_what_is_imported_is_seen_wherever_it_stands() -> None:
    source = "import a.b as c\nfrom d.e import f\ndef g():\n    import h\nfrom . import i"
    assert imported(source) == {"a", "d", "h"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build the wheel from a copy of what it is built from; return the names inside."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    copytree(ROOT / "neuroattn", folder / "neuroattn", ignore=ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; build_wheel('out')"
    (folder / "out").mkdir()
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next((folder / "out").glob("*.whl"))) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_file_of_the_package(wheel: list[str]) -> None:
    """Catches a template, a recipe or py.typed that only a checkout has."""
    files = {path for path in (ROOT / "neuroattn").rglob("*") if path.is_file()}
    kept = {path for path in files if "__pycache__" not in path.parts}
    expected = {path.relative_to(ROOT).as_posix() for path in kept}
    assert "neuroattn/py.typed" in expected
    assert expected == {name for name in wheel if ".dist-info/" not in name}


def test_the_wheel_carries_its_licence_and_its_command(wheel: list[str]) -> None:
    """Catches a distribution without licence, or without `neuroattn`."""
    inside = {name.partition(".dist-info/")[2] for name in wheel}
    assert {"licenses/LICENSE", "entry_points.txt", "METADATA"} <= inside


def test_every_package_data_pattern_matches_a_file() -> None:
    """Catches a pattern that outlived its folder."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    patterns = table["package-data"]["neuroattn"]
    assert "py.typed" in patterns
    assert [one for one in patterns if not list((ROOT / "neuroattn").glob(one))] == []


def tox() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini", "utf-8")
    return parser


def test_every_environment_installs_through_the_constraints() -> None:
    """Catches an environment that pulls gigabytes of CUDA, and a lint run that nobody asked for."""
    config = tox()
    assert config["tox"]["env_list"] == "py"
    assert {"testenv:py", "testenv:lint", "testenv:docs", "testenv:demo"} <= set(config)
    for name in config.sections():
        if name in ("testenv", "pkgenv"):
            assert "PIP_CONSTRAINT = {toxinidir}/constraints.txt" in config[name]["set_env"]
        elif "set_env" in config[name]:
            assert "{[testenv]set_env}" in config[name]["set_env"]
        for extra in config[name].get("extras", "").split():
            assert extra in EXTRAS


def test_continuous_integration_runs_the_commands_of_the_readme() -> None:
    """Catches a first screen whose commands are no longer those that are tried every day."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "python -m pip install tox && python -m tox run" in readme
    assert "python -m tox run -e demo" in readme
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line.partition(" | ")[0] for line in script.read_text("utf-8").splitlines()]
    wanted = ["python -m pip install tox", *(f"python -m tox run{e}" for e in ("", " -e lint"))]
    assert [line for line in lines if line in wanted] == wanted
    assert "set -euo pipefail" in lines
