"""HuggingFaceVision against the model called directly; tiny random weights, no download."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuroattn.errors import FileError, InputError, MissingExtraError
from neuroattn.features import FeatureStore, HuggingFaceVision
from neuroattn.features.towers import query_layer
from neuroattn.images import ImageArray
from tests.tolerances import TOLERANCE

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
SIZES = {"image_size": 28, "patch_size": 7}
BLOCK = {"intermediate_size": 40}
MODELS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    # config class, model class, arguments, tokens before the patches
    "dinov2": ("Dinov2Config", "Dinov2Model", {}, 1),
    "registers": (
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        {"num_register_tokens": 2},
        3,
    ),
    "dinov3": ("DINOv3ViTConfig", "DINOv3ViTModel", {**BLOCK, "num_register_tokens": 2}, 3),
    "vit": ("ViTConfig", "ViTModel", BLOCK, 1),
    "mae": ("ViTMAEConfig", "ViTMAEModel", BLOCK, 1),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", BLOCK, 1),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel", BLOCK, 0),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    # relative to the largest value: float32 sums of terms of size 5 have no digits at 1e-6
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, **TOLERANCE["float32"])


def make(kind: str, folder: Path, seed: int = 0, **more: Any) -> Any:
    config_name, model_name, extra, _ = MODELS[kind]
    config = getattr(transformers, config_name)(**{**SMALL, **SIZES, **extra, **more})
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = getattr(transformers, model_name)(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def processor(folder: Path, **settings: Any) -> None:
    standard = {"do_resize": True, "size": {"height": 28, "width": 28}, "resample": 3}
    normal = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    content = json.dumps({**standard, **normal, **settings})
    (folder / "preprocessor_config.json").write_text(content)


def images(count: int = 3, side: int = 28, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def pixels(batch: list[np.ndarray]) -> torch.Tensor:
    scaled = np.stack(batch) / 255.0
    normal = (scaled - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))


def direct(model: Any, kind: str, batch: torch.Tensor) -> Any:
    more = {}
    if kind == "mae":
        model.config.mask_ratio = 0.0
        more["noise"] = torch.arange(16.0).expand(len(batch), -1)
    with torch.no_grad():
        return model(pixel_values=batch, output_hidden_states=True, **more)


@pytest.mark.parametrize("kind", list(MODELS))
def test_hidden_states_equal_the_model_called_directly(kind, tmp_path):
    """Catches wrong layers, shuffled MAE tokens, and class or register tokens among the patches."""
    model = make(kind, tmp_path)
    processor(tmp_path)
    before = MODELS[kind][3]
    basis = HuggingFaceVision(str(tmp_path), layers=(0, -2))
    assert (basis.grid, basis.channels) == ((4, 4), 48)
    found = basis.extract_all(images())
    states = direct(model, kind, pixels(images())).hidden_states
    # transformers counts the embeddings as state 0, so block n gives state n + 1
    expected = torch.cat([states[1], states[2]], dim=-1).numpy()
    assert_close(found["tokens"], expected[:, before:])
    assert ("class_token" in found) == (before > 0)
    if before:
        assert_close(found["class_token"], expected[:, 0])


@pytest.mark.parametrize("kind", list(MODELS))
def test_output_equals_the_last_hidden_state(kind, tmp_path):
    """Catches the state before the final norm in its place."""
    model = make(kind, tmp_path)
    processor(tmp_path)
    found = HuggingFaceVision(str(tmp_path), source="output").extract(images())
    expected = direct(model, kind, pixels(images())).last_hidden_state.numpy()
    assert_close(found, expected[:, MODELS[kind][3] :])


NORMS = {
    "dinov2": "norm1",
    "vit": "layernorm_before",
    "clip": "layer_norm1",
    "siglip": "layer_norm1",
}


@pytest.mark.parametrize("kind", list(NORMS))
def test_queries_equal_a_direct_computation(kind, tmp_path):
    """Catches keys or values in place of queries, and the queries of another block."""
    model = make(kind, tmp_path)
    processor(tmp_path)
    found = HuggingFaceVision(str(tmp_path), layers=(-1,), source="queries").extract(images())
    state = direct(model, kind, pixels(images())).hidden_states[2]
    blocks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3]
    block = blocks[0][2]
    weights = dict(block.named_parameters())
    name = next(key for key in weights if key.endswith(("q_proj.weight", "query.weight")))
    with torch.no_grad():
        normed = getattr(block, NORMS[kind])(state)
        expected = normed @ weights[name].T + weights[name.replace("weight", "bias")]
    before = MODELS[kind][3]
    assert_close(found, expected.numpy()[:, before:])


def test_fused_projection_gives_its_first_third(tmp_path):
    """Catches keys taken for queries where one layer makes all three."""
    model = make("vit", tmp_path)
    processor(tmp_path)
    basis = HuggingFaceVision(str(tmp_path), layers=(1,), source="queries")
    separate = basis.extract(images())
    attention = model.layers[1].attention

    class Fused(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = torch.nn.Linear(24, 72)
            parts = [attention.q_proj, attention.k_proj, attention.v_proj]
            self.qkv.weight.data = torch.cat([part.weight.data for part in parts])
            self.qkv.bias.data = torch.cat([part.bias.data for part in parts])
            self.inner = attention

        def forward(self, hidden_states: torch.Tensor, *more: Any, **named: Any) -> Any:
            self.qkv(hidden_states)
            return self.inner(hidden_states, *more, **named)

    tower = basis._tower()
    tower.layers[1].attention = Fused()
    assert query_layer(tower.layers[1])[1]
    assert_close(basis.extract(images()), separate)


def test_model_with_text_tower_gives_its_vision_tower(tmp_path):
    """Catches text weights required, or pixels sent to the text tower."""
    vision = {**SMALL, **SIZES, **BLOCK}
    text = {**SMALL, **BLOCK, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    processor(tmp_path)
    found = HuggingFaceVision(str(tmp_path)).extract(images())
    with torch.no_grad():
        expected = model.vision_model(pixels(images()), output_hidden_states=True).hidden_states[-1]
    assert_close(found, expected.numpy()[:, 1:])


@pytest.mark.parametrize("kind", ["dinov2", "clip", "vit", "siglip", "mae", "dinov3"])
def test_other_image_size_interpolates_positions(kind, tmp_path):
    """Catches a model that refuses, or a grid that does not follow the size."""
    model = make(kind, tmp_path)
    processor(tmp_path)
    basis = HuggingFaceVision(str(tmp_path), image_size=42)
    assert basis.grid == (6, 6)
    found = basis.extract(images(side=42))
    assert found.shape == (3, 36, 24)
    if kind == "clip":
        with torch.no_grad():
            states = model(
                pixels(images(side=42)), interpolate_pos_encoding=True, output_hidden_states=True
            ).hidden_states
        assert_close(found, states[-1].numpy()[:, 1:])


def test_spec_changes_with_everything_that_changes_the_output(tmp_path):
    """Catches a stale store after other weights, layers, source, size, dtype or statistics."""
    keys = set()
    for seed in (0, 1):
        make("dinov2", tmp_path / str(seed), seed=seed)
        processor(tmp_path / str(seed))
        keys.add(HuggingFaceVision(str(tmp_path / str(seed))).key())
    folder = str(tmp_path / "0")
    variants = [
        {"layers": (0,)},
        {"layers": (0, 1)},
        {"layers": (1, 0)},
        {"source": "queries"},
        {"source": "output"},
        {"image_size": 42},
        {"dtype": "bfloat16"},
    ]
    keys |= {HuggingFaceVision(folder, **variant).key() for variant in variants}
    processor(tmp_path / "0", image_mean=[0.5, 0.5, 0.5])
    keys.add(HuggingFaceVision(folder).key())
    make("dinov2", tmp_path / "0", layer_norm_eps=1e-3)
    keys.add(HuggingFaceVision(folder).key())
    assert len(keys) == 2 + len(variants) + 2


def test_key_depends_on_content_not_on_the_folder(tmp_path):
    """Catches a store that is filled again when the model folder moves, or -1 unlike 2."""
    for place in ("here", "there"):
        make("vit", tmp_path / place)
    here, there = (HuggingFaceVision(str(tmp_path / place)) for place in ("here", "there"))
    assert here.key() == there.key()
    assert here.key() == HuggingFaceVision(str(tmp_path / "here"), layers=(2,)).key()


def test_missing_pooler_changes_neither_key_nor_the_callers_generator(tmp_path):
    """Catches the random head of a headless checkpoint in the hash: a new key at each load."""
    config = transformers.ViTConfig(**SMALL, **SIZES, **BLOCK)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    keys = {HuggingFaceVision(str(tmp_path)).key() for _ in range(2)}
    assert len(keys) == 1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_incomplete_weights_are_refused(tmp_path):
    """Catches randomly drawn blocks in place of missing ones."""
    from safetensors.torch import load_file, save_file

    make("dinov2", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.norm1.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileError, match=r"lack 1 tensors .*norm1\.weight"):
        HuggingFaceVision(str(tmp_path)).extract(images())


def test_truncated_or_missing_weights_are_refused(tmp_path):
    """Catches a safetensors stack trace."""
    make("dinov2", tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    for kept in (0, 5, 300, len(content) // 2):
        file.write_bytes(content[:kept])
        with pytest.raises(FileError, match="its weights cannot be read"):
            HuggingFaceVision(str(tmp_path)).extract(images())
    file.unlink()
    with pytest.raises(FileError, match=r"weights cannot be read: .*no file named"):
        HuggingFaceVision(str(tmp_path)).extract(images())


@pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder", ""])
def test_missing_name_is_told_with_the_next_step(name):
    """Catches twenty lines about the hub."""
    with pytest.raises(FileError, match=r"configuration cannot be read.*hf download"):
        HuggingFaceVision(name, local_files_only=True)


def test_broken_preprocessor_file_is_not_replaced_by_defaults(tmp_path):
    """Catches silently wrong colours."""
    make("dinov2", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5')
    with pytest.raises(FileError, match="configuration cannot be read"):
        HuggingFaceVision(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": (3,)}, "-3 to 2"),
        ({"layers": (-4,)}, "-3 to 2"),
        ({"layers": ()}, "-3 to 2"),
        ({"layers": (2, -1)}, "different blocks"),
        ({"layers": (0,), "source": "output"}, "source='output'"),
        ({"source": "keys"}, "source='keys' is unknown"),
        ({"dtype": "int8"}, "dtype='int8' is unknown"),
        ({"image_size": 3}, "image_size=3"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, arguments, message):
    """Catches a layer beyond the end that wraps around."""
    make("dinov2", tmp_path)
    with pytest.raises(InputError, match=message):
        HuggingFaceVision(str(tmp_path), **arguments)


def test_model_without_a_token_grid_is_refused(tmp_path):
    """Catches a convolutional network whose pixels would be taken for tokens."""
    transformers.ResNetConfig(hidden_sizes=[8, 8], depths=[1, 1]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'resnet', which has no single grid"):
        HuggingFaceVision(str(tmp_path))


def test_missing_transformers_names_the_extra(monkeypatch):
    """Catches a bare ImportError."""
    real = builtins.__import__

    def refuse(name: str, *more: Any) -> Any:
        if name.startswith("transformers"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"neuroattn\[hub\]"):
        HuggingFaceVision("facebook/dinov2-base")


def test_store_keeps_tokens_and_class_token(tmp_path):
    """Catches the class token lost on the way to the disk."""
    make("dinov2", tmp_path / "model")
    basis, collection = HuggingFaceVision(str(tmp_path / "model")), ImageArray(images(5))
    features = FeatureStore(tmp_path / "store").fill(basis, collection, "float32", batch_size=2)
    expected = basis.extract_all(images(5))
    for name, values in expected.items():
        assert_close(features[name].values, values)
