"""What the tests of every mechanism share: examples, gradients, comparisons."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neuroattn.attention import attend
from neuroattn.attention.parameters import Parameter
from neuroattn.attention.registry import FAMILIES, Mechanism

#: Lengths around every tile and chunk of 64.
LENGTHS = (1, 2, 63, 64, 65, 257)


@dataclass(frozen=True)
class Example:
    """How the shared tests call a mechanism.

    Attributes
    ----------
    parameters : callable
        ``parameters(sizes, generator)`` to what cannot be drawn from the parameters' ranges;
        ``sizes`` has batch, heads, queries, keys, dim, value_dim.
    dim, value_dim : int
        Sizes that the mechanism takes.
    lengths : tuple of int
        Lengths at which the forms are compared.
    heads_apart : bool
        Whether each head's output depends on that head alone.
    differentiable : bool
        Whether gradients of query and key exist.
    loud : float
        Factor on query and key that must not give NaN; 0 if none is promised.
    """

    parameters: Callable[[dict[str, int], torch.Generator], dict[str, Any]] = lambda *_: {}
    dim: int = 4
    value_dim: int = 5
    lengths: tuple[int, ...] = LENGTHS
    heads_apart: bool = True
    differentiable: bool = True
    loud: float = 100.0
    label: str = field(default="")


def examples() -> dict[str, list[Example]]:
    """Return the examples that test modules give in ``EXAMPLES``, by mechanism."""
    found: dict[str, list[Example]] = {}
    for family in FAMILIES:
        package = importlib.import_module(f"tests.attention.{family}")
        for module in pkgutil.iter_modules(package.__path__):
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            for name, several in getattr(loaded, "EXAMPLES", {}).items():
                found.setdefault(name, []).extend(several)
    return found


def draw(parameter: Parameter, sizes: dict[str, int], generator: torch.Generator) -> Tensor:
    """Return a tensor of the parameter's first shape within its range."""
    shape = [
        axis if isinstance(axis, int) else sizes.setdefault(axis, 6) for axis in parameter.axes[0]
    ]
    low, high = parameter.low, parameter.high
    if low is None and high is None:
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 2
    uniform = 0.05 + 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64)
    if low is not None and high is not None:
        return low + (high - low) * uniform
    return low + uniform if low is not None else high - uniform


@dataclass
class Call:
    """Inputs of one call, all in float64 and with gradients."""

    query: Tensor
    key: Tensor
    value: Tensor
    parameters: dict[str, Any]

    @property
    def leaves(self) -> list[Tensor]:
        tensors = [self.query, self.key, self.value]
        tensors += [x for x in self.parameters.values() if isinstance(x, Tensor)]
        return [each for each in tensors if each.requires_grad]

    def to(self, dtype: torch.dtype) -> Call:
        """Return detached copies in another dtype."""

        def cast(each: Any) -> Any:
            if isinstance(each, Tensor) and each.is_floating_point():
                return each.detach().to(dtype)
            return each

        named = {name: cast(each) for name, each in self.parameters.items()}
        return Call(cast(self.query), cast(self.key), cast(self.value), named)


def make(
    spec: Mechanism,
    example: Example,
    queries: int,
    keys: int,
    batch: int = 2,
    heads: int = 2,
    seed: int = 0,
) -> Call:
    """Draw inputs for a mechanism; what it needs and the example leaves out is drawn too."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"batch": batch, "heads": heads, "queries": queries, "keys": keys}
    sizes |= {"dim": example.dim, "value_dim": example.value_dim}

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)

    query, key = normal(queries, example.dim), normal(keys, example.dim)
    value = normal(keys, example.value_dim)
    parameters = dict(example.parameters(sizes, generator))
    for name, parameter in spec.parameters.items():
        if parameter.required and name not in parameters:
            parameters[name] = draw(parameter, sizes, generator)
    call = Call(query, key, value, parameters)
    for each in (query, key, value, *parameters.values()):
        if isinstance(each, Tensor) and each.is_floating_point():
            each.requires_grad_()
    return call


def read(spec: Mechanism, call: Call, **more: Any) -> Any:
    """Attend with a call's inputs."""
    return attend(spec.name, call.query, call.key, call.value, **more, **call.parameters)


def gradients(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Return the gradients along a fixed direction; zeros where nothing is passed back."""
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    if not output.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(
        (output * direction.to(output.dtype)).sum(), leaves, allow_unused=True, retain_graph=True
    )
    pairs = zip(found, leaves, strict=True)
    return [torch.zeros_like(leaf) if each is None else each for each, leaf in pairs]


def close(found: Tensor, wanted: Tensor, tolerance: Mapping[str, float], what: str) -> None:
    """Compare relative to the largest number: sums cancel, and their errors do not."""
    scale = max(1.0, float(wanted.detach().abs().max()) if wanted.numel() else 1.0)
    error = float((found - wanted).detach().abs().max()) if wanted.numel() else 0.0
    limit = tolerance["rtol"] * scale + tolerance["atol"]
    if not error <= limit:
        raise AssertionError(f"{what}: error {error:.2e} above {limit:.2e}")
