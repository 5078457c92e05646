"""Sparse distributed memory against loops over neurons, and its exact integers."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.attention.memory.intersection import circle_table
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.attention.memory.test_intersection import GOLDEN
from tests.tolerances import TOLERANCE

FORMS = ("parallel", "chunked", "recurrent")


def placed(sizes, generator):
    """Return one set of neurons a head."""
    shape = (sizes["heads"], 40, sizes["dim"])
    bits = torch.randint(0, 2, shape, generator=generator)
    return {"addresses": bits, "radius": 2, "normalize": False, "chunk_size": 3}


EXAMPLES = {
    "sdm": [
        Example(label="cube", dim=6, differentiable=False),
        Example(
            lambda *_: {"radius": 2, "normalize": False, "chunk_size": 5},
            dim=6,
            lengths=(4, 5, 6, 11),
            differentiable=False,
            label="fractions",
        ),
        Example(
            lambda *_: {"radius": 3, "neurons": 50, "seed": 3},
            dim=9,
            lengths=(1, 65),
            differentiable=False,
            label="drawn",
        ),
        Example(placed, dim=6, lengths=(2, 9), differentiable=False, label="placed"),
    ]
}


def tensors(queries, keys, dim, value_dim=3, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(queries, dim), (keys, dim), (keys, value_dim)]
    return [
        torch.randn(batch, heads, *size, generator=generator, dtype=torch.float64) for size in sizes
    ]


def bits(numbers):
    return [int(number > 0) for number in numbers]


def by_neurons(query, key, value, neurons, radius, causal=False, normalize=True):
    """Write and read one neuron after the other."""

    def near(one, other):
        return sum(a != b for a, b in zip(one, other, strict=True)) <= radius

    read = torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    shift = key.shape[2] - query.shape[2]
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for i in range(query.shape[2]):
                seen = range(min(i + shift + 1, key.shape[2]) if causal else key.shape[2])
                total, count = torch.zeros(value.shape[-1], dtype=torch.float64), 0
                for neuron in neurons:
                    if not near(bits(query[b, h, i]), neuron):
                        continue
                    for j in seen:
                        if near(bits(key[b, h, j]), neuron):
                            total, count = total + value[b, h, j], count + 1
                by = count if normalize else len(neurons)
                read[b, h, i] = total / by if by else total
    return read


def corners(dim):
    return [[number >> place & 1 for place in range(dim)] for number in range(2**dim)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("radius", [0, 2, 5])
def test_write_then_read_equals_the_kernel_of_exact_integers(form, causal, normalize, radius):
    # Catches < in place of <= at the radius, a causal read before the write, a wrong divisor.
    inputs = tensors(4, 6, 5)
    wanted = by_neurons(*inputs, corners(5), radius, causal, normalize)
    found = attend(
        "sdm", *inputs, causal=causal, form=form, radius=radius, normalize=normalize, chunk_size=4
    )
    torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize("form", FORMS)
def test_given_neurons_are_the_only_ones(form):
    # Catches a kernel of the whole cube for a finite set of neurons.
    inputs = tensors(3, 5, 7, seed=2)
    neurons = torch.randint(0, 2, (30, 7), generator=torch.Generator().manual_seed(4))
    wanted = by_neurons(*inputs, neurons.tolist(), 3, causal=True)
    for given in (neurons, 2 * neurons - 1, neurons.double() - 0.5):
        found = attend("sdm", *inputs, causal=True, form=form, radius=3, addresses=given)
        torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("finite", [False, True])
def test_it_is_linear_attention_with_indicator_features(normalize, finite):
    # Catches weights of the distance alone, which neurons at random do not give.
    query, key, value = tensors(5, 7, 16, seed=1)
    value = (10 * value).round().abs()  # sums of integers are exact in any order
    neurons = torch.tensor(corners(16), dtype=torch.float64)
    if finite:
        neurons = neurons[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))[:999]]

    def features(address):
        return (((address > 0).double() != neurons).sum(-1) <= 5).double()

    asked, told = (torch.stack([features(each) for each in x[0, 0]]) for x in (query, key))
    wanted = asked @ (told.T @ value[0, 0])
    wanted = wanted / (asked @ told.sum(0))[:, None] if normalize else wanted / len(neurons)
    given = {"radius": 5, "normalize": normalize, "addresses": neurons if finite else None}
    for form in ("parallel", "chunked"):
        found = attend("sdm", query, key, value, form=form, **given)
        torch.testing.assert_close(found[0, 0], wanted, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("dim", "radius"), GOLDEN)
def test_weights_are_the_golden_integers(dim, radius):
    # Catches float binomials, and a distance that counts agreeing bits.
    distances = sorted(GOLDEN[dim, radius])
    query = torch.ones(1, 1, 1, dim, dtype=torch.float64)
    key = torch.ones(1, 1, len(distances), dim, dtype=torch.float64)
    for row, distance in enumerate(distances):
        key[..., row, :distance] = -1 if row % 2 else 0
    found = weights("sdm", query, key, radius=radius, normalize=False)[0, 0, 0]
    assert [int(share * 2**dim) for share in found.tolist()] == [
        GOLDEN[dim, radius][distance] for distance in distances
    ]
    counts = torch.tensor([GOLDEN[dim, radius][each] for each in distances]).double()
    normal = weights("sdm", query, key, radius=radius)[0, 0, 0]
    torch.testing.assert_close(normal, counts / counts.sum(), rtol=1e-14, atol=0)


def test_a_thousand_bits_give_finite_weights():
    # Catches 2^1000 as a float32, and a table that overflows.
    query = torch.ones(1, 1, 1, 1000)
    key = query.repeat(1, 1, 2, 1)
    key[..., 1, :200] = -1
    found = weights("sdm", query, key, radius=451)[0, 0, 0]
    torch.testing.assert_close(found[1] / found[0], torch.tensor(103.460716 / 1071.850049))
    alone = weights("sdm", query, key[:, :, 1:], radius=101)
    assert alone.item() == 1


def test_finite_neurons_scatter_as_predicted():
    # Catches p of one ball, .105, in place of the overlap's p2, .0585.
    dim, radius, neurons, distance, draws = 16, 5, 4000, 2, 400
    query = torch.ones(1, 1, 1, dim)
    key = query.clone()
    key[..., :distance] = -1
    shares = torch.stack(
        [
            weights(
                "sdm", query, key, radius=radius, neurons=neurons, seed=seed, normalize=False
            ).flatten()[0]
            for seed in range(draws)
        ]
    ).double()
    overlap = circle_table(dim, radius)[distance] / 2**dim
    predicted = math.sqrt((1 - overlap) / (neurons * overlap))
    assert predicted == pytest.approx(0.0630, abs=5e-5)
    assert shares.std().item() / overlap == pytest.approx(predicted, rel=0.12)
    error = (shares.mean().item() - overlap) / (predicted * overlap / math.sqrt(draws))
    assert abs(error) < 4


def test_the_kernel_is_positive_semi_definite():
    # Catches a table that is shifted, which loses the diagonal's dominance.
    points = torch.tensor(corners(7), dtype=torch.float64)[None, None]
    for radius in range(8):
        gram = weights("sdm", points, points, radius=radius, normalize=False)[0, 0]
        assert torch.linalg.eigvalsh(gram).min() > -1e-12


def test_a_bit_is_set_above_zero_and_the_default_radius_is_a_quarter():
    # Catches zero taken for a set bit, and a third or a rounded quarter.
    key = torch.tensor([[0.0, 1, 0, 2, 1, -3, 0, 0]]).double()[None, None]
    query = torch.tensor([[-1.0, 1, -2, 5, 0.1, 0, -9, 0]]).double()[None, None]
    assert weights("sdm", query, key, radius=0, normalize=False).item() == 2**-8
    query[..., :4] = -query[..., :4]
    query[..., 0] = 0
    # Three bits differ: two balls of radius 2 share I(3) = 0 + ... corners.
    assert weights("sdm", query, key, normalize=False).item() == circle_table(8, 2)[3] / 2**8
    assert circle_table(8, 2)[3] > 0
    wide = torch.ones(1, 1, 1, 15).double()
    assert weights("sdm", wide, wide, normalize=False).item() == circle_table(15, 3)[0] / 2**15


def test_only_values_have_gradients():
    # Catches a straight-through pass that nobody asked for.
    inputs = [each.requires_grad_() for each in tensors(4, 4, 6)]
    attend("sdm", *inputs, causal=True, radius=2).sum().backward()
    assert inputs[0].grad is None
    assert inputs[1].grad is None
    assert inputs[2].grad.abs().sum() > 0


def test_a_block_learns_its_values_and_output():
    # Catches a block that passes the mechanism what it does not take.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = MultiheadAttention(32, 2, mechanism="sdm", parameters={"radius": 6})
        tokens = torch.randn(3, 5, 32)
    block(tokens, block.project(tokens)).square().sum().backward()
    assert block.value.weight.grad.abs().sum() > 0
    assert block.query.weight.grad is None


def test_the_whole_cube_is_not_enumerated_beyond_sixteen_bits():
    # Catches an attempt at 2^64 neurons.
    inputs = tensors(2, 2, 17)
    assert attend("sdm", *inputs, explain=True)[1].form == "parallel"
    with pytest.raises(InputError, match=r"2\*\*17 neurons.*give neurons"):
        attend("sdm", *inputs, form="chunked")
    with pytest.raises(InputError, match="neurons=5 and addresses of 4 neurons"):
        attend("sdm", *inputs, neurons=5, addresses=torch.zeros(4, 17))
