from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy import stats

from neuroattn.errors import InputError, MismatchError, UnknownNameError
from neuroattn.metrics import PairMoments, explained_variance, pearson, r2
from neuroattn.metrics.moments import METRICS
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def data(images: int = 37, voxels: int = 1031, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    response = rng.standard_normal((images, voxels)) * 3 + 1
    return 0.6 * response + rng.standard_normal((images, voxels)) - 0.4, response


def oracle(name: str, prediction: np.ndarray, response: np.ndarray) -> np.ndarray:
    if name == "pearson":
        columns = range(response.shape[1])
        return np.array(
            [stats.pearsonr(prediction[:, v], response[:, v]).statistic for v in columns]
        )
    scorer = {
        "r2": sklearn.metrics.r2_score,
        "explained_variance": sklearn.metrics.explained_variance_score,
    }[name]
    return scorer(response, prediction, multioutput="raw_values")


def streamed(prediction, response, bounds) -> PairMoments:
    moments = PairMoments()
    for start, stop in zip([0, *bounds], [*bounds, len(response)], strict=True):
        moments.update(prediction[start:stop], response[start:stop])
    return moments


@pytest.mark.parametrize("name", METRICS)
def test_a_stream_equals_scipy_and_scikit_learn(name):
    # Catches a wrong formula, a lost batch and a voxel block that is written to a wrong place.
    prediction, response = data()
    found = streamed(prediction, response, [1, 2, 20, 33]).metric(name)
    np.testing.assert_allclose(found, oracle(name, prediction, response), **EXACT)


@pytest.mark.parametrize("function", [pearson, explained_variance, r2])
def test_the_functions_equal_the_stream(function):
    # Catches a function that is bound to another metric than its name says.
    prediction, response = data(voxels=3)
    expected = oracle(function.__name__, prediction, response)
    np.testing.assert_allclose(function(prediction, response), expected, **EXACT)
    np.testing.assert_allclose(
        getattr(streamed(prediction, response, [5]), function.__name__)(), expected, **EXACT
    )


@pytest.mark.parametrize("images", [300, 129])
def test_a_batch_longer_than_a_block_of_rows_is_counted_whole(images):
    # Catches rows that are dropped or shifted twice where a batch is cut into blocks.
    prediction, response = data(images, 3)
    for name in METRICS:
        expected = oracle(name, prediction, response)
        np.testing.assert_allclose(
            streamed(prediction, response, []).metric(name), expected, **EXACT
        )


def test_a_large_offset_costs_no_digits():
    # Catches raw sums of squares: at an offset of 1e6 they keep only four digits.
    prediction, response = data(400, 7)
    moments = streamed(prediction + 1e6, response + 1e6, [3, 100])
    for name in METRICS:
        np.testing.assert_allclose(
            moments.metric(name), oracle(name, prediction, response), rtol=1e-8
        )


def test_float32_equals_two_passes_in_float64():
    # Catches sums that are kept in the data's own precision.
    prediction, response = (a.astype(np.float32) + np.float32(100) for a in data(1000, 5))
    expected = oracle("explained_variance", prediction.astype(float), response.astype(float))
    found = streamed(prediction, response, range(50, 1000, 50)).explained_variance()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("seed", range(5))
def test_any_split_merged_in_any_order_equals_one_pass(seed, offset):
    # Catches a merge that weighs by the wrong count or forgets the distance between the means.
    rng = np.random.default_rng(seed)
    prediction, response = data(60, 4, seed)
    prediction, response = prediction + offset, response + np.arange(60)[:, None]
    whole = streamed(prediction, response, [])
    order = rng.permutation(60)
    parts = np.split(order, np.sort(rng.integers(0, 61, 4)))
    joined = PairMoments(4)
    for part in parts:
        rank = PairMoments(4)
        rank.update(prediction[part], response[part])
        joined.merge(PairMoments.from_state(rank.state()))
    assert joined.count == 60
    for name in METRICS:
        np.testing.assert_allclose(joined.metric(name), whole.metric(name), rtol=1e-10)


def test_a_merge_leaves_the_other_alone_and_shares_nothing():
    # Catches an accumulator that goes on counting in the arrays of another.
    prediction, response = data(10, 2)
    other, joined = streamed(prediction, response, []), PairMoments()
    before = other.pearson()
    joined.merge(other)
    joined.update(prediction[::-1] * 2, response)
    np.testing.assert_array_equal(other.pearson(), before)


def test_undefined_voxels_are_nan_and_their_neighbours_are_not():
    # Catches 0/0 taken for a score, and a NaN that spreads over the voxels of a block.
    prediction, response = data(9, 6)
    response[:, 0] = 0.1
    prediction[:, 1] = 0.1
    response[4, 2] = np.nan
    prediction[0, 3] = np.inf
    moments = streamed(prediction, response, [3])
    finite = np.isfinite([moments.metric(name) for name in METRICS])
    np.testing.assert_array_equal(finite[1], [False, False, False, False, True, True])
    np.testing.assert_array_equal(finite[0], [False, True, False, False, True, True])
    np.testing.assert_array_equal(finite[2], finite[0])


def test_fewer_than_two_images_have_no_score():
    # Catches a division by zero images and a perfect score from a single one.
    prediction, response = data(1, 3)
    assert np.isnan(PairMoments(3).r2()).tolist() == [True] * 3
    assert np.isnan(r2(prediction, response)).tolist() == [True] * 3


def test_a_perfect_prediction_scores_one_and_never_more():
    # Catches rounding that lifts a score over its bound.
    _, response = data(50, 200)
    for name, shift in (("pearson", 0.1), ("explained_variance", 0.1), ("r2", 0.0)):
        scores = streamed(response + shift, response, [7]).metric(name)
        assert scores.max() <= 1
        np.testing.assert_allclose(scores, 1, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_give_what_arrays_give(dtype):
    # Catches tensors with gradients, or of a dtype that numpy lacks, that cannot be read.
    prediction, response = (torch.tensor(a).to(dtype) for a in data(11, 3))
    found = PairMoments()
    found.update(prediction.requires_grad_(), response)
    plain = [a.detach().double().numpy() for a in (prediction, response)]
    np.testing.assert_allclose(found.pearson(), pearson(*plain), **EXACT)


def test_what_does_not_fit_is_refused_by_name():
    # Catches broadcasting of a wrong shape, and errors that do not say what came.
    moments = PairMoments()
    moments.update(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(MismatchError, match=r"\(2, 3\).*\(2, 1\)"):
        moments.update(np.ones((2, 3)), np.ones((2, 1)))
    with pytest.raises(MismatchError, match="4 voxels, earlier ones 3"):
        moments.update(np.ones((2, 4)), np.ones((2, 4)))
    other = PairMoments()
    other.update(np.ones((2, 4)), np.ones((2, 4)))
    with pytest.raises(MismatchError, match="4 voxels"):
        moments.merge(other)
    with pytest.raises(InputError, match=r"prediction has shape \(3,\)"):
        moments.update(np.ones(3), np.ones(3))
    with pytest.raises(InputError, match="complex"):
        moments.update(np.ones((2, 3), complex), np.ones((2, 3)))
    with pytest.raises(UnknownNameError, match="did you mean 'pearson'"):
        moments.metric("pearsn")
    with pytest.raises(InputError, match="comoment"):
        PairMoments.from_state({"count": 1, "mean": np.zeros((2, 3))})
    with pytest.raises(InputError, match=r"\(2, 4\)"):
        PairMoments.from_state({"count": 1, "mean": np.zeros((2, 3)), "comoment": np.ones((2, 4))})
