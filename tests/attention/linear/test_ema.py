"""The damped moving average against loops and its response to constants and impulses."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention.linear.ema import Average, by_convolution, by_recurrence, kernel
from tests.tolerances import TOLERANCE

FORMS = [by_convolution, by_recurrence]


def average(heads=2, channels=3, hidden=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (heads, channels, hidden)
    shares = torch.rand(2, *size, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    others = torch.randn(2, *size, generator=generator, dtype=torch.float64)
    return Average(*shares, *others)


def tokens(length, batch=2, heads=2, channels=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, heads, length, channels, generator=generator, dtype=torch.float64)


def by_loops(x, about, backward):
    """Follow one hidden unit of one channel at a time."""
    read = torch.zeros_like(x)
    batch, heads, length, channels = x.shape
    for b in range(batch):
        for h in range(heads):
            for c in range(channels):
                for n in range(about.gain.shape[-1]):
                    a, d, s, r = (float(each[h, c, n]) for each in about)
                    unit = 0.0
                    for t in reversed(range(length)) if backward else range(length):
                        if backward:
                            read[b, h, t, c] += r * unit
                        unit = a * s * float(x[b, h, t, c]) + (1 - a * d) * unit
                        if not backward:
                            read[b, h, t, c] += r * unit
    return read


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_every_number_equals_a_loop(form, backward, length):
    # Catches a kernel that starts at lag 1, and a backward average that holds the token itself.
    x, about = tokens(length), average()
    found = form(x, about, backward=backward)
    torch.testing.assert_close(found, by_loops(x, about, backward), **TOLERANCE["float64"])


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 257])
@pytest.mark.parametrize("backward", [False, True])
def test_convolution_equals_the_recurrence(length, backward):
    # Catches a transform that wraps around, and a gradient lost in it.
    x = tokens(length).requires_grad_()
    leaves = [x, *(each.clone().requires_grad_() for each in average())]
    outputs = [form(x, Average(*leaves[1:]), backward=backward) for form in FORMS]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-13)
    direction = tokens(length, seed=7)
    if backward and length == 1:
        return
    slopes = [torch.autograd.grad((each * direction).sum(), leaves) for each in outputs]
    for pair in zip(*slopes, strict=True):
        torch.testing.assert_close(*pair, **TOLERANCE["float64"])


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_is_amplified_by_one_over_the_damping(form):
    # Catches (1 - gain) · damping in place of 1 - gain · damping.
    about = average(hidden=1)
    about = about._replace(
        spread=torch.ones(2, 3, 1).double(), readout=torch.ones(2, 3, 1).double()
    )
    found = form(torch.ones(1, 2, 4000, 3).double(), about)[0, :, -1]
    torch.testing.assert_close(found, 1 / about.damping[..., 0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_full_damping_is_the_plain_moving_average(form):
    # Catches a gain that is left off the new token.
    about = average(hidden=1)
    ones = torch.ones_like(about.gain)
    about = Average(about.gain, ones, ones, ones)
    x, level = tokens(6), torch.zeros(2, 2, 3).double()
    found = form(x, about)
    for t in range(6):
        level = about.gain[..., 0] * x[:, :, t] + (1 - about.gain[..., 0]) * level
        torch.testing.assert_close(found[:, :, t], level, **TOLERANCE["float64"])


@pytest.mark.parametrize("form", FORMS)
def test_gains_at_their_ends_have_finite_slopes(form):
    # Catches the logarithm of a retention of zero.
    ends = torch.tensor([0.0, 1.0]).double().expand(2, 3, 2).clone().requires_grad_()
    ones = torch.ones(2, 3, 2).double()
    found = form(tokens(5), Average(ends, ends, ones, ones))
    (slope,) = torch.autograd.grad(found.sum(), ends)
    assert torch.isfinite(found).all()
    assert torch.isfinite(slope).all()


def test_the_kernel_is_the_response_to_an_impulse():
    # Catches a kernel summed over channels instead of over hidden units.
    about, impulse = average(), torch.zeros(1, 2, 9, 3).double()
    impulse[:, :, 0] = 1
    wanted = by_recurrence(impulse, about)[0].transpose(-1, -2)
    torch.testing.assert_close(kernel(about, 9), wanted, **TOLERANCE["float64"])
