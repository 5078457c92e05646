"""Texts as vectors in the space of a model's image embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError
from neuroattn.features.towers import (
    check_complete,
    find_file,
    load_model,
    quiet,
    reading,
    transformers_for,
)
from neuroattn.io import read_json
from neuroattn.names import check_name

if TYPE_CHECKING:
    import torch

_BLOCK = 256  # texts at once
_VISION_PARTS = ("vision", "visual")


class TextTower:
    """The text half of CLIP, SigLIP or any other transformers model that embeds images and texts.

    Weights and tokeniser are loaded when they are first needed, from the same name or folder.
    Texts are padded to the length that the model was trained with, as SigLIP needs it; so the
    vector of a text does not depend on the texts beside it.

    Parameters
    ----------
    name : str
        Name on the hub, or a local folder.
    revision : str, optional
        Branch, tag or commit on the hub.
    device : str
        Where the model runs, e.g. ``"cuda"``.
    dtype : {"float32", "float16", "bfloat16"}
        In which numbers it runs; the result is float32.
    local_files_only : bool
        Never ask the hub.

    Attributes
    ----------
    image_key : str
        Key of the image basis that this tower was made for, by
        :meth:`neuroattn.features.HuggingFaceVision.text_tower`; else empty.

    Raises
    ------
    MissingExtraError
        Without transformers.
    FileError
        If the name, folder, weights or tokeniser are not found, damaged or incomplete.
    InputError
        If an argument is not allowed or the model has no text tower.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        local_files_only: bool = False,
    ) -> None:
        self.dtype = check_name("dtype", dtype, ("float32", "float16", "bfloat16"))
        self.model_name, self.device, self.image_key = str(name), device, ""
        self._where: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        transformers = transformers_for("TextTower")
        with reading(self.model_name, "configuration"):
            config = transformers.AutoConfig.from_pretrained(self.model_name, **self._where)
        text = getattr(config, "text_config", None)
        if text is None:
            raise self._no_text(config.model_type)
        widths = (
            getattr(config, "projection_dim", None),
            getattr(text, "projection_size", None),
            getattr(text, "hidden_size", None),
        )
        self._config, self._text = config, text
        self._width = int(next(width for width in (*widths, 0) if width is not None))
        self._loaded: tuple[torch.nn.Module, Any, int] | None = None

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._width

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts.

        Parameters
        ----------
        texts : sequence of str
            Not empty, each at most as long as the model reads.

        Returns
        -------
        numpy.ndarray
            (text, channel) float32, in the space of the image embeddings, not normalised.

        Raises
        ------
        InputError
            If ``texts`` is a single string, or a text is empty or too long.
        """
        import torch

        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"texts={texts!r} is no sequence of strings; give e.g. ['a face'].")
        blank = [index for index, text in enumerate(texts) if not text.strip()]
        if blank:
            raise InputError(f"texts[{blank[0]}]={texts[blank[0]]!r} is empty; leave it out.")
        found = np.zeros((len(texts), self.width), np.float32)
        for start in range(0, len(texts), _BLOCK):
            block = list(texts[start : start + _BLOCK])
            with torch.inference_mode():
                vectors = self._vectors(block)
            if vectors.ndim != 2 or vectors.shape[1] != self.width:
                raise InputError(
                    f"{self.model_name} gave text vectors of shape {tuple(vectors.shape)} where "
                    f"({len(block)}, {self.width}) was expected from its configuration. "
                    "Take a model such as CLIP or SigLIP."
                )
            found[start : start + len(block)] = vectors.float().cpu().numpy()
        return found

    def _vectors(self, texts: list[str]) -> torch.Tensor:
        model, tokeniser, longest = self._tower()
        run: Any = model.get_text_features
        lengths = [len(ids) for ids in tokeniser(texts)["input_ids"]]
        if max(lengths) > longest:
            text = texts[int(np.argmax(lengths))]
            raise InputError(
                f"the text {text!r} has {max(lengths)} tokens and {self.model_name} reads at most "
                f"{longest}; shorten it."
            )
        inputs = tokeniser(texts, padding="max_length", max_length=longest, return_tensors="pt")
        known = inspect.signature(run).parameters
        output = run(**{k: v.to(self.device) for k, v in inputs.items() if k in known})
        vectors: torch.Tensor = getattr(output, "pooler_output", output)
        return vectors

    def _tower(self) -> tuple[torch.nn.Module, Any, int]:
        if self._loaded is not None:
            return self._loaded
        tokeniser = self._tokeniser()
        model, missing = load_model(self.model_name, self._config, self.dtype, self._where)
        if not hasattr(model, "get_text_features"):
            raise self._no_text(self._config.model_type)
        lacking = {key for key in missing if not key.startswith((*_VISION_PARTS, "logit"))}
        check_complete(self.model_name, lacking, "text tower")
        for part, _ in list(model.named_children()):
            if part.startswith(_VISION_PARTS):
                setattr(model, part, None)
        positions = getattr(self._text, "max_position_embeddings", tokeniser.model_max_length)
        longest = min(int(tokeniser.model_max_length), int(positions))
        self._loaded = model.to(self.device).eval().requires_grad_(False), tokeniser, longest
        return self._loaded

    def _tokeniser(self) -> Any:
        transformers = transformers_for("TextTower")
        with reading(self.model_name, "tokeniser"), quiet():
            # A broken file makes the tokenizers library raise a bare Exception.
            for name in ("tokenizer.json", "vocab.json"):
                if found := self._file(name):
                    read_json(found)
            if (found := self._file("merges.txt")) and not self._file("tokenizer.json"):
                _check_merges(Path(found))
            tokeniser = transformers.AutoTokenizer.from_pretrained(self.model_name, **self._where)
            files = dict(tokeniser.vocab_files_names)
            whole = files.pop("tokenizer_file", "tokenizer.json")
            # Without its files a tokeniser is made all the same, with an empty vocabulary.
            absent = [name for name in files.values() if not self._file(name)]
            if absent and not self._file(whole):
                raise FileError(f"neither {whole} nor {' and '.join(absent)} are there.")
        if len(tokeniser) > self._text.vocab_size or tokeniser.pad_token_id is None:
            raise FileError(
                f"name={self.model_name!r}: its tokeniser has {len(tokeniser)} tokens (padding: "
                f"{tokeniser.pad_token!r}) and its text tower reads {self._text.vocab_size}. "
                "They are not of one model; take a complete checkpoint."
            )
        return tokeniser

    def _file(self, name: str) -> str | None:
        return find_file(self.model_name, name, self._where)

    def _no_text(self, family: str) -> InputError:
        return InputError(
            f"name={self.model_name!r} is a {family!r}, which has no text tower beside its images; "
            "take a whole CLIP, SigLIP or similar model."
        )


def _check_merges(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#version") and len(line.split(" ")) != 2:
            raise FileError(f"{path}, line {number}: {line!r} is no pair of tokens.")
