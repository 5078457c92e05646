"""The shared sums: states that do not fit are refused, numbers far from zero keep their digits."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention import attend, get, list_mechanisms
from neuroattn.attention.linear.accumulate import blocks, centred, divided, started, summed
from neuroattn.errors import InputError
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 7, 100])
@pytest.mark.parametrize("causal", [False, True])
def test_a_sum_is_read_as_it_grows(chunk_size, causal):
    # Catches a block that reads itself twice, or not what was there at the start.
    query, key, value = drawn(2, 3, 11, 4), drawn(2, 3, 11, 4, seed=1), drawn(2, 3, 11, 5, seed=2)
    start = drawn(2, 3, 4, 5, seed=3)
    read, memory = summed(query, key, value, start, causal=causal, chunk_size=chunk_size)
    for token in range(11):
        last = token + 1 if causal else 11
        grown = start + torch.einsum("bhnf,bhnv->bhfv", key[:, :, :last], value[:, :, :last])
        wanted = torch.einsum("bhf,bhfv->bhv", query[:, :, token], grown)
        torch.testing.assert_close(read[:, :, token], wanted, **EXACT)
    torch.testing.assert_close(memory, grown, **EXACT)


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_no_token_at_all_leaves_the_state_as_it_was(chunk_size, causal):
    # Catches an index of -1 into nothing.
    nothing, start = drawn(2, 3, 0, 4), drawn(2, 3, 4, 4)
    read, memory = summed(nothing, nothing, nothing, start, causal=causal, chunk_size=chunk_size)
    assert read.shape == (2, 3, 0, 4)
    assert (memory == start).all()
    state = {
        "memory": start,
        "key_mean": start[:, :, 0],
        "value_mean": start[:, :, 1],
        "count": torch.full((2, 3, 1), 5.0, dtype=torch.float64),
    }
    found, last = centred(
        nothing, nothing, nothing, None, state, causal=causal, chunk_size=chunk_size, around=True
    )
    assert found.read.shape == (2, 3, 0, 4)
    for name, each in state.items():
        torch.testing.assert_close(last[name], each, **EXACT)


def test_the_last_block_is_filled_with_zeros():
    # Catches tokens that are dropped or repeated at the end.
    tokens = drawn(1, 1, 5, 2)
    cut = blocks(tokens, 3)
    assert cut.shape == (1, 1, 2, 3, 2)
    assert (cut.flatten(2, 3)[:, :, :5] == tokens).all()
    assert (cut[:, :, 1, 2] == 0).all()
    assert blocks(tokens, 64).shape == (1, 1, 1, 5, 2)


def test_a_state_of_another_shape_is_refused_with_both_shapes():
    # Catches a state of another head size that is broadcast, or a KeyError.
    like = drawn(2, 3, 7, 5)
    assert started(None, like, {"memory": (4, 5)})[0].shape == (2, 3, 4, 5)
    for wrong in ({"memory": drawn(2, 1, 4, 5)}, {}):
        with pytest.raises(InputError, match=r"initial_state has .*needed are .*\(2, 3, 4, 5\)"):
            started(wrong, like, {"memory": (4, 5)})
    inputs = drawn(2, 3, 7, 4), drawn(2, 3, 7, 4), drawn(2, 3, 7, 5)
    for name in ("linear", "covariance", "flow", "oja"):
        with pytest.raises(InputError, match="initial_state has"):
            attend(name, *inputs, causal=True, initial_state={"memory": drawn(2, 3, 4, 4)})


STATEFUL = sorted(
    name
    for family in ("linear", "regression")
    for name in list_mechanisms(family=family)
    if any(run.stateful and run.backend == "reference" for run in get(name).runs)
)


def weights_of(name, dim, value_dim):
    """Return small weights for what a mechanism needs to be given."""
    sizes = {"heads": 2, "dim": dim, "value_dim": value_dim, "hidden": 3, "features": 4}
    return {
        parameter: 0.1 * drawn(*(sizes[axis] for axis in spec.axes[0]))
        for parameter, spec in get(name).parameters.items()
        if spec.required
    }


@pytest.mark.parametrize("name", STATEFUL)
def test_every_mechanism_refuses_a_state_that_lacks_an_entry_or_has_another_width(name):
    # Catches an entry that is taken for an empty one, and a product that fails without a name.
    inputs, given = [drawn(1, 2, 5, 4) for _ in range(3)], weights_of(name, 4, 4)
    _, state = attend(name, *inputs, causal=True, return_state=True, **given)
    entries = [entry for entry, each in state.items() if each.ndim > 2 and each.shape[-1] > 1]
    assert entries
    for run in get(name).runs:
        if not run.stateful or run.backend != "reference":
            continue
        narrow = {**state, entries[0]: state[entries[0]][..., :-1]}
        for wrong in ({}, {"another": state[entries[0]]}, narrow):
            with pytest.raises(InputError, match="initial_state"):
                attend(name, *inputs, causal=True, initial_state=wrong, form=run.form, **given)


@pytest.mark.parametrize("name", STATEFUL)
def test_every_mechanism_takes_a_state_of_another_precision(name):
    # Catches a state of float32 that meets float64 tokens in one product.
    inputs, given = [drawn(1, 2, 5, 4) for _ in range(3)], weights_of(name, 4, 4)
    _, state = attend(name, *inputs, causal=True, return_state=True, **given)
    single = {entry: each.float() for entry, each in state.items()}
    for run in get(name).runs:
        if run.stateful and run.backend == "reference":
            ways = {"causal": True, "form": run.form, **given}
            found = attend(name, *inputs, initial_state=single, **ways)
            torch.testing.assert_close(
                found, attend(name, *inputs, initial_state=state, **ways), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("name", [*list_mechanisms(family="linear"), "mesa"])
@pytest.mark.parametrize(("queries", "keys"), [(3, 0), (0, 3), (0, 0)])
def test_where_there_are_no_keys_nothing_is_read_and_where_no_queries_nothing(name, queries, keys):
    # Catches a join of no blocks, a transform of no tokens and a number of keys by the queries.
    spec = get(name)
    if queries != keys and not spec.cross:
        pytest.skip("it reads its own tokens")
    given = {
        parameter: torch.full([3 if isinstance(axis, str) else axis for axis in each.axes[0]], 0.1)
        for parameter, each in spec.parameters.items()
        if each.required
    }
    query, key = (torch.zeros(3, 3, tokens, 3) for tokens in (queries, keys))
    for causal in spec.causal:
        for run in spec.runs:
            if run.backend == "reference":
                read = attend(name, query, key, key, causal=causal, form=run.form, **given)
                assert read.shape == (3, 3, queries, 3)
                assert not read.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_normaliser_is_divided_by_where_that_is_sound(dtype):
    # Catches NaN from 0/0, a sign that is lost at the floor, and an epsilon that is added.
    totals = torch.tensor([[0.0], [2.0], [1e-30]], dtype=dtype)
    read = torch.tensor([[0.0], [1.0], [1e-30]], dtype=dtype)
    assert divided(read, totals, True).flatten().tolist() == [0.0, 0.5, 1.0]
    totals = torch.tensor([[0.0], [-1e-9], [-2.0], [1e-9]], dtype=dtype)
    found = divided(torch.ones(4, 1, dtype=dtype), totals, False).flatten().tolist()
    assert found == pytest.approx([1e6, -1e6, -0.5, 1e6])


@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("initial", [False, True])
def test_centred_sums_far_from_zero_keep_their_digits(chunk_size, causal, initial):
    # Catches Σ k v - n mean(k) mean(v), whose digits cancel in float32.
    key, value = drawn(1, 1, 70, 3), drawn(1, 1, 70, 2, seed=1)
    query = drawn(1, 1, 70, 3, seed=2)
    exact, _ = centred(query, key, value, None, None, causal=causal, chunk_size=None, around=True)
    far = [(each + 1024).float() for each in (query, key, value)]
    state = None
    cut = 30 if initial else 0
    if initial:
        first = [each[:, :, :30] for each in far]
        _, state = centred(*first, None, None, causal=True, chunk_size=chunk_size, around=True)
    rest = [each[:, :, cut:] for each in far]
    found, _ = centred(*rest, None, state, causal=causal, chunk_size=chunk_size, around=True)
    error = (found.read - exact.read[:, :, cut:]).abs().max()
    assert error < 3e-2 * exact.read.abs().max().sqrt()
