"""First weights of a stage: from an earlier stage, a saved encoder, or published weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroattn.encoders.config import as_config
from neuroattn.encoders.embedding import Embedding, EmbeddingConfig
from neuroattn.encoders.incontext.network import SetTransformer, SetTransformerConfig
from neuroattn.encoders.provenance import Learned, joined
from neuroattn.encoders.saving import read_config, read_encoder
from neuroattn.errors import MismatchError
from neuroattn.io import existing

__all__ = ["NETWORK", "check_basis", "learned_before", "start_weights"]

#: How the tensors of the network are called in a saved encoder.
NETWORK = "prior_network."


def check_basis(path: Path, key: str) -> None:
    """Refuse a saved encoder of an earlier stage that was trained on other features.

    Parameters
    ----------
    path : Path
        As for :func:`start_weights`; a file of published weights does not tell its features.
    key : str
        Of the features of this stage.

    Raises
    ------
    FileError
        If there is nothing, or it cannot be read.
    MismatchError
        If the key of its features is another.
    """
    existing(path, "start")
    features = {} if path.is_file() else read_config(path)["features"]
    if features.get("key", key) != key:
        raise MismatchError(
            f"start={path} was trained on features of basis {features['basis']!r} with key "
            f"{features['key']}, these have key {key}. Give both stages the same basis."
        )


def learned_before(start: str | None) -> Learned:
    """Return whom and what a start has learned from.

    Nothing where there is none, of published weights, which do not tell, and of a folder that was
    removed after the training.

    Parameters
    ----------
    start : str, optional
        As for :func:`start_weights`, or None.

    Raises
    ------
    FileError
        If it cannot be read.
    """
    if start is None or not Path(start).is_dir():
        return joined({}, {})
    return joined(read_config(start)["state"].get("learned", {}), {})


def start_weights(path: Path, network: SetTransformer, embedding: Embedding) -> dict[str, Tensor]:
    """Return the weights of a network of the same shape.

    Parameters
    ----------
    path : Path
        A run directory or folder of a saved ``InContextEncoder``, or a file of published weights.
    network : SetTransformer
        Which is to start; not changed.
    embedding : Embedding
        What it will read; a saved encoder must have read the same.

    Raises
    ------
    FileError
        If there is nothing, or it cannot be read.
    MismatchError
        If it is of another network or embedding; names what differs.
    """
    existing(path, "start")
    if path.is_file():
        from neuroattn.encoders.incontext.published import load_published

        # The number of heads is not in the file.
        config, published = load_published(path, network.config.heads)
        found = dict(published.state_dict())
    else:
        saved, tensors, _ = read_encoder(path)
        if saved["class"] != "InContextEncoder":
            raise MismatchError(
                f"start={path} holds a {saved['class']}, not an InContextEncoder. Give the run of "
                "an earlier stage."
            )
        config = as_config("network", saved["parameters"]["network"], SetTransformerConfig)
        found = {
            name.removeprefix(NETWORK): value
            for name, value in tensors.items()
            if name.startswith(NETWORK)
        }
        _check_embedding(path, saved, tensors, embedding)
    _check_network(path, config, network.config)
    own = network.state_dict()
    for name in sorted({*found, *own}):
        shapes = [list(side[name].shape) if name in side else "missing" for side in (found, own)]
        if shapes[0] != shapes[1]:
            raise MismatchError(
                f"start={path} is of another network: {name} is {shapes[0]} in it and {shapes[1]} "
                "in this recipe. Give both stages the same model.network and embedding."
            )
    return found


def _check_network(path: Path, before: SetTransformerConfig, now: SetTransformerConfig) -> None:
    # Dropout is of the training alone; networks of equal shapes may still compute otherwise.
    found, own = (asdict(replace(each, dropout=0.0)) for each in (before, now))
    for name, value in own.items():
        if found[name] != value:
            raise MismatchError(
                f"start={path} is of another network: {name} is {found[name]!r} in it and "
                f"{value!r} in this recipe. Give both stages the same model.network."
            )


def _check_embedding(
    path: Path, saved: Mapping[str, Any], tensors: Mapping[str, Tensor], embedding: Embedding
) -> None:
    before = as_config("embedding", saved["parameters"]["embedding"], EmbeddingConfig)
    if before != embedding.config:
        raise MismatchError(
            f"start={path} was trained on another embedding: {before} and not "
            f"{embedding.config}. Give both stages the same data.embedding."
        )
    for name, value in embedding.tensors().items():
        found = tensors.get(name)
        same = found is not None and found.shape == value.shape
        if found is None or not same or not torch.allclose(found, value, rtol=1e-4, atol=1e-6):
            raise MismatchError(
                f"start={path} was trained on another embedding ({name} differs). Give both "
                "stages the same source images, basis, data.embedding and split."
            )
