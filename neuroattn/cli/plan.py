"""``neuroattn fit --dry-run``: what a recipe would do, how much it holds and how long it takes."""

from __future__ import annotations

import time

import torch

from neuroattn.training.datamodule import EncodingData
from neuroattn.training.dataset import ImageResponses
from neuroattn.training.module import EncoderModule

_STEPS = 3


def print_plan(module: EncoderModule, data: EncodingData) -> None:
    """Print sizes, memory and a time estimate from a few timed steps; write no run.

    The feature store is filled first, as a training would; that stays.

    Parameters
    ----------
    module : EncoderModule
        Its weights are changed by the timed steps.
    data : EncodingData
        The recipe's data.
    """
    data.prepare_data()
    part = data.part("train")
    module.prepare(data.features, part, data.seed)
    images, tokens, channels = data.features["tokens"].shape
    weights = sum(parameter.numel() for parameter in module.parameters())
    optimisation = module.optimisation
    size = min(optimisation.batch_size, part.sizes["presentation"])
    steps = part.sizes["presentation"] // size * optimisation.epochs
    seconds = _seconds_a_step(module, data, size)
    rows = {
        "images": f"{images} ({', '.join(f'{n} {len(i)}' for n, i in data.split.parts.items())})",
        "features": f"{tokens} tokens × {channels} channels, "
        f"{data.features['tokens'].nbytes / 2**30:.2f} GiB on disk",
        "voxels": str(part.sizes["voxel"]),
        "weights": f"{weights:,} ({weights * 16 / 2**30:.2f} GiB with gradients and AdamW's state)",
        "training": f"{steps} steps of {size} images, at most {optimisation.epochs} epochs",
        "time": f"{seconds * 1000:.0f} ms a step here, about {steps * seconds / 60:.1f} min in all",
    }
    for name, text in rows.items():
        print(f"{name:<10}{text}")


def _seconds_a_step(module: EncoderModule, data: EncodingData, size: int) -> float:
    part = data.part("train")
    batch = ImageResponses(
        data.features, part["image"].values[:size].tolist(), part["response"].values[:size]
    ).__getitems__(range(size))
    optimizer = module.optimisation.optimizer(module.network)
    taken = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(_STEPS):
            started = time.perf_counter()
            optimizer.zero_grad()
            module.network.loss(batch["tokens"], batch["response"]).backward()
            optimizer.step()
            taken.append(time.perf_counter() - started)
    return min(taken)
