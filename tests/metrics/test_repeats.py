from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import MismatchError
from neuroattn.metrics.repeats import groups, halves, repeated, variance_within


def test_halves_are_disjoint_equal_and_of_the_same_image():
    # Catches a presentation in both halves, a wrong image, and weights that do not average.
    images = np.random.default_rng(0).permutation(np.repeat(np.arange(6), [1, 2, 3, 4, 5, 2]))
    group, sizes = groups("images", images, len(images))
    first, second = halves(group, sizes, repeated(sizes, None), np.random.default_rng(1))
    a, b = first.toarray(), second.toarray()
    assert a.shape == (5, 17)
    assert not ((a > 0) & (b > 0)).any()
    for matrix in (a, b):
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
        assert (matrix > 0).sum(axis=1).tolist() == [1, 1, 2, 2, 1]
        np.testing.assert_allclose(matrix @ images, [1, 2, 3, 4, 5])


def test_every_repeat_lands_in_every_half():
    # Catches halves that are always the first and the last repeats.
    group, sizes = groups("images", np.zeros(4), 4)
    generator = np.random.default_rng(2)
    dealt = sum(halves(group, sizes, sizes > 1, generator)[0].toarray() for _ in range(400))
    np.testing.assert_allclose(dealt[0] / 400, 0.25, atol=0.04)


def test_the_variance_within_images_is_that_of_numpy():
    # Catches ddof 0, images cut at a wrong row, and a NaN that costs more than its image.
    values = np.random.default_rng(3).standard_normal((9, 2)) + 1e6
    values[3, 1] = np.nan
    sizes = np.array([2, 3, 4])
    parts = np.split(values, [2, 5])
    first = sum((len(p) - 1) * p[:, 0].var(ddof=1) for p in parts) / 6
    second = sum((len(p) - 1) * p[:, 1].var(ddof=1) for p in (parts[0], parts[2])) / 4
    np.testing.assert_allclose(variance_within(values, sizes), [first, second], rtol=1e-8)
    np.testing.assert_allclose(
        variance_within(values[:2], sizes[:1]), parts[0].var(axis=0, ddof=1), rtol=1e-8
    )


def test_groups_follow_the_labels():
    # Catches labels that must be numbers or sorted, and a count that does not fit.
    group, sizes = groups("images", ["b", "a", "b"], 3)
    assert group.tolist() == [1, 0, 1]
    assert sizes.tolist() == [1, 2]
    with pytest.raises(MismatchError, match=r"images has shape \(2,\).*\(3,\)"):
        groups("images", [1, 2], 3)
    assert repeated(np.array([1, 2, 3]), 3).tolist() == [False, False, True]
