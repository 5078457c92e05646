"""What the house rules read: the package's modules, parsed, with names traced to their imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "neuroattn"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A parsed module: ``place`` is its path inside the package, such as ``data/split.py``."""

    place: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def at(self, node: ast.AST, what: str) -> str:
        """Return a finding that an editor can jump to."""
        return f"neuroattn/{self.place}:{getattr(node, 'lineno', 1)}: {what}"


def modules() -> list[Module]:
    """Return every module of the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [Module(path.relative_to(PACKAGE).as_posix(), path.read_text("utf-8")) for path in paths]


def rooms() -> list[str]:
    """Return the names of the packages inside the package."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def aliases(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for, e.g. ``{"np": "numpy"}``."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                top = name.name.split(".")[0]
                found[name.asname or top] = name.name if name.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                found[name.asname or name.name] = f"{node.module}.{name.name}"
    return found


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """Return the full name of an expression such as ``np.random.rand``, or an empty string."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = dotted(node.value, known)
        return f"{before}.{node.attr}" if before else ""
    return ""


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Yield each call with the full name of what is called."""
    known = aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func, known)


def keywords(call: ast.Call) -> dict[str | None, ast.expr]:
    """Return a call's keyword arguments by name; ``**more`` is under None."""
    return {keyword.arg: keyword.value for keyword in call.keywords}


def is_constant(node: ast.expr | None, value: object) -> bool:
    """Say whether an expression is literally ``value``."""
    return isinstance(node, ast.Constant) and node.value is value


def functions(tree: ast.Module) -> list[Function]:
    """Return every function, nested ones and methods too."""
    return [node for node in ast.walk(tree) if isinstance(node, Function)]
