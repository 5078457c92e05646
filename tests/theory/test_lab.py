"""Draws, mechanisms through the registry, and the comparisons."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from scipy.stats import t as student

from neuroattn.attention import attend, registry
from neuroattn.errors import InputError, UnknownNameError
from neuroattn.theory import Lab, Settings
from neuroattn.theory.lab import KEY_LAWS


def lab(**settings: Any) -> Lab:
    return Lab("a.claim", Settings(**settings))


def test_draws_depend_on_seed_claim_and_tags_alone() -> None:
    """Catches a global generator, and two draws of one claim that are the same."""
    first = lab().normal((3, 2), "keys")
    lab().normal((9,), "between")
    assert torch.equal(first, lab().normal((3, 2), "keys"))
    others = [lab(seed=1).normal((3, 2), "keys"), lab().normal((3, 2), "values")]
    others.append(Lab("another.claim").normal((3, 2), "keys"))
    assert all(not torch.equal(first, each) for each in others)
    assert lab().rng("x").random() == lab().rng("x").random() != lab().rng("y").random()


@pytest.mark.parametrize("law", KEY_LAWS)
def test_keys_have_their_law(law: str) -> None:
    """Catches keys that are not of unit length on average, or of another law."""
    keys = lab().keys(law, (20000, 3), "k")
    squared = keys.square().sum(-1)
    assert keys.dtype == torch.float64
    assert abs(squared.mean().item() - 1) < 0.02
    if law == "sphere":
        torch.testing.assert_close(squared, torch.ones_like(squared))
        # On the sphere in three dimensions every coordinate is uniform (Archimedes).
        assert kstest(keys[:, 0].numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    elif law == "gaussian":
        assert kstest(keys[:, 0].numpy(), norm(scale=3**-0.5).cdf).pvalue > 1e-3
    else:
        assert keys.abs().unique().tolist() == [pytest.approx(3**-0.5)]
    with pytest.raises(UnknownNameError, match="sphere"):
        lab().keys("spher", (2, 2))


def test_draws_are_what_the_dtype_holds() -> None:
    """Catches a prediction from numbers that the mechanism never gets."""
    drawn = lab(dtype="float32").normal((50,))
    assert torch.equal(drawn, drawn.float().double())
    assert torch.equal(drawn, lab().normal((50,)).float().double())


def test_once_computes_once() -> None:
    calls = []
    here = lab()

    def draw(lab: Lab, size: int) -> float:
        calls.append(size)
        return float(lab.normal((size,)).sum())

    assert here.once(draw, 3) == here.once(draw, 3)
    here.once(draw, 4)
    assert calls == [3, 4]


def tensors() -> tuple[torch.Tensor, ...]:
    return tuple(lab().normal((1, 2, 5, 4), name) for name in "qkv")


def test_every_form_runs_and_is_told() -> None:
    """Catches a claim that tries one implementation only."""
    here = lab()
    given = {"beta": 0.5, "causal": True}
    read = here.attend("delta", *tensors(), **given)
    torch.testing.assert_close(read, attend("delta", *tensors(), **given))
    assert {each.split("/")[0] for each in here.paths["delta"]} == {
        run.form for run in registry.get("delta").runs if run.backend == "reference"
    }
    assert here.disagreement["delta"] < 1
    output, state = here.attend_state("delta", *tensors(), **given)
    torch.testing.assert_close(output, read)
    wanted = attend("delta", *tensors(), **given, return_state=True)[1]
    assert {k: v.tolist() for k, v in wanted.items()} == {k: v.tolist() for k, v in state.items()}


@pytest.mark.parametrize("wrong", [1e-9, math.nan])
def test_a_form_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    """Catches a fast form that is wrong where the first one is right."""
    spec = registry.get("delta")
    last = spec.runs[-1]

    def off(*args: Any, **kwargs: Any) -> Any:
        found = last.function(*args, **kwargs)
        return (found[0] + wrong, found[1]) if last.stateful else found + wrong

    broken = replace(spec, runs=(*spec.runs[:-1], replace(last, function=off)))
    monkeypatch.setitem(registry._REGISTRY, "delta", broken)
    here = lab()
    here.attend("delta", *tensors(), causal=True)
    assert here.disagreement["delta"] > 1


def test_a_wrong_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches forms whose outputs agree while what they remember does not."""
    spec = registry.get("linear")
    stateful = [run for run in spec.runs if run.stateful and run.backend == "reference"]
    assert len(stateful) > 1
    last = stateful[-1]

    def off(*args: Any, **kwargs: Any) -> Any:
        output, state = last.function(*args, **kwargs)
        return output, {name: each + 1e-6 for name, each in state.items()}

    runs = tuple(replace(run, function=off) if run is last else run for run in spec.runs)
    monkeypatch.setitem(registry._REGISTRY, "linear", replace(spec, runs=runs))
    here = lab()
    here.attend_state("linear", *tensors(), causal=True)
    assert here.disagreement["linear"] > 1


def test_a_backend_can_be_asked_for_alone() -> None:
    """Catches a --backend that is not what runs."""
    here = lab(backend="sdpa-math")
    here.attend("softmax", *tensors())
    here.attend("linear", *tensors())
    assert here.paths["softmax"] == ["parallel/sdpa-math"]
    assert all(each.endswith("/reference") for each in here.paths["linear"])


def test_a_request_that_nothing_can_do_is_an_error() -> None:
    with pytest.raises(InputError, match="beta"):
        lab().attend("delta", *tensors(), beta=-1.0)
    with pytest.raises(InputError, match="no state"):
        lab().attend_state("softmax", *tensors())


def test_rounding_grows_with_the_dtype_but_not_in_half_precision() -> None:
    assert lab().rounding(100) == 100 * 2.0**-52
    assert lab(dtype="float32").rounding(100) == 100 * 2.0**-23
    assert lab(dtype="bfloat16").rounding(100) == 8 * 2.0**-7
    with pytest.raises(UnknownNameError, match="float64"):
        lab(dtype="float128")


def test_equal_allows_rounding_of_the_largest_number_only() -> None:
    """Catches a tolerance that grows with what it should bound."""
    here, eps = lab(), 2.0**-52
    wanted = np.array([1000.0, 0.0])
    assert here.equal("x", [1000.0, 60 * 1000 * eps], wanted).passed
    assert not here.equal("x", [1000.0, 70 * 1000 * eps], wanted).passed
    assert not here.equal("x", [1.0, np.nan], [1.0, 1.0]).passed
    assert here.equal("x", [np.inf], [np.inf]).passed
    assert not here.equal("x", [np.inf], [-np.inf]).passed
    assert not here.equal("x", [np.inf, 1.0], [1.0, 1.0]).passed
    assert here.equal("zeros", [60 * eps], [0.0]).passed


def test_exact_compares_integers_of_any_size() -> None:
    """Catches integers that are compared as floats."""
    big = 2**70
    assert lab().exact("x", [[big, 1]], [[big, 1]]).passed
    assert lab().exact("larger than any float", [10**400], [10**400]).passed
    found = lab().exact("x", [1, big, big + 1], [1, big, big])
    assert not found.passed
    assert found.at_worst("error") == 1
    assert lab().exact("x", torch.tensor([True]), [True]).passed
    assert not lab().exact("x", ["a"], ["b"]).passed
    with pytest.raises(InputError, match="2 measured and 1 predicted"):
        lab().exact("x", [1, 2], [1])


def test_the_mean_of_draws_fails_as_seldom_as_it_says() -> None:
    """Catches a bound that ignores how many numbers are compared, or the size of the sample."""
    rng = np.random.default_rng(0)
    one = [lab().mean("x", rng.normal(size=(400,)), 0.0) for _ in range(300)]
    scale = np.std([each.at_worst("z") for each in one])
    assert 0.9 < scale < 1.1
    assert all(each.passed for each in one)
    assert lab().estimate("x", 0.0, 1.0, 0.0).at_worst("tolerance") == pytest.approx(4.0)
    allowed = one[0].at_worst("tolerance") / float(one[0].spread)
    assert 2 * student.sf(allowed, 399) == pytest.approx(2 * norm.sf(4))
    many = lab().mean("x", rng.normal(size=(400, 1000)), 0.0)
    assert many.passed
    assert np.abs(many.z).max() > 2.5
    level = many.tolerance[0] / many.spread[0]
    assert 1000 * 2 * student.sf(level, 399) == pytest.approx(2 * norm.sf(4))
    assert not lab().mean("x", rng.normal(0.5, 1, size=(400,)), 0.0).passed
    # An infinite draw makes the standard error undefined, which must not pass anything.
    with np.errstate(invalid="ignore"):
        assert not lab().mean("x", [*rng.normal(size=399), np.inf], 0.0).passed
    assert not lab().estimate("x", 1.0, np.inf, 0.0).passed
    with pytest.raises(InputError, match="at least 20"):
        lab().mean("x", [1.0, 2.0], 0.0)


def test_bounds_are_one_sided() -> None:
    here = lab()
    assert here.at_most("x", [1.0, 0.0], [1.0, 5.0]).passed
    assert not here.at_most("x", 1.1, 1.0).passed
    assert here.at_most("x", 1.1, 1.0, slack=0.2, reason="known to be less than 0.2").passed
    assert here.at_least("x", 1.0 - 1e-14, 1.0, slack=1e-13).reason.endswith("but for rounding")
    with pytest.raises(InputError, match=r"needs a reason for its slack of 0.2"):
        here.at_most("x", 1.1, 1.0, slack=0.2)
    assert here.at_least("x", 2.0, 1.0).passed
    assert not here.at_least("x", [0.9], 1.0).passed
    assert not here.at_least("x", np.nan, 1.0).passed


def test_a_tolerance_has_a_reason_and_axes_fit() -> None:
    with pytest.raises(InputError, match="needs a reason"):
        lab().near("x", 1.0, 1.0, tolerance=1.0, expected=1.0, reason="")
    with pytest.raises(InputError, match="lengths"):
        lab().equal("x", [1.0, 2.0], [1.0, 2.0], axes={"n": [1, 2, 3]})
