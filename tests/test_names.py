"""Lazy exports, the closest match, and the refusal of unknown names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from neuroattn.errors import UnknownNameError
from neuroattn.names import check_name, did_you_mean

ROOM = """
from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__, {"zebra": "", "Gabor": "basis", "broken": "basis"}
)
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return a package with a module ``basis`` (defines Gabor) and a module ``zebra``."""
    folder = tmp_path / "lazyroom"
    folder.mkdir()
    (folder / "__init__.py").write_text(ROOM, "utf-8")
    (folder / "basis.py").write_text("class Gabor:\n    pass\n", "utf-8")
    (folder / "zebra.py").write_text("stripes = 7\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("lazyroom")
    for name in [name for name in sys.modules if name.split(".")[0] == "lazyroom"]:
        del sys.modules[name]


def test_a_module_is_imported_only_when_one_of_its_names_is_used(room: ModuleType) -> None:
    """Catches an eager import, and a name that comes from the wrong module."""
    assert "lazyroom.basis" not in sys.modules
    assert room.Gabor.__module__ == "lazyroom.basis"
    assert "lazyroom.basis" in sys.modules
    assert "lazyroom.zebra" not in sys.modules


def test_a_name_without_a_module_is_itself_a_module(room: ModuleType) -> None:
    """Catches ``neuroattn.data`` being looked up as an attribute of a module."""
    assert room.zebra.stripes == 7


def test_a_name_is_looked_up_once(room: ModuleType) -> None:
    """Catches a hook that runs for each use instead of leaving the value in the room."""
    assert "Gabor" not in vars(room)
    first = room.Gabor
    assert vars(room)["Gabor"] is first


def test_all_and_dir_list_the_names_sorted(room: ModuleType) -> None:
    """Catches completion in a shell that shows nothing before the first import."""
    assert room.__all__ == ["Gabor", "broken", "zebra"]
    assert dir(room) == ["Gabor", "broken", "zebra"]


def test_a_misspelt_name_is_answered_with_the_closest(room: ModuleType) -> None:
    """Catches a bare AttributeError, and a message without the room."""
    expected = r"module 'lazyroom' has no attribute 'Gabr'; did you mean 'Gabor'\?"
    with pytest.raises(AttributeError, match=expected):
        _ = room.Gabr


def test_a_promise_that_its_module_does_not_keep_is_an_attribute_error(room: ModuleType) -> None:
    """Catches a silent None for a name whose definition was removed."""
    with pytest.raises(AttributeError, match=r"lazyroom\.basis.*broken"):
        _ = room.broken


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sofmax", "; did you mean 'softmax'?"), ("linaer", "; did you mean 'linear'?"), ("q", "")],
)
def test_the_closest_name_is_offered_only_if_it_is_close(name: str, expected: str) -> None:
    """Catches advice that has nothing to do with what was typed."""
    assert did_you_mean(name, iter(["linear", "softmax", "performer"])) == expected


def test_a_known_name_comes_back() -> None:
    """Catches a check that returns None, or one that uses up an iterator before it looks."""
    assert check_name("attention", "softmax", iter(["softmax", "linear"])) == "softmax"


def test_an_unknown_name_is_answered_with_argument_value_closest_and_allowed() -> None:
    """Catches an error that does not tell what to type instead."""
    with pytest.raises(UnknownNameError) as caught:
        check_name("space", "fsaverag", {"native": 1, "fsaverage": 2, "MNI": 3})
    message = str(caught.value)
    assert "space='fsaverag' is unknown" in message
    assert "did you mean 'fsaverage'?" in message
    assert message.endswith("Allowed: MNI, fsaverage, native.")
    with pytest.raises(UnknownNameError, match=r"is unknown.* Allowed: a\."):
        check_name("space", "zzz", ["a"])
