"""The regression task, and what reads it: draws, and predictors through the registry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroattn.theory.lab import Lab

PAPER = (
    "He, Pan, Chen and Yang (2025), In-context linear regression demystified: training dynamics "
    "and mechanistic interpretability of multi-head softmax attention"
)
#: Hypotheses that all claims about the isotropic task share.
TASK: tuple[str, ...] = (
    "Covariates are standard normal, independent, in the context and in the query.",
    "Labels are β · x + ε with β ~ N(0, I/d) drawn for each context and ε ~ N(0, σ²).",
    "The queried label has noise of its own, so that σ² is part of the risk, once.",
)


@dataclass(frozen=True)
class Drawn:
    """Contexts and what follows them.

    Attributes
    ----------
    query, key : Tensor
        (draws, 1, 1, dim) and (draws, 1, length, dim): covariates.
    value : Tensor
        (draws, 1, length, 1): labels in the context.
    label : Tensor
        (draws,): label of the query, with noise.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    label: Tensor


def draw(
    lab: Lab,
    draws: int,
    length: int,
    dim: int,
    noise: float = 0.1,
    root: Tensor | None = None,
) -> Drawn:
    """Draw contexts; covariates are multiplied by ``root``, (dim, dim), where it is given."""
    tags = (draws, length, dim, noise)
    covariates = lab.normal((draws, length + 1, dim), "covariates", *tags)
    if root is not None:
        covariates = lab.rounded(covariates @ root)
    slope = lab.normal((draws, dim, 1), "slope", *tags) / math.sqrt(dim)
    error = lab.normal((draws, length + 1, 1), "noise", *tags) * math.sqrt(noise)
    labels = lab.rounded(covariates @ slope + error)
    return Drawn(
        query=covariates[:, None, -1:],
        key=covariates[:, None, :-1],
        value=labels[:, None, :-1],
        label=labels[:, -1, 0],
    )


def descend(
    lab: Lab,
    task: Drawn,
    step: float,
    rule: str = "gd",
    preconditioner: Tensor | None = None,
) -> Tensor:
    """Predict (draws,) by one step of gradient descent, as linear attention does it."""
    length = task.key.shape[-2]
    query = task.query if preconditioner is None else task.query @ preconditioner.T
    read = lab.attend(
        "linear",
        query,
        task.key,
        task.value,
        scale=step / length,
        feature_map="identity",
        normalize=False,
        center=rule == "debiased",
    )
    return read[:, 0, 0, 0]


def heads(lab: Lab, task: Drawn, omega: Sequence[float], mu: Sequence[float]) -> Tensor:
    """Predict (draws,) by a layer of softmax heads."""
    strengths = torch.tensor(omega, dtype=torch.float64)[None, :, None, None]
    many = [-1, len(omega), -1, -1]
    key, value = task.key.expand(many).contiguous(), task.value.expand(many).contiguous()
    read = lab.attend("softmax", task.query * strengths, key, value, scale=1.0)
    return (read[..., 0, 0] * torch.tensor(mu, dtype=torch.float64)).sum(-1)


def squared_error(task: Drawn, prediction: Tensor) -> Tensor:
    """Return (draws,) squared errors."""
    return (prediction - task.label).square()
