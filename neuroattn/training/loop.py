"""Train a module on arrays: what the scikit-learn face of an encoder calls."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import xarray as xr

from neuroattn.data.split import split_by_image
from neuroattn.errors import InputError
from neuroattn.training.checkpoints import (
    BEST,
    AtomicCheckpointIO,
    read_checkpoint,
    training_callbacks,
)
from neuroattn.training.datamodule import ResponseData
from neuroattn.training.module import EncoderModule, NetworkModule


def train(
    module: EncoderModule,
    features: xr.Dataset,
    responses: xr.Dataset,
    validation: xr.Dataset | None = None,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Train ``module`` and leave the weights of the lowest validation loss in it.

    Parameters
    ----------
    module : EncoderModule
        Trained in place.
    features : xarray.Dataset
        Tokens of all images.
    responses, validation : xarray.Dataset
        Averaged response sets. Without ``validation``, the fraction
        ``module.optimisation.validation_fraction`` of the training images is held out.
    seed : int
        Seed of first weights, order, dropout and held-out images.
    progress : bool
        Show a progress bar.

    Raises
    ------
    InputError
        If there are no validation responses and none are to be held out.
    """
    optimisation = module.optimisation
    parts = {"train": responses}
    if validation is not None:
        parts["validation"] = validation
    elif optimisation.validation_fraction > 0:
        held = optimisation.validation_fraction
        split = split_by_image(responses, {"train": 1 - held, "validation": held}, seed)
        parts = {name: split.select(responses, name) for name in split.parts}
    else:
        raise InputError(
            "validation_fraction=0.0 and no validation responses were given: the best epoch could "
            "not be chosen. Give fit(..., validation=...) or a fraction above 0."
        )
    data = ResponseData(features, parts, seed)
    module.prepare(features, parts["train"], data.seed)
    train_on(module, data, data.seed, progress)


def train_on(
    module: NetworkModule, data: pl.LightningDataModule, seed: int, progress: bool = False
) -> None:
    """Train a prepared ``module`` and leave the weights of the lowest validation loss in it.

    Parameters
    ----------
    module : NetworkModule
        Trained in place; its network is there.
    data : pytorch_lightning.LightningDataModule
        Training and validation batches.
    seed : int
        Seed of dropout.
    progress : bool
        Show a progress bar.
    """
    with tempfile.TemporaryDirectory(prefix="neuroattn-") as folder, quiet_lightning():
        trainer = pl.Trainer(
            default_root_dir=folder,
            callbacks=training_callbacks(folder, module.optimisation, seed),
            enable_progress_bar=progress,
            **trainer_settings(module),
        )
        with torch.random.fork_rng():
            trainer.fit(module, datamodule=data)
        module.load_state_dict(read_checkpoint(Path(folder) / BEST)["state_dict"])
    module.eval()


def trainer_settings(module: NetworkModule) -> dict[str, Any]:
    """Return the trainer's arguments that every training here has in common."""
    return {
        "max_epochs": module.optimisation.epochs,
        "gradient_clip_val": module.optimisation.gradient_clip or None,
        "precision": module.optimisation.precision,
        "plugins": [AtomicCheckpointIO()],
        "logger": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "accelerator": "auto",
        "devices": 1,
    }


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice that does not apply here: workers, logging steps, LeafSpec."""
    import logging

    advice = (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*isinstance.treespec.*",
        ".*custom batch sampler.*",
    )
    loggers = [
        logging.getLogger(f"pytorch_lightning{name}") for name in ("", ".utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in advice:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
