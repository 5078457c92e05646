"""HuggingFaceVision(source="embedding") against the model's own vector of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuroattn.errors import FileError, InputError
from neuroattn.features import FeatureStore, HuggingFaceVision
from neuroattn.images import ImageArray
from tests.features.test_huggingface import (
    BLOCK,
    SIZES,
    SMALL,
    assert_close,
    direct,
    images,
    make,
    offline,
    pixels,
    processor,
)
from tests.features.tiny_clip import clip

transformers = pytest.importorskip("transformers")
__all__ = ["offline"]


def vectors(folder: Path, **more: Any) -> np.ndarray:
    basis = HuggingFaceVision(str(folder), source="embedding", **more)
    assert basis.grid == (1, 1)
    found = basis.extract_all(images())
    assert list(found) == ["tokens"]
    assert found["tokens"].shape == (3, 1, basis.channels)
    return found["tokens"][:, 0]


def siglip(folder: Path, **vision: Any) -> Any:
    text = {**SMALL, **BLOCK, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.SiglipConfig(
        vision_config={**SMALL, **SIZES, **BLOCK, **vision}, text_config=text
    )
    model = transformers.SiglipModel(config).eval()
    model.save_pretrained(folder)
    return model


def change(folder: Path, name: str, remove: bool = False) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    matching = [key for key in weights if key.endswith(name)]
    assert len(matching) == 1
    if remove:
        del weights[matching[0]]
    else:
        weights[matching[0]] = weights[matching[0]] + 0.5
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["dinov2", "registers", "dinov3"])
def test_dino_gives_its_pooler_output(kind, tmp_path):
    """Catches a register token, or the class token before the final norm."""
    model = make(kind, tmp_path)
    processor(tmp_path)
    assert_close(vectors(tmp_path), direct(model, kind, pixels(images())).pooler_output.numpy())


@pytest.mark.parametrize("kind", ["vit", "mae"])
def test_vit_gives_its_class_token_behind_the_final_norm(kind, tmp_path):
    """Catches ViT's pooler, which a checkpoint may lack, and shuffled or masked MAE tokens."""
    model = make(kind, tmp_path)
    processor(tmp_path)
    state = direct(model, kind, pixels(images())).last_hidden_state.numpy()
    assert_close(vectors(tmp_path), state[:, 0])


@pytest.mark.parametrize("size", [28, 42])
def test_clip_gives_its_image_features(size, tmp_path):
    """Catches the pooled output before the projection, and positions that are not interpolated."""
    model = clip(tmp_path)
    processor(tmp_path)
    basis = HuggingFaceVision(str(tmp_path), source="embedding", image_size=size)
    batch = images(side=size)
    with torch.no_grad():
        expected = model.get_image_features(pixels(batch), interpolate_pos_encoding=True)
    found = basis.extract(batch)
    assert (basis.grid, basis.channels, found.shape) == ((1, 1), 16, (3, 1, 16))
    assert_close(found[:, 0], expected.pooler_output.numpy())
    # as the model gives them, not divided by their length
    assert np.abs(np.linalg.norm(found[:, 0], axis=1) - 1).min() > 0.01


def test_siglip_gives_its_pooled_attention_with_and_without_the_text_tower(tmp_path):
    """Catches a mean over patches in place of the pooling head."""
    model = siglip(tmp_path / "whole")
    model.vision_model.save_pretrained(tmp_path / "vision")
    with torch.no_grad():
        expected = model.get_image_features(pixels(images())).pooler_output.numpy()
    for place in ("whole", "vision"):
        processor(tmp_path / place)
        assert_close(vectors(tmp_path / place), expected)


def test_clip_tower_saved_with_its_projection_needs_no_text_tower(tmp_path):
    """Catches a projection that is drawn at random, and one of the default width."""
    config = transformers.CLIPVisionConfig(**SMALL, **SIZES, **BLOCK, projection_dim=10)
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(tmp_path)
    processor(tmp_path)
    with torch.no_grad():
        expected = model(pixels(images())).image_embeds.numpy()
    assert_close(vectors(tmp_path), expected)
    model.vision_model.save_pretrained(tmp_path / "bare")
    with pytest.raises(FileError, match=r"lack 1 tensors of the vision tower.*visual_projection"):
        HuggingFaceVision(str(tmp_path / "bare"), source="embedding").extract(images())


def test_key_covers_the_weights_that_make_the_vector_and_no_others(tmp_path):
    """Catches a stale store after another projection or head, and a key that texts change."""
    clip(tmp_path / "clip")
    siglip(tmp_path / "siglip")

    def key(kind: str) -> str:
        return HuggingFaceVision(str(tmp_path / kind), source="embedding").key()

    for kind, ours, others in (
        ("clip", "visual_projection.weight", ("text_projection.weight", "logit_scale")),
        ("siglip", "vision_model.head.probe", ("text_model.head.weight", "logit_bias")),
    ):
        before = key(kind)
        hidden = HuggingFaceVision(str(tmp_path / kind)).key()
        for name in others:
            change(tmp_path / kind, name)
        assert key(kind) == before
        change(tmp_path / kind, ours)
        assert key(kind) != before
        # what never reaches the tokens leaves their store as it is
        assert HuggingFaceVision(str(tmp_path / kind)).key() == hidden


def test_name_says_whether_texts_share_the_space(tmp_path):
    """Catches DINOv2 and CLIP embeddings that cannot be told apart in a store."""
    clip(tmp_path / "clip")
    make("dinov2", tmp_path / "dinov2")
    names = [
        HuggingFaceVision(str(tmp_path / kind), source="embedding").name
        for kind in ("clip", "dinov2")
    ]
    assert names == [
        "huggingface-clip-vision-model-joint-embedding",
        "huggingface-dinov2-class-embedding",
    ]


def test_missing_head_is_refused_where_it_makes_the_vector(tmp_path):
    """Catches a pooling head drawn at random, which other sources may lack."""
    siglip(tmp_path)
    processor(tmp_path)
    change(tmp_path, "vision_model.head.probe", remove=True)
    with pytest.raises(FileError, match=r"lack 1 tensors of the vision tower.*head\.probe"):
        HuggingFaceVision(str(tmp_path), source="embedding").extract(images())
    assert HuggingFaceVision(str(tmp_path)).extract(images()).shape == (3, 16, 24)


def test_models_without_a_vector_for_the_image_are_refused(tmp_path):
    """Catches a patch token taken for the class token."""
    sizes = {**SMALL, **SIZES, **BLOCK}
    transformers.IJepaConfig(**sizes).save_pretrained(tmp_path / "ijepa")
    headless = transformers.SiglipVisionConfig(**sizes, vision_use_head=False)
    headless.save_pretrained(tmp_path / "headless")
    siglip(tmp_path / "whole", vision_use_head=False)
    for place in ("ijepa", "headless", "whole"):
        with pytest.raises(InputError, match="gives no vector for a whole image"):
            HuggingFaceVision(str(tmp_path / place), source="embedding")


def test_layers_before_the_last_are_refused(tmp_path):
    """Catches a class token that is said to be of an earlier block."""
    make("dinov2", tmp_path)
    with pytest.raises(InputError, match="source='embedding' is the last layer"):
        HuggingFaceVision(str(tmp_path), layers=(0,), source="embedding")


def test_store_keeps_one_token_an_image(tmp_path):
    """Catches a grid of patches in the store's entry."""
    clip(tmp_path / "model")
    processor(tmp_path / "model")
    basis = HuggingFaceVision(str(tmp_path / "model"), source="embedding")
    features = FeatureStore(tmp_path / "store").fill(
        basis, ImageArray(images(5)), "float32", batch_size=2
    )
    assert (features.attrs["rows"], features.attrs["columns"]) == (1, 1)
    assert features.tokens.shape == (5, 1, 16)
    assert_close(features.tokens.values, basis.extract(images(5)))
    assert basis.extract([]).shape == (0, 1, 16)
