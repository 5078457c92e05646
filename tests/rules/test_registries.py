"""What is registered is complete: cited, described, importable and tested."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

from neuroattn import attention
from neuroattn.attention.registry import FAMILIES, Mechanism
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.loading import ENCODERS
from tests.rules.source import ROOT

TESTS = ROOT / "tests"
CITED = re.compile(r"\b(19|20)\d\d\b")


def gaps(spec: Mechanism) -> list[str]:
    """Return what a mechanism's specification leaves out."""
    found = []
    if not CITED.search(spec.paper):
        found.append(f"{spec.name}: paper={spec.paper!r} names no year")
    if not spec.forms:
        found.append(f"{spec.name}: no form")
    if "reference" not in spec.backends:
        found.append(f"{spec.name}: no plain reference among {spec.backends}")
    if not spec.cost:
        found.append(f"{spec.name}: no cost")
    if spec.family not in FAMILIES:
        found.append(f"{spec.name}: family {spec.family!r} is not listed")
    return found


def untested(modules: list[str], folder: Path) -> list[str]:
    """Return the modules without a test module that holds a test."""
    missing = []
    for module in modules:
        path = folder / f"test_{module}.py"
        if not path.is_file() or "\ndef test_" not in path.read_text("utf-8"):
            missing.append(f"{folder.name}/{path.name}")
    return missing


def test_every_mechanism_is_cited_and_described() -> None:
    """Catches a mechanism that is registered before it is understood."""
    names = attention.list_mechanisms()
    assert "softmax" in names
    assert [gap for name in names for gap in gaps(attention.get(name))] == []


def test_every_family_and_every_encoder_has_its_tests() -> None:
    """Catches a model that is registered and never tried."""
    assert untested(list(FAMILIES), TESTS / "attention") == []
    encoders = [path.rpartition(".")[2] for path in ENCODERS.values()]
    assert untested(encoders, TESTS / "encoders") == []


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_can_be_loaded_by_its_name(name: str) -> None:
    """Catches a saved run that `neuroattn.load` cannot read."""
    found = getattr(importlib.import_module(ENCODERS[name]), name)
    assert issubclass(found, Encoder)
    assert not inspect.isabstract(found)


def test_every_encoder_in_the_tree_is_registered() -> None:
    """Catches an encoder that can be saved and not be loaded."""
    for path in (ROOT / "neuroattn" / "encoders").glob("*.py"):
        importlib.import_module(f"neuroattn.encoders.{path.stem}")
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
        ("forms", ()),
        ("backends", ("sdpa",)),
        ("cost", ""),
        ("family", "unlisted"),
    ],
)
def test_the_rule_finds_each_gap(field: str, value: object) -> None:
    spec = attention.get("softmax")
    assert gaps(spec) == []
    assert len(gaps(dataclasses.replace(spec, **{field: value}))) == 1


def test_the_rule_finds_a_missing_and_an_empty_test_module(tmp_path: Path) -> None:
    (tmp_path / "test_empty.py").write_text('"""Nothing."""\n', "utf-8")
    (tmp_path / "test_full.py").write_text("\ndef test_it(): pass\n", "utf-8")
    missing = untested(["empty", "full", "gone"], tmp_path)
    assert [name.rpartition("/")[2] for name in missing] == ["test_empty.py", "test_gone.py"]
