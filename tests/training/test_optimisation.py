"""Optimiser groups and schedules against their formulae."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from neuroattn.errors import InputError
from neuroattn.training.optimisation import Optimisation


def rates(steps: int, **options) -> list[float]:
    """The factor of the rate at each step."""
    optimisation = Optimisation(learning_rate=1.0, **options)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = optimisation.scheduler(optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_falls_from_the_peak_to_zero_after_the_warm_up():
    # Catches a schedule that ends early, restarts, or counts epochs instead of steps.
    found = rates(100, schedule="cosine", warmup=0.1, epochs=10)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    expected = [0.5 * (1 + math.cos(math.pi * step / 90)) for step in range(90)]
    assert found[10:] == pytest.approx(expected)
    assert found[-1] < 0.001


def test_steps_multiply_the_rate_every_few_epochs():
    # Catches a decay that is stepped a batch and not an epoch.
    found = rates(60, schedule="step", warmup=0.0, epochs=12, step_epochs=4, gamma=0.5)
    assert found == pytest.approx([1.0] * 20 + [0.5] * 20 + [0.25] * 20)


def test_constant_stays_after_the_warm_up():
    # Catches a warm-up that starts at a rate of zero: the first batch would be lost.
    found = rates(20, schedule="constant", warmup=0.2)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0] + [1.0] * 16)


def test_only_weight_matrices_decay():
    # Catches biases, norms and queries that are pulled to zero.
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2), nn.Linear(2, 2))
    network.register_parameter("query", nn.Parameter(torch.zeros(5, 3)))
    network[2].rate_factor = 10.0
    optimizer = Optimisation(learning_rate=0.01, weight_decay=0.3).optimizer(network)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    expected = {
        network.query: (0.01, 0.0),
        network[0].weight: (0.01, 0.3),
        network[0].bias: (0.01, 0.0),
        network[1].weight: (0.01, 0.0),
        network[1].bias: (0.01, 0.0),
        network[2].weight: (0.1, 0.3),
        network[2].bias: (0.1, 0.0),
        network[3].weight: (0.01, 0.3),
        network[3].bias: (0.01, 0.0),
    }
    assert found == {id(parameter): pytest.approx(pair) for parameter, pair in expected.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "bf16"}, "precision='bf16' is unknown.*bf16-mixed"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"step_epochs": 0}, "step_epochs=0"),
        ({"patience": -1}, "patience=-1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"gradient_clip": float("inf")}, "gradient_clip=inf"),
        ({"gamma": -2.0}, "gamma=-2.0"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"validation_fraction": -0.1}, "validation_fraction=-0.1"),
    ],
)
def test_numbers_outside_their_range_are_refused(options, message):
    # Catches a training that fails, or worse runs, with a meaningless knob.
    with pytest.raises(InputError, match=message):
        Optimisation(**options)
