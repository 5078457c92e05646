"""A tiny CLIP with random weights and a tokeniser of the published layout, built offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz,'-"
MERGES = (("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"))
START, END = "<|startoftext|>", "<|endoftext|>"
#: The published order: characters, characters at the end of a word, merges, special tokens.
TOKENS = (
    *LETTERS,
    *(f"{letter}</w>" for letter in LETTERS),
    *("".join(pair) for pair in MERGES),
    START,
    END,
)
VOCABULARY = {token: number for number, token in enumerate(TOKENS)}
LONGEST = 40

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
SMALL |= {"intermediate_size": 40}


def tokeniser(folder: Path) -> None:
    """Write vocab.json, merges.txt and the tokeniser's settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]
    (folder / "merges.txt").write_text("\n".join(merges))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LONGEST}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def clip(folder: Path, width: int = 16, seed: int = 0, **text: Any) -> Any:
    """Write a whole CLIP with images of 28 pixels in patches of 7; return the model."""
    import transformers

    start, end = VOCABULARY[START], VOCABULARY[END]
    words = {"vocab_size": len(TOKENS), "bos_token_id": start, "eos_token_id": end}
    words |= {"pad_token_id": end, "max_position_embeddings": LONGEST}
    config = transformers.CLIPConfig(
        vision_config={**SMALL, "image_size": 28, "patch_size": 7},
        text_config={**SMALL, **words, **text},
        projection_dim=width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = transformers.CLIPModel(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokeniser(folder)
    return model
