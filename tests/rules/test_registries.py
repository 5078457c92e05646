"""What is registered is complete: cited, described, importable and tested."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
from matplotlib.mathtext import MathTextParser

from neuroattn import attention
from neuroattn.attention.backends import BACKENDS
from neuroattn.attention.describe import page, settable
from neuroattn.attention.registry import FAMILIES, Mechanism
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.loading import ENCODERS
from tests.rules.source import ROOT

TESTS = ROOT / "tests"
CITED = re.compile(r"\b(19|20)\d\d\b")
SOFTMAX = attention.get("softmax")


def gaps(spec: Mechanism, tests: frozenset[str] | None = None) -> list[str]:
    """Return what a mechanism's specification leaves out; ``tests`` are those of its module."""
    found = []
    if not CITED.search(spec.paper):
        found.append(f"{spec.name}: paper={spec.paper!r} names no year")
    if "reference" not in spec.backends:
        found.append(f"{spec.name}: no plain reference among {spec.backends}")
    said = {field: getattr(spec, field) for field in ("cost", "formula", "summary")}
    found += [f"{spec.name}: no {field}" for field, words in said.items() if not words]
    if spec.family not in FAMILIES:
        found.append(f"{spec.name}: family {spec.family!r} is not listed")
    if not spec.laws:
        found.append(f"{spec.name}: no law")
    if tests is not None:
        found += [f"{spec.name}: no test {law}" for law in spec.laws if law not in tests]
    pairs = [(run.form, run.backend) for run in spec.runs]
    if len(set(pairs)) < len(pairs):
        found.append(f"{spec.name}: a form twice on one backend, {pairs}")
    found += [f"{spec.name}: no page for {name}" for name in spec.backends if name not in BACKENDS]
    return found


def named_tests(spec: Mechanism) -> frozenset[str]:
    """Return the names of the tests in the module that mirrors the mechanism's."""
    path = TESTS / "attention" / spec.family / f"test_{module_of(spec)}.py"
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text("utf-8"))
    return frozenset(x.name for x in tree.body if isinstance(x, ast.FunctionDef))


def module_of(spec: Mechanism) -> str:
    """Return the module that registers a mechanism."""
    for path in sorted((ROOT / "neuroattn" / "attention" / spec.family).glob("*.py")):
        if re.search(rf'\bname="{spec.name}"', path.read_text("utf-8")):
            return path.stem
    raise AssertionError(f"no file of {spec.family} registers {spec.name}")


def untested(modules: list[str], folder: Path) -> list[str]:
    """Return the modules without a test module that holds a test; a dot leads into a package."""
    missing = []
    for module in modules:
        *packages, name = module.split(".")
        path = folder.joinpath(*packages, f"test_{name}.py")
        if not path.is_file() or "\ndef test_" not in path.read_text("utf-8"):
            missing.append(path.relative_to(folder.parent).as_posix())
    return missing


@pytest.mark.parametrize("name", attention.list_mechanisms())
def test_every_mechanism_is_cited_described_and_has_laws_that_are_tested(name: str) -> None:
    """Catches a mechanism that is registered before it is understood."""
    spec = attention.get(name)
    assert gaps(spec, named_tests(spec)) == []


@pytest.mark.parametrize("name", attention.list_mechanisms())
def test_every_mechanism_has_a_page_whose_formula_can_be_set(name: str) -> None:
    """Catches a page that breaks the site, or that leaves out a parameter, a law or the source."""
    spec = attention.get(name)
    text = page(spec)
    MathTextParser("path").parse(f"${settable(spec.formula)}$")
    for wanted in (spec.paper, spec.summary, *spec.laws, *spec.parameters, *spec.backends):
        assert wanted.replace("|", "\\|") in text


def test_every_file_of_a_family_has_its_tests() -> None:
    """Catches a mechanism or an engine that is never tried."""
    for family in FAMILIES:
        files = (ROOT / "neuroattn" / "attention" / family).glob("*.py")
        modules = [path.stem for path in files if path.stem != "__init__"]
        assert untested(modules, TESTS / "attention" / family) == []


def test_every_encoder_has_its_tests() -> None:
    """Catches a model that is registered and never tried."""
    encoders = [path.removeprefix("neuroattn.encoders.") for path in ENCODERS.values()]
    assert untested(encoders, TESTS / "encoders") == []


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_can_be_loaded_by_its_name(name: str) -> None:
    """Catches a saved run that `neuroattn.load` cannot read."""
    found = getattr(importlib.import_module(ENCODERS[name]), name)
    assert issubclass(found, Encoder)
    assert not inspect.isabstract(found)


def test_every_encoder_in_the_tree_is_registered() -> None:
    """Catches an encoder that can be saved and not be loaded."""
    for path in (ROOT / "neuroattn" / "encoders").rglob("*.py"):
        if path.stem != "__init__":
            parts = path.relative_to(ROOT).with_suffix("").parts
            importlib.import_module(".".join(parts))
    pending, concrete = [Encoder], set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.__module__.startswith("neuroattn.") and not inspect.isabstract(kind):
            concrete.add((kind.__name__, kind.__module__))
    assert concrete == set(ENCODERS.items())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("paper", "somewhere"),
        ("runs", tuple(run for run in SOFTMAX.runs if run.backend != "reference")),
        ("runs", (*SOFTMAX.runs, SOFTMAX.runs[0])),
        ("cost", ""),
        ("formula", ""),
        ("summary", ""),
        ("laws", {}),
        ("laws", {"test_that_nobody_wrote": "law"}),
        ("family", "unlisted"),
    ],
)
def test_the_rule_finds_each_gap(field: str, value: object) -> None:
    tests = named_tests(SOFTMAX)
    assert gaps(SOFTMAX, tests) == []
    assert len(gaps(dataclasses.replace(SOFTMAX, **{field: value}), tests)) == 1


def test_the_rule_finds_a_missing_and_an_empty_test_module(tmp_path: Path) -> None:
    (tmp_path / "test_empty.py").write_text('"""Nothing."""\n', "utf-8")
    (tmp_path / "test_full.py").write_text("\ndef test_it(): pass\n", "utf-8")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "test_deep.py").write_text("\ndef test_it(): pass\n", "utf-8")
    missing = untested(["empty", "full", "gone", "inner.deep", "deep", "inner.full"], tmp_path)
    names = ["test_empty.py", "test_gone.py", "test_deep.py", "inner/test_full.py"]
    assert missing == [f"{tmp_path.name}/{name}" for name in names]
