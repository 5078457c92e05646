"""Preprocessing against the processors that transformers ships."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.features.preprocess import preprocessing

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 30}, "crop_size": 22}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 17}, "crop_size": 22}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 28}, "crop_size": 28}),
        ("ViTImageProcessorPil", {"size": {"height": 28, "width": 35}}),
        ("SiglipImageProcessorPil", {"size": {"height": 28, "width": 28}, "resample": 2}),
        ("ViTImageProcessorPil", {"size": {"height": 14, "width": 14}, "do_normalize": False}),
        ("ViTImageProcessorPil", {"size": {"height": 14, "width": 14}, "do_rescale": False}),
    ],
)
@pytest.mark.parametrize("shape", [(40, 40), (33, 50), (61, 24)])
def test_result_equals_the_librarys_processor(name, settings, shape):
    """Catches a crop off by one, rounding of the long edge, statistics of the wrong model."""
    module = f"transformers.models.{name.split('Image')[0].lower()}.image_processing_pil_"
    module += name.split("Image")[0].lower()
    oracle = getattr(__import__(module, fromlist=[name]), name)(**settings)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = np.asarray(oracle(image, return_tensors="np")["pixel_values"])[0]
    made = preprocessing(oracle.to_dict(), "vit", 28)
    assert made.shape == expected.shape[1:]
    np.testing.assert_allclose(made(image), expected, rtol=1e-5, atol=1e-5)


def test_defaults_depend_on_the_family():
    """Catches ImageNet statistics for CLIP and SigLIP folders that bring no file."""
    white = np.full((9, 9, 3), 255, np.uint8)
    assert preprocessing({}, "siglip", 14)(white) == pytest.approx(np.ones((3, 14, 14)))
    clip, dino = (preprocessing({}, family, 14)(white)[:, 0, 0] for family in ("clip", "dinov2"))
    np.testing.assert_allclose(clip, [1.9303, 2.0749, 2.1459], atol=1e-3)
    np.testing.assert_allclose(dino, [2.2489, 2.4286, 2.64], atol=1e-3)


def test_image_size_takes_the_whole_image():
    """Catches a crop that cuts off the periphery of the visual field."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :4] = 255
    config = {"size": {"shortest_edge": 40}, "crop_size": 28, "do_center_crop": True}
    assert preprocessing(config, "vit", 28)(image).std() < 1
    whole = preprocessing(config, "vit", 28, image_size=20)
    assert whole.shape == (20, 20)
    assert whole(image)[0, 0, 0] > whole(image)[0, 0, 10]


def test_old_numbers_for_sizes_are_understood():
    """Catches size=30 taken for a square where a crop follows."""
    cropped = preprocessing({"size": 30, "crop_size": 28, "do_center_crop": True}, "vit", 28)
    assert (cropped.resize, cropped.crop) == (30, (28, 28))
    assert preprocessing({"size": 30}, "vit", 28).resize == (30, 30)
    assert preprocessing({"size": {"shortest_edge": 30}}, "vit", 28).resize == (30, 30)
    assert preprocessing({"size": 30, "do_resize": False}, "vit", 28).resize == (28, 28)


@pytest.mark.parametrize(
    "config", [{"size": "big"}, {"size": {"longest_edge": 9}}, {"resample": 9}]
)
def test_settings_that_are_not_understood_are_refused(config):
    """Catches a guess."""
    with pytest.raises(InputError, match="preprocessor's"):
        preprocessing(config, "vit", 28)
