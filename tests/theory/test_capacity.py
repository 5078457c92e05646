"""Capacity as a measurement: against closed forms, brute force and its own promises."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from neuroattn.attention import get, list_mechanisms
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from neuroattn.theory.capacity import allowed_error, exponent, measure, table
from neuroattn.theory.capacity.associations import Associations
from neuroattn.theory.capacity.criterion import Question
from neuroattn.theory.capacity.measurement import Capacity, _Curve, _Point
from neuroattn.theory.capacity.neutral import neutral
from neuroattn.theory.lab import Settings

HEBB = {"feature_map": "identity", "normalize": False}


def drawn(dim: int, law: str = "sphere", draws: int = 64, seed: int = 0) -> Associations:
    return Associations(dim, dim, law, draws, seed, "cpu", torch.float32)


def question(name: str, case: str = "average", sweeps: int = 1, **parameters: object) -> Question:
    spec = get(name)
    return Question(spec, neutral(spec), parameters, case, 1.0, 0.0, sweeps)


def within(found: Capacity, predicted: float, slack: float = 0.0) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low * (1 - slack) - 1 <= predicted <= (found.high + 1) * (1 + slack)


@pytest.mark.parametrize("law", ["sphere", "gaussian", "rademacher"])
@pytest.mark.parametrize("dim", [32, 128])
def test_hebbian_memory_holds_one_and_the_width_over_the_snr(law: str, dim: int) -> None:
    # Catches keys that are not of unit variance, a threshold in amplitude in place of variance,
    # and interference that is counted with the item itself. Gaussian lengths cost some per cent.
    slack = 0.06 if law == "gaussian" else 0.03
    assert within(measure("linear", dim, law=law, **HEBB), 1 + dim, slack)
    assert within(measure("linear", dim, law=law, snr=2.0, **HEBB), 1 + dim / 2, slack + 0.03)


@pytest.mark.parametrize(("dim", "predicted"), [(16, 6), (64, 11), (256, 21)])
def test_the_worst_case_of_hebbian_memory_is_a_root(dim: int, predicted: int) -> None:
    # Catches values that are random, and an adversary that is let touch the item's own value.
    found = measure("linear", dim, case="worst", **HEBB)
    assert found.crossing == pytest.approx(1 + math.sqrt(math.pi * dim / 2), rel=0.03)
    assert abs(round(found.crossing) - predicted) <= 1


def test_the_curve_of_wrong_bits_is_the_gaussian_tail() -> None:
    # Catches a criterion that agrees at the threshold only: golden numbers of the closed form.
    for pairs, golden in {9: 0.00234, 33: 0.07865, 65: 0.15866, 129: 0.23975}.items():
        shares, reads = question("linear", **HEBB).failures(drawn(64), pairs)
        spread = math.hypot(float(shares.std()) / 8, 0.001)
        assert norm.sf(math.sqrt(64 / (pairs - 1))) == pytest.approx(golden, abs=1e-5)
        assert float(shares.mean()) == pytest.approx(golden, abs=4 * spread + 0.001)
        assert reads == min(pairs, 32) * 64


def test_exponents_are_one_and_a_half() -> None:
    # Catches a fit of the capacity itself, whose 1 bends the line, and swapped cases.
    dims = (16, 32, 64, 128)
    found = list(table(["ssd"], dims))
    for case, power in (("average", 1.0), ("worst", 0.5)):
        fit = exponent([each for each in found if each.case == case])
        assert fit.dims == dims
        assert fit.error is not None
        assert fit.error < 0.06
        assert fit.exponent == pytest.approx(power, abs=4 * fit.error)


def test_regression_holds_twice_the_width() -> None:
    # Catches a read before the last item was written. The leverage of an item is d/N.
    assert within(measure("mesa", 32), 64, 0.04)
    assert within(measure("mesa", 32, snr=2.0), 48, 0.04)


def test_delta_holds_as_many_as_the_width_after_sweeps_and_not_in_one_pass() -> None:
    # Catches sweeps that are not written, or are read as more associations.
    dim = 32
    once, _ = question("delta").failures(drawn(dim), dim)
    often, _ = question("delta", sweeps=100).failures(drawn(dim), dim)
    half, _ = question("delta", sweeps=30).failures(drawn(dim), dim // 2)
    assert float(once.mean()) > 0.1
    # As many keys as dimensions are nearly dependent, and converge slowly.
    assert float(often.mean()) < 0.01
    assert float(half.mean()) == 0
    # An item that was written twice is still one item for the adversary.
    twice = measure("ssd", dim, case="worst", sweeps=2)
    assert twice.crossing == measure("ssd", dim, case="worst").crossing


def test_relu_halves_the_interference() -> None:
    # Catches a criterion that a gain or a normaliser moves: half the variance, twice the capacity.
    # Its weights have a mean, which random values average out.
    assert within(measure("relu_attention", 64), 1 + 2 * 64, 0.05)


@pytest.mark.parametrize("case", ["average", "worst"])
def test_a_positive_gain_changes_nothing(case: str) -> None:
    # Catches a squared error in place of signs, and weights that are compared with 1.
    one = measure("linear", 16, case=case, scale=0.01, **HEBB)
    assert one.crossing == measure("linear", 16, case=case, scale=7.0, **HEBB).crossing
    softmax, sink = (measure(name, 8, case=case, draws=16) for name in ("softmax", "sink"))
    assert softmax.crossing == pytest.approx(sink.crossing)


def test_noise_of_the_query_costs_its_share() -> None:
    # Catches noise that is added to the keys, or of a standard deviation that grows with dim.
    assert within(measure("linear", 64, noise=1.0, **HEBB), 1 + 64 / 2, 0.08)


def test_softmax_at_a_large_scale_is_censored_and_says_so() -> None:
    # Catches a made-up number where retrieval never failed.
    found = measure("softmax", 32, scale=4.0, largest=300, draws=8)
    assert found.censored
    assert (found.capacity, found.largest) == (300, 300)
    assert found.crossing is None
    assert found.high is None
    assert exponent([found, replace(found, dim=64)]).exponent is None


def test_a_fading_memory_pays_for_what_it_forgot() -> None:
    # Catches the last item being asked for always: capacity of a decay has no power of dim.
    small, large = (measure("retention", dim, decay=0.8) for dim in (16, 128))
    assert small.capacity is not None
    assert large.capacity is not None
    assert large.capacity < 3 * small.capacity < 60


def test_the_worst_values_are_worst_by_brute_force() -> None:
    # Catches an adversary with the wrong signs: no choice of bits is worse than its own.
    dim, pairs = 4, 7
    given = drawn(dim, draws=8)
    asked = question("delta", "worst")
    keys, _ = given.first(pairs)
    turned, _ = asked.failures(given, pairs)
    bits = torch.tensor(np.indices((2,) * pairs).reshape(pairs, -1) * 2 - 1, dtype=torch.float32)
    from neuroattn.attention import attend

    read = attend("delta", keys, keys, bits.expand(8, 1, pairs, -1))
    brute = (read * bits <= 0).any(dim=-1).double().flatten(1).mean(dim=1)
    torch.testing.assert_close(turned, brute)


def test_sizes_share_their_draws() -> None:
    # Catches fresh draws at every size, which would make the curve jump.
    for pairs in (1, 2, 3, 8, 33, 64):
        keys, values = drawn(8).first(pairs)
        longer_keys, longer_values = drawn(8).first(100)
        torch.testing.assert_close(keys, longer_keys[:, :, :pairs], rtol=0, atol=0)
        torch.testing.assert_close(values, longer_values[:, :, :pairs], rtol=0, atol=0)
    few, many = drawn(8).asked(100), drawn(8).asked(1000)
    assert float((few / 100 - many / 1000).abs().max()) < 0.011
    torch.testing.assert_close(drawn(8).noise(9, 3), drawn(8).noise(9, 7)[:, :, :3])


def test_the_item_asked_for_is_uniform() -> None:
    # Catches a stratum that is left out: first or last items never asked.
    asked = drawn(2, draws=512).asked(64)
    counts = torch.bincount(asked.flatten(), minlength=64)
    assert asked.shape == (512, 32)
    assert float((counts - 256).abs().max()) < 5 * 16


def test_laws_of_keys_are_what_they_are_called() -> None:
    # Catches keys of unit length, and laws that are swapped.
    sphere, gauss, signs = (
        drawn(50, law).first(64)[0] for law in ("sphere", "gaussian", "rademacher")
    )
    torch.testing.assert_close(sphere.norm(dim=-1), torch.full_like(sphere[..., 0], 50**0.5))
    assert float(gauss.norm(dim=-1).std()) == pytest.approx(0.5**0.5, rel=0.1)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert drawn(50).first(4)[1].norm(dim=-1) == pytest.approx(1.0, rel=1e-5)


def test_memory_is_bounded_by_fewer_draws() -> None:
    # Catches 64 draws of thousands of wide keys.
    wide = drawn(256)
    assert wide.count(16) == 64
    assert wide.count(4096) == 8
    counts = [wide.count(pairs) for pairs in range(1, 3000)]
    assert counts == sorted(counts, reverse=True)


def test_the_search_finds_the_crossing_and_its_interval() -> None:
    # Catches bisection that is off by one, and an interval that is not the test's inversion.
    class Known(_Curve):
        def at(self, pairs: int) -> _Point:
            self.points[pairs] = _Point(pairs / 100, pairs / 100 - 0.03, pairs / 100 + 0.03, 9)
            return self.points[pairs]

    curve = Known(question("linear"), drawn(4), 0.405, 0.95)
    found = curve.capacity(1000)
    assert (found["capacity"], found["low"], found["high"]) == (40, 37, 43)
    assert found["crossing"] == pytest.approx(40.5)
    assert not found["censored"]
    assert Known(question("linear"), drawn(4), 5.0, 0.95).capacity(100)["censored"]
    assert Known(question("linear"), drawn(4), 0.001, 0.95).capacity(100)["capacity"] == 0


def test_intervals_cover_at_least_at_their_rate() -> None:
    # Catches an interval from bits as if they were independent, or of half the width: the
    # capacity of many draws is covered by most of small ones'.
    truth = measure("linear", 16, draws=2048, **HEBB).crossing
    assert truth is not None
    covered = [
        within(measure("linear", 16, draws=12, settings=Settings(seed=seed), **HEBB), truth)
        for seed in range(1, 41)
    ]
    assert sum(covered) >= 34
    narrow, wide = (measure("linear", 64, draws=n, **HEBB) for n in (256, 8))
    assert narrow.high is not None
    assert wide.high is not None
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_an_interval_keeps_its_width_where_no_draw_fails() -> None:
    # Catches a certainty that comes from all draws having the same share of failures, none.
    found = measure("linear", 64, draws=2, snr=16.0, **HEBB)
    assert found.failures is not None
    assert found.low is not None
    assert found.capacity is not None
    assert found.low < found.capacity
    assert found.high is None or found.high > found.capacity


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    # Catches a seed that is not used, and draws that depend on what was measured before.
    first = measure("linear", 32, **HEBB)
    measure("linear", 16, **HEBB)
    assert measure("linear", 32, **HEBB) == first
    assert measure("linear", 32, settings=Settings(dtype="float32", seed=1), **HEBB) != first


@pytest.mark.parametrize("name", list_mechanisms())
def test_every_mechanism_has_a_capacity_or_a_reason(name: str) -> None:
    # Catches a mechanism that is dropped, or that a new required parameter breaks.
    for case in ("average", "worst"):
        found = measure(name, 6, case=case, draws=4, largest=24)
        assert (found.capacity is None) == bool(found.reason)
        if case == "average" and not found.reason:
            assert 0 <= found.low <= found.capacity <= (found.high or 24)
        if found.capacity is not None and case == "worst":
            assert get(name).weights is not None


def test_what_a_mechanism_cannot_do_is_said() -> None:
    # Catches a row without a reason, and learned tensors that are refused though given.
    assert "worst values" in measure("oja", 8, case="worst").reason
    assert "where its item is" in measure("hierarchical", 8).reason
    assert "first_bias" in measure("neural", 8).reason
    width = {"first": (1, 2, 4, 3), "first_bias": (1, 3), "second": (1, 3, 2)}
    sizes = {**width, "second_bias": (1, 2), "third": (1, 2)}
    given = {key: torch.ones(size) for key, size in sizes.items()}
    # Equal scores for all: two items at most, and one of them by half.
    found = measure("neural", 4, draws=8, **given)
    assert not found.reason
    assert found.capacity in (1, 2)
    assert measure("gated", 8, draws=4).taken == "gate 1/2"


def test_the_fit_is_that_of_its_points() -> None:
    # Catches weights that are upside down, and an error that scatter does not widen.
    one = measure("ssd", 8, draws=4)
    points = [
        replace(one, dim=d, crossing=1 + 3 * d**0.7, capacity=9, low=8, high=10, reason="")
        for d in (8, 16, 32, 64)
    ]
    fit = exponent(points)
    assert fit.exponent == pytest.approx(0.7)
    assert fit.misfit == pytest.approx(0.0, abs=1e-6)
    bent = [*points[:3], replace(points[3], crossing=4000.0)]
    scattered = exponent(bent)
    assert scattered.misfit > 3
    assert scattered.error > 3 * exponent([*points[:3], replace(points[3])]).error
    loose = exponent([*points[:3], replace(points[3], crossing=4000.0, low=0, high=3900)])
    assert abs(loose.exponent - 0.7) < abs(scattered.exponent - 0.7)
    assert exponent(points[:1]).exponent is None


def test_bad_input_is_refused_with_one_message() -> None:
    # Catches a number that goes on to a wrong capacity or to an error of torch.
    bad = {
        "dim=0": {"dim": 0},
        "value_dim=0": {"value_dim": 0},
        "snr=0": {"snr": 0},
        "snr=nan": {"snr": math.nan},
        "noise=-1": {"noise": -1},
        "draws=1": {"draws": 1},
        "largest=0": {"largest": 0},
        "confidence=1": {"confidence": 1},
        "sweeps=0": {"sweeps": 0},
    }
    for words, given in bad.items():
        with pytest.raises(InputError, match=words):
            measure("linear", given.pop("dim", 8), **given)
    for words, unknown in {
        "law='spher' is unknown; did you mean 'sphere'": {"law": "spher"},
        "case='best'": {"case": "best"},
        "no parameter 'featuremap'; did you mean 'feature_map'": {"featuremap": "elu"},
        "dtype='float8'": {"settings": Settings(dtype="float8")},
        "no parameter 'causal'": {"causal": True},
    }.items():
        with pytest.raises(UnknownNameError, match=words):
            measure("linear", 8, **unknown)
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        measure("linaer", 8)
    with pytest.raises(UnknownNameError, match="softmaxx"):
        next(table(["linear", "softmaxx"], [8]))
    with pytest.raises(InputError, match="snr"):
        allowed_error("worst", -1.0)
    with pytest.raises(MismatchError, match="linear"):
        exponent([measure("linear", 4, draws=2), measure("ssd", 4, draws=2)])
    with pytest.raises(InputError, match="empty"):
        exponent([])
