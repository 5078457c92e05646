"""Linear attention against loops, softmax, and the theory of associative memories."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked", "recurrent"]
SHORT = (1, 15, 16, 17, 65)
EXAMPLES = {
    "linear": [
        Example(label="default"),
        Example(
            lambda s, g: {"feature_map": "identity", "normalize": False, "chunk_size": 16},
            lengths=SHORT,
            label="identity",
        ),
        Example(lambda s, g: {"feature_map": "identity"}, lengths=(2, 9), label="signed"),
        Example(lambda s, g: {"center": True, "chunk_size": 16}, lengths=SHORT, label="center"),
        Example(
            lambda s, g: {"center": True, "normalize": False, "feature_map": "sigmoid"},
            lengths=(2, 65),
            label="sigmoid",
        ),
        Example(lambda s, g: {"feature_map": "relu"}, lengths=(2, 65), label="relu"),
        Example(lambda s, g: {"feature_map": "softmax"}, lengths=(2, 65), label="softmax"),
        Example(lambda s, g: {"feature_map": "taylor"}, lengths=(2, 65), label="taylor"),
        Example(
            lambda s, g: {"feature_map": "taylor", "order": 3, "normalize": False},
            dim=2,
            lengths=(2, 65),
            label="cubic",
        ),
    ]
}


def tensors(queries, keys, dim, value_dim=3, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (queries, dim), (keys, dim), (keys, value_dim)
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)
        for shape in shapes
    ]


def product(name, query, key, scale):
    """Return φ(s q) · φ(k) from its definition."""
    pairs = [(scale * float(a), float(b)) for a, b in zip(query, key, strict=True)]
    if name == "taylor":
        x = sum(a * b for a, b in pairs)
        return 1 + x + x * x / 2
    maps = {
        "identity": lambda x: x,
        "relu": lambda x: max(x, 0.0),
        "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
        "elu": lambda x: x + 1 if x > 0 else math.exp(x),
    }
    return sum(maps[name](a) * maps[name](b) for a, b in pairs)


def by_loops(query, key, value, name, scale, causal, mask, normalize, center):
    """Read one query after the other; key by key."""
    queries, keys = query.shape[2], key.shape[2]
    read = torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for i in range(queries):
                last = i + keys - queries if causal else keys - 1
                seen = [j for j in range(last + 1) if mask is None or mask[b, 0, 0, j]]
                weight = {j: product(name, query[b, h, i], key[b, h, j], scale) for j in seen}
                total = (sum(weight.values()) or 1.0) if normalize else 1.0
                mean = sum(weight.values()) / len(seen) if center and seen else 0.0
                for j in seen:
                    read[b, h, i] += (weight[j] - mean) / total * value[b, h, j]
    return read


@pytest.mark.parametrize("name", ["elu", "identity", "relu", "sigmoid", "taylor"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_all_forms_equal_loops_over_keys(name, normalize, center, causal):
    # Catches a scale after the map, a running mean at the time of writing, a wrong alignment.
    query, key, value = tensors(5, 7, 3)
    mask = torch.rand(2, 1, 1, 7, generator=torch.Generator().manual_seed(4)) > 0.3
    for scale in (None, 0.4):
        given = 3**-0.5 if name == "taylor" and scale is None else scale or 1.0
        for hidden in (None, mask):
            wanted = by_loops(query, key, value, name, given, causal, hidden, normalize, center)
            for form in FORMS:
                read = attend(
                    "linear",
                    query,
                    key,
                    value,
                    causal=causal,
                    mask=hidden,
                    scale=scale,
                    form=form,
                    feature_map=name,
                    normalize=normalize,
                    center=center,
                    chunk_size=3,
                )
                torch.testing.assert_close(read, wanted, **EXACT)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["elu", "sigmoid", "softmax", "taylor"])
def test_weights_of_positive_maps_sum_to_one(name, causal):
    # Catches an epsilon that is added to the normaliser: faint keys would lose their weight.
    query, key, _ = tensors(6, 9, 3)
    for faint in (0.0, 30.0 if name in ("elu", "sigmoid") else 0.0):
        matrix = weights("linear", query - faint, key - faint, causal=causal, feature_map=name)
        assert (matrix >= 0).all()
        torch.testing.assert_close(
            matrix.sum(-1), torch.ones(2, 2, 6, dtype=torch.float64), **EXACT
        )


def test_one_gradient_step_from_nothing_is_the_read():
    # Catches a factor of 2, and a memory that is transposed.
    query, key, value = tensors(4, 9, 3)
    start = torch.zeros(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    loss = (value - key @ start).square().sum() / 2
    (slope,) = torch.autograd.grad(loss, start)
    read = attend("linear", query, key, value, feature_map="identity", normalize=False)
    torch.testing.assert_close(read, -query @ slope, **EXACT)


def test_the_normalised_read_is_a_recurrence_that_decays():
    # Catches a normaliser of one step before. For one fixed query, as in the framework of dynamical
    # systems: h_i = η_(i-1)/η_i h_(i-1) + φ(q)·φ(k_i) v_i / η_i.
    query, key, value = tensors(1, 12, 3)
    fixed = query.expand(-1, -1, 12, -1)
    read = attend("linear", fixed, key, value, causal=True)
    scores = attend("linear", fixed, key, torch.ones_like(value), causal=True, normalize=False)[
        ..., :1
    ]
    steps = scores.diff(dim=2, prepend=torch.zeros_like(scores[:, :, :1]))
    state = torch.zeros_like(value[:, :, 0])
    before = torch.zeros_like(scores[:, :, 0])
    for token in range(12):
        total = scores[:, :, token]
        state = before / total * state + steps[:, :, token] / total * value[:, :, token]
        before = total
        torch.testing.assert_close(read[:, :, token], state, **EXACT)


def test_taylor_reads_tend_to_softmax_within_the_bound_of_the_remainder():
    # Catches a missing 1/m!, a wrong multiplicity, and a scale that is not softmax's.
    query, key, value = tensors(6, 9, 4)
    exact = attend("softmax", query, key, value)
    logits = query @ key.transpose(-1, -2) / 2
    radius = float(logits.abs().max())
    errors = []
    for order in (2, 4, 6, 8):
        raw = weights("linear", query, key, feature_map="taylor", order=order, normalize=False)
        bound = math.exp(radius) * radius ** (order + 1) / math.factorial(order + 1)
        assert (raw - logits.exp()).abs().max() <= bound
        read = attend("linear", query, key, value, feature_map="taylor", order=order)
        errors.append(float((read - exact).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2 * errors[0]


def test_an_odd_taylor_order_has_negative_weights():
    # Catches a clamp of the weights, and even orders that are taken for odd ones.
    query, key, _ = tensors(30, 30, 4)
    odd, even = (
        weights("linear", 2 * query, key, feature_map="taylor", order=order, normalize=False)
        for order in (1, 2)
    )
    assert odd.min() < 0 < even.min()


def unit(*shape, seed):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def test_reads_split_into_target_and_crosstalk():
    # Catches keys that are read twice: the error of N random unit keys is (N - 1)/d, .4844.
    key, value = unit(300, 1, 32, 64, seed=0), unit(300, 1, 32, 48, seed=1)
    read = attend("linear", key, key, value, feature_map="identity", normalize=False)
    others = key @ key.transpose(-1, -2) * (1 - torch.eye(32, dtype=torch.float64))
    torch.testing.assert_close(read, value + others @ value, **EXACT)
    error = (read - value).square().sum(-1).mean()
    assert float(error) == pytest.approx(31 / 64, rel=0.05)


def test_a_positive_map_destroys_the_capacity_and_centring_restores_it():
    # Catches a mean that is not subtracted. Features are scaled to E‖φ(k)‖² = 1; the crosstalk of
    # N keys is .469 (N - 1) raw, at any dim. Here d = 256, N = 128.
    dim, number, moment, mean = 256, 128, 1.965987, 1.160521
    generator = torch.Generator().manual_seed(2)
    key = torch.randn(40, 1, number, dim, generator=generator, dtype=torch.float64)
    value = unit(40, 1, number, 64, seed=3)
    raw = attend("linear", key, key, value, normalize=False) / (dim * moment)
    assert float((raw - value).square().sum(-1).mean()) == pytest.approx(59.6, rel=0.02)
    # Keys alone are centred here; the query keeps its mean, and its second moment counts.
    spread = moment - mean**2
    centred = attend("linear", key, key, value, normalize=False, center=True) / (dim * spread)
    wanted = (number - 1) / dim * moment / spread
    error = float((centred - value).square().sum(-1).mean())
    assert error == pytest.approx(wanted, rel=0.05)
    assert error < 1.8 < 59


@pytest.mark.parametrize("form", FORMS)
def test_a_centred_normalised_read_is_less_by_the_mean_value(form):
    # Catches a normaliser of centred features, which is 0.
    query, key, value = tensors(6, 6, 3)
    plain, centred = (
        attend("linear", query, key, value, causal=True, form=form, center=center)
        for center in (False, True)
    )
    count = torch.arange(1, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(centred, plain - value.cumsum(2) / count, **EXACT)


def test_the_normaliser_of_a_signed_map_is_kept_away_from_zero_with_its_sign():
    # Catches an infinity where positive and negative products cancel.
    query, value = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 2, 1)
    for rest in (1e-9, -1e-9, 0.0):
        key = torch.tensor([1.0, -1.0 + rest], dtype=torch.float64)[None, None, :, None]
        read = attend(
            "linear", query.double(), key, value.double() * key.sign(), feature_map="identity"
        )
        assert float(read) == pytest.approx((2 - rest) * (-1e6 if rest < 0 else 1e6))


def test_long_inputs_go_through_blocks_and_short_ones_through_the_matrix():
    # Catches a quadratic form that is taken at any length.
    for keys, form in ((256, "parallel"), (257, "chunked")):
        _, plan = attend("linear", *tensors(3, keys, 2), explain=True)
        assert plan.form == form


def test_the_state_has_a_fixed_size_and_known_content():
    # Catches a state that grows, or sums that are those of the normalised weights.
    query, key, value = tensors(70, 70, 3)
    _, state = attend("linear", query, key, value, causal=True, return_state=True)
    mapped = torch.where(key > 0, key + 1, key.exp())
    torch.testing.assert_close(state["memory"], mapped.transpose(-1, -2) @ value, **EXACT)
    torch.testing.assert_close(state["normalizer"], mapped.sum(2), **EXACT)
    _, state = attend("linear", query, key, value, causal=True, return_state=True, center=True)
    assert set(state) == {"memory", "key_mean", "value_mean", "count"}


def test_a_block_learns_through_it():
    # Catches a step that is detached.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, mechanism="linear", parameters={"feature_map": "taylor"})
    tokens = torch.randn(3, 10, 8, generator=generator)
    wanted = torch.randn(3, 4, 8, generator=generator)
    optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        loss = (block(wanted, block.project(tokens)) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


def test_an_unknown_feature_map_is_answered_with_the_known_ones():
    # Catches a default that is taken for a typo.
    with pytest.raises(InputError, match=r"feature_map='elus'.*did you mean 'elu'"):
        attend("linear", *tensors(2, 2, 2), feature_map="elus")
