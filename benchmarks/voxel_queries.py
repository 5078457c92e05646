"""A learned query for every one of 39,548 vertices: forward, backward and AdamW in 8 GB.

One image of 961 x 768 tokens a step, in a process of its own whose peak resident memory counts:
everything is in it, parameters, gradients and optimiser state too. Time and memory are told for
two images as well. ``python -m benchmarks.voxel_queries`` takes about two minutes on two cores.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.common import Target, conclude, gate, options, peak_memory, run
from benchmarks.published_decoder import Sizes
from neuroattn.encoders.decoder import BrainDecoder, DecoderConfig
from neuroattn.encoders.queries import QueryMap
from neuroattn.training.optimisation import Optimisation

QUICK = Sizes(rows=8, columns=8, dim=96, heads=4, feedforward=128, left=2000, right=2000)
SMALL = Sizes(rows=3, columns=4, dim=16, heads=4, feedforward=24, left=13, right=10)


def network(sizes: Sizes, block: int) -> BrainDecoder:
    """Return a decoder with one query a vertex, always the same weights."""
    config = DecoderConfig(
        queries="voxel",
        dim=sizes.dim,
        heads=sizes.heads,
        feedforward=sizes.feedforward,
        dropout=0.0,
        query_block=block,
    )
    index = np.arange(sizes.voxels)
    queries = QueryMap(tuple(f"voxel {v}" for v in index), index, index)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return BrainDecoder(config, queries, (sizes.rows, sizes.columns), sizes.dim)


def one_step(sizes: Sizes, batch: int) -> float:
    """Make one training step and return its seconds."""
    made = network(sizes, DecoderConfig.query_block)
    optimizer = Optimisation().optimizer(made)
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randn(batch, sizes.tokens, sizes.dim, generator=draw).half()
    response = torch.randn(batch, sizes.voxels, generator=draw)
    start = time.perf_counter()
    made.loss(tokens, response).backward()
    optimizer.step()
    return time.perf_counter() - start


def block_difference(block: int) -> float:
    """Return how far outputs and gradients in blocks are from those of one block, float64."""
    draw = torch.Generator().manual_seed(2)
    tokens = torch.randn(3, SMALL.tokens, SMALL.dim, generator=draw, dtype=torch.float64)
    weight = torch.randn(3, SMALL.voxels, generator=draw, dtype=torch.float64)
    found = []
    for size in (SMALL.voxels, block):
        made = network(SMALL, size).double()
        predicted = made(tokens)
        (predicted * weight).sum().backward()
        found.append([predicted.detach(), *(p.grad for p in made.parameters())])
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))


def main() -> None:
    chosen = options(__doc__)
    sizes = QUICK if chosen.quick else Sizes()
    difference = max(block_difference(block) for block in (1, 5, 8))
    gate("blocks of queries give what one block gives", difference < 1e-10, difference)
    runs = {batch: {"peak_gb": peak_memory(one_step, sizes, batch) / 1e9} for batch in (1, 2)}
    for batch, found in runs.items():
        found["step_s"] = one_step(sizes, batch)
    payload = {
        "size": vars(sizes) | {"voxels": sizes.voxels, "query_block": DecoderConfig.query_block},
        "parameters": sum(p.numel() for p in network(sizes, 1).parameters()),
        "largest_difference_between_blocks": difference,
        "images_a_step": runs,
    }
    targets = [
        Target(f"peak resident memory, GB, {batch} image(s)", found["peak_gb"], most=8)
        for batch, found in runs.items()
    ]
    conclude("voxel_queries", payload, targets, chosen)
    for batch, found in runs.items():
        print(f"{batch} image(s): {found['step_s']:.1f} s a step")


if __name__ == "__main__":
    run(main)
