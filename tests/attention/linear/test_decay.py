"""Retention and Lightning Attention-2 against loops, tiles and the published schedules."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.attention.linear.decay import schedule
from neuroattn.errors import InputError
from tests.attention.contract import Example, close
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
NAMES = ["retention", "lightning"]
FORMS = ["recurrent", "parallel", "chunked"]


def a_head(sizes, generator):
    return {"decay": torch.rand(sizes["heads"], generator=generator, dtype=torch.float64)}


SMALL = (1, 2, 7, 8, 9)
#: A head's decay in a schedule depends on its number among the others.
SCHEDULED = {"heads_apart": False}


def by_name(name, **more):
    return lambda *_: {"decay": name, **more}


EXAMPLES = {
    "retention": [
        Example(label="default", **SCHEDULED),
        Example(lambda *_: {"decay": 0.9, "chunk_size": 8}, lengths=SMALL, label="number"),
        Example(a_head, lengths=(2, 65), label="tensor"),
        Example(
            lambda *_: {"normalize": True, "decay": 0.8, "chunk_size": 8},
            lengths=(*SMALL, 65),
            label="normalize",
        ),
    ],
    "lightning": [
        Example(label="default", **SCHEDULED),
        Example(
            by_name("lightning", layer=1, layers=4), lengths=SMALL, label="lightning", **SCHEDULED
        ),
        Example(by_name("retnet"), lengths=(3,), label="retnet", **SCHEDULED),
        Example(
            lambda *given: {**a_head(*given), "chunk_size": 8}, lengths=(*SMALL, 65), label="tensor"
        ),
        Example(lambda *_: {"decay": 0.0}, lengths=(1, 9), label="zero"),
    ],
}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def inputs(queries=6, keys=6, heads=2):
    return [drawn(2, heads, n, d, seed=n + d) for n, d in ((queries, 4), (keys, 4), (keys, 5))]


def by_loops(query, key, value, decays, scale, causal=True, seen=None):
    """Weigh one value after the other."""
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    rows = torch.zeros(batch, heads, queries, value.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                place = i + keys - queries if causal else keys - 1
                for j in range(place + 1):
                    if seen is None or seen[j]:
                        weight = scale * float(query[b, h, i] @ key[b, h, j])
                        rows[b, h, i] += weight * decays[h] ** (place - j) * value[b, h, j]
    return rows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (2, 6), (6, 2)])
def test_every_form_equals_a_loop_over_pairs(name, form, causal, queries, keys):
    # Catches the decay of the token that is just written, and the scale of the other mechanism.
    given = inputs(queries, keys)
    decays, scale = [0.9, 0.3], (0.5 if name == "retention" else 1.0)
    decay = torch.tensor(decays, dtype=torch.float64)
    seen = [True, False, True, True, False, True][:keys]
    for mask, hidden in ((None, None), (torch.tensor(seen), seen)):
        found = attend(name, *given, causal=causal, mask=mask, form=form, decay=decay, chunk_size=4)
        close(found, by_loops(*given, decays, scale, causal, hidden), EXACT, form)
    found = attend(name, *given, causal=causal, form=form, decay=0.7, scale=0.2)
    close(found, by_loops(*given, [0.7, 0.7], 0.2, causal), EXACT, "number")


def test_published_schedules_have_their_published_numbers():
    # Catches heads counted from 1, a base of e for 2, and layers that are counted from the top.
    retnet = [31 / 32, 63 / 64, 127 / 128, 255 / 256]
    assert schedule("retnet", 4).tolist() == pytest.approx(retnet, rel=1e-15)
    eight = [math.exp(-(2.0**-h)) for h in range(1, 9)]
    assert schedule("alibi", 8).tolist() == pytest.approx(eight, rel=1e-14)
    start = 2 ** (-(2 ** -(math.log2(16) - 3)))
    sixteen = [math.exp(-start * start**h) for h in range(16)]
    assert schedule("alibi", 16).tolist() == pytest.approx(sixteen, rel=1e-14)
    # Six heads: the four of four heads, then the first and the third of eight.
    six = [math.exp(-(2.0**-h)) for h in (2, 4, 6, 8, 1, 3)]
    assert schedule("alibi", 6).tolist() == pytest.approx(six, rel=1e-14)
    assert schedule("alibi", 1).tolist() == pytest.approx([math.exp(-(2.0**-8))], rel=1e-14)
    minimax = [math.exp(-(8 / 4) * (1 - 3 / 12) * h) for h in range(4)]
    assert schedule("lightning", 4, 3, 12).tolist() == pytest.approx(minimax, rel=1e-14)
    for name in ("retnet", "alibi", "lightning"):
        for heads in range(1, 20):
            found = schedule(name, heads, 1, 3)
            assert found.shape == (heads,)
            assert ((found > 0) & (found <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_by_name_is_its_numbers_and_the_default_is_the_papers(name):
    # Catches a name that is accepted and not used.
    given = inputs(heads=3)
    own = {"retention": "retnet", "lightning": "alibi"}[name]
    for each, more in (("retnet", {}), ("alibi", {}), ("lightning", {"layer": 1, "layers": 2})):
        numbers = schedule(each, 3, **more)
        wanted = attend(name, *given, causal=True, decay=numbers)
        close(attend(name, *given, causal=True, decay=each, **more), wanted, EXACT, each)
        same = torch.allclose(attend(name, *given, causal=True), wanted)
        assert same == (each == own)


@pytest.mark.parametrize("name", NAMES)
def test_a_decay_of_one_is_a_running_sum(name):
    # Catches a decay that is applied whatever its number.
    query, key, value = inputs()
    outer = (key[..., None] * value[..., None, :]).cumsum(2)
    wanted = (query[..., None, :] @ outer)[..., 0, :]
    for form in FORMS:
        found = attend(name, query, key, value, causal=True, decay=1.0, scale=1.0, form=form)
        close(found, wanted, EXACT, form)


def test_lightning_equals_the_tiles_of_its_paper():
    # Catches a scale of 1/√d, and a memory that enters a tile undecayed.
    query, key, value = (x[:1, :1] for x in inputs(9, 9))
    slope, block = float(schedule("alibi", 1)), 4
    memory, rows = torch.zeros(4, 5, dtype=torch.float64), []
    for start in range(0, 9, block):
        q, k, v = (x[0, 0, start : start + block] for x in (query, key, value))
        size = len(q)
        r = torch.arange(1, size + 1, dtype=torch.float64)
        lower = torch.tril(slope ** (r[:, None] - r[None]))
        rows.append((q @ k.T * lower) @ v + slope ** r[:, None] * (q @ memory))
        memory = slope**size * memory + (k * slope ** (size - r)[:, None]).T @ v
    found, state = attend(
        "lightning", query, key, value, causal=True, return_state=True, chunk_size=block
    )
    close(found[0, 0], torch.cat(rows), EXACT, "tiles")
    close(state["memory"][0, 0], memory, EXACT, "memory")


@pytest.mark.parametrize(("gamma", "expected"), [(0.9, 0.07679), (0.98, 0.3818)])
def test_crosstalk_of_decayed_memories_has_the_derived_variance(gamma, expected):
    # Catches 1 − γ for 1 − γ², and an item that is counted among its own interference.
    dim, items, lag, trials = 64, 300, 5, 400
    generator = torch.Generator().manual_seed(3)
    key = torch.randn(trials, 1, items, dim, generator=generator, dtype=torch.float64)
    key = key / key.norm(dim=-1, keepdim=True)
    value = torch.randn(trials, 1, items, 8, generator=generator, dtype=torch.float64)
    place = items - 1 - lag
    read = attend("retention", key[:, :, [place]], key, value, decay=gamma, scale=1.0)
    noise = (read - gamma**lag * value[:, :, [place]]).square().reshape(trials, 8).mean(1)
    wanted = ((1 - gamma ** (2 * items)) / (1 - gamma**2) - gamma ** (2 * lag)) / dim
    assert wanted == pytest.approx(expected, abs=5e-5)
    assert abs(noise.mean() - wanted) < 4 * noise.std() / trials**0.5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_normalised_scores_equal_the_paper(form, causal):
    # Catches sums over hidden keys, a missing square root, and a bound of 1 that is left out.
    query, key, value = inputs()
    query = torch.cat([0.05 * query[:, :, :3], 9 * query[:, :, 3:]], dim=2)
    seen, gamma = [False, True, True, False, True, True], 0.8
    wanted = torch.zeros(2, 2, 6, 5, dtype=torch.float64)
    bounded = 0
    for b in range(2):
        for h in range(2):
            for i in range(6):
                place = i if causal else 5
                decays = [gamma ** (place - j) if seen[j] else 0.0 for j in range(place + 1)]
                root = math.sqrt(sum(decays)) or 1.0
                row = [
                    float(query[b, h, i] @ key[b, h, j]) / 2 * each / root
                    for j, each in enumerate(decays)
                ]
                bounded += abs(sum(row)) < 1
                size = max(abs(sum(row)), 1.0)
                for j, each in enumerate(row):
                    wanted[b, h, i] += each / size * value[b, h, j]
    assert 0 < bounded < 24
    ways = {"causal": causal, "mask": torch.tensor(seen), "decay": gamma, "normalize": True}
    found = attend("retention", query, key, value, form=form, chunk_size=4, **ways)
    close(found, wanted, EXACT, form)
    close(weights("retention", query, key, **ways) @ value, wanted, EXACT, "weights")
    if form != "parallel":
        again = {"decay": gamma, "normalize": True, "form": form, "causal": True}
        first, last = ([x[:, :, part] for x in (query, key, value)]
                       for part in (slice(0, 2), slice(2, 6)))  # fmt: skip
        _, state = attend("retention", *first, return_state=True, **again)
        tail = attend("retention", *last, initial_state=state, **again)
        whole = attend("retention", query, key, value, **again)
        close(tail, whole[:, :, 2:], EXACT, "continued")


def test_a_layer_beyond_the_last_is_refused():
    # Catches decays above one, which grow without bound.
    with pytest.raises(InputError, match="layer=4 must be below layers=4"):
        attend("lightning", *inputs(), decay="lightning", layer=4, layers=4)
    with pytest.raises(InputError, match="layer=1 must be below layers=1"):
        attend("retention", *inputs(), decay=0.5, layer=1)
    with pytest.raises(InputError, match="retention's decay"):
        attend("retention", *inputs(), decay=torch.ones(3))


def test_auto_reads_one_token_by_the_recurrence_and_many_in_blocks():
    # Catches a decoder that rebuilds blocks, and long sequences with a matrix of all pairs.
    for length, form in ((1, "recurrent"), (100, "parallel"), (200, "chunked")):
        tensors = [drawn(1, 1, length, 2, seed=seed) for seed in range(3)]
        _, plan = attend("retention", *tensors, causal=True, explain=True)
        assert (plan.form, plan.backend) == (form, "reference"), plan.reason
        _, _, plan = attend("retention", *tensors, return_state=True, explain=True)
        assert plan.form == ("recurrent" if length == 1 else "chunked")


@pytest.mark.parametrize("name", NAMES)
def test_the_block_reads_with_the_decays_that_it_is_given(name):
    # Catches settings of a recipe that do not reach the mechanism.
    block = MultiheadAttention(8, 2, mechanism=name, parameters={"decay": 0.5}, causal=True)
    tokens = drawn(2, 5, 8).float()
    read = block.project(tokens)
    found = block(tokens, read)
    query = block.query(tokens).unflatten(-1, (2, 4)).transpose(1, 2)
    wanted = attend(name, query, read.key, read.value, causal=True, decay=0.5)
    wanted = block.output(wanted.transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, wanted, **TOLERANCE["float32"])
    found.sum().backward()
    assert all(p.grad is not None for p in (block.query.weight, block.key.weight))
