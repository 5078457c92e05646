"""Every mechanism in every form over 256 to 16,384 tokens: time, memory, and their slopes.

``python -m benchmarks.attention`` takes about half an hour on two cores; ``--quick`` a minute or
two. ``--device cuda`` goes on to 131,072 tokens in bfloat16. Before a form is timed, it has to
give what the mechanism's reference gives, on inputs of 257 tokens in float64 (the reference
against itself on a cut sequence, where it has a state). Times on the CPU are processor times
of one thread; slopes are those of the logarithms over the four longest lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import (
    RESULTS,
    Target,
    conclude,
    gate,
    machine_facts,
    paired_runs,
    run,
)
from neuroattn.attention import attend, get, list_mechanisms
from neuroattn.attention.bench import Row, allocated, inputs, measure
from neuroattn.attention.registry import Mechanism

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16_384)
QUICK = (256, 512, 1024)
ON_GPU = (*LENGTHS, 32_768, 65_536, 131_072)
DIM = 64
#: Large tensors come from memory that is kept: otherwise every one is made of fresh pages, which
#: costs more than what is computed. And torch's profiler is silent.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "KINETO_LOG_LEVEL": "99",
    "OMP_NUM_THREADS": "1",
}
#: Chunked forms that have to leave the loop over tokens behind.
CHUNKED = ("delta", "gated_delta", "retention", "lightning", "ssd")
#: Forms whose slope is held to its order; others are told.
TOLERANCE = 0.1


def agreement(spec: Mechanism, device: str) -> dict[str, float]:
    """Return the largest difference of each form from the reference, relative to its output."""
    causal = spec.causal[-1]
    three, named = inputs(spec, 257, 16, 2, device, torch.float64, seed=1)
    oracle = next(each for each in spec.runs if each.backend == "reference")
    found = {}
    with torch.inference_mode():
        wanted = attend(
            spec.name, *three, causal=causal, form=oracle.form, backend="reference", **named
        )
        for each in spec.runs:
            if each is oracle or each.backend not in ("reference", "sdpa", "sdpa-math"):
                continue
            read = attend(
                spec.name, *three, causal=causal, form=each.form, backend=each.backend, **named
            )
            error = (read - wanted).abs().max() / wanted.abs().max()
            found[f"{each.form}/{each.backend}"] = float(error)
    return found


def overhead(repeats: int) -> dict[str, Any]:
    """Time ``attend("softmax")`` beside a direct call at 1,024 tokens."""
    x = torch.randn(1, 8, 1024, DIM, generator=torch.Generator().manual_seed(0))
    calls = 20

    def ours() -> torch.Tensor:
        for _ in range(calls):
            read = attend("softmax", x, x, x)
        return read

    def direct() -> torch.Tensor:
        for _ in range(calls):
            read = torch.nn.functional.scaled_dot_product_attention(x, x, x)
        return read

    with torch.inference_mode():
        timing, mine, theirs = paired_runs(ours, direct, max(repeats, 11))
    gate("attend('softmax') is torch's own", torch.equal(mine, theirs), "other outputs")
    return timing


def decoding(name: str, lengths: tuple[int, ...]) -> dict[int, int]:
    """Return what one more token allocates after so many tokens, in bytes."""
    spec, found = get(name), {}
    for length in lengths:
        three, named = inputs(spec, length + 1, DIM, 1, "cpu", torch.float32, seed=2)
        before = [each[:, :, :length] for each in three]
        cut = {key: _cut(each, length, 0, length) for key, each in named.items()}
        last = {key: _cut(each, length, length, length + 1) for key, each in named.items()}
        with torch.inference_mode():
            _, state = attend(spec.name, *before, causal=True, return_state=True, **cut)

            def step(state: Any = state, three: Any = three, last: Any = last, n: int = length):
                attend(
                    spec.name,
                    *[each[:, :, n:] for each in three],
                    causal=True,
                    form="recurrent",
                    initial_state=state,
                    **last,
                )

            found[length] = allocated(step) + sum(
                each.numel() * each.element_size() for each in state.values()
            )
    return found


def training(name: str, length: int = 4096) -> dict[str, float]:
    """Return the processor time of a read and its backward pass, a loop over tokens and chunked."""
    spec, found = get(name), {}
    three, named = inputs(spec, length, DIM, 1, "cpu", torch.float32, seed=3)
    leaves = [each.requires_grad_() for each in three]
    for form in ("chunked", "recurrent"):
        taken = []
        for _ in range(3):
            start = time.process_time()
            read = attend(name, *leaves, causal=True, form=form, backend="reference", **named)
            torch.autograd.grad(read.sum(), leaves)
            taken.append(time.process_time() - start)
        found[form] = statistics.median(taken)
    return found


def _cut(each: Any, length: int, start: int, stop: int) -> Any:
    """Return the tokens from start to stop of a named tensor that has one number a token."""
    if not isinstance(each, torch.Tensor):
        return each
    for axis, size in enumerate(each.shape):
        if size == length + 1:
            return each.narrow(axis, start, stop - start)
    return each


def targets(rows: list[Row], shortest: int = 2048) -> list[Target]:
    """Return what is held of the slopes, of memory and of chunked forms.

    A slope is held where a form came as far as ``shortest``.
    """
    found = []
    for row in rows:
        label = f"{row.name} {row.form}/{row.backend}"
        if len(row.lengths) >= 4 and max(row.lengths) >= shortest:
            held = {"least": row.expected - TOLERANCE, "most": row.expected + TOLERANCE}
            if row.expected in (1.0, 2.0):
                found.append(Target(f"slope of time, {label}", row.slope, **held))
        if (row.name, row.form) == ("memory_efficient", "chunked"):
            found.append(Target(f"slope of memory, {label}", row.memory_slope, most=1.1))
    by_form = {(row.name, row.form): row for row in rows if row.backend == "reference"}
    for name in CHUNKED:
        loop, chunked = by_form.get((name, "recurrent")), by_form.get((name, "chunked"))
        if loop and chunked and 4096 in loop.lengths and 4096 in chunked.lengths:
            ratio = _at(loop, 4096) / _at(chunked, 4096)
            found.append(Target(f"chunked {name} over its token loop at 4,096", ratio, least=10))
    return found


def _at(row: Row, length: int) -> float:
    return row.seconds[row.lengths.index(length)]


def main() -> None:
    """Check, measure, write."""
    given = _options()
    on_gpu = given.device == "cuda"
    lengths = QUICK if given.quick else ON_GPU if on_gpu else LENGTHS
    names = given.names or list_mechanisms()
    checks: dict[str, dict[str, float]] = {}
    rows: list[Row] = []
    for name in names:
        checks[name] = agreement(get(name), given.device)
        for label, error in checks[name].items():
            gate(f"{name} {label} is its reference", error < 1e-9, error)
        for row in measure(
            name,
            lengths,
            dim=DIM,
            device=given.device,
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            repeats=given.repeats,
            clock="wall" if on_gpu else "processor",
        ):
            rows.append(row)
            print(f"{row.name} {row.form}/{row.backend}: slope {row.slope:.2f}", flush=True)
    if given.names:
        _keep(given.out / f"{_name(on_gpu)}{'_quick' * given.quick}.json", checks, rows)
    held = targets(rows)
    payload: dict[str, Any] = {"dim": DIM, "heads": 1, "agreement": checks}
    if not on_gpu:
        payload["overhead"] = overhead(given.repeats)
        found = 100 * (1 / payload["overhead"]["ratio"] - 1)
        held.append(Target("overhead of attend('softmax') at 1,024 tokens, %", found, most=3))
        payload["training"] = {name: training(name) for name in CHUNKED}
        for name, both in payload["training"].items():
            ratio = both["recurrent"] / both["chunked"]
            what = f"chunked {name} over its token loop at 4,096, forward and backward"
            held.append(Target(what, ratio, least=10))
        payload["decoding"] = {
            name: decoding(name, (64, 1024, 4096)) for name in ("linear", "retention", "delta")
        }
        for name, found_bytes in payload["decoding"].items():
            spread = max(found_bytes.values()) / min(found_bytes.values())
            held.append(
                Target(f"memory of one more token, {name}, most / least", spread, most=1.01)
            )
    payload["rows"] = [row.as_dict() for row in rows]
    conclude(_name(on_gpu), payload, held, given)


def _name(on_gpu: bool) -> str:
    return "attention_gpu" if on_gpu else "attention"


def _keep(path: Path, checks: dict[str, dict[str, float]], rows: list[Row]) -> None:
    """Add what an earlier run on the same machine found of the mechanisms that were not run."""
    if not path.exists():
        return
    before = json.loads(path.read_text("utf-8"))
    same = before["machine"]["cpu"] == machine_facts()["cpu"]
    gate("the earlier result is of this machine", same, before["machine"]["cpu"])
    ran = {row.name for row in rows}
    for row in before["rows"]:
        if row["name"] not in ran and row["name"] in list_mechanisms():
            rows.append(Row.from_dict(row))
            checks.setdefault(row["name"], before["agreement"][row["name"]])
    rows.sort(key=lambda row: row.name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="all by default; of others the earlier result is kept",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="up to 1,024 tokens")
    parser.add_argument("--repeats", type=int, default=3, help="their median counts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    if not set(ENVIRONMENT) <= set(os.environ):
        os.environ.update({**ENVIRONMENT, **os.environ})
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.attention", *sys.argv[1:]])
    run(main)
