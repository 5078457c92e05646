"""The recipes of CNeuroMod and Miyawaki et al. (2008): what their pages say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from neuroattn.cli.main import main
from neuroattn.data import ImageSource, ResponseSource, TableData
from neuroattn.metrics import Score, pearson, split_half_ceiling
from tests.data import cneuromod_mini as mini

RECIPES = Path(__file__).resolve().parents[2] / "encoders"


def run(recipe: str, folder: Path, *more: str) -> dict[str, Score]:
    """Run a recipe whole and return the scores by encoder."""
    store = ["--store", str(folder / "store")]
    target = folder / "run"
    arguments = ["compare", "--config", str(RECIPES / recipe), "--run", str(target), *store, *more]
    assert main(arguments) == 0
    found = {path.parent.name: Score.load(path) for path in target.glob("baselines/*/scores.nc")}
    return {**found, "main": Score.load(target / "scores.nc")}


def test_the_recipe_of_cneuromod_reaches_the_ceiling_of_a_mini_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a recipe whose names left the classes, and features that are not the response's."""
    made = mini.write(tmp_path / "data", window=5, noise=0.5)
    monkeypatch.setenv("CNEUROMOD", str(made.root))
    monkeypatch.setenv("CNEUROMOD_FEATURES", str(made.features))
    scores = run("cneuromod.yaml", tmp_path, "--source.init_args.subject", "2")
    window = scores["main"].dataset
    assert all(image.startswith("friends-s06e") for image in window["image"].values.astype(str))
    assert float(window["raw"].mean()) > 0.95 * made.ceiling
    assert float(window["normalised"].mean()) == pytest.approx(1.0, abs=0.1)
    assert float(scores["one moment"].dataset["raw"].mean()) < 0.5


@pytest.fixture(scope="module")
def miyawaki(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Score]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROATTN_REALDATA", str(realdata))
        return run("miyawaki2008.yaml", tmp_path_factory.mktemp("miyawaki"))


def source(realdata: Path) -> TableData:
    """Return the reader of the recipe, written in Python."""
    images = ImageSource(
        "V1_mean_figure.mat",
        dataset="I2",
        shape=[10, 10, 80],
        axes="column row image",
        scale=255,
        merge=True,
    )
    responses = ResponseSource("V1_mean_figure.mat", dataset="R2", axes="voxel image")
    return TableData(images, responses, folder=str(realdata / "miyawaki2008_figure_v1"))


def median_r(prediction: np.ndarray, response: np.ndarray) -> float:
    return float(np.nanmedian(pearson(prediction, response)))


def left_out(pixels: np.ndarray, response: np.ndarray, penalty: float = 10.0) -> np.ndarray:
    """Return ridge predictions of each image by the others, in closed form."""
    prediction = np.empty_like(response)
    for image in range(len(pixels)):
        rest = np.arange(len(pixels)) != image
        mean, spread = pixels[rest].mean(axis=0), pixels[rest].std(axis=0)
        spread[spread == 0] = np.inf
        z = (pixels - mean) / spread
        gram = z[rest] @ z[rest].T + penalty * np.eye(rest.sum())
        offset = response[rest].mean(axis=0)
        prediction[image] = z[image] @ z[rest].T @ np.linalg.solve(gram, response[rest] - offset)
        prediction[image] += offset
    return prediction


@pytest.mark.realdata
def test_the_recipe_predicts_what_ridge_in_closed_form_predicts(
    realdata: Path, miyawaki: dict[str, Score]
) -> None:
    """Catches pixels turned or under other images on their way through reader, store and folds."""
    score = miyawaki["main"].dataset
    values = loadmat(realdata / "miyawaki2008_figure_v1" / "V1_mean_figure.mat")
    shown = {}
    for place in range(80):  # the first showing names the image
        shown.setdefault(values["I2"][:, place].tobytes(), f"{place:05d}")
    columns = {name: np.frombuffer(key, np.uint8) for key, name in shown.items()}
    pixels = np.array([columns[name] for name in score["image"].values.astype(str)], np.float64)
    response = score["response"].values.astype(np.float64)
    expected = left_out(pixels, response)
    np.testing.assert_allclose(score["prediction"].values, expected, atol=2e-3)
    generator = np.random.default_rng(0)
    shuffled = [
        median_r(left_out(pixels[generator.permutation(10)], response), response)
        for _ in range(200)
    ]
    assert np.mean(shuffled) < 0
    assert np.quantile(shuffled, 0.95) == pytest.approx(0.11, abs=0.06)


@pytest.mark.realdata
def test_ten_images_are_scored_each_by_a_model_that_did_not_see_it(
    miyawaki: dict[str, Score],
) -> None:
    """Catches 80 presentations taken for 80 images, each of which stands on both sides."""
    score = miyawaki["main"].dataset
    assert (score.sizes["image"], score.sizes["voxel"]) == (10, 797)
    assert (score["repeats"].values == 8).all()


@pytest.mark.realdata
def test_pixels_predict_v1_and_their_mean_does_not(miyawaki: dict[str, Score]) -> None:
    """Catches images in the wrong order or turned: r falls to that of shuffled images."""
    found = {
        name: median_r(score.dataset["prediction"].values, score.dataset["response"].values)
        for name, score in miyawaki.items()
    }
    assert found["main"] == pytest.approx(0.49, abs=0.03)
    assert 0.2 < found["pixels (penalty chosen)"] < found["main"]
    assert found["mean pixel"] < 0


@pytest.mark.realdata
def test_halves_of_the_repeats_agree_as_the_page_says(realdata: Path) -> None:
    """Catches presentations under the names of other images: halves would not agree."""
    responses = source(realdata).responses()
    assert np.unique(responses["image"].values, return_counts=True)[1].tolist() == [8] * 10
    images, values = responses["image"].values, responses["response"].values
    odd = responses["repetition"].values % 2 == 1
    halves = [
        np.array([values[part & (images == name)].mean(axis=0) for name in np.unique(images)])
        for part in (odd, ~odd)
    ]
    assert median_r(*halves) == pytest.approx(0.75, abs=0.02)
    ceiling = split_half_ceiling(values, images, 0)
    # All repeats agree better than halves of them: 2 r / (1 + r).
    assert np.median(ceiling) == pytest.approx(2 * 0.72 / 1.72, abs=0.04)
