"""Optimal radii, noise and critical distances against scans, enumeration and simulation."""

from __future__ import annotations

from itertools import pairwise, product
from math import inf

import numpy as np
import pytest
from scipy.stats import binom

from neuroattn.attention.memory.intersection import circle_table
from neuroattn.errors import InputError
from neuroattn.theory.sdm import (
    critical_distance,
    optimal_radius,
    overlap_power,
    signal_to_noise,
)
from neuroattn.theory.sdm.neurons import ball_share
from neuroattn.theory.sdm.retrieval import expected_errors


def test_many_bits_do_not_overflow():
    # Catches a fraction of 2^2000 that is made a float on the way, not at the end.
    with pytest.raises(InputError, match=r"n=1000, radius=451, neurons=None share 10\^590"):
        overlap_power(1000, 451)
    assert overlap_power(1000, 451, 10**6) == pytest.approx(2.6419, rel=1e-4)
    assert signal_to_noise(1200, 1, 10) == inf
    wanted = 1 / (10 * float(ball_share(1000, 451)) ** 2)
    found = signal_to_noise(1000, 451, 10, None, "independent")
    assert found == pytest.approx(wanted, rel=1e-3)
    assert critical_distance(2000, 200, 10) > 0
    assert 0 < critical_distance(1000, 451, 10_000, 10**6) < 500
    assert optimal_radius(1100, 10, "snr") > 0


def test_published_radii():
    # Catches criteria that are confused.
    found = [optimal_radius(64, 1024, each) for each in ("snr", "memory", "critical")]
    assert found == [11, 5, 15]
    assert [optimal_radius(64, m, "snr") for m in (100, 512, 60_000)] == [12, 11, 10]
    assert optimal_radius(64, 7, "memory") == 5
    assert optimal_radius(64, 100, "critical") == 21


def test_the_radius_by_the_signal_is_near_the_scans():
    # Catches neurons that are not passed on.
    for neurons in (None, 10**6, 10**9):
        found = optimal_radius(100, 500, "snr", neurons)
        formula = [signal_to_noise(100, d, 500, neurons, "independent") for d in range(51)]
        assert abs(found - int(np.argmax(formula))) <= 1
    found, wanted = optimal_radius(1000, 10_000, "snr", 10**6), (2 * 10_000 * 10**6) ** (-1 / 3)
    assert binom.cdf(found - 1, 1000, 0.5) < wanted <= binom.cdf(found, 1000, 0.5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 5, "snr"), "n=0"),
        ((64, 0, "snr"), "patterns=0"),
        ((64, 1024, "size"), "criterion='size'"),
        ((64, 1024, "snr", 0), "neurons=0"),
        ((64, 1024, "memory", 1), "neurons=1"),
    ],
)
def test_impossible_memories_have_no_optimal_radius(arguments, named):
    # Catches a radius that is returned where the formula has no maximum.
    with pytest.raises(InputError, match=named):
        optimal_radius(*arguments)


def test_the_mean_square_overlap_is_that_of_all_pairs():
    # Catches p^4 in place of the mean over distances.
    n, radius = 6, 2
    corners = list(product((0, 1), repeat=n))
    near = np.array(
        [
            [sum(a != b for a, b in zip(x, y, strict=True)) <= radius for y in corners]
            for x in corners
        ]
    ).astype(int)
    counts = near @ near.T
    assert overlap_power(n, radius) == pytest.approx((counts**2).mean(), rel=1e-12)
    p = near.mean()
    assert overlap_power(n, radius, None, "independent") == pytest.approx(
        64 * p**2 + 64**2 * p**4, rel=1e-12
    )
    assert overlap_power(n, radius, 1) == pytest.approx(p**2, rel=1e-12)


def test_the_published_overlap_is_right_for_kanervas_memory_only():
    # Catches an exact sum that is the published formula under another name.
    told = [overlap_power(1000, 451, 10**6, each) for each in ("exact", "independent")]
    assert told[1] / told[0] == pytest.approx(1 - 0.0655, abs=1e-4)
    told = [overlap_power(64, 11, None, each) for each in ("exact", "independent")]
    assert told[0] / told[1] == pytest.approx(4522.57, rel=1e-4)


def test_signal_over_noise_by_simulation():
    # Catches a count of patterns that includes the one that is read.
    generator = np.random.default_rng(1)
    n, radius, patterns, neurons, draws = 12, 4, 6, 150, 4000
    reads = np.empty(draws)
    for draw in range(draws):
        places = generator.integers(0, 2, (neurons, n))
        keys = generator.integers(0, 2, (patterns, n))
        near = (keys[:, None] != places).sum(-1) <= radius
        values = np.append(1, generator.choice((-1, 1), patterns - 1))
        reads[draw] = near[0] @ (near * values[:, None]).sum(0)
    mean = float(ball_share(n, radius)) * neurons
    found = mean**2 / ((reads - mean) ** 2).mean()
    assert signal_to_noise(n, radius, patterns, neurons) == pytest.approx(found, rel=0.1)


def test_at_the_address_a_smaller_radius_is_always_cleaner():
    # Catches the published optimum where the noise is exact.
    found = [signal_to_noise(64, d, 1024) for d in range(33)]
    assert all(a > b for a, b in pairwise(found))
    assert signal_to_noise(64, 11, 1024) == pytest.approx(8.545272e7, rel=1e-5)
    assert signal_to_noise(64, 11, 1024, None, "independent") == pytest.approx(
        2.726263e11, rel=1e-5
    )
    assert signal_to_noise(64, 11, 1) == inf


def test_critical_distances_with_published_and_exact_noise():
    # Catches a largest distance beyond a gap, such as the trivial one above n/2.
    published = [critical_distance(64, d, 1024, overlaps="independent") for d in (11, 14, 15, 16)]
    assert published == [22, 22, 24, 24]
    assert [critical_distance(64, d, 1024) for d in (5, 11, 15)] == [10, 16, 18]
    assert critical_distance(64, 25, 1024) == 0
    assert critical_distance(64, 20, 1) == 32
    assert critical_distance(1000, 451, 10_000, 10**6, "independent") > 100


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((64, 65, 10), "radius=65"),
        ((64, 11, 0), "patterns=0"),
        ((64, 11, 10, 0), "neurons=0"),
        ((64, 11, 10, None, "poisson"), "overlaps='poisson'"),
    ],
)
def test_impossible_reads_are_named(arguments, named):
    # Catches arguments that are checked in one function and not in the other.
    for function in (signal_to_noise, critical_distance):
        with pytest.raises(InputError, match=named):
            function(*arguments)


def test_the_exact_law_of_errors_by_simulation():
    # Catches a pull towards the target in place of the query.
    generator = np.random.default_rng(2)
    table = np.array([float(each) for each in circle_table(64, 17)])
    patterns, distance, errors = 60, 24, []
    for _ in range(3000):
        held = generator.integers(0, 2, (patterns, 64)) * 2 - 1
        query = held[0] * np.where(np.arange(64) < distance, -1, 1)
        read = table[(held != query).sum(-1)] @ held
        errors.append(((read > 0) != (held[0] > 0)).sum())
    spread = np.std(errors) / np.sqrt(len(errors))
    assert abs(np.mean(errors) - expected_errors(17, patterns, distance)) < 4 * spread
    assert abs(np.mean(errors) - expected_errors(17, patterns, distance, pull=False)) > 5 * spread


def test_a_query_that_is_too_near_for_the_grid_is_refused() -> None:
    # Catches an integrand that turns faster than the grid, whose errors would be made up.
    assert expected_errors(11, 1024, 12) < 0.01
    with pytest.raises(InputError, match="distance=5 is too near the target"):
        expected_errors(11, 1024, 5)
