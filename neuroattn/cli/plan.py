"""``neuroattn fit --dry-run``: what a recipe would do, how much it holds and how long it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from neuroattn.encoders.incontext.data import InContextData
from neuroattn.encoders.incontext.episodes import Episodes
from neuroattn.encoders.incontext.module import InContextModule
from neuroattn.errors import InputError
from neuroattn.training.datamodule import EncodingData
from neuroattn.training.dataset import ImageResponses
from neuroattn.training.module import EncoderModule, NetworkModule

_STEPS = 5


def print_plan(module: NetworkModule, data: EncodingData | InContextData) -> None:
    """Print what a recipe would do; write no run.

    The feature store is filled first, as a training would; that stays.

    Parameters
    ----------
    module : NetworkModule
        Its weights are changed by the timed steps.
    data : EncodingData or InContextData
        The recipe's data.

    Raises
    ------
    InputError
        If module and data are not of one kind.
    """
    if isinstance(module, EncoderModule) and isinstance(data, EncodingData):
        _plan_of_images(module, data)
    elif isinstance(module, InContextModule) and isinstance(data, InContextData):
        _plan_of_episodes(module, data)
    else:
        raise InputError(f"a {type(module).__name__} takes no {type(data).__name__}.")


def _plan_of_images(module: EncoderModule, data: EncodingData) -> None:
    """Print sizes, memory and a time estimate from a few timed steps."""
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
    _print(rows)


def _plan_of_episodes(module: InContextModule, data: InContextData) -> None:
    """Print the same of a training by episodes."""
    data.prepare_data()
    module.prepare_from(data)
    optimisation, episodes = module.optimisation, data.episodes
    images, tokens, channels = data.features["tokens"].shape
    weights = sum(parameter.numel() for parameter in module.parameters())
    drawn = Episodes(data.sets, episodes, optimisation.batch_size, data.seed)
    seconds = _timed(module, lambda step: module.training_loss(drawn[0, step]))
    steps = episodes.steps * optimisation.epochs
    measured = "responses drawn from a prior" if data.synthetic else "measured responses"
    voxels = sum(each.sizes["voxel"] for each in data.training)
    spare = max(len(each.embedded) for each in data.sets) - episodes.queries
    most = min(episodes.most, spare)
    short = "" if most == episodes.most else f" (of {episodes.most} asked)"
    rows = {
        "images": f"{images} ({', '.join(f'{n} {len(i)}' for n, i in data.split.parts.items())})",
        "features": f"{tokens} tokens × {channels} channels, embedded in {data.embedding.width}",
        "voxels": f"{voxels} to train on ({measured}), "
        f"{data.responses.sizes['voxel']} of {', '.join(data.held_out)} to be written",
        "weights": f"{weights:,} ({weights * 16 / 2**30:.2f} GiB with gradients and AdamW's state)",
        "training": f"{steps} episodes of {optimisation.batch_size} voxels, "
        f"{min(episodes.least, most)} to {most}{short} context images, "
        f"in {optimisation.epochs} epochs",
        "time": f"{seconds * 1000:.0f} ms an episode here, about {steps * seconds / 60:.1f} min",
    }
    _print(rows)


def _print(rows: dict[str, str]) -> None:
    for name, text in rows.items():
        print(f"{name:<10}{text}")


def _seconds_a_step(module: EncoderModule, data: EncodingData, size: int) -> float:
    part = data.part("train")
    batch = ImageResponses(
        data.features, part["image"].values[:size].tolist(), part["response"].values[:size]
    ).__getitems__(range(size))
    return _timed(module, lambda step: module.network.loss(batch["tokens"], batch["response"]))


def _timed(module: NetworkModule, loss: Callable[[int], torch.Tensor]) -> float:
    """Return the median seconds of a few optimiser steps."""
    optimizer = module.optimisation.optimizer(module.network)
    taken = []
    with torch.random.fork_rng(devices=[]):
        for step in range(_STEPS):
            started = time.perf_counter()
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)
