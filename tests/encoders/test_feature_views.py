"""Views against plain numpy and scikit-learn's PCA, in blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.decomposition import PCA

from neuroattn.encoders import feature_views
from neuroattn.encoders.feature_views import View, fit_view
from neuroattn.errors import InputError
from tests.encoders.small import small_features
from tests.tolerances import TOLERANCE

FEATURES = small_features(images=43)
TRAIN = np.array([40, 3, 5, 8, 13, 21, 34, 2, 1, 0, 7, 39, 41])
MANY = np.arange(0, 43)


@pytest.fixture(params=["one block", "many blocks"])
def _blocks(request, monkeypatch):
    """Blocks of a single image or token, or one that holds everything."""
    if request.param == "many blocks":
        monkeypatch.setattr(feature_views, "_BLOCK_BYTES", 700)


def unstandardised(view: str, features: xr.Dataset = FEATURES) -> np.ndarray:
    tokens = features["tokens"].values.astype(float)
    return {
        "flatten": tokens.reshape(len(tokens), -1),
        "mean": tokens.mean(1),
        "class": features["class_token"].values.astype(float),
    }[view]


UNEQUAL = np.linspace(0.3, 4, 30)


def unequal() -> xr.Dataset:
    """Features whose columns differ in variance."""
    features = FEATURES.copy(deep=True)
    factors = UNEQUAL.reshape(6, 5).astype(np.float32)
    features["tokens"] = features["tokens"] * factors
    features["class_token"] = features["class_token"] * factors[0]
    return features


def standardised(view: str, rows: np.ndarray = TRAIN) -> np.ndarray:
    values = unstandardised(view)
    return (values - values[rows].mean(0)) / values[rows].std(0)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("view", ["flatten", "mean", "class"])
def test_columns_are_standardised_by_the_training_images_alone(view):
    # Catches test images that leak into means and scales, and blocks merged wrongly.
    fitted = fit_view(view, FEATURES, TRAIN)
    design = fitted.transform(FEATURES, MANY)
    assert design.dtype == torch.float32
    assert design.shape == (43, fitted.columns)
    np.testing.assert_allclose(design, standardised(view), **TOLERANCE["float32"])


def test_rows_come_in_the_order_asked():
    # Catches rows that are sorted on the way.
    fitted = fit_view("mean", FEATURES, TRAIN)
    rows = np.array([9, 1, 9])
    np.testing.assert_array_equal(
        fitted.transform(FEATURES, rows), fitted.transform(FEATURES, MANY)[rows]
    )


def scaled_alike(view: str, rows: np.ndarray = TRAIN) -> np.ndarray:
    values = unstandardised(view, unequal())
    return (values - values[rows].mean(0)) / values[rows].var(0).mean() ** 0.5


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("view", ["flatten", "mean", "class"])
def test_unstandardised_columns_share_one_scale(view):
    # Catches columns that lose their relative variance, and a scale that changes what a penalty
    # means: the variances must sum to the number of columns.
    fitted = fit_view(view, unequal(), TRAIN, standardise=False)
    design = fitted.transform(unequal(), MANY)
    np.testing.assert_allclose(design, scaled_alike(view), rtol=1e-5, atol=1e-5)
    power = torch.linalg.eigvalsh((design[TRAIN].T @ design[TRAIN]).double()).sum()
    assert float(power) == pytest.approx(len(TRAIN) * fitted.columns, rel=1e-5)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("rows", [TRAIN, MANY], ids=["through images", "through columns"])
def test_components_of_unstandardised_columns_equal_scikit_learns(rows):
    # Catches components of columns that were standardised after all.
    fitted = fit_view("pca", unequal(), rows, components=3, standardise=False)
    values = scaled_alike("flatten", rows)
    expected = PCA(3).fit(values[rows]).transform(values)
    found = fitted.transform(unequal(), MANY).numpy()
    signs = np.sign((expected * found).sum(0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-4, atol=1e-4)


def test_columns_that_do_not_vary_have_no_part_in_the_common_scale():
    # Catches a constant column that is divided by the common scale, makes the others larger, or,
    # where none varies, makes everything NaN.
    features = FEATURES.copy(deep=True)
    features["tokens"].values[:, :, 2:] = 1000.1
    design = fit_view("flatten", features, TRAIN, standardise=False).transform(features, TRAIN)
    dead = np.arange(30) % 5 >= 2
    assert not design[:, dead].any()
    assert float(design.double().var(0, correction=0).sum()) == pytest.approx(12, rel=1e-5)
    features["tokens"].values[:] = 3.0
    design = fit_view("flatten", features, TRAIN, standardise=False).transform(features, MANY)
    assert not design.any()


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("rows", [TRAIN, MANY], ids=["through images", "through columns"])
def test_components_equal_scikit_learns(rows):
    # Catches components in the wrong order or of the wrong scale, on both ways to get them.
    fitted = fit_view("pca", FEATURES, rows, components=6)
    values = standardised("flatten", rows)
    oracle = PCA(6).fit(values[rows])
    expected = oracle.transform(values)
    found = fitted.transform(FEATURES, MANY).numpy()
    signs = np.sign((expected * found).sum(0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-4, atol=1e-4)
    largest = fitted.components.abs().argmax(0)
    assert (fitted.components[largest, range(6)] > 0).all()


def test_images_that_repeat_one_another_give_empty_components():
    # Catches a division by the singular value zero.
    copies = FEATURES.isel(image=[0, 1, 2, 0, 1, 2]).assign_coords(image=list("abcdef"))
    fitted = fit_view("pca", copies, np.arange(6), components=4)
    design = fitted.transform(copies, np.arange(6))
    assert torch.isfinite(design).all()
    assert not fitted.components[:, 2:].any()
    assert not design[:, 2:].any()
    assert design[:, :2].abs().amax(0).min() > 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_columns_that_do_not_vary_become_zero(dtype):
    # Catches rounding of a constant that is blown up to unit variance, or NaN.
    features = FEATURES.copy(deep=True)
    features["tokens"].values[TRAIN, 1, 2] = 1000.1
    features["tokens"].values[:, 4, 0] = 0
    features["tokens"] = features["tokens"].astype(dtype)
    design = fit_view("flatten", features, TRAIN).transform(features, MANY)
    assert torch.isfinite(design).all()
    dead = [1 * 5 + 2, 4 * 5]
    assert not design[:, dead].any()
    assert (design.abs().sum(0) == 0).sum() == 2


def test_a_mean_over_tokens_that_does_not_vary_becomes_zero():
    # Catches the rounding of a mean of means, which has a spread of its own.
    features = FEATURES.copy(deep=True)
    features["tokens"].values[:, :, 3] = [0.3, 0.7, 11.1, 0.2, 5.3, 1e3 / 7]
    for rows in (TRAIN, MANY):
        design = fit_view("mean", features, rows).transform(features, MANY)
        assert not design[:, 3].any()
        assert design[:, :3].any(0).all()


def test_a_view_comes_back_from_its_tensors():
    # Catches a tensor that is forgotten when an encoder is saved.
    for name, components in (("flatten", None), ("pca", 3)):
        fitted = fit_view(name, FEATURES, TRAIN, components)
        again = View.restored(name, fitted.tensors())
        assert torch.equal(again.transform(FEATURES, MANY), fitted.transform(FEATURES, MANY))


def test_impossible_views_are_refused():
    # Catches a class token taken from token 0, and components silently ignored or cut.
    without = FEATURES.drop_vars("class_token")
    with pytest.raises(InputError, match=r"needs a class token.*basis-k1.*tokens"):
        fit_view("class", without, TRAIN)
    for view, components in (("pca", None), ("flatten", 3)):
        with pytest.raises(InputError, match="give a number with view='pca' only"):
            fit_view(view, FEATURES, TRAIN, components)
    for components in (0, 13):
        with pytest.raises(InputError, match="1 to 12: the training has 13 images"):
            fit_view("pca", FEATURES, TRAIN, components)


def test_the_memory_map_is_read_in_blocks(tmp_path, monkeypatch):
    # Catches a read of the whole map, which would not fit for thousands of images.
    monkeypatch.setattr(feature_views, "_BLOCK_BYTES", 2 * 8 * 30)
    path = tmp_path / "tokens.npy"
    np.save(path, FEATURES["tokens"].values)
    mapped = FEATURES.assign(tokens=(("image", "token", "channel"), np.load(path, mmap_mode="r")))
    sizes = []
    original = torch.from_numpy

    def spy(array):
        sizes.append(array.size)
        return original(array)

    monkeypatch.setattr(torch, "from_numpy", spy)
    found = fit_view("pca", mapped, TRAIN, 4).transform(mapped, MANY)
    assert max(sizes) <= 13 * 5
    monkeypatch.undo()
    expected = fit_view("pca", FEATURES, TRAIN, 4).transform(FEATURES, MANY)
    torch.testing.assert_close(found, expected, **TOLERANCE["float32"])


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("view", ["flatten", "mean", "class", "pca"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_named(view, value):
    # Catches a column that drops out without a word because its spread is NaN.
    broken = FEATURES.copy(deep=True)
    broken["tokens"][21, 1, 2] = broken["class_token"][21, 2] = value
    broken["tokens"][42] = value  # not a training image
    components = 3 if view == "pca" else None
    with pytest.raises(InputError, match="features of image 'im21' hold NaN or infinity"):
        fit_view(view, broken, TRAIN, components)
    assert fit_view(view, broken, TRAIN[TRAIN != 21], components).mean.isfinite().all()
