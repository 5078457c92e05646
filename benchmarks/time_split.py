"""Where the time of an in-context read goes: every operation of a profile counted to its part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.published_braincorl import Sizes

PARTS = (
    "feed-forward",
    "attention projections",
    "attention scores and reading",
    "first and last layers",
    "norms, residuals, layout",
    "copying of context and queries",
    "prediction",
    "other",
)
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear"}
_POINTWISE = {"native_layer_norm", "add", "add_", "mul", "mul_", "copy_", "div", "addcmul"}
_JOINING = {"stack", "cat", "index"}


def part(operation: str, shapes: Iterable[Sequence[Any]], sizes: Sizes) -> str:
    """Return the part of :data:`PARTS` to which an operation on inputs of some shapes belongs.

    Parameters
    ----------
    operation : str
        Torch's name, such as ``"aten::addmm"``.
    shapes : iterable of sequence of int
        Of its inputs; lists of tensors have none.
    sizes : Sizes
        Widths tell the parts apart.
    """
    name = operation.removeprefix("aten::")
    dims = {size for shape in shapes for size in shape if isinstance(size, int)}
    tokens = sizes.context + sizes.registers
    if sizes.queries in dims and not dims & {sizes.width, 2 * sizes.width}:
        return "prediction"
    if dims & {sizes.feedforward, 2 * sizes.feedforward}:
        return "feed-forward"
    if name in _JOINING:
        return "copying of context and queries"
    if dims & {sizes.embedding, sizes.embedding + 1}:
        return "first and last layers"
    if "scaled_dot" in name or "softmax" in name or sizes.width // sizes.heads in dims:
        return "attention scores and reading"
    read = any(size % tokens == 0 for size in dims)
    if 2 * sizes.width in dims and not read:
        return "first and last layers"
    if name in _PRODUCTS or dims & {2 * sizes.width, 3 * sizes.width}:
        return "attention projections"
    if sizes.width in dims and name in _POINTWISE:
        return "norms, residuals, layout"
    return "attention scores and reading" if tokens in dims else "other"


def time_split(call: Callable[[], Any], sizes: Sizes) -> dict[str, float]:
    """Return the seconds that each of :data:`PARTS` took in one call on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        call()
    seconds: Counter[str] = Counter(dict.fromkeys(PARTS, 0.0))
    for event in profiled.key_averages(group_by_input_shape=True):
        found = part(event.key, event.input_shapes or (), sizes)
        seconds[found] += event.self_cpu_time_total / 1e6
    return {name: seconds[name] for name in PARTS}
