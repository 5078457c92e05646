"""One training step of the transformer encoder from the store, next to the published design.

``python -m benchmarks.training_step`` takes about two minutes on two cores; ``--quick`` some
seconds. A step is forward, backward and AdamW, both without dropout, both fed with the same
float16 tokens of the memory-mapped store. The published design runs with the plain AdamW that it
was published with; the ratio without any optimiser is told too.

Activation memory is the peak, over forward and backward, of what torch's allocator holds beyond
parameters, optimiser state and the batch as it was read, and beyond the gradients of the
parameters; the peak with the gradients stands beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
from torch import nn

from benchmarks.common import Target, conclude, gate, options, paired_runs, peak_memory, run
from benchmarks.memory import peak_allocation
from benchmarks.published_decoder import (
    PublishedDecoder,
    Sizes,
    copy_weights,
    our_decoder,
    ownership,
)
from benchmarks.random_store import dataset, fill
from neuroattn.encoders.decoder import BrainDecoder
from neuroattn.training.batches import EpochBatches
from neuroattn.training.dataset import Batch, ImageResponses
from neuroattn.training.optimisation import Optimisation

QUICK = Sizes(rows=12, columns=12, dim=192, feedforward=256, left=3000, right=3000)
BATCHES = 4


def networks(sizes: Sizes) -> tuple[BrainDecoder, PublishedDecoder]:
    """Return ours and the published design with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        owners = ownership(sizes)
        ours, published = our_decoder(sizes, owners), PublishedDecoder(sizes, owners)
    copy_weights(published, ours)
    return ours, published


def outputs_agree(ours: BrainDecoder, published: PublishedDecoder, tokens: torch.Tensor) -> float:
    """Return the largest difference between both outputs, relative to the largest output."""
    with torch.inference_mode():
        theirs = torch.cat(published(tokens.to(ours.query.dtype)), dim=1)
        return float((ours(tokens) - theirs).abs().max() / theirs.abs().max())


def our_backward(network: BrainDecoder, batch: Batch) -> None:
    network.loss(batch["tokens"], batch["response"]).backward()


def their_backward(network: PublishedDecoder, batch: Batch) -> None:
    network.loss(batch["tokens"].float(), batch["response"]).backward()


def stepper(
    backward: Callable[[Any, Batch], None],
    network: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    next_batch: Callable[[], Batch],
) -> Callable[[], None]:
    """Return a call that makes one step; without an optimiser, forward and backward only."""

    def step() -> None:
        network.zero_grad()
        backward(network, next_batch())
        if optimizer is not None:
            optimizer.step()

    return step


def endless(data: ImageResponses, size: int) -> Callable[[], Batch]:
    """Return a call that reads the next shuffled batch from the store."""
    batches = cycle(data.loader(EpochBatches(len(data), size, shuffle=True)).batch_sampler or [])
    return lambda: data.__getitems__(next(batches))


def steps_alone(which: str, folder: str, sizes: Sizes, steps: int) -> None:
    """Make steps in a process of its own; with none, everything but the step is there."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        owners = ownership(sizes)
        network = (our_decoder if which == "ours" else PublishedDecoder)(sizes, owners)
    backward = our_backward if which == "ours" else their_backward
    optimizer = _optimizer(network)
    features = fill(folder, BATCHES * sizes.batch, sizes.rows, sizes.columns, sizes.dim)
    step = stepper(
        backward, network, optimizer, endless(dataset(features, sizes.voxels), sizes.batch)
    )
    for _ in range(steps):
        step()


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    if isinstance(network, BrainDecoder):
        return Optimisation(learning_rate=1e-4).optimizer(network)
    return torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=1e-4)


def timings(
    ours: BrainDecoder, published: PublishedDecoder, data: ImageResponses, size: int, repeats: int
) -> dict[str, Any]:
    """Time whole steps and their parts, ours and the published one in turn."""
    held = data.__getitems__(range(size))
    cases: dict[str, tuple[bool, Callable[[], Batch]]] = {
        "step_from_store": (True, endless(data, size)),
        "decoder_and_readout": (True, lambda: held),
        "without_optimiser": (False, lambda: held),
    }
    mine, theirs = _optimizer(ours), _optimizer(published)
    found = {}
    for name, (optimised, batch) in cases.items():
        first = stepper(our_backward, ours, mine if optimised else None, batch)
        second = stepper(their_backward, published, theirs if optimised else None, batch)
        first(), second()
        found[name] = paired_runs(first, second, repeats)[0]
    return found


def memory(
    ours: BrainDecoder, published: PublishedDecoder, batch: Batch
) -> dict[str, dict[str, int]]:
    """Return the allocations of both in one step, bytes."""
    found = {}
    for name, network, backward in (
        ("ours", ours, our_backward),
        ("published", published, their_backward),
    ):
        network.zero_grad()
        found[name] = peak_allocation(
            lambda network=network, backward=backward: backward(network, batch),
            list(network.parameters()),
        )
    return found


def main() -> None:
    chosen = options(__doc__)
    sizes = QUICK if chosen.quick else Sizes()
    ours, published = networks(sizes)
    with tempfile.TemporaryDirectory() as folder:
        features = fill(folder, BATCHES * sizes.batch, sizes.rows, sizes.columns, sizes.dim)
        data = dataset(features, sizes.voxels)
        batch = data.__getitems__(range(sizes.batch))
        difference = outputs_agree(ours, published, batch["tokens"])
        gate("same outputs as the published design", difference < 1e-5, difference)
        allocated = memory(ours, published, batch)
        timing = timings(ours, published, data, sizes.batch, chosen.repeats)
        resident = {
            which: peak_memory(steps_alone, which, folder, sizes, 2)
            for which in ("ours", "published")
        }
    share = {
        kind: allocated["ours"][kind] / allocated["published"][kind]
        for kind in ("activations", "with_gradients")
    }
    payload = {
        "size": vars(sizes) | {"tokens": sizes.tokens, "voxels": sizes.voxels},
        "largest_relative_output_difference": difference,
        "parameters": {
            "ours": sum(p.numel() for p in ours.parameters()),
            "published": sum(p.numel() for p in published.parameters()),
            "published_never_used": sum(p.numel() for p in published.self_attention.parameters()),
        },
        "timing": timing,
        "allocated_bytes": allocated,
        "allocated_share_of_published": share,
        "resident_bytes_of_a_process_with_two_steps": resident,
    }
    targets = [
        Target("decoder and readout, times faster", timing["decoder_and_readout"]["ratio"], 1.8),
        Target("activation memory, share of the published", share["activations"], most=1 / 3),
    ]
    conclude("training_step", payload, targets, chosen)
    for name, found in timing.items():
        print(f"{name}: {found['ours_s']:.3f} s, published {found['theirs_s']:.3f} s")


if __name__ == "__main__":
    run(main)
