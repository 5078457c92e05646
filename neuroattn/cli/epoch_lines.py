"""The progress of a training as lines of text, where no terminal could show a bar."""

from __future__ import annotations

import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar


class EpochLines(ProgressBar):
    """Print one line an epoch: its losses and the time since the training began."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.monotonic()
        self.enabled = True

    def disable(self) -> None:
        """Print nothing (Lightning calls this on all processes but the first)."""
        self.enabled = False

    def enable(self) -> None:
        """Print again."""
        self.enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's losses."""
        if not self.enabled:
            return
        losses = [
            f"{name.replace('_', ' ')} {float(trainer.callback_metrics[name]):.4f}"
            for name in ("train_loss", "validation_loss")
            if name in trainer.callback_metrics
        ]
        passed = time.monotonic() - self.started
        print(
            f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: "
            f"{', '.join(losses)}, {passed:.0f} s"
        )
