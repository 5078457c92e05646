"""Dissimilarities against scipy, plain loops and simulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import squareform

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics import crossnobis, dissimilarities
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def patterns(seed: int = 0, images: int = 7, voxels: int = 11) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((images, voxels)) + 3


def test_correlation_distance_is_one_minus_r_over_voxels() -> None:
    """Catches a correlation over images, and pairs in another order than squareform's."""
    values = patterns()
    found = squareform(dissimilarities(values))
    for i in range(7):
        for j in range(7):
            expected = 0 if i == j else 1 - stats.pearsonr(values[i], values[j]).statistic
            np.testing.assert_allclose(found[i, j], expected, **EXACT)


def test_squared_distance_is_a_mean_over_voxels() -> None:
    """Catches a distance that grows with the number of voxels, or is not squared."""
    values = patterns(1)
    found = squareform(dissimilarities(values, "sqeuclidean"))
    for i in range(7):
        for j in range(7):
            np.testing.assert_allclose(found[i, j], np.mean((values[i] - values[j]) ** 2), **EXACT)


def test_a_constant_pattern_has_no_correlation_and_a_nan_spares_the_others() -> None:
    """Catches rounding noise that correlates with something, and a NaN that spreads."""
    values = patterns(2)
    values[2], values[4, 3] = 0.1 + 0.2, np.nan
    found = squareform(dissimilarities(values), checks=False)
    gone = np.zeros((7, 7), bool)
    gone[[2, 4]] = gone[:, [2, 4]] = True
    np.fill_diagonal(gone, False)
    np.testing.assert_array_equal(np.isnan(found), gone)


def test_tensors_and_small_integers_are_taken_in_double_precision() -> None:
    """Catches uint8 pixels whose differences wrap around."""
    pixels = np.array([[0, 255, 3], [255, 0, 4]], np.uint8)
    found = dissimilarities(torch.from_numpy(pixels), "sqeuclidean")
    np.testing.assert_allclose(found, [(2 * 255**2 + 1) / 3], **EXACT)


def brute(
    betas: np.ndarray, images: np.ndarray, folds: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Return crossnobis by the definition: every two folds, every two images."""
    names, parts, inverse = np.unique(images), np.unique(folds), np.linalg.inv(noise)
    mean = {(f, i): betas[(folds == f) & (images == i)].mean(axis=0) for f in parts for i in names}
    found = []
    for a, i in enumerate(names):
        for j in names[a + 1 :]:
            products = [
                (mean[m, i] - mean[m, j]) @ inverse @ (mean[n, i] - mean[n, j])
                for m in parts
                for n in parts
                if m != n
            ]
            found.append(np.mean(products) / betas.shape[1])
    return np.array(found)


def presented(seed: int, repeats: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    images = np.repeat(["c", "a", "d", "b"], 3 * repeats)
    folds = np.tile([1, 2, 5], 4 * repeats)
    order = generator.permutation(len(images))
    return generator.standard_normal((len(images), 5)), images[order], folds[order]


def test_crossnobis_is_its_definition() -> None:
    """Catches folds multiplied with themselves, a wrong whitening, and images out of order."""
    betas, images, folds = presented(0)
    root = np.random.default_rng(1).standard_normal((5, 5))
    noise = root @ root.T + np.eye(5)
    found = crossnobis(betas, images, folds, noise)
    np.testing.assert_allclose(found, brute(betas, images, folds, noise), **EXACT)
    spread = np.array([1.0, 4, 9, 0.25, 2])
    found = crossnobis(betas, images, folds, spread)
    np.testing.assert_allclose(found, brute(betas, images, folds, np.diag(spread)), **EXACT)


def test_the_noise_covariance_is_that_of_the_residuals() -> None:
    """Catches residuals with the images left in, and degrees of freedom that were not given up."""
    from sklearn.covariance import ledoit_wolf

    betas, images, folds = presented(3)
    betas += 5 * (images == "a")[:, None]
    residuals = betas - np.array([betas[images == name].mean(axis=0) for name in images])
    noise = ledoit_wolf(residuals, assume_centered=True)[0] * len(betas) / (len(betas) - 4)
    expected = brute(betas, images, folds, noise)
    np.testing.assert_allclose(crossnobis(betas, images, folds), expected, **EXACT)


def test_crossnobis_is_zero_on_average_without_a_difference_and_true_with_one() -> None:
    """Catches the bias of plain distances, which noise makes positive."""
    generator = np.random.default_rng(5)
    images, folds = np.tile(["x", "y"], 4), np.repeat([0, 1, 2, 3], 2)
    step = np.where(images == "y", 1.0, 0.0)[:, None] * np.array([0.8, -0.3, 0.0])
    nothing, something = [], []
    for _ in range(2000):
        noise = generator.standard_normal((8, 3))
        nothing.append(crossnobis(noise, images, folds, np.ones(3))[0])
        something.append(crossnobis(noise + step, images, folds, np.ones(3))[0])
    assert abs(np.mean(nothing)) < 4 * np.std(nothing) / np.sqrt(2000)
    truth = (0.8**2 + 0.3**2) / 3
    assert abs(np.mean(something) - truth) < 4 * np.std(something) / np.sqrt(2000)
    assert min(nothing) < 0


def test_what_cannot_be_compared_is_named() -> None:
    """Catches an answer from labels, folds or covariances that do not fit."""
    betas, images, folds = presented(4)
    for arguments, error, message in (
        ((betas, images[:-1], folds), MismatchError, "images has shape"),
        ((betas, images, folds[:-1]), MismatchError, "folds has shape"),
        ((betas, images, np.zeros(len(folds))), InputError, "4 images in 1 folds"),
        (
            (betas[images != "a"], images[images != "a"], images[images != "a"]),
            InputError,
            "6 times",
        ),
        ((betas, images, folds, np.ones(4)), MismatchError, r"covariance has shape \(4, 4\)"),
        ((betas, images, folds, -np.ones(5)), InputError, "not positive definite"),
        ((np.where(betas > 2, np.nan, betas), images, folds), InputError, "NaN"),
    ):
        with pytest.raises(error, match=message):
            crossnobis(*arguments)
    with pytest.raises(InputError, match="2 images and 2 voxels"):
        dissimilarities(np.ones((3, 1)))
    with pytest.raises(InputError, match="did you mean 'correlation'"):
        dissimilarities(patterns(), "correlate")
