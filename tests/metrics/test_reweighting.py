from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import MismatchError
from neuroattn.metrics import PairMoments, reweighted_scores
from neuroattn.metrics.moments import METRICS
from tests.tolerances import TOLERANCE


def repeated(name: str, prediction: np.ndarray, response: np.ndarray, counts) -> np.ndarray:
    moments = PairMoments()
    moments.update(np.repeat(prediction, counts, axis=0), np.repeat(response, counts, axis=0))
    return moments.metric(name)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("name", METRICS)
def test_counts_equal_repeated_images(name, offset):
    # Catches counts on the wrong axis, a lost block of voxels, and cancellation at an offset.
    rng = np.random.default_rng(0)
    response = rng.standard_normal((21, 1100))
    prediction = response + rng.standard_normal((21, 1100)) + 0.3 + offset
    response += offset
    counts = rng.multinomial(21, np.full(21, 1 / 21), 3)
    weights = rng.random((2, 1100))
    found = reweighted_scores(prediction, response, counts, weights, name)
    expected = [weights @ repeated(name, prediction, response, c) for c in counts]
    np.testing.assert_allclose(found, expected, rtol=1e-10 if offset == 0 else 1e-8)


def test_a_voxel_that_is_constant_in_a_resample_leaves_the_mean_of_the_others():
    # Catches a division by a variance that is only rounding, and a mean that counts nothing as 0.
    rng = np.random.default_rng(1)
    response = rng.standard_normal((9, 3))
    prediction = response + rng.standard_normal((9, 3))
    response[:6, 1] = 0.7
    counts = np.array([[2, 3, 1, 1, 1, 1, 0, 0, 0], [1] * 9])
    weights = np.array([[0.25, 0.25, 0.5], [0, 1, 0], [0, 0, 0]])
    weights[0] = 1 / 3
    found = reweighted_scores(prediction, response, counts, weights)
    scores = [repeated("explained_variance", prediction, response, c) for c in counts]
    np.testing.assert_allclose(found[0, 0], (scores[0][0] + scores[0][2]) / 2, rtol=1e-10)
    np.testing.assert_allclose(found[1, :2], [scores[1].mean(), scores[1][1]], rtol=1e-10)
    np.testing.assert_array_equal(np.isnan(found), [[False, True, True], [False, False, True]])


@pytest.mark.parametrize("name", METRICS)
def test_whatever_is_constant_in_a_resample_is_undefined_for_any_constant(name):
    # Catches a variance that is only rounding: divided by it, a score is any number at all.
    rng = np.random.default_rng(3)
    response, prediction = rng.standard_normal((2, 9, 400))
    changed = prediction if name == "pearson" else response
    changed[:6] = rng.standard_normal(400)
    counts = np.array([[2, 3, 1, 1, 1, 1, 0, 0, 0]])
    assert np.isnan(reweighted_scores(prediction, response, counts, np.eye(400), name)).all()


def test_float32_is_summed_in_float64():
    # Catches sums in the data's own precision.
    rng = np.random.default_rng(2)
    response = rng.standard_normal((500, 2)).astype(np.float32)
    prediction = (response + 1).astype(np.float32) + np.float32(0.5) * response[::-1]
    exact = reweighted_scores(
        prediction.astype(float), response.astype(float), [[1] * 500], [[1, 1]]
    )
    found = reweighted_scores(prediction, response, [[1] * 500], [[1, 1]])
    np.testing.assert_allclose(found, exact, **TOLERANCE["float64"])


def test_different_shapes_are_refused():
    # Catches broadcasting.
    with pytest.raises(MismatchError, match=r"\(3, 2\).*\(3, 1\)"):
        reweighted_scores(np.ones((3, 2)), np.ones((3, 1)), np.ones((1, 3)), np.ones((1, 2)))
