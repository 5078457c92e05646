"""A layer of softmax attention trained from scratch on in-context linear regression."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from neuroattn.attention import attend


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, for how long.

    Attributes
    ----------
    heads : int
        Number of heads.
    length, dim, noise
        Of the task.
    tasks : int
        Number of independent regressions; each has its own coordinates and its own label.
    steps, batch, rate
        Of Adam, whose rate falls to 0 as a cosine.
    """

    heads: int
    length: int = 40
    dim: int = 5
    noise: float = 0.1
    tasks: int = 1
    steps: int = 2500
    batch: int = 256
    rate: float = 0.01


class Contexts(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches of (batch, length + 1, dim + tasks) tokens and (batch, tasks) labels.

    Parameters
    ----------
    recipe : Recipe
        The task.
    generator : torch.Generator
        Of the draws.
    """

    def __init__(self, recipe: Recipe, generator: torch.Generator) -> None:
        self.recipe, self.generator = recipe, generator

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw batches, each anew."""
        while True:
            yield self.batch(self.recipe.batch)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Draw one batch; the last token is the query, its labels are hidden."""
        r = self.recipe
        x = torch.randn(size, r.length + 1, r.dim, generator=self.generator)
        part = r.dim // r.tasks
        slope = torch.zeros(size, r.dim, r.tasks)
        for task in range(r.tasks):
            rows = slice(task * part, (task + 1) * part)
            drawn = torch.randn(size, part, generator=self.generator) / math.sqrt(part)
            slope[:, rows, task] = drawn
        error = torch.randn(size, r.length + 1, r.tasks, generator=self.generator)
        y = x @ slope + error * math.sqrt(r.noise)
        labels = y[:, -1].clone()
        y[:, -1] = 0.0
        return torch.cat([x, y], -1), labels


class SoftmaxLayer(nn.Module):
    """One layer of softmax heads that reads the query's labels off the context.

    Parameters
    ----------
    recipe : Recipe
        The task and the training.
    generator : torch.Generator
        Of the weights.
    """

    def __init__(self, recipe: Recipe, generator: torch.Generator) -> None:
        super().__init__()
        self.recipe = recipe
        width = recipe.dim + recipe.tasks

        def matrix(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) / math.sqrt(width) / 2)

        self.query = matrix(recipe.heads, width, width)
        self.key = matrix(recipe.heads, width, width)
        self.value = matrix(recipe.heads, width, width)
        self.output = matrix(recipe.heads, width, recipe.tasks)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (batch, tasks) predictions for (batch, length + 1, width) tokens."""
        context, asked = tokens[:, None, :-1], tokens[:, None, -1:]
        read = attend("softmax", asked @ self.query, context @ self.key, context @ self.value)
        predicted: Tensor = (read @ self.output)[:, :, 0].sum(1)
        return predicted

    def circuits(self) -> tuple[Tensor, Tensor]:
        """Return what the heads compare by and what they write.

        Returns
        -------
        kq : Tensor
            (heads, width, width): the logit of a token k for a query q is qᵀ KQ k.
        ov : Tensor
            (heads, width, tasks).
        """
        with torch.no_grad():
            kq = self.query @ self.key.transpose(-1, -2) / math.sqrt(self.query.shape[-1])
            return kq.double(), (self.value @ self.output).double()


def trained(recipe: Recipe, seed: int) -> SoftmaxLayer:
    """Train a layer, on one CPU thread, writing no file.

    Parameters
    ----------
    recipe : Recipe
        The task and the training.
    seed : int
        Of the weights and the contexts.

    Returns
    -------
    SoftmaxLayer
        The trained layer.
    """
    # Heavy, and only the slow claims need it.
    import pytorch_lightning as lightning

    class Fit(lightning.LightningModule):
        """Squared error, and Adam with a rate that falls as a cosine."""

        def __init__(self, layer: SoftmaxLayer) -> None:
            super().__init__()
            self.layer = layer

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            tokens, labels = batch
            loss: Tensor = (self.layer(tokens) - labels).square().sum(-1).mean()
            return loss

        def configure_optimizers(self) -> Any:
            adam = torch.optim.Adam(self.parameters(), lr=recipe.rate)
            fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, recipe.steps)
            return {"optimizer": adam, "lr_scheduler": {"scheduler": fall, "interval": "step"}}

    generator = torch.Generator().manual_seed(seed)
    layer = SoftmaxLayer(recipe, generator)
    contexts = DataLoader(Contexts(recipe, generator), batch_size=None, generator=generator)
    said = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            trainer = lightning.Trainer(
                accelerator="cpu",
                devices=1,
                max_steps=recipe.steps,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(Fit(layer), contexts)
    finally:
        said.setLevel(level)
    return layer.eval()
