"""Time and memory of every form of a mechanism over the length of the sequence."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from neuroattn.attention.backends import unavailable
from neuroattn.attention.block import MultiheadAttention
from neuroattn.attention.dispatch import attend
from neuroattn.attention.registry import Mechanism, Request, Run, get
from neuroattn.errors import InputError, NeuroattnError
from neuroattn.names import check_name

#: How many of the longest lengths the slope is fitted to: overheads rule the shorter ones.
FITTED = 4
#: What a mechanism needs beside its defaults at the widths that are measured.
PARAMETERS: dict[str, dict[str, Any]] = {"sdm": {"neurons": 1024}}
#: A form stops at the length at which one run took longer, and before the one at which it would
#: hold more if it grew with the square of the length.
LIMIT_S = 2.0
LIMIT_BYTES = 4e9
#: Memory of a loop over more tokens is not measured: its trace is larger than itself.
LONGEST_TRACED = 2048
#: After so many seconds at one length a single run counts, beside the one for warming up.
LONG_S = 10.0
CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}


@dataclass(frozen=True)
class Row:
    """What was measured of one form on one backend.

    Attributes
    ----------
    name, form, backend : str
        What ran.
    causal : bool
        Whether the read was causal.
    lengths : tuple of int
        Numbers of tokens, queries as many as keys.
    seconds : tuple of float
        Median time of a forward read at each length.
    peak_bytes : tuple of int or None
        What the read allocated at most beyond its inputs at the first of these lengths, as far as
        it was measured.
    slope, memory_slope : float
        Least-squares slope of the logarithms over the longest lengths; NaN for fewer than two.
    expected : float
        The power of the length that the form should have.
    """

    name: str
    form: str
    backend: str
    causal: bool
    lengths: tuple[int, ...]
    seconds: tuple[float, ...]
    peak_bytes: tuple[int, ...] | None
    slope: float
    memory_slope: float
    expected: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, None where a slope is undefined."""
        plain = asdict(self)
        for name in ("slope", "memory_slope", "expected"):
            plain[name] = None if math.isnan(plain[name]) else plain[name]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Row:
        """Return the row that :meth:`as_dict` gave, also through JSON."""
        slopes = {
            name: math.nan if plain[name] is None else plain[name]
            for name in ("slope", "memory_slope", "expected")
        }
        peaks = None if plain["peak_bytes"] is None else tuple(plain["peak_bytes"])
        several = {name: tuple(plain[name]) for name in ("lengths", "seconds")}
        return cls(**{**plain, **slopes, **several, "peak_bytes": peaks})


def slope(lengths: Sequence[int], found: Sequence[float]) -> float:
    """Return the slope of log ``found`` over log ``lengths``, the longest :data:`FITTED` only."""
    pairs = [(math.log(n), math.log(x)) for n, x in zip(lengths, found, strict=True) if x > 0]
    pairs = pairs[-FITTED:]
    if len(pairs) < 2:
        return math.nan
    return statistics.linear_regression(*zip(*pairs, strict=True)).slope


def inputs(
    spec: Mechanism, length: int, dim: int, heads: int, device: str, dtype: torch.dtype, seed: int
) -> tuple[list[Tensor], dict[str, Any]]:
    """Return query, key, value and named tensors as a fresh block would make them."""
    options = {"length": length} if "length" in spec.options else {}
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        block = MultiheadAttention(
            dim * heads, heads, mechanism=spec.name, parameters=options, causal=spec.causal[-1]
        )
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, length, dim * heads, generator=generator)
    with torch.inference_mode():
        read = block.project(tokens)
        query, named = block._asked(tokens, read)

    def moved(each: Any) -> Any:
        if isinstance(each, Tensor):
            return each.clone().to(device, dtype if each.is_floating_point() else None)
        return each

    named = {**named, **PARAMETERS.get(spec.name, {})}
    three = [moved(each.contiguous()) for each in (query, read.key, read.value)]
    return three, {name: moved(each) for name, each in named.items()}


def measure(
    name: str,
    lengths: Sequence[int] = (256, 512, 1024, 2048, 4096),
    *,
    form: str = "auto",
    backend: str = "auto",
    dim: int = 64,
    heads: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    repeats: int = 3,
    memory: bool = True,
    clock: str = "wall",
    seed: int = 0,
) -> Iterator[Row]:
    """Measure forward reads of every form and backend that runs here.

    Parameters
    ----------
    name : str
        A registered mechanism.
    lengths : sequence of int
        Numbers of tokens.
    form, backend : str
        Only this one, or ``"auto"`` for all.
    dim, heads : int
        Width of a head and number of heads; the batch is 1.
    device : str
        ``"cpu"`` or ``"cuda"``.
    dtype : torch.dtype
        Of the inputs.
    repeats : int
        Runs at each length after one for warming up; their median counts.
    memory : bool
        Whether to measure memory too.
    clock : {"wall", "processor"}
        ``"processor"`` counts the time of this process on all its cores, which other processes
        disturb less.
    seed : int
        Of the inputs.

    Yields
    ------
    Row
        One a form and backend, as soon as it is measured.

    Raises
    ------
    InputError
        If no form of the mechanism fits.
    """
    spec = get(name)
    check_name("clock", clock, CLOCKS)
    if not lengths or min(lengths) < 1:
        raise InputError(f"lengths={list(lengths)} must be positive numbers of tokens.")
    found = 0
    for run in spec.runs:
        if form not in ("auto", run.form) or backend not in ("auto", run.backend):
            continue
        if backend == "auto" and _refused(spec, run, max(lengths), dim, device, dtype):
            continue
        found += 1
        causal = spec.causal[-1]
        done: list[int] = []
        seconds: list[float] = []
        peaks: list[int] = []
        for length in sorted(lengths):
            if peaks and peaks[-1] * (length / done[-1]) ** 2 > LIMIT_BYTES:
                break
            drawn = inputs(spec, length, dim, heads, device, dtype, seed)
            took = _seconds(run, spec, *drawn, causal, repeats, CLOCKS[clock])
            done.append(length)
            seconds.append(took)
            if memory and not (run.form == "recurrent" and length > LONGEST_TRACED):
                peaks.append(_peak(run, spec, *drawn, causal))
            if took > LIMIT_S:
                break
        yield Row(
            name=name,
            form=run.form,
            backend=run.backend,
            causal=causal,
            lengths=tuple(done),
            seconds=tuple(seconds),
            peak_bytes=tuple(peaks) if memory else None,
            slope=slope(done, seconds),
            memory_slope=slope(done[: len(peaks)], peaks) if memory else math.nan,
            expected=1.0 if run.stateful else run.order,
        )
    if not found:
        raise InputError(
            f"attention={name!r} has no form={form!r} on backend={backend!r} that runs on "
            f"{device!r}; it has {', '.join(f'{run.form}/{run.backend}' for run in spec.runs)}."
        )


def _refused(
    spec: Mechanism, run: Run, length: int, dim: int, device: str, dtype: torch.dtype
) -> str:
    defaults = {name: each.default for name, each in spec.parameters.items()}
    defaults |= PARAMETERS.get(spec.name, {})
    request = Request(
        device=device,
        dtype=dtype,
        queries=length,
        keys=length,
        dim=dim,
        value_dim=dim,
        causal=spec.causal[-1],
        masked=False,
        gradient=False,
        state=False,
        parameters=defaults,
    )
    return unavailable(run.backend, request) or run.refuses(request)


def _read(
    run: Run, spec: Mechanism, three: list[Tensor], named: dict[str, Any], causal: bool
) -> None:
    with torch.inference_mode():
        attend(spec.name, *three, causal=causal, form=run.form, backend=run.backend, **named)


def _seconds(
    run: Run,
    spec: Mechanism,
    three: list[Tensor],
    named: dict[str, Any],
    causal: bool,
    repeats: int,
    clock: Callable[[], float],
) -> float:
    taken = []
    for _ in range(repeats + 1):
        start = clock()
        _read(run, spec, three, named, causal)
        if three[0].is_cuda:
            torch.cuda.synchronize()
        taken.append(clock() - start)
        if sum(taken) > LONG_S and len(taken) > 1:
            break
    return statistics.median(taken[1:])


def _peak(
    run: Run, spec: Mechanism, three: list[Tensor], named: dict[str, Any], causal: bool
) -> int:
    """Return the most bytes that the read held beyond what there was."""
    if three[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _read(run, spec, three, named, causal)
        return torch.cuda.max_memory_allocated() - before
    return allocated(lambda: _read(run, spec, three, named, causal))


def allocated(call: Callable[[], object]) -> int:
    """Return the most bytes that a call held on the CPU beyond what there was."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    live = most = 0
    for _, _, size in sorted(allocations(profiled)):
        live += size
        most = max(most, live)
    return most


def allocations(profiled: profile) -> Iterator[tuple[int, int, int]]:
    """Yield (time, address, bytes) of each allocation of a profile, freed bytes negative.

    Raises
    ------
    NeuroattnError
        If the profiler recorded nothing.
    """
    if profiled.profiler is None or profiled.profiler.kineto_results is None:
        raise NeuroattnError("torch's profiler recorded nothing; memory cannot be measured.")
    waiting = list(profiled.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.name == "[memory]":
            fields: Any = event.extra_fields
            yield event.start_time_ns, fields.ptr, fields.alloc_size
