"""TextTower against the model called directly on token ids written by hand; no download."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch

from neuroattn.errors import FileError, InputError, MissingExtraError
from neuroattn.features import HuggingFaceVision, TextTower
from tests.features.test_huggingface import assert_close, make, offline
from tests.features.tiny_clip import END, LONGEST, SMALL, START, TOKENS, VOCABULARY, clip

transformers = pytest.importorskip("transformers")
__all__ = ["offline"]


def ids(*tokens: str) -> torch.Tensor:
    return torch.tensor([[VOCABULARY[token] for token in (START, *tokens, END)]])


def direct(model: Any, numbers: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.get_text_features(input_ids=numbers).pooler_output.numpy()


def test_vectors_equal_the_model_on_ids_written_by_hand(tmp_path):
    """Catches lost start and end tokens, capitals, wrong pooling and a missing projection."""
    model = clip(tmp_path)
    tower = TextTower(str(tmp_path))
    found = tower.embed(["a cat", "Dog, cot"])
    first = direct(model, ids("a</w>", "cat</w>"))
    second = direct(model, ids("dog</w>", ",</w>", "c", "o", "t</w>"))
    assert (tower.width, found.shape, found.dtype) == (16, (2, 16), np.float32)
    assert_close(found, np.concatenate([first, second]))
    # as the model gives them, not divided by their length
    assert np.abs(np.linalg.norm(found, axis=1) - 1).min() > 0.01


def test_a_text_does_not_depend_on_the_texts_beside_it(tmp_path, monkeypatch):
    """Catches padding that is attended to, and blocks that are put back in another order."""
    clip(tmp_path)
    monkeypatch.setattr("neuroattn.features.text._BLOCK", 2)
    tower = TextTower(str(tmp_path))
    texts = ["a cat", "the long tail of a very old dog", "b", "dog", "cat-like"]
    together = tower.embed(texts)
    alone = np.concatenate([tower.embed([text]) for text in texts])
    assert_close(together, alone)
    assert tower.embed([]).shape == (0, 16)


def test_siglip_is_padded_to_the_length_of_its_training(tmp_path):
    """Catches padding to the longest text: SigLIP reads its last token, whatever it is."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["<pad>", "<unk>", "a", "cat", "dog"])}
    text = {**SMALL, "vocab_size": 5, "max_position_embeddings": 8}
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    config = transformers.SiglipConfig(
        vision_config={**SMALL, "image_size": 28, "patch_size": 7}, text_config={**text, **ends}
    )
    model = transformers.SiglipModel(config).eval()
    model.save_pretrained(tmp_path)
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=["input_ids"],
        model_max_length=8,
    ).save_pretrained(tmp_path)
    tower = TextTower(str(tmp_path))
    found = tower.embed(["a cat", "a dog a cat"])
    padded = torch.tensor([[2, 3, 0, 0, 0, 0, 0, 0], [2, 4, 2, 3, 0, 0, 0, 0]])
    assert tower.width == 24
    assert_close(found, direct(model, padded))


def test_texts_and_images_share_their_space_and_the_tower_remembers_the_basis(tmp_path):
    """Catches a tower of another folder, dtype or revision than the image basis."""
    clip(tmp_path)
    basis = HuggingFaceVision(str(tmp_path), source="embedding", dtype="bfloat16")
    tower = basis.text_tower()
    assert tower.image_key == basis.key()
    assert (tower.model_name, tower.dtype, tower.width) == (str(tmp_path), "bfloat16", 16)
    assert TextTower(str(tmp_path)).image_key == ""
    exact = TextTower(str(tmp_path)).embed(["a cat"])
    rounded = tower.embed(["a cat"])
    assert rounded.dtype == np.float32
    difference = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-4 < difference < 0.1


def test_a_basis_without_texts_has_no_text_tower(tmp_path):
    """Catches hidden states, or DINOv2, compared with words."""
    clip(tmp_path / "clip")
    make("dinov2", tmp_path / "dinov2")
    with pytest.raises(InputError, match=r"source='hidden' of .* shares no space with texts"):
        HuggingFaceVision(str(tmp_path / "clip")).text_tower()
    with pytest.raises(InputError, match="shares no space with texts"):
        HuggingFaceVision(str(tmp_path / "dinov2"), source="embedding").text_tower()


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_a_model_without_text_tower_is_refused(kind, tmp_path):
    """Catches an attribute error of a vision model."""
    make(kind, tmp_path)
    with pytest.raises(InputError, match="has no text tower beside its images"):
        TextTower(str(tmp_path))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a cat", "no sequence of strings"),
        (["a cat", 3], "no sequence of strings"),
        (["a cat", " "], r"texts\[1\]=' ' is empty"),
        (["a cat", "a" * 39], "has 41 tokens and .* reads at most 40"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(texts, message, tmp_path):
    """Catches a string taken for its letters, and a long prompt cut off in silence."""
    clip(tmp_path)
    tower = TextTower(str(tmp_path))
    assert tower.embed(["a" * (LONGEST - 2)]).shape == (1, 16)
    with pytest.raises(InputError, match=message):
        tower.embed(texts)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("vocab.json",), "vocab"),
        (("merges.txt",), "merges"),
        (("vocab.json", "merges.txt"), "neither tokenizer.json nor vocab.json and merges.txt"),
    ],
)
def test_a_folder_without_its_tokeniser_is_refused(files, told, tmp_path):
    """Catches the empty vocabulary that transformers makes up: every text would be alike."""
    clip(tmp_path)
    for file in files:
        (tmp_path / file).unlink()
    with pytest.raises(FileError, match=f"tokeniser cannot be read: .*{told}"):
        TextTower(str(tmp_path)).embed(["a cat"])


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("vocab.json", '{"a": ', "vocab.json"),
        ("tokenizer.json", '{"a": ', "tokenizer.json"),
        ("merges.txt", "#version: 0.2\nc a\nca", "merges.txt, line 3: 'ca' is no pair"),
    ],
)
def test_a_damaged_tokeniser_is_told(file, content, told, tmp_path):
    """Catches the bare Exception that the tokeniser's library raises."""
    clip(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(FileError, match=f"tokeniser cannot be read: .*{told}"):
        TextTower(str(tmp_path)).embed(["a cat"])


def test_a_tokeniser_of_another_model_is_refused(tmp_path):
    """Catches token numbers beyond the table of the text tower."""
    clip(tmp_path, vocab_size=len(TOKENS) - 10, eos_token_id=5, bos_token_id=4, pad_token_id=5)
    with pytest.raises(FileError, match=r"tokeniser has 64 tokens .* reads 54"):
        TextTower(str(tmp_path)).embed(["a cat"])


def test_incomplete_text_weights_are_refused_and_vision_weights_are_not_needed(tmp_path):
    """Catches a randomly drawn projection in place of a missing one."""
    from safetensors.torch import load_file, save_file

    model = clip(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    texts = {name: value for name, value in weights.items() if not name.startswith("vis")}
    save_file(texts, file, metadata={"format": "pt"})
    assert_close(TextTower(str(tmp_path)).embed(["cat"]), direct(model, ids("cat</w>")))
    del texts["text_projection.weight"]
    save_file(texts, file, metadata={"format": "pt"})
    with pytest.raises(FileError, match=r"lack 1 tensors of the text tower.*text_projection"):
        TextTower(str(tmp_path)).embed(["cat"])


def test_missing_name_and_unknown_dtype_are_told(tmp_path):
    """Catches twenty lines about the hub."""
    with pytest.raises(FileError, match=r"configuration cannot be read.*hf download"):
        TextTower(str(tmp_path / "nothing"), local_files_only=True)
    clip(tmp_path)
    with pytest.raises(InputError, match="dtype='int8' is unknown"):
        TextTower(str(tmp_path), dtype="int8")


def test_missing_transformers_names_the_extra(monkeypatch):
    """Catches a bare ImportError."""
    real = builtins.__import__

    def refuse(name: str, *more: Any) -> Any:
        if name.startswith("transformers"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"TextTower needs .*neuroattn\[hub\]"):
        TextTower("openai/clip-vit-base-patch32")
