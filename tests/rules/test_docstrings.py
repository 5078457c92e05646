"""Every public name says what it is, what it takes, and what it gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import zip_longest

import pytest

from tests.rules.source import Function, Module, modules

Documented = ast.Module | ast.ClassDef | Function

UNDERLINED = re.compile(r"^(?P<title>[A-Z][A-Za-z ]+)\n-{3,}$", re.MULTILINE)
ENTRY = re.compile(r"^(?P<names>[*\w]+(?:, *[*\w]+)*)(?: *: .*)?$")


def public(module: Module) -> Iterator[tuple[str, Documented, ast.ClassDef | None]]:
    """Yield name, node and class of each public definition, the module itself first."""
    tree = module.tree
    yield module.place, tree, None
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            if "overload" in map(ast.unparse, node.decorator_list):
                continue  # the implementation is documented
            yield node.name, node, None
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Function) and not member.name.startswith("_"):
                        yield f"{node.name}.{member.name}", member, node


def documented(docstring: str, title: str) -> list[str] | None:
    """Return the names that a numpydoc section lists, or None where it has no such section."""
    heads = list(UNDERLINED.finditer(docstring))
    for head, after in zip_longest(heads, heads[1:]):
        if head["title"] == title:
            body = docstring[head.end() : after.start() if after else None]
            entries = [ENTRY.match(line) for line in body.splitlines() if line[:1].strip()]
            joined = ",".join(entry["names"] for entry in entries if entry)
            return [name.strip().lstrip("*") for name in joined.split(",") if name]
    return None


def arguments(function: Function) -> list[str]:
    spec = function.args
    ordered = [*spec.posonlyargs, *spec.args, spec.vararg, *spec.kwonlyargs, spec.kwarg]
    return [arg.arg for arg in ordered if arg is not None and arg.arg not in ("self", "cls")]


def undocumented(module: Module) -> list[str]:
    """Return what lacks a docstring, a sentence, a return annotation or a parameter."""
    found = []
    for name, node, owner in public(module):
        text = ast.get_docstring(node)
        if not text:
            found.append(module.at(node, f"{name} has no docstring"))
            continue
        if not text.split("\n\n")[0].rstrip().endswith((".", "?", "…")):
            found.append(module.at(node, f"{name} does not begin with a sentence"))
        if isinstance(node, Function):
            found += _signature(module, name, node, text)
        if isinstance(node, ast.ClassDef) and owner is None:
            found += _constructor(module, name, node, text)
    return found


def _signature(module: Module, name: str, node: Function, text: str) -> list[str]:
    found = []
    if node.returns is None:
        found.append(module.at(node, f"{name} has no return annotation"))
    listed = documented(text, "Parameters")
    # Keywords may be grouped by what they mean.
    if listed is not None and sorted(listed) != sorted(arguments(node)):
        found.append(module.at(node, f"{name} takes {arguments(node)} and documents {listed}"))
    return found


def _constructor(module: Module, name: str, node: ast.ClassDef, text: str) -> list[str]:
    listed = documented(text, "Parameters")
    makers = [m for m in node.body if isinstance(m, Function) and m.name == "__init__"]
    if listed is None or not makers or listed == arguments(makers[0]):
        return []
    return [module.at(node, f"{name} takes {arguments(makers[0])} and documents {listed}")]


def test_every_public_name_is_documented() -> None:
    """Catches a missing docstring, and one that describes the signature of last month."""
    assert [finding for module in modules() for finding in undocumented(module)] == []


GOOD = '''"""A module."""

def scale(x: float, *, by: float = 1.0) -> float:
    """Return x times by.

    Parameters
    ----------
    x : float
        Any number.
    by : float
        The factor.

    Returns
    -------
    float
    """
    return x * by

def _helper(x): return x

class Box:
    """A box.

    Parameters
    ----------
    width : int
        In voxels.
    """
    def __init__(self, width: int) -> None:
        self.width = width
    def area(self) -> int:
        """Return the area (voxels²)."""
        return self.width ** 2
'''


def test_the_rule_lets_documented_names_pass() -> None:
    assert undocumented(Module("data/good.py", GOOD)) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"""A module."""\n', "", "good.py has no docstring"),
        ('        """Return the area (voxels²)."""\n', "", "Box.area has no docstring"),
        ('    """Return x times by.\n', '    """Return x times by\n', "scale does not begin"),
        ("area(self) -> int", "area(self)", "Box.area has no return annotation"),
        ("by: float = 1.0) ->", "factor: float = 1.0) ->", "scale takes ['x', 'factor']"),
        ("self, width: int", "self, width: int, depth: int", "Box takes ['width', 'depth']"),
    ],
)
def test_the_rule_finds_each_gap(old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    found = undocumented(Module("data/good.py", GOOD.replace(old, new)))
    assert len(found) == 1
    assert complaint in found[0]
