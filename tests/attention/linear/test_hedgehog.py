"""Hedgehog against loops, and its distillation against the entropy of softmax attention."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.attention.linear.hedgehog import HedgehogFeatures, distillation_loss
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked", "recurrent"]


def maps(*shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EXAMPLES = {
    "hedgehog": [
        Example(label="default"),
        Example(
            lambda s, g: {
                "feature_weight": maps(2, s["heads"], s["dim"], 3),
                "feature_map": "exp",
                "chunk_size": 16,
            },
            lengths=(1, 15, 16, 17, 65),
            label="exp-two",
        ),
        Example(
            lambda s, g: {"feature_weight": maps(1, s["dim"], s["dim"])},
            lengths=(2, 9),
            label="one-map",
        ),
    ]
}


def tensors(queries, keys, dim=3, value_dim=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (queries, dim), (keys, dim), (keys, value_dim)
    return [torch.randn(2, 2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def mapped(x, weight, kind):
    """Map one vector, number by number."""
    seen = [
        sum(float(x[d]) * float(weight[d, f]) for d in range(len(x)))
        for f in range(weight.shape[1])
    ]
    parts = []
    for sign in (1, -1):
        powers = [math.exp(sign * each) for each in seen]
        parts += [each / (sum(powers) if kind == "softmax" else max(powers)) for each in powers]
    return parts


@pytest.mark.parametrize("kind", ["softmax", "exp"])
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_all_forms_equal_loops_over_keys(kind, two, causal):
    # Catches a map that is transposed, one that is shared by all heads, and halves that are mixed.
    query, key, value = tensors(5, 5)
    weight = maps(2, 2, 3, 4) if two else maps(2, 3, 4)
    both = (weight[0], weight[1]) if two else (weight, weight)
    for form in FORMS:
        read = attend(
            "hedgehog",
            query,
            key,
            value,
            causal=causal,
            scale=0.7,
            form=form,
            feature_weight=weight,
            feature_map=kind,
            chunk_size=2,
        )
        for b, h, i in [(0, 0, 0), (1, 0, 3), (1, 1, 4)]:
            asked = mapped(0.7 * query[b, h, i], both[0][h], kind)
            told = [mapped(key[b, h, j], both[1][h], kind) for j in range(i + 1 if causal else 5)]
            scores = [sum(x * y for x, y in zip(asked, each, strict=True)) for each in told]
            wanted = sum(s / sum(scores) * value[b, h, j] for j, s in enumerate(scores))
            torch.testing.assert_close(read[b, h, i], wanted, **EXACT)


@pytest.mark.parametrize("kind", ["softmax", "exp"])
def test_weights_are_positive_and_rows_sum_to_one(kind):
    # Catches features that underflow to 0: a loud query would be left without any key.
    query, key, _ = tensors(6, 9)
    for loud in (1.0, 1e4):
        matrix = weights(
            "hedgehog", loud * query, loud * key, feature_weight=maps(2, 3, 3), feature_map=kind
        )
        assert (matrix > 0).all()
        torch.testing.assert_close(
            matrix.sum(-1), torch.ones(2, 2, 6, dtype=torch.float64), **EXACT
        )


def test_the_sign_of_the_features_does_not_matter():
    # Catches one half without the other.
    query, key, value = tensors(6, 9)
    weight = maps(2, 3, 3)
    ahead, back = (
        attend("hedgehog", query, key, value, feature_weight=each) for each in (weight, -weight)
    )
    torch.testing.assert_close(ahead, back, **EXACT)


@pytest.mark.parametrize("kind", ["softmax", "exp"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_distillation_loss_is_the_mean_cross_entropy(causal, kind):
    # Catches a feature map that is left out, its arguments exchanged, a mean over pairs, and NaN of
    # 0 · log 0 at hidden ones.
    query, key, _ = tensors(4, 6)
    mask = torch.tensor([False, False, False, True, True, False])[None, None, None]
    weight = maps(2, 3, 3).requires_grad_()
    ways = {"causal": causal, "mask": mask, "feature_map": kind}
    loss = distillation_loss(query, key, weight, scale=0.9, **ways)
    student = weights("hedgehog", query, key, feature_weight=weight, **ways)
    total, rows = 0.0, 0
    for b in range(2):
        for h in range(2):
            for i in range(4):
                kept = [j for j in (3, 4) if not causal or j <= i + 2]
                if not kept:
                    continue
                powers = {j: math.exp(0.9 * float(query[b, h, i] @ key[b, h, j])) for j in kept}
                rows += 1
                for j in kept:
                    share = powers[j] / sum(powers.values())
                    total -= share * math.log(student[b, h, i, j].item())
    assert rows == (12 if causal else 16)
    assert loss.item() == pytest.approx(total / rows, rel=1e-10)
    (slope,) = torch.autograd.grad(loss, weight)
    assert torch.isfinite(slope).all()
    assert (slope != 0).any()


def test_the_teacher_gets_no_gradient_from_the_distillation():
    # Catches queries that move towards what the student can do.
    query, key, _ = tensors(4, 6)
    query.requires_grad_()
    weight = maps(2, 3, 3)
    (slope,) = torch.autograd.grad(distillation_loss(query, key, weight), query)
    teacher = weights("softmax", query, key).detach()
    student = weights("hedgehog", query, key, feature_weight=weight)
    (wanted,) = torch.autograd.grad(-(teacher * student.log()).sum(-1).mean(), query)
    torch.testing.assert_close(slope, wanted, **EXACT)


@pytest.mark.parametrize("causal", [False, True])
def test_the_distillation_loss_falls_and_stays_above_the_entropy_of_softmax(causal):
    # Catches a loss whose descent does not bring the maps together.
    query, key, _ = tensors(20, 20)
    teacher = weights("softmax", query, key, causal=causal)
    entropy = -(teacher * teacher.clamp(min=1e-300).log()).sum(-1).mean()
    learned = HedgehogFeatures(6, 2, 6).double()
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.03)
    losses, gaps = [], []
    for _ in range(60):
        weight = learned.of_tokens(query)["feature_weight"]
        loss = distillation_loss(query, key, weight, causal=causal)
        student = weights("hedgehog", query, key, causal=causal, feature_weight=weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        gaps.append((student - teacher).abs().mean().item())
    assert losses[-1] < losses[30] < losses[0]
    assert gaps[-1] < 0.95 * gaps[0]
    assert min(losses) > entropy


@pytest.mark.parametrize("shared", [True, False])
def test_a_block_learns_its_maps_from_identities(shared):
    # Catches a map that no gradient reaches, and an option that is ignored.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, 6, mechanism="hedgehog", parameters={"shared": shared})
    start = block.learned.feature_weight
    assert start.shape == ((2, 4, 4) if shared else (2, 2, 4, 4))
    assert (start == torch.eye(4)).all()
    tokens = torch.randn(3, 10, 6, generator=generator)
    queries, wanted = torch.randn(2, 3, 4, 8, generator=generator)
    optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
    losses = []
    for _ in range(4):
        loss = (block(queries, block.project(tokens)) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert (start.grad != 0).any(dim=-1).any(dim=-1).all()


def test_maps_of_another_width_are_refused():
    # Catches a map for other heads that is broadcast.
    with pytest.raises(InputError, match=r"feature_weight is a tensor of shape \(3, 3, 3\)"):
        attend("hedgehog", *tensors(2, 2), feature_weight=maps(3, 3, 3))
    with pytest.raises(InputError, match="needs feature_weight"):
        attend("hedgehog", *tensors(2, 2))
