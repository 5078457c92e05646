"""Sizes, and constructs that hide errors, are unfinished or run foreign code."""

from __future__ import annotations

import ast
import re

import pytest

from tests.rules.source import (
    Module,
    aliases,
    calls,
    dotted,
    functions,
    is_constant,
    keywords,
    modules,
)

#: A docstring does not count: a function is long by what it does.
FILE_LINES, FUNCTION_LINES, ARGUMENTS = 500, 60, 12
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
#: Loaders that execute what a file says, and the evaluators.
DANGEROUS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "marshal.load"),
    *("marshal.loads", "shelve.open", "pandas.read_pickle", "torch.hub.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
    *("eval", "exec", "compile", "os.system", "os.popen", "__import__"),
}
#: The one module that reads the pickles of a published data set, with an allow-list.
MAY_UNPICKLE = "data/safe_pickle.py"
#: The one module that catches everything: a claim that raises is a failed claim, told with its
#: error, and those after it run.
MAY_CATCH = "theory/caught.py"


CATCHES_ALL = "except catches everything"

#: What every run of a mechanism takes, beside the mechanism's own parameters.
CONTRACT = {"query", "key", "value", "causal", "mask", "scale", "initial_state"}


def oversized(module: Module) -> list[str]:
    """Return the file if it is too long, and each function that is too long or takes too much."""
    tree, lines, found = module.tree, module.text.count("\n") + 1, []
    if lines > FILE_LINES + 1:
        found.append(module.at(tree, f"{lines - 1} lines, at most {FILE_LINES}"))
    for node in functions(tree):
        length = _lines(node) - (_lines(node.body[0]) if ast.get_docstring(node) else 0)
        if length > FUNCTION_LINES:
            what = f"{node.name} has {length} lines, at most {FUNCTION_LINES}"
            found.append(module.at(node, what))
        if "triton.jit" in map(ast.unparse, node.decorator_list):
            continue  # a kernel takes every pointer and size by itself
        taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(each.arg not in CONTRACT for each in taken)
        if count > ARGUMENTS + 1:
            found.append(module.at(node, f"{node.name} takes {count} arguments"))
    return found


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def banned(module: Module) -> list[str]:
    """Return each construct that hides an error, is unfinished, or runs what a file says."""
    tree = module.tree
    known = aliases(tree)
    found = [
        f"neuroattn/{module.place}:{number}: {match[0]}"
        for number, line in enumerate(module.text.splitlines(), 1)
        for match in UNFINISHED.finditer(line)
    ]
    for node in ast.walk(tree):
        what = _banned_statement(node, known)
        if what and not (module.place == MAY_CATCH and what == CATCHES_ALL):
            found.append(module.at(node, what))
    for call, name in calls(tree):
        what = _banned_call(call, name)
        if what:
            found.append(module.at(call, what))
    return found


def _banned_statement(node: ast.AST, known: dict[str, str]) -> str:
    if isinstance(node, ast.Assert):
        return "assert: raise an error of neuroattn.errors"
    if isinstance(node, ast.Raise) and node.exc is not None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        stub = dotted(raised, known) == "NotImplementedError"
        return "raise NotImplementedError: a stub" if stub else ""
    if isinstance(node, ast.ExceptHandler):
        if node.type is None:
            return "except without a class"
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {dotted(one, known) for one in caught}
        return CATCHES_ALL if names & {"Exception", "BaseException"} else ""
    if isinstance(node, ast.Import):
        names = {name.name.split(".")[0] for name in node.names}
    elif isinstance(node, ast.ImportFrom):
        names = {(node.module or "").split(".")[0]}
    else:
        return ""
    if "lightning" in names:
        return "the lightning namespace; its classes differ from pytorch_lightning's"
    return ""


def _banned_call(call: ast.Call, name: str) -> str:
    given = keywords(call)
    if name in DANGEROUS:
        return f"{name} executes what it is given"
    if is_constant(given.get("allow_pickle"), True):
        return f"{name} with allow_pickle=True"
    if is_constant(given.get("weights_only"), False):
        return f"{name} with weights_only=False"
    if name == "torch.load" and not is_constant(given.get("weights_only"), True):
        return "torch.load without weights_only=True"
    if is_constant(given.get("shell"), True) or is_constant(given.get("trust_remote_code"), True):
        return f"{name} runs foreign code"
    return ""


def subclasses_an_unpickler(module: Module) -> bool:
    """Say whether a class derives from pickle's reader."""
    tree = module.tree
    known = aliases(tree)
    bases = [b for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for b in node.bases]
    return any(dotted(base, known) in ("pickle.Unpickler", "_pickle.Unpickler") for base in bases)


def test_files_functions_and_signatures_keep_their_size() -> None:
    """Catches the file that everything is added to."""
    assert [finding for module in modules() for finding in oversized(module)] == []


def test_nothing_banned_stands_in_the_package() -> None:
    """Catches swallowed errors, stubs, and readers that execute a file."""
    assert [finding for module in modules() for finding in banned(module)] == []


def test_one_module_alone_reads_pickles() -> None:
    """Catches a second place whose allow-list nobody tests."""
    readers = [module.place for module in modules() if subclasses_an_unpickler(module)]
    assert readers == [MAY_UNPICKLE]


@pytest.mark.parametrize(
    "source",
    [
        "assert x",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept (OSError, BaseException):\n    pass",
        "x = 1  # TODO",
        "raise NotImplementedError",
        "raise NotImplementedError('later')",
        "import lightning.pytorch",
        "from lightning import Trainer",
        "import yaml\nyaml.load(text)",
        "import pickle\npickle.load(stream)",
        "from pickle import loads\nloads(content)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path)",
        "eval(text)",
        "exec(text)",
        "import subprocess\nsubprocess.run(line, shell=True)",
    ],
)
def test_the_rule_finds_each_banned_construct(source: str) -> None:
    assert len(banned(Module("data/bad.py", source))) == 1


def test_only_one_module_may_catch_everything() -> None:
    """Catches a rule that lets every module of a room, or every construct, pass."""
    source = "try:\n    f()\nexcept Exception:\n    g()"
    assert banned(Module(MAY_CATCH, source)) == []
    assert len(banned(Module("theory/lab.py", source))) == 1
    assert len(banned(Module(MAY_CATCH, "assert x"))) == 1
    assert len(banned(Module(MAY_CATCH, source.replace(" Exception", "")))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    f()\nexcept (OSError, ValueError) as error:\n    g()",
        "module.eval()",
        "try:\n    f()\nexcept (KeyError, *ERRORS):\n    g()",
        "try:\n    f()\nexcept NotImplementedError as error:\n    g()",
        "import yaml\nyaml.safe_load(text)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import pytorch_lightning as pl",
    ],
)
def test_the_rule_lets_the_safe_forms_pass(source: str) -> None:
    assert banned(Module("data/good.py", source)) == []


def test_the_rule_finds_what_is_too_long() -> None:
    lines = "x = 1\n"
    assert oversized(Module("a.py", lines * FILE_LINES)) == []
    assert len(oversized(Module("a.py", lines * (FILE_LINES + 1)))) == 1
    body = "    x = 1\n"
    assert oversized(Module("a.py", "def f():\n" + body * (FUNCTION_LINES - 1))) == []
    assert len(oversized(Module("a.py", "def f():\n" + body * FUNCTION_LINES))) == 1
    told = 'def f():\n    """Return.\n\n    More.\n    """\n'
    assert oversized(Module("a.py", told + body * (FUNCTION_LINES - 1))) == []
    assert len(oversized(Module("a.py", told + body * FUNCTION_LINES))) == 1
    many = ", ".join(f"a{i}" for i in range(ARGUMENTS + 2))
    assert len(oversized(Module("a.py", f"def f({many}):\n    return 1\n"))) == 1


def test_the_rule_finds_a_second_unpickler() -> None:
    source = "import pickle\nclass Mine(pickle.Unpickler):\n    pass"
    assert subclasses_an_unpickler(Module("a.py", source))
    assert not subclasses_an_unpickler(Module("a.py", "class Mine:\n    pass"))
