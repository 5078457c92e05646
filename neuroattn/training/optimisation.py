"""How a network is optimised: AdamW, learning-rate schedule, clipping, early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from neuroattn.errors import InputError
from neuroattn.names import check_name

SCHEDULES: tuple[str, ...] = ("cosine", "step", "constant")
PRECISIONS: tuple[str, ...] = (
    "32-true",
    "16-mixed",
    "bf16-mixed",
    "64-true",
    "16-true",
    "bf16-true",
)


@dataclass(frozen=True)
class Optimisation:
    """The knobs of training; plain numbers, so that they travel in YAML and JSON.

    Parameters
    ----------
    epochs : int
        Largest number of passes over the training images.
    batch_size : int
        Images a step, over all processes.
    learning_rate : float
        Peak rate of AdamW.
    weight_decay : float
        Decoupled decay of weight matrices; never of biases, norms, queries or spatial maps.
    schedule : {"cosine", "step", "constant"}
        ``cosine`` falls to zero over all steps; ``step`` multiplies by ``gamma`` every
        ``step_epochs`` epochs.
    warmup : float
        Fraction of all steps over which the rate rises linearly from zero, 0..1.
    step_epochs, gamma : int, float
        For ``schedule="step"``.
    gradient_clip : float
        Largest norm of the gradient; 0 switches clipping off.
    patience : int
        Epochs without a lower validation loss before training stops; 0 switches this off.
    validation_fraction : float
        Share of the training images held out when no validation set is given, 0..1.
    precision : str
        Lightning's name: ``"32-true"``, ``"bf16-mixed"``, ``"16-mixed"`` …

    Raises
    ------
    InputError
        If a number is outside its range.
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    warmup: float = 0.1
    step_epochs: int = 4
    gamma: float = 0.5
    gradient_clip: float = 1.0
    patience: int = 0
    validation_fraction: float = 0.1
    precision: str = "32-true"

    def __post_init__(self) -> None:
        check_name("schedule", self.schedule, SCHEDULES)
        check_name("precision", self.precision, PRECISIONS)
        least = {"epochs": 1, "batch_size": 1, "step_epochs": 1, "patience": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"{name}={getattr(self, name)} must be at least {bound}.")
        for name in ("learning_rate", "weight_decay", "gradient_clip", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name}={value} must be finite and not negative.")
        for name in ("warmup", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must lie within 0..1, 1 excluded.")

    def optimizer(self, network: nn.Module) -> torch.optim.AdamW:
        """Return AdamW over the network's parameters, grouped by decay and by rate factor.

        A module with an attribute ``rate_factor`` has its own parameters learn that many times
        faster. Matrices named ``weight`` decay, and nothing else.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for module in network.modules():
            factor = float(getattr(module, "rate_factor", 1.0))
            for name, parameter in module.named_parameters(recurse=False):
                decays = parameter.ndim > 1 and name == "weight"
                key = (factor, self.weight_decay if decays else 0.0)
                groups.setdefault(key, []).append(parameter)
        settings = [
            {"params": params, "lr": self.learning_rate * factor, "weight_decay": decay}
            for (factor, decay), params in groups.items()
        ]
        # Under mixed precision Lightning refuses to clip gradients for a fused optimiser.
        return torch.optim.AdamW(settings, fused=not self.precision.endswith("-mixed"))

    def scheduler(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """Return the schedule, to be stepped after every optimiser step.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            From :meth:`optimizer`.
        steps : int
            Optimiser steps of the whole training.
        """
        warm = int(self.warmup * steps)
        per_epoch = max(1, steps // self.epochs)

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            if self.schedule == "cosine":
                return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
            if self.schedule == "step":
                return self.gamma ** (step // (per_epoch * self.step_epochs))
            return 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
