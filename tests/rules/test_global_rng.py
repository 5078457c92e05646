"""Random numbers come from a generator or a seed that the caller gave, never from a global one."""

from __future__ import annotations

import ast

import pytest

from tests.rules.source import Module, aliases, calls, dotted, keywords, modules

NUMPY_ALLOWED = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64"}
TORCH_DRAWS = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"),
    *("rand_like", "randn_like", "randint_like"),
}
SEEDS = {
    *("torch.manual_seed", "torch.seed", "torch.set_rng_state", "torch.default_generator"),
    *("torch.random.manual_seed", "torch.random.seed", "torch.random.set_rng_state"),
    *("torch.random.default_generator", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all"),
    *("torch.cuda.seed", "torch.cuda.seed_all", "torch.cuda.set_rng_state"),
    *("pytorch_lightning.seed_everything", "transformers.set_seed"),
}
#: Dropout draws from torch's own generators and from nothing else can it draw: one callback seeds
#: them, and its callers fork them. A network is initialised inside a fork, by torch's own layers
#: and by ``Parameter(torch.randn(...))``, which take no generator.
CALLBACK = "training/checkpoints.py"
CALLBACK_MAY = {"torch.random.default_generator", "torch.cuda.manual_seed"}
FORK_MAY = {"torch.random.default_generator"}


def forked_lines(tree: ast.Module) -> set[int]:
    """Return the lines inside ``with torch.random.fork_rng(...)``."""
    known = aliases(tree)
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            managers = [item.context_expr for item in node.items]
            named = {dotted(m.func, known) for m in managers if isinstance(m, ast.Call)}
            if "torch.random.fork_rng" in named:
                lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def initial_weights(tree: ast.Module) -> set[ast.AST]:
    """Return everything that stands inside ``Parameter(...)``."""
    made = [call for call, name in calls(tree) if name.endswith("nn.Parameter")]
    return {node for call in made for node in ast.walk(call)}


def names_in_use(tree: ast.Module, known: dict[str, str]) -> list[tuple[ast.expr, str]]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)]
    return [(node, dotted(node, known)) for node in nodes]


def global_rng(module: Module) -> list[str]:
    """Return every use of a global or unseeded generator."""
    tree, found = module.tree, []
    known, forked = aliases(tree), forked_lines(tree)
    python = any(full.split(".")[0] == "random" for full in known.values())
    for node, name in names_in_use(tree, known):
        parts = name.split(".")
        legacy = parts[:2] == ["numpy", "random"] and len(parts) == 3
        if legacy and parts[2] not in NUMPY_ALLOWED:
            found.append(module.at(node, f"{name} draws from numpy's global generator"))
        if parts[0] == "random" and len(parts) == 2 and python:
            found.append(module.at(node, f"{name} draws from Python's global generator"))
        allowed = (module.place == CALLBACK and name in CALLBACK_MAY) or (
            node.lineno in forked and name in FORK_MAY
        )
        if name in SEEDS and not allowed:
            found.append(module.at(node, f"{name} changes a global generator"))
    initial = initial_weights(tree)
    for call, name in calls(tree):
        given = keywords(call)
        if name == "numpy.random.default_rng" and not (call.args or given):
            found.append(module.at(call, "default_rng() without a seed cannot be repeated"))
        drawn = name.removeprefix("torch.")
        global_draw = name.startswith("torch.") and drawn in TORCH_DRAWS
        if global_draw and "generator" not in given and call not in initial:
            found.append(module.at(call, f"{name} without generator="))
    return found


def test_no_module_draws_from_a_global_generator() -> None:
    """Catches a seed that one part of a program sets behind the back of another."""
    assert [finding for module in modules() for finding in global_rng(module)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nnp.random.seed(0)",
        "import numpy\nx = numpy.random.rand(3)",
        "from numpy import random\nrandom.shuffle([1])",
        "from numpy.random import randn\nrandn(2)",
        "import numpy as np\nnp.random.default_rng()",
        "import random\nrandom.random()",
        "from random import shuffle\nshuffle([])",
        "import torch\ntorch.manual_seed(0)",
        "from torch import manual_seed\nmanual_seed(0)",
        "import torch\ntorch.cuda.manual_seed_all(0)",
        "import torch\ntorch.randn(3)",
        "import torch\ntorch.random.default_generator.manual_seed(0)",
        "import pytorch_lightning as pl\npl.seed_everything(0)",
    ],
)
def test_the_rule_finds_each_global_generator(source: str) -> None:
    assert len(global_rng(Module("data/bad.py", source))) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nr = np.random.default_rng(0)\nr.normal()\nnp.random.SeedSequence(1)",
        "import torch\ng = torch.Generator().manual_seed(0)\ntorch.randn(3, generator=g)",
        "import torch\nwith torch.random.fork_rng(devices=[]):\n"
        "    torch.random.default_generator.manual_seed(0)",
        "import torch\nfrom torch import nn\nquery = nn.Parameter(torch.randn(3))",
    ],
)
def test_the_rule_lets_own_generators_pass(source: str) -> None:
    assert global_rng(Module("data/good.py", source)) == []


def test_what_the_callback_may_others_may_not() -> None:
    source = "import torch\ntorch.cuda.manual_seed(1)"
    assert global_rng(Module(CALLBACK, source)) == []
    assert len(global_rng(Module("training/other.py", source))) == 1
