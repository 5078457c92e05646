"""Parallax against loops, softmax and local linear attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked"]


def shared(sizes, generator):
    """Return one direction for all images and queries."""
    return {
        "direction": torch.randn(
            1, sizes["heads"], 1, sizes["dim"], generator=generator, dtype=torch.float64
        ),
        "chunk_size": 3,
    }


EXAMPLES = {"parallax": [Example(label="default"), Example(shared, label="one direction")]}


def tensors(queries, keys, dim, value_dim=3, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, dim), (keys, dim), (keys, value_dim), (queries, dim)]
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)
        for shape in shapes
    ]


def moments(query, key, scale):
    """Return one query's softmax weights, mean key and covariance of the keys."""
    power = np.exp(scale * (key @ query - (key @ query).max()))
    share = power / power.sum()
    mean = share @ key
    covariance = sum(p * np.outer(k - mean, k - mean) for p, k in zip(share, key, strict=True))
    return share, mean, covariance


@pytest.mark.parametrize("form", FORMS)
def test_no_direction_is_softmax(form):
    # Catches a correction that stays when there is nothing to correct along.
    query, key, value, _ = tensors(5, 9, 4)
    none = torch.zeros_like(query)
    for causal in (False, True):
        read = attend("parallax", query, key, value, direction=none, causal=causal, form=form)
        torch.testing.assert_close(
            read, attend("softmax", query, key, value, causal=causal), **EXACT
        )


@pytest.mark.parametrize("form", FORMS)
def test_the_solved_direction_is_local_linear(form):
    # Catches the opposite sign of r, which corrects away from the query.
    query, key, value, solved = tensors(5, 12, 4)
    for b, h, q in np.ndindex(2, 2, 5):
        own = query[b, h, q].numpy()
        _, mean, covariance = moments(own, key[b, h].numpy(), 0.3)
        solved[b, h, q] = torch.from_numpy(np.linalg.solve(covariance, mean - own))
    read = attend("parallax", query, key, value, direction=solved, scale=0.3, form=form)
    local = attend("local_linear", query, key, value, scale=0.3, ridge=0)
    torch.testing.assert_close(read, local, rtol=1e-9, atol=1e-9)


def test_the_slope_around_the_query_is_the_direction_up_to_sherman_morrison():
    # Catches covariances around the query taken for those around the mean key: with the paper's
    # slope ρ of local linear attention, r = (1 + δ·r) ρ, also at a ridge.
    query, key, value, solved = tensors(5, 12, 4)
    for b, h, q in np.ndindex(2, 2, 5):
        own = query[b, h, q].numpy()
        _, mean, covariance = moments(own, key[b, h].numpy(), 0.3)
        away = mean - own
        around_query = covariance + np.outer(away, away) + 0.2 * np.eye(4)
        slope = np.linalg.solve(around_query, away)
        # δ·r = δ·ρ / (1 - δ·ρ).
        solved[b, h, q] = torch.from_numpy(slope / (1 - away @ slope))
    read = attend("parallax", query, key, value, direction=solved, scale=0.3)
    local = attend("local_linear", query, key, value, scale=0.3, ridge=0.2)
    torch.testing.assert_close(read, local, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_equals_the_two_sums_and_two_reads_of_the_paper(form):
    # Catches d₂ that is not divided by d₁, a scale on k · r, and a mask that hides from p alone.
    query, key, value, direction = tensors(6, 9, 4)
    mask = torch.rand(2, 1, 6, 9, generator=torch.Generator().manual_seed(3)) > 0.4
    mask[0, 0, 4] = False
    read = attend(
        "parallax", query, key, value, direction=direction, mask=mask, form=form, chunk_size=4
    )
    for b, h, q in np.ndindex(2, 2, 6):
        seen = mask[b, 0, q]
        if not seen.any():
            assert (read[b, h, q] == 0).all()
            continue
        k, v = key[b, h, seen].numpy(), value[b, h, seen].numpy()
        power = np.exp(k @ query[b, h, q].numpy() / 2)
        along = k @ direction[b, h, q].numpy()
        first, second = power.sum(), (power * along).sum()
        plain, tilted = power @ v, (power * along) @ v
        wanted = plain / first * (1 + second / first) - tilted / first
        np.testing.assert_allclose(read[b, h, q].numpy(), wanted, rtol=1e-10, atol=1e-12)


def test_weights_sum_to_one_and_may_be_negative():
    # Catches a correction that changes the sum of weights.
    query, key, _, direction = tensors(6, 9, 4)
    matrix = weights("parallax", query, key, direction=direction)
    torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]), **EXACT)
    assert (matrix < 0).any()


def test_the_blocks_bear_logits_of_a_thousand():
    # Catches a running sum that is not rescaled when a higher logit comes.
    query, key, value, direction = tensors(6, 9, 4)
    ramp = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    ways = {"direction": direction, "scale": 1000.0, "chunk_size": 2}
    for sign in (1, -1):
        one, other = (
            attend("parallax", query, key + sign * ramp, value, form=form, **ways) for form in FORMS
        )
        assert torch.isfinite(one).all()
        torch.testing.assert_close(other, one, **EXACT)


def test_a_block_learns_the_direction_from_softmax_on():
    # Catches a map that starts elsewhere than softmax, or that no gradient reaches.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, mechanism="parallax")
    softmax = MultiheadAttention(8, 2, mechanism="softmax")
    softmax.load_state_dict(
        {k: v for k, v in block.state_dict().items() if not k.startswith("learned")}
    )
    queries, tokens = (torch.randn(3, n, 8, generator=generator) for n in (4, 10))
    wanted = torch.randn(3, 4, 8, generator=generator)
    first = block(queries, block.project(tokens))
    torch.testing.assert_close(first, softmax(queries, softmax.project(tokens)))
    optimiser = torch.optim.SGD(block.learned.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        loss = (block(queries, block.project(tokens)) - wanted).square().mean()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        for parameter in block.learned.parameters():
            assert parameter.grad.abs().max() > 0
        optimiser.step()
    assert losses[-1] < losses[0]
    shared = block(queries[:1], block.project(tokens))
    each = block(queries[:1].expand(3, -1, -1), block.project(tokens))
    torch.testing.assert_close(shared, each)


def test_a_direction_of_another_shape_is_refused():
    # Catches a direction that broadcasts along the wrong axis.
    query, key, value, direction = tensors(6, 9, 4)
    with pytest.raises(InputError, match=r"parallax's direction is a tensor of shape \(2, 2, 6, 3"):
        attend("parallax", query, key, value, direction=direction[..., :3])
    with pytest.raises(InputError, match="parallax' needs direction"):
        attend("parallax", query, key, value)
