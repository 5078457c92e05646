"""The adaptive filter against its complex equations, its variance and its limits."""

from __future__ import annotations

import cmath
import math
from fractions import Fraction

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend
from neuroattn.attention.softmax.adaptive_filter import log_variance
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

NUMBERS = {"rate": -0.3, "process_noise": 0.7, "measurement_noise": 0.9, "floor_noise": 0.4}


def of_heads(sizes, generator):
    """Return every parameter as a tensor, times included."""

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    heads = sizes["heads"]
    named = {name: 0.3 + normal(heads).square() for name in (*NUMBERS, "robust", "temperature")}
    named["rate"] = -0.2 * named["rate"]
    named["frequency"] = normal(heads, sizes["dim"] // 2)
    named["value_frequency"] = normal(heads, sizes["value_dim"] // 2)
    named["query_times"] = normal(sizes["batch"], sizes["queries"]).cumsum(-1).detach()
    named["key_times"] = normal(sizes["keys"]).abs().cumsum(0)
    return named


EXAMPLES = {
    "adaptive_filter": [
        Example(label="default"),
        Example(lambda *_: NUMBERS, label="numbers"),
        Example(lambda *_: {**NUMBERS, "robust": 2.0, "tail": "published"}, label="published"),
        Example(of_heads, value_dim=6, lengths=(1, 9), label="tensors"),
        Example(
            lambda *_: {"rate": -2.0, "process_noise": 0.0}, label="nothing-but-measurement-noise"
        ),
    ]
}


def tensors(queries, keys, dim=4, value_dim=4, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(queries, dim), (keys, dim), (keys, value_dim)]
    return [
        torch.randn(batch, heads, *size, generator=generator, dtype=torch.float64) for size in sizes
    ]


def variance(lag, rate, process_noise, measurement_noise, floor_noise):
    grown = lag if rate == 0 else (1 - math.exp(2 * rate * lag)) / (-2 * rate)
    measured = measurement_noise**2 * math.exp(2 * rate * lag)
    return process_noise**2 * grown + measured + floor_noise**2


def as_complex(row):
    return [complex(*row[2 * c : 2 * c + 2].tolist()) for c in range(len(row) // 2)]


def by_pairs(query, key, value, frequency, times, causal, robust=None, tail="student", tau=1.0):
    """Carry each complex channel of each token to each query."""
    batch, heads, queries, dim = query.shape
    keys, read = key.shape[2], torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    asked, told = times
    for b in range(batch):
        for h in range(heads):
            turns = frequency[h].tolist()
            for i in range(queries):
                shares, carried = [], []
                for j in range(keys):
                    if causal and j > i + keys - queries:
                        continue
                    lag, kept = (
                        asked[i] - told[j],
                        math.exp(NUMBERS["rate"] * abs(asked[i] - told[j])),
                    )
                    moves = [kept * cmath.exp(1j * turn * lag) for turn in turns]
                    rows = (as_complex(query[b, h, i]), as_complex(key[b, h, j]), moves)
                    pairs = zip(*rows, strict=True)
                    residual = sum(abs(q - m * k) ** 2 for q, k, m in pairs)
                    v = variance(abs(lag), **NUMBERS)
                    surprise = residual / v
                    if robust is not None:
                        surprise = math.log(1 + surprise / (robust * dim))
                        surprise *= robust * dim if tail == "student" else 1
                    shares.append(math.exp(tau**2 * (-math.log(v) - surprise)))
                    contents = zip(as_complex(value[b, h, j]), moves, strict=True)
                    carried.append([m * x for x, m in contents])
                for c in range(len(turns)):
                    parts = zip(shares, carried, strict=True)
                    total = sum(w * x[c] for w, x in parts) / sum(shares)
                    read[b, h, i, 2 * c] = total.real
                    read[b, h, i, 2 * c + 1] = total.imag
    return read


FREQUENCY = torch.tensor([[0.3, -1.1], [2.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 6)])
@pytest.mark.parametrize(
    "more", [{}, {"robust": 1.5}, {"robust": 1.5, "tail": "published", "temperature": 1.3}]
)
def test_outputs_equal_a_loop_over_pairs_of_complex_channels(causal, queries, keys, more):
    # Catches a conjugate at the wrong place, E² left off the key's norm, values not turned back.
    three = tensors(queries, keys)
    found = attend("adaptive_filter", *three, causal=causal, frequency=FREQUENCY, **NUMBERS, **more)
    times = [i + keys - queries for i in range(queries)], list(range(keys))
    tau = more.get("temperature", 1.0)
    options = {name: each for name, each in more.items() if name != "temperature"}
    wanted = by_pairs(*three, FREQUENCY, times, causal, tau=tau, **options)
    torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize("causal", [False, True])
def test_given_times_are_used_for_lags_and_turns(causal):
    # Catches token indices in place of times in one of the two.
    three = tensors(3, 4)
    asked, told = [0.5, 1.25, 4.0], [0.0, 0.2, 1.5, 3.0]
    named = {"query_times": torch.tensor(asked).double()}
    named["key_times"] = torch.tensor(told, dtype=torch.float64)
    found = attend(
        "adaptive_filter", *three, causal=causal, frequency=FREQUENCY, **named, **NUMBERS
    )
    wanted = by_pairs(*three, FREQUENCY, (asked, told), causal)
    torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])


def test_the_variance_solves_the_propagation_equation():
    # Catches a decay μ in place of 2μ, and noises that are not squared.
    rate, process, measured, floor = NUMBERS.values()
    lags = torch.linspace(0, 3, 4, dtype=torch.float64)
    found = log_variance(lags, *NUMBERS.values()).exp() - floor**2
    level, step = measured**2, 1e-5
    for place, wanted in enumerate(found.tolist()):
        assert wanted == pytest.approx(level, abs=1e-5), lags[place]
        for _ in range(round(1 / step)):
            level += (2 * rate * level + process**2) * step


def test_the_variance_is_that_of_simulated_paths():
    # Catches a process noise that is not integrated over the lag.
    generator = torch.Generator().manual_seed(0)
    rate, process, measured = -0.5, 0.8, 0.6
    paths = measured * torch.randn(40_000, generator=generator, dtype=torch.float64)
    steps, lag = 200, 1.5
    for _ in range(steps):
        noise = torch.randn(paths.shape, generator=generator, dtype=torch.float64)
        paths = paths + rate * paths * lag / steps + process * math.sqrt(lag / steps) * noise
    wanted = log_variance(torch.tensor(lag).double(), rate, process, measured, 0.0).exp().item()
    assert paths.var().item() == pytest.approx(wanted, rel=4 * math.sqrt(2 / 40_000))


def test_the_variance_at_rate_zero_is_its_limit():
    # Catches a division by the rate: NaN in the value or in its slope.
    lags = torch.tensor([0.0, 1e-9, 0.5, 3.0, 400.0], dtype=torch.float64)
    for rate in (0.0, -1e-9, -1e-6):
        moving = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
        found = log_variance(lags, moving, 0.7, 0.9, 0.4)
        wanted = (0.49 * lags + 0.81 + 0.16).log()
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-3, atol=-1e3 * rate + 1e-12)
        (slope,) = torch.autograd.grad(found.exp().sum(), moving)
        # d/dμ of V at 0 is σ²Δ² + 2η²Δ.
        assert slope.item() == pytest.approx(
            (0.49 * lags.square() + 1.62 * lags).sum().item(), rel=1e-3
        )


@pytest.mark.parametrize("exponent", [-0.0099, -0.0101, -0.5, -40.0])
def test_the_variance_keeps_its_digits_on_both_sides_of_the_series(exponent):
    # Catches a series that is cut too early.
    lag, rate = torch.tensor(1.0).double(), exponent / 2
    found = log_variance(lag, rate, 1.0, 1e-8, 0.0).exp().item() - 1e-16 * math.exp(exponent)
    exact = term = Fraction(1)
    for order in range(2, 200):
        term = term * Fraction(exponent) / order
        exact += term
    assert found == pytest.approx(float(exact), rel=1e-13)


def test_a_variance_that_underflows_keeps_its_logarithm():
    # Catches log(0) where only the measurement noise is left and has decayed away.
    lag = torch.tensor([0.0, 10.0, 5000.0], dtype=torch.float32, requires_grad=True)
    found = log_variance(lag, -1.0, 0.0, 0.5, 0.0)
    wanted = -2 * lag.detach() + 2 * math.log(0.5)
    torch.testing.assert_close(found.detach(), wanted)
    (slope,) = torch.autograd.grad(found.sum(), lag)
    torch.testing.assert_close(slope, torch.full((3,), -2.0))
    three = [each.float() for each in tensors(300, 300)]
    output = attend("adaptive_filter", *three, rate=-2.0, process_noise=0.0)
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_residuals_of_nothing_stay_nothing(dtype):
    # Catches 0 · ∞ where the variance has vanished, and a square that rounding put below 0.
    nothing = [torch.zeros_like(each).to(dtype) for each in tensors(500, 500, heads=1)]
    nothing[0].requires_grad_()
    output = attend("adaptive_filter", *nothing, rate=-2.0, process_noise=0.0)
    assert (output == 0).all()
    (slope,) = torch.autograd.grad(output.sum(), nothing[0])
    assert torch.isfinite(slope).all()
    query, _, value = (each.to(dtype) for each in tensors(65, 65))
    given = {"measurement_noise": 1e-7, "process_noise": 0.0, "robust": 0.1}
    for tail in ("student", "published"):
        output = attend("adaptive_filter", 1e3 * query, 1e3 * query, value, tail=tail, **given)
        assert torch.isfinite(output).all()


def test_without_dynamics_and_of_unit_norm_it_is_softmax():
    # Catches the missing factor 2 of the cross term.
    query, key, value = tensors(5, 7)
    query, key = (each / each.norm(dim=-1, keepdim=True) for each in (query, key))
    for causal in (False, True):
        given = {"process_noise": 0.0, "measurement_noise": 0.8, "floor_noise": 0.5}
        found = attend("adaptive_filter", query, key, value, causal=causal, **given)
        wanted = attend("softmax", query, key, value, causal=causal, scale=2 / (0.64 + 0.25))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def test_turns_alone_make_it_rotary_attention():
    # Catches queries and keys that are turned in opposite directions. The filter turns tokens
    # back to time 0, so that its sense is the opposite of a rotary code's.
    query, key, value = tensors(6, 6)
    query, key = (each / each.norm(dim=-1, keepdim=True) for each in (query, key))
    still = torch.zeros(2, 2, dtype=torch.float64)
    given = {"process_noise": 0.0, "value_frequency": still}
    found = attend("adaptive_filter", query, key, value, frequency=FREQUENCY, **given)
    turned = []
    for each in (query, key):
        phase = -torch.arange(6)[:, None] * FREQUENCY[:, None]
        pairs = torch.view_as_complex(each.unflatten(-1, (2, 2)).contiguous())
        spun = pairs * torch.polar(torch.ones_like(phase), phase)
        turned.append(torch.view_as_real(spun).flatten(-2))
    wanted = attend("softmax", *turned, value, scale=2.0)
    torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])


def test_the_robust_filter_tends_to_the_gaussian():
    # Catches the missing factor ν dim: the published tail tends to the prior alone.
    three = tensors(5, 6)
    gaussian = attend("adaptive_filter", *three, **NUMBERS)
    errors = {}
    for tail in ("student", "published"):
        for robust in (1e2, 1e4, 1e6):
            found = attend("adaptive_filter", *three, robust=robust, tail=tail, **NUMBERS)
            errors[tail, robust] = (found - gaussian).abs().max().item()
    assert errors["student", 1e6] < 1e-4
    assert errors["student", 1e4] / errors["student", 1e6] == pytest.approx(100, rel=0.05)
    assert errors["published", 1e6] > 0.1


def test_an_outlier_moves_the_robust_estimate_less():
    # Catches a robust weight that grows with the residual.
    query, key = (0.1 * each for each in tensors(1, 8, seed=2)[:2])
    key[:, :, 4] = 6.0
    key[:, :, 5] = 12.0
    shares = []
    for given in ({}, {"robust": 1.0}):
        marks = torch.eye(8, dtype=torch.float64).expand(2, 2, 8, 8)
        shares.append(attend("adaptive_filter", query, key, marks, process_noise=0.0, **given))
    gaussian, robust = (each[..., 0, 4] / each[..., 0, 5] for each in shares)
    # Twice the distance costs the Gaussian e^-432, the heavy tail 4^-dim.
    assert (gaussian > 1e100).all()
    assert (robust < 4**4 * 1.1).all()


@pytest.mark.parametrize("causal", [False, True])
def test_only_differences_of_times_count(causal):
    # Catches values that are turned and not turned back.
    three = tensors(5, 5)
    times = torch.arange(5).double()
    outputs = [
        attend(
            "adaptive_filter",
            *three,
            causal=causal,
            frequency=FREQUENCY,
            query_times=times + shift,
            key_times=times + shift,
            **NUMBERS,
        )
        for shift in (0.0, 17.3)
    ]
    torch.testing.assert_close(*outputs, **TOLERANCE["float64"])
    default = attend("adaptive_filter", *three, causal=causal, frequency=FREQUENCY, **NUMBERS)
    torch.testing.assert_close(outputs[0], default, **TOLERANCE["float64"])


@pytest.mark.parametrize("causal", [False, True])
def test_a_noiseless_trajectory_is_predicted_exactly(causal):
    # Catches a transport in the wrong direction: the estimate would be another phase.
    rate, turns = -0.1, FREQUENCY[:1]
    start = torch.tensor([[1.0 + 2j, -0.5 + 0.3j]], dtype=torch.complex128)
    times = torch.arange(8).double()[:, None]
    path = start * torch.exp((rate + 1j * turns) * times)
    tokens = torch.view_as_real(path).flatten(-2)[None, None]
    found = attend(
        "adaptive_filter",
        tokens[:, :, -1:],
        tokens[:, :, :-1] if causal else tokens,
        tokens[:, :, :-1] if causal else tokens,
        causal=causal,
        rate=rate,
        frequency=turns,
        query_times=times[-1],
        key_times=times[:-1, 0] if causal else times[:, 0],
    )
    torch.testing.assert_close(found, tokens[:, :, -1:], **TOLERANCE["float64"])


def block_of(**parameters):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MultiheadAttention(
            12, 3, mechanism="adaptive_filter", parameters=parameters, causal=True
        )


@pytest.mark.parametrize("learn_robust", [False, True])
def test_a_block_learns_dynamics_and_noises_within_their_ranges(learn_robust):
    # Catches a noise that may turn negative, and a parameter that no gradient reaches.
    block = block_of(learn_robust=learn_robust)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 9, 12, generator=generator)
    optimiser = torch.optim.Adam(block.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = (block(tokens, block.project(tokens)) - tokens.roll(1, 1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, each in block.learned.named_parameters():
        assert each.grad.abs().sum() > 0, name
    with torch.no_grad():
        for each in block.learned.parameters():
            each.sub_(5.0)
    named = block.learned.of_tokens(tokens)
    assert ("robust" in named) == learn_robust
    assert (named.pop("rate") < 0).all()
    named.pop("frequency")
    assert all((each > 0).all() for each in named.values())


def test_the_module_starts_with_residuals_that_weigh_about_one():
    # Catches a softmax that starts as a hard choice at wide heads.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = MultiheadAttention(128, 2, mechanism="adaptive_filter")
    named = block.learned.of_tokens(torch.zeros(1, 1, 128))
    torch.testing.assert_close(named["measurement_noise"], torch.full((2,), 8.0))
    torch.testing.assert_close(named["rate"], torch.full((2,), -0.01))
    torch.testing.assert_close(named["frequency"][1, [0, 16]], torch.tensor([1.0, 0.01]))


def test_channels_that_cannot_be_paired_are_refused():
    # Catches a broadcast of the wrong number of turns.
    three = tensors(2, 2, dim=4, value_dim=5)
    with pytest.raises(InputError, match="value_frequency has 2 pairs for 5 channels"):
        attend("adaptive_filter", *three, frequency=FREQUENCY)
    with pytest.raises(InputError, match=r"frequency has 2 pairs for 6 channels"):
        attend("adaptive_filter", *tensors(2, 2, dim=6), frequency=FREQUENCY)
    with pytest.raises(InputError, match="dim=9 with heads=3 gives 3 a head"):
        MultiheadAttention(9, 3, mechanism="adaptive_filter")
