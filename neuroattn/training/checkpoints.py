"""Checkpoints that survive a kill: written beside, renamed, and read without executing anything."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from neuroattn.errors import FileError, MismatchError
from neuroattn.io import atomic_path, existing
from neuroattn.training.optimisation import Optimisation

BEST, LAST = "best.ckpt", "last.ckpt"
_KEYS = ("state_dict", "epoch", "global_step", "pytorch-lightning_version", "loops", "callbacks")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it; read tensors and plain data only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint``; a kill in the middle leaves the old file whole."""
        # On a full disk torch's own writer fails with errors of its own, so it writes to memory.
        whole = io.BytesIO()
        torch.save(checkpoint, whole)
        with atomic_path(path) as beside:
            beside.write_bytes(whole.getvalue())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True``, whatever was asked.

        Raises
        ------
        FileError
            If the file is missing, truncated, or holds more than tensors and plain data.
        """
        # Not every file is a checkpoint: processes also hand weights over through this door.
        found: dict[str, Any] = _read(Path(path), map_location)
        return found


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, executing nothing from it.

    Raises
    ------
    FileError
        If the file is missing, truncated, no checkpoint, or holds more than plain data.
    """
    place = Path(path)
    found = _read(place, "cpu")
    missing = [key for key in _KEYS if not isinstance(found, dict) or key not in found]
    if missing:
        raise FileError(
            f"{place} is not a checkpoint of a training: it lacks {', '.join(missing)}. "
            "Give last.ckpt or best.ckpt of a run's folder checkpoints."
        )
    return dict(found)


def _read(place: Path, map_location: Any) -> Any:
    existing(place, "checkpoint")
    broken = (OSError, RuntimeError, EOFError, ValueError, LookupError)
    try:
        return torch.load(place, map_location=map_location, weights_only=True)
    except (*broken, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        # Torch's own words advise to execute what is in the file.
        reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        raise FileError(
            f"{place} is not a whole checkpoint of tensors and plain data "
            f"({place.stat().st_size} bytes){reason}. Give last.ckpt or best.ckpt of a run's "
            "folder checkpoints."
        ) from error


def load_weights(path: str | Path, module: nn.Module) -> None:
    """Read the weights of a checkpoint into the module that it was made of.

    Raises
    ------
    FileError
        If the file is missing, truncated, no checkpoint, or holds more than plain data.
    MismatchError
        If it is of another model; names the first weight that differs.
    """
    found, own = read_checkpoint(path)["state_dict"], module.state_dict()
    for key in sorted({*found, *own}):
        shapes = [list(side[key].shape) if key in side else "missing" for side in (found, own)]
        if shapes[0] != shapes[1]:
            raise MismatchError(
                f"{path} is a checkpoint of another model: {key} is {shapes[0]} in it and "
                f"{shapes[1]} in this {type(module).__name__}. "
                "Use the recipe and the data that the checkpoint was made with."
            )
    module.load_state_dict(found)


class RunCheckpoints(ModelCheckpoint):
    """Keep ``best.ckpt`` and ``last.ckpt``, also in a run that was moved since it was killed."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over which checkpoint was best, wherever it lay then."""
        moved = {k: self._here(v) for k, v in state_dict.items() if k.endswith("_path")}
        best = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        places = {"dirpath": self.dirpath, "best_k_models": best}
        super().load_state_dict({**state_dict, **moved, **places})

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else path


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
        RunCheckpoints(
            dirpath=str(directory),
            filename="best",
            monitor="validation_loss",
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        ),
        # Not `save_last`, which writes only when the monitored loss has improved. Comes after the
        # best, so that its state holds this epoch's best score.
        RunCheckpoints(
            dirpath=str(directory),
            filename="last",
            monitor=None,
            every_n_epochs=1,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        ),
    ]
    if optimisation.patience:
        stop = EarlyStopping("validation_loss", patience=optimisation.patience)
        callbacks.append(stop)
    return callbacks
