"""Checkpoints that survive a kill: written beside, renamed, and there from the first moment."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from neuroattn.errors import FileError
from neuroattn.io import atomic_path, existing
from neuroattn.training.optimisation import Optimisation

BEST, LAST = "best.ckpt", "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it; read tensors and plain data only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint``; a kill in the middle leaves the old file whole."""
        with atomic_path(path) as beside:
            torch.save(checkpoint, beside)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True``, whatever was asked.

        Raises
        ------
        FileError
            If the file is missing, truncated, or holds more than tensors and plain data.
        """
        return read_checkpoint(path, map_location)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, executing nothing from it.

    Raises
    ------
    FileError
        If the file is missing, truncated, no checkpoint, or holds more than plain data.
    """
    place = existing(path, "checkpoint")
    try:
        found = torch.load(place, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(
            f"{place} is not a whole checkpoint of tensors and plain data "
            f"({place.stat().st_size} bytes): {reason}"
        ) from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise FileError(f"{place} holds no state_dict; it is not a checkpoint of a training.")
    return found


class FirstCheckpoint(Callback):
    """Save the untrained state at once, so that a run killed in its first epoch can go on."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / LAST

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``last.ckpt`` if there is none."""
        if not self.path.exists():
            trainer.save_checkpoint(self.path)


class EpochSeed(Callback):
    """Seed torch's generator from (seed, epoch, rank), so that dropout repeats after a resume.

    Dropout draws from torch's own generator and from nothing else can it draw; the callers of
    the trainer keep that generator inside :func:`torch.random.fork_rng`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the generators of the processor and of the module's device."""
        number = (self.seed * 1_000_003 + trainer.current_epoch) * 1_009 + trainer.global_rank
        torch.random.default_generator.manual_seed(number)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(number)


def training_callbacks(
    directory: str | Path, optimisation: Optimisation, seed: int
) -> list[Callback]:
    """Return the callbacks of every training: seeds, checkpoints and early stopping.

    ``best.ckpt`` has the lowest validation loss, ``last.ckpt`` the last finished epoch.
    """
    callbacks: list[Callback] = [
        EpochSeed(seed),
        FirstCheckpoint(directory),
        ModelCheckpoint(
            dirpath=str(directory),
            filename="best",
            monitor="validation_loss",
            save_last=True,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        ),
    ]
    if optimisation.patience:
        stop = EarlyStopping("validation_loss", patience=optimisation.patience)
        callbacks.append(stop)
    return callbacks
