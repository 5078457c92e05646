"""Text queries against voxels whose category is known, by a tiny CLIP with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn.data import response_set
from neuroattn.encoders.adaptive import AdaptiveEncoder
from neuroattn.encoders.text_queries import (
    PROMPT_ROIS,
    PROMPTS,
    category_accuracy,
    text_selectivity,
)
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.errors import InputError, MismatchError
from neuroattn.features import FeatureStore, HuggingFaceVision, TextTower
from neuroattn.images import ImageArray
from tests.features.test_huggingface import make, offline
from tests.features.tiny_clip import clip
from tests.tolerances import TOLERANCE

pytest.importorskip("transformers")
__all__ = ["offline"]

IMAGES, EACH = 60, 30
TEXTS = {"cats": ["cat", "a cat, cat"], "dogs": ["dog"], "zebra": ["zzz", "xyxy", "a z"]}
AREAS = {"cat area": "cats", "dog area": "dogs", "zebra area": "zebra"}


class LeastSquares(AdaptiveEncoder):
    """Weights by least squares: the smallest encoder with the manners of the others."""

    def __init__(self, embedding: Mapping[str, Any] | None = None) -> None:
        self.embedding = embedding

    def _learn(self, sets: list[VoxelSet], validation: list[VoxelSet]) -> None:
        pass

    def write(self, context: VoxelSet) -> tuple[torch.Tensor, torch.Tensor]:
        ones = torch.ones(len(context.images), 1)
        design = torch.cat([context.embedded, ones], 1).double()
        found = torch.linalg.lstsq(design, context.response.double()).solution
        return found[:-1].T, found[-1]

    def _prior_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {}

    def _restore_prior(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("clip")
    clip(place)
    return place


@pytest.fixture(scope="module")
def basis(folder) -> HuggingFaceVision:
    return HuggingFaceVision(str(folder), source="embedding")


@pytest.fixture(scope="module")
def features(basis, tmp_path_factory) -> xr.Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28, 3), dtype=np.uint8)
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    return store.fill(basis, ImageArray(list(pixels)), "float32")


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def meant(tower: TextTower, prompts: list[str]) -> np.ndarray:
    return unit(unit(tower.embed(prompts).astype(float)).mean(0))


def subject(
    features: xr.Dataset, weights: np.ndarray, intercept: np.ndarray, roi: Mapping[str, Any]
) -> xr.Dataset:
    images = unit(features["tokens"].values[:, 0].astype(float))
    return response_set(
        images @ weights.T + intercept,
        presentation={"image": features["image"].values},
        voxel={"subject": "s", "hemisphere": "left", "vertex": np.arange(len(weights)) + 100},
        roi=roi,
        attrs={"vertices_left": 1000, "vertices_right": 1000},
    )


def simulated(features: xr.Dataset, tower: TextTower, noise: float = 0.05) -> xr.Dataset:
    """Return responses of voxels that read a category's text vector, category by category."""
    generator = np.random.default_rng(1)
    directions = np.stack([meant(tower, prompts) for prompts in TEXTS.values()])
    # Random CLIPs put all texts close together; a category is what sets it off from the others.
    read = np.repeat(unit(directions - directions.mean(0)), EACH, axis=0)
    weights = read + noise * generator.standard_normal(read.shape)
    kind = np.repeat(np.arange(3), EACH)
    roi = {name: kind == number for number, name in enumerate(AREAS)}
    return subject(features, weights, generator.standard_normal(len(weights)), roi)


def adapted(features: xr.Dataset, responses: xr.Dataset, **embedding: Any) -> LeastSquares:
    return LeastSquares(embedding).fit(features, responses).adapt(features, responses)


def test_selectivity_is_the_prediction_for_the_mean_of_normalised_prompts(features, basis):
    """Catches prompts weighed by their length, a lost intercept and weights transposed."""
    tower, generator = basis.text_tower(), np.random.default_rng(2)
    weights, intercept = generator.standard_normal((7, 16)), generator.standard_normal(7)
    encoder = adapted(features, subject(features, weights, intercept, {"FFA": np.arange(7) < 3}))
    found = text_selectivity(encoder, TEXTS, tower)
    vectors = np.stack([meant(tower, prompts) for prompts in TEXTS.values()])
    written = encoder.weights_ @ vectors.T + encoder.intercept_[:, None]
    assert (found.dims, found.dtype) == (("voxel", "category"), np.float32)
    assert found["category"].values.tolist() == list(TEXTS)
    np.testing.assert_array_equal(found["vertex"].values, np.arange(7) + 100)
    np.testing.assert_allclose(found.values, written, **TOLERANCE["float32"])
    # least squares recovers the truth, up to float32 responses
    truth = weights @ vectors.T + intercept[:, None]
    np.testing.assert_allclose(found.values, truth, rtol=1e-2, atol=1e-2)


def test_texts_go_through_the_embedding_of_the_images(features, basis):
    """Catches text vectors that skip principal components, or normalisation after them."""
    responses = simulated(features, basis.text_tower())
    encoder = adapted(features, responses, view="pca", components=5)
    tower = basis.text_tower()
    found = text_selectivity(encoder, TEXTS, tower)
    vectors = torch.tensor(np.stack([meant(tower, prompts) for prompts in TEXTS.values()]))
    view = encoder.embedding_.view
    reduced = ((vectors - view.mean) * view.scale).float() @ view.components
    reduced = torch.nn.functional.normalize(reduced, dim=1).numpy()
    expected = encoder.weights_ @ reduced.T + encoder.intercept_[:, None]
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)


def test_voxels_that_read_a_text_are_found_from_their_responses(features, basis):
    """Catches any break on the way from images and texts to the accuracy."""
    tower = basis.text_tower()
    encoder = adapted(features, simulated(features, tower))
    found = text_selectivity(encoder, TEXTS, tower)
    accuracy = category_accuracy(found, encoder.voxels_["roi_mask"], AREAS)
    assert accuracy["accuracy"].values.tolist() == [1.0, 1.0, 1.0]
    assert accuracy["elsewhere"].values.tolist() == [0.0, 0.0, 0.0]
    assert accuracy["voxels"].values.tolist() == [EACH] * 3
    assert accuracy["category"].values.tolist() == list(TEXTS)


def test_permuted_labels_give_chance(features, basis):
    """Catches an accuracy that looks at the ROI's own labels."""
    tower = basis.text_tower()
    encoder = adapted(features, simulated(features, tower))
    found = text_selectivity(encoder, TEXTS, tower)
    generator, scores = np.random.default_rng(3), []
    for _ in range(40):
        shuffled = found.copy(data=generator.permutation(found.values))
        mask = encoder.voxels_["roi_mask"]
        result = category_accuracy(shuffled, mask, AREAS, resamples=0)
        scores.append(result["accuracy"].values)
        assert result["low"].isnull().all()
    # 40 draws of 90 voxels: one standard error is about 0.01
    np.testing.assert_allclose(np.mean(scores), result["chance"].values[0], atol=0.04)
    assert result["chance"].values[0] == pytest.approx(1 / 3)


def selectivity(values: Any, names: tuple[str, ...] = ("faces", "places")) -> xr.DataArray:
    return xr.DataArray(
        np.asarray(values, float), dims=("voxel", "category"), coords={"category": list(names)}
    )


def masks(**rois: Any) -> xr.DataArray:
    values = np.array(list(rois.values()), dtype=bool)
    return xr.DataArray(values, dims=("roi", "voxel"), coords={"roi": list(rois)})


def test_accuracy_of_overlapping_and_empty_rois_is_counted_by_hand():
    """Catches voxels counted in one ROI only, an empty ROI as 0, and ROIs mixed up."""
    found = selectivity([[2, 1], [2, 1], [1, 2], [1, 2], [1, 2], [2, 1]])
    mask = masks(
        V1=[1, 1, 1, 1, 1, 1],
        PPA=[0, 0, 1, 1, 0, 1],
        FFA=[1, 1, 1, 0, 0, 0],
        OFA=[0, 1, 1, 1, 1, 0],
        RSC=[0, 0, 0, 0, 0, 0],
        OPA=[0, 0, 0, 0, 1, 0],
    )
    result = category_accuracy(found, mask.transpose("voxel", "roi"), PROMPT_ROIS)
    assert result["roi"].values.tolist() == ["PPA", "FFA", "OFA", "RSC", "OPA"]
    expected = [2 / 3, 2 / 3, 1 / 4, np.nan, 1.0]
    np.testing.assert_allclose(result["accuracy"], expected, **TOLERANCE["float64"])
    # outside PPA, RSC and OPA: voxels 0 and 1; outside FFA and OFA: voxel 5
    np.testing.assert_allclose(result["elsewhere"], [0, 1, 1, 0, 0], **TOLERANCE["float64"])
    assert result["voxels"].values.tolist() == [3, 3, 4, 0, 1]
    assert np.isnan(result["low"].values).tolist() == [False, False, False, True, True]
    assert np.isnan(result["high"].values).tolist() == [False, False, False, True, True]


def test_interval_is_that_of_a_binomial_and_the_same_for_the_same_seed():
    """Catches a bootstrap over the wrong axis, another level, and a global generator."""
    from scipy import stats

    hits = np.arange(50) < 20
    found = selectivity(np.stack([hits, ~hits], axis=1))
    mask = masks(EBA=~hits, FFA=np.ones(50), OFA=hits)
    first = category_accuracy(found, mask, PROMPT_ROIS | {"EBA": "places"}, resamples=4000)
    exact = stats.binom(50, 0.4).ppf([0.025, 0.975]) / 50
    row = first.sel(roi="FFA")
    np.testing.assert_allclose([row["low"], row["high"]], exact, atol=0.021)
    assert (first.sel(roi="OFA")["low"], first.sel(roi="OFA")["high"]) == (1.0, 1.0)
    # neither the other ROIs nor another call change a ROI's interval
    alone = category_accuracy(found, mask.sel(roi=["FFA"]), PROMPT_ROIS, resamples=4000)
    np.testing.assert_array_equal(alone["low"], first.sel(roi=["FFA"])["low"])
    mixed = np.random.default_rng(0).random((501, 2))
    whole = masks(FFA=np.ones(501))
    few = [category_accuracy(selectivity(mixed), whole, PROMPT_ROIS, 99, seed) for seed in (0, 1)]
    assert few[0]["low"].item() != few[1]["low"].item()


def test_a_voxel_without_preference_does_not_count_for_the_first_category():
    """Catches voxels of zero weights that all turn into face voxels."""
    found = selectivity([[3, 3, 3], [3, 3, 1]], ("faces", "places", "food"))
    result = category_accuracy(found, masks(FFA=[1, 0], PPA=[0, 1]), PROMPT_ROIS, resamples=0)
    np.testing.assert_allclose(result["accuracy"], [1 / 3, 1 / 2], **TOLERANCE["float64"])


def test_default_prompts_and_rois_fit_together():
    """Catches a category that is spelt in two ways, and prompts given twice."""
    assert set(PROMPT_ROIS.values()) == set(PROMPTS)
    flat = [prompt for prompts in PROMPTS.values() for prompt in prompts]
    assert len(set(flat)) == len(flat) == 25
    wanted = {"FFA": "faces", "OFA": "faces", "PPA": "places", "OPA": "places", "RSC": "places"}
    wanted |= {"EBA": "bodies", "FBA": "bodies", "VWFA": "words", "OWFA": "words", "food": "food"}
    assert {name: PROMPT_ROIS[name] for name in wanted} == wanted


def test_features_that_share_no_space_with_texts_are_refused(features, folder, tmp_path):
    """Catches DINOv2, or hidden states of CLIP, asked in words."""
    make("dinov2", tmp_path)
    tower = TextTower(str(folder))
    for other in (
        HuggingFaceVision(str(tmp_path), source="embedding"),
        HuggingFaceVision(str(folder), source="output"),
    ):
        foreign = features.assign_attrs(basis=other.name, key=other.key())
        encoder = adapted(foreign, simulated(features, tower))
        with pytest.raises(MismatchError, match=f"'{other.name}', which shares no space"):
            text_selectivity(encoder, TEXTS, tower)


def test_the_tower_of_another_model_is_refused(features, basis, tmp_path):
    """Catches a model of the same width, told by the key, and one of another width."""
    encoder = adapted(features, simulated(features, basis.text_tower()))
    clip(tmp_path / "other", seed=1)
    other = HuggingFaceVision(str(tmp_path / "other"), source="embedding").text_tower()
    with pytest.raises(MismatchError, match="features have key"):
        text_selectivity(encoder, TEXTS, other)
    clip(tmp_path / "wide", width=20)
    with pytest.raises(MismatchError, match=r"vectors of 20 channels, but .* have 16"):
        text_selectivity(encoder, TEXTS, TextTower(str(tmp_path / "wide")))
    # a tower by name alone is checked by its width alone
    same = text_selectivity(encoder, TEXTS, TextTower(basis.model_name))
    np.testing.assert_array_equal(same, text_selectivity(encoder, TEXTS, basis.text_tower()))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "texts is empty"),
        ({"cats": []}, r"texts\['cats'\]=\[\] is no list of prompts"),
        ({"cats": "a cat"}, r"texts\['cats'\]='a cat' is no list of prompts"),
        ({"cats": ["cat", ""]}, "is empty"),
    ],
)
def test_categories_without_prompts_are_refused(texts, message, features, basis):
    """Catches NaN from the mean of nothing, and a string taken for its letters."""
    encoder = adapted(features, simulated(features, basis.text_tower()))
    with pytest.raises(InputError, match=message):
        text_selectivity(encoder, texts, basis.text_tower())


def test_an_encoder_that_is_not_adapted_is_told(features, basis):
    """Catches an empty answer for no voxels."""
    encoder = LeastSquares().fit(features, simulated(features, basis.text_tower()))
    with pytest.raises(InputError, match="call adapt"):
        text_selectivity(encoder, TEXTS, SimpleNamespace())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask": masks(FFA=[1, 0, 0])}, MismatchError, "3 voxels and selectivity 2"),
        ({"mask": masks(V1=[1, 0])}, MismatchError, r"none of the ROIs \(V1\)"),
        ({"categories": {"FFA": "words"}}, MismatchError, "category 'words', and .* faces, places"),
        ({"values": [[np.nan, 1], [1, 2]]}, InputError, "1 values that are NaN"),
        ({"values": [[1], [2]], "names": ("faces",)}, InputError, "at least two"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, error, message):
    """Catches NaN taken for the largest value, and a silent table without rows."""
    given = {"values": [[1, 2], [2, 1]], "names": ("faces", "places"), "categories": PROMPT_ROIS}
    given |= {"mask": masks(FFA=[1, 0]), **change}
    with pytest.raises(error, match=message):
        category_accuracy(
            selectivity(given["values"], given["names"]), given["mask"], given["categories"]
        )


def test_the_mask_of_other_voxels_is_refused():
    """Catches the ROIs of another subject with as many voxels."""
    found = selectivity([[1, 2], [2, 1]]).assign_coords(vertex=("voxel", [4, 5]))
    mask = masks(FFA=[1, 0]).assign_coords(vertex=("voxel", [4, 6]))
    with pytest.raises(MismatchError, match="differ in vertex"):
        category_accuracy(found, mask, PROMPT_ROIS)
