"""What is proved of softmax and of hard heads, held to the implementation that is used."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import attend, weights
from tests.tolerances import TOLERANCE

HARD = 1e9  # a scale at which the softmax is an argmax


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def choices(read_key: torch.Tensor, read_query: torch.Tensor, points, query) -> torch.Tensor:
    """Return which of two points each trial's rank-one hard head takes."""
    key = (points @ read_key)[:, None, :, None]
    asked = (query @ read_query)[:, None, None, None]
    value = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None].expand(len(key), 1, 2, 1)
    return attend("softmax", asked, key, value, scale=HARD)[:, 0, 0, 0].sign()


@pytest.mark.parametrize("dim", [2, 5, 16])
def test_two_hard_heads_of_rank_one_agree_as_often_as_their_angles_say(dim):
    # Catches a head that reads one side only. Amsel, Yehudai & Bruna (2024), arXiv 2407.16153.
    trials = 40_000
    points, query = drawn(trials, 2, dim), drawn(trials, dim, seed=1)
    first, second, third, fourth = torch.nn.functional.normalize(drawn(4, dim, seed=2), dim=-1)
    same = choices(first, second, points, query) == choices(third, fourth, points, query)
    angles = (torch.asin(first @ third) * torch.asin(second @ fourth)).item()
    expected = 0.5 + 2 / math.pi**2 * angles
    assert abs(same.double().mean().item() - expected) < 4 * math.sqrt(0.25 / trials)


@pytest.mark.parametrize(("angle", "expected"), [(0.3, 0.7409), (1.0, 0.6487), (2.0, 0.3820)])
def test_a_head_of_rank_one_finds_the_nearest_of_two_points_as_its_angle_says(angle, expected):
    # Catches keys and queries exchanged, for which obtuse angles would do better than chance.
    trials = 40_000
    points = torch.nn.functional.normalize(drawn(trials, 2, 2, seed=3), dim=-1)
    query = drawn(trials, 2, seed=4)
    head = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    nearest = ((points[:, 0] - points[:, 1]) * query).sum(-1).sign()
    share = (choices(head[0], head[1], points, query) == nearest).double().mean().item()
    assert abs(share - expected) < 4 * math.sqrt(0.25 / trials)


@pytest.mark.parametrize("points", [2, 16, 257])
def test_one_hard_head_of_full_rank_finds_the_nearest_of_any_number(points):
    # Catches a scale that saturates, or a mixture where one point is due.
    stored = torch.nn.functional.normalize(drawn(5, 1, points, 16), dim=-1)
    query = drawn(5, 1, 9, 16, seed=1)
    nearest = torch.cdist(query, stored).argmin(-1)
    wanted = torch.take_along_dim(stored, nearest[..., None], dim=2)
    found = attend("softmax", query, stored, stored, scale=HARD)
    torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_bounded_logits_leave_every_weight_near_its_equal_share(temperature):
    # Catches a temperature that multiplies. Mudarisov et al. (2025), arXiv 2508.17821.
    query = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    entropies = []
    for count in (10, 1000):
        key = (
            2 * torch.rand(1, 1, count, 1, generator=torch.Generator().manual_seed(0)) - 1
        ).double()
        share = weights("softmax", query, key, scale=1 / temperature) * count
        assert share.min() >= math.exp(-2 / temperature)
        assert share.max() <= math.exp(2 / temperature)
        taken = share / count
        entropies.append((-(taken * taken.log()).sum() / math.log(count)).item())
    assert entropies[0] < entropies[1] < 1
    loud = weights("softmax", query, 8 * key, scale=1 / temperature) * count
    assert loud.min() < math.exp(-2 / temperature)  # the bound is of these logits, not of any


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
def test_the_jacobian_has_norm_one_over_two_temperatures_at_most(temperature):
    # Catches the entrywise bound 1/4T taken for the spectral one, and the bound of sqrt 2.
    empty = torch.zeros(1, 1, 1, 1, dtype=torch.float64)

    def jacobian(logits: torch.Tensor) -> torch.Tensor:
        key = torch.zeros(1, 1, len(logits), 1, dtype=torch.float64)

        def taken(each: torch.Tensor) -> torch.Tensor:
            return weights("softmax", empty, key, bias=each[None, None, None] / temperature)[
                0, 0, 0
            ]

        return torch.autograd.functional.jacobian(taken, logits)

    tie = jacobian(torch.zeros(2, dtype=torch.float64))
    assert math.isclose(torch.linalg.matrix_norm(tie, 2), 1 / (2 * temperature), rel_tol=1e-12)
    assert math.isclose(tie.abs().max(), 1 / (4 * temperature), rel_tol=1e-12)
    for seed in range(20):
        norm = torch.linalg.matrix_norm(jacobian(temperature * drawn(5, seed=seed)), 2)
        assert norm <= 1 / (2 * temperature)
