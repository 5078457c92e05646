"""Which form and backend runs, what it says of it, states, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from neuroattn.attention import attend, backends, get, registry
from neuroattn.attention.masks import written
from neuroattn.attention.parameters import number, tensor
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.errors import InputError, MissingExtraError
from tests.tolerances import TOLERANCE


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def running_sum(query, key, value, *, causal, mask, scale, initial_state, gain, shift):
    """Add up the values: the smallest memory there is."""
    shown = written(mask, key)
    value = value * gain if shown is None else value * gain * shown
    start = torch.zeros_like(value[:, :, :1]) if initial_state is None else initial_state["sum"]
    total = value.cumsum(2) + start
    last = total[:, :, -1:]
    read = total if causal else last.expand(-1, -1, query.shape[2], -1)
    return (read if shift is None else read + shift), {"sum": last}


def by_products(query, key, value, *, causal, mask, scale, gain, shift):
    ones = torch.ones(query.shape[2], key.shape[2], dtype=value.dtype)
    seen = ones.tril(key.shape[2] - query.shape[2]) if causal else ones
    read = seen @ (value * gain)
    return read if shift is None else read + shift


@pytest.fixture
def total(monkeypatch) -> Mechanism:
    """Register a running sum with three runs, for one test."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._loaded()))
    return register(
        dataclasses.replace(
            get("softmax"),
            name="total",
            runs=(
                Run("chunked", "triton", running_sum, stateful=True),
                Run(
                    "parallel",
                    "reference",
                    by_products,
                    refuses=lambda r: "it is odd" if r.keys % 2 else "",
                    avoids=lambda r: "more than 6 keys" if r.keys > 6 else "",
                ),
                Run("recurrent", "reference", running_sum, stateful=True),
            ),
            weights=None,
            mask="keys",
            parameters={
                "gain": number("factor", 1.0, 0),
                "shift": tensor("added", ("batch", "heads", 1, "value_dim"), optional=True),
            },
        )
    )


def test_auto_takes_the_first_run_that_fits_and_says_why(total, monkeypatch):
    # Catches a choice that ignores length, an avoided run that is taken, or a silent one.
    monkeypatch.setattr(backends, "_installed", lambda package: False)
    small, odd, large = (drawn(1, 1, n, 3) for n in (4, 5, 8))
    _, plan = attend("total", small, small, small, explain=True)
    assert (plan.form, plan.backend) == ("parallel", "reference")
    assert "first that fits" in plan.reason
    assert "chunked/triton: it needs the package 'triton': pip install" in plan.reason
    assert attend("total", odd, odd, odd, explain=True)[1].form == "recurrent"
    assert "it is odd" in attend("total", odd, odd, odd, explain=True)[1].reason
    assert "more than 6 keys" in attend("total", large, large, large, explain=True)[1].reason
    _, plan = attend("total", large, large, large, form="parallel", explain=True)
    assert plan.form == "parallel"  # avoided by auto, done when it is asked for
    _, _, plan = attend("total", small, small, small, return_state=True, explain=True)
    assert plan.form == "recurrent"
    assert "it has no state" in plan.reason
    assert plan.reason.count("not ") == 2


def test_what_cannot_run_says_what_it_needs(total, monkeypatch):
    # Catches a missing package that ends in a traceback, and a form silently replaced.
    monkeypatch.setattr(backends, "_installed", lambda package: False)
    odd = drawn(1, 1, 5, 3)
    with pytest.raises(MissingExtraError, match=r"pip install 'neuroattn\[gpu\]'"):
        attend("total", odd, odd, odd, backend="triton")
    with pytest.raises(InputError, match=r"parallel/reference: it is odd"):
        attend("total", odd, odd, odd, form="parallel")
    with pytest.raises(InputError, match=r"no form='parallel' on backend='triton'; it has chunked"):
        attend("total", odd, odd, odd, form="parallel", backend="triton")
    monkeypatch.setattr(backends, "_installed", lambda package: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match="needs a CUDA device, the tensors are on 'cpu'"):
        attend("total", odd, odd, odd, backend="triton")
    with pytest.raises(InputError, match=r"it has no state"):
        attend("softmax", odd, odd, odd, return_state=True)


@pytest.mark.parametrize(
    ("backend", "reason"), [("sdpa-efficient", "CUDA"), ("sdpa-cudnn", "CUDA")]
)
def test_kernels_of_another_device_are_refused(backend, reason):
    # Catches torch's own warning list instead of one sentence.
    odd = drawn(1, 1, 5, 3)
    with pytest.raises(InputError, match=reason):
        attend("softmax", odd, odd, odd, backend=backend)


@pytest.mark.parametrize(("queries", "keys"), [(3, 3), (2, 5), (5, 2), (1, 4)])
def test_states_are_aligned_to_the_end(total, queries, keys):
    # Catches a query that reads the sum after another token than the one it stands on.
    query, value = drawn(2, 2, queries, 3), drawn(2, 2, keys, 3, seed=1)
    found = attend("total", query, value, value, causal=True, form="recurrent")
    wanted = torch.zeros(2, 2, queries, 3, dtype=torch.float64)
    for q in range(queries):
        last = q + keys - queries
        if last >= 0:
            wanted[:, :, q] = value[:, :, : last + 1].sum(2)
    torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])
    if queries > keys:
        with pytest.raises(InputError, match="no more queries than keys"):
            attend("total", query, value, value, causal=True, return_state=True)


def test_a_state_goes_in_and_out(total):
    # Catches an initial state that is ignored.
    value = drawn(1, 2, 7, 3)
    whole, last = attend("total", value, value, value, causal=True, return_state=True)
    head, state = attend("total", *[value[:, :, :3]] * 3, causal=True, return_state=True)
    tail, end = attend(
        "total", *[value[:, :, 3:]] * 3, causal=True, initial_state=state, return_state=True
    )
    torch.testing.assert_close(torch.cat([head, tail], 2), whole, **TOLERANCE["float64"])
    torch.testing.assert_close(end["sum"], last["sum"], **TOLERANCE["float64"])


def test_half_inputs_are_computed_in_single_and_given_back_in_half(total):
    # Catches a sum in half precision, which stops growing at 2,048.
    ones = torch.ones(1, 1, 5000, 1, dtype=torch.float16)
    found, state = attend(
        "total",
        ones,
        ones,
        ones,
        return_state=True,
        form="recurrent",
        shift=torch.ones(1, 1, 1, 1, dtype=torch.float16),
    )
    assert found.dtype == torch.float16
    assert found.max() == 5000
    assert state["sum"].dtype == torch.float32


def test_inputs_of_several_dtypes_are_refused():
    # Catches a silent promotion of half of the tensors.
    low, high = drawn(1, 1, 3, 2, dtype=torch.float32), drawn(1, 1, 3, 2)
    with pytest.raises(InputError, match=r"float32, torch.float64.*one floating dtype"):
        attend("softmax", low, high, high)
    with pytest.raises(InputError, match="one floating dtype"):
        attend("softmax", *[high.long()] * 3)


def test_masks_that_a_mechanism_does_not_take_are_refused(total):
    # Catches a mask of pairs whose rows but the first are ignored.
    value = drawn(1, 1, 4, 3)
    with pytest.raises(InputError, match=r"hides keys from all queries alike; the mask has 4 rows"):
        attend("total", value, value, value, mask=torch.ones(4, 4, dtype=torch.bool))
    shown = torch.tensor([True, False, True, True])
    found = attend("total", value, value, value, mask=shown, form="recurrent")
    torch.testing.assert_close(found[0, 0, 0], value[0, 0, shown].sum(0), **TOLERANCE["float64"])


def test_what_must_be_learned_is_asked_for_by_name(total):
    # Catches a KeyError in the arithmetic.
    spec = dataclasses.replace(
        total, name="taught", parameters={"gate": tensor("how much", ("batch", "heads", "keys"))}
    )
    register(spec)
    value = drawn(1, 1, 4, 3)
    with pytest.raises(InputError, match=r"'taught' needs gate: how much.*MultiheadAttention"):
        attend("taught", value, value, value)


def test_mechanisms_of_their_own_tokens_refuse_other_queries(total):
    register(dataclasses.replace(total, name="own", cross=False))
    with pytest.raises(InputError, match="3 queries and 4 keys came"):
        attend("own", drawn(1, 1, 3, 3), drawn(1, 1, 4, 3), drawn(1, 1, 4, 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"causal": "no"}, "causal='no' must be True or False"),
        ({"causal": None}, "causal=None must be True or False"),
        ({"scale": "2"}, "scale='2' must be a finite number"),
        ({"scale": float("nan")}, "scale=nan must be a finite number"),
        ({"gain": torch.ones(1, 1, 1, 1)}, "gain"),
        ({"shift": torch.ones(1, 1, 1, 3) > 0}, r"shift is a tensor of torch.bool.*said by `mask`"),
        ({"initial_state": {"total": torch.zeros(1, 1, 1, 3)}}, r"lacks 'sum'; it has \['total'\]"),
        ({"initial_state": {"sum": torch.zeros(2, 1, 1, 3)}}, r"sum is \(2, 1, 1, 3\); needed"),
        ({"initial_state": {"sum": 3.0}}, "sum is float; needed is a tensor"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_by_name(total, given, message):
    # Catches a mask that is added as a number, and a state of another mechanism.
    value = drawn(1, 1, 4, 3)
    with pytest.raises(InputError, match=message):
        attend("total", value, value, value, **given)
    with pytest.raises(InputError, match="attention=3 must be the name"):
        attend(3, value, value, value)


def test_a_mechanism_without_a_scale_takes_none(total):
    register(dataclasses.replace(total, name="scaleless", scale=""))
    value = drawn(1, 1, 4, 3)
    with pytest.raises(InputError, match=r"'scaleless' has no scale; leave scale=2 out"):
        attend("scaleless", value, value, value, scale=2)


def test_a_run_that_is_passed_over_and_taken_is_not_said_to_be_refused(total, monkeypatch):
    # Catches a plan that contradicts itself.
    monkeypatch.setattr(backends, "_installed", lambda package: False)
    large = drawn(1, 1, 8, 3)
    _, plan = attend("total", large, large, large, form="parallel", explain=True)
    assert plan.reason == "first that fits; although more than 6 keys"


def test_parameters_follow_the_dtype_of_the_tensors(total):
    # Catches an error from deep within, or an output in another dtype, for a gate in float64.
    for dtype in (torch.float16, torch.float32, torch.float64):
        value = drawn(1, 1, 4, 3, dtype=torch.float64).to(dtype)
        shift = drawn(1, 1, 1, 3, seed=1)
        assert attend("total", value, value, value, shift=shift).dtype == dtype
