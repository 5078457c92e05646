"""The published weights: their layout read into our network, and written from it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroattn.encoders.incontext.network import SetTransformer, SetTransformerConfig
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.io import existing, read_tensors

#: Their name of the registers; what stands before it in a file stands before every name.
REGISTERS = "cls_token"
#: Their residual blocks to ours.
RESIDUAL = {"early_layers.0": "early.block", "weight_pred.0": "write"}
#: Layers of a residual block, and of a block of attention: theirs to ours.
RESIDUAL_LAYERS = {
    "block.0": "norm_inputs",
    "block.3": "expand",
    "block.4": "norm_hidden",
    "block.7": "contract",
    "bypass": "bypass",
}
BLOCK_LAYERS = {
    "layer_norm_1": "norm_attention",
    "attn.out_proj": "attention.output",
    "layer_norm_2": "norm_feedforward",
    "ffn.linear1": "expand",
    "ffn.linear2": "contract",
}
#: The projections that they keep as one, in its order.
STACKED = ("query", "key", "value")


def load_published(
    path: str | Path, heads: int = 10
) -> tuple[SetTransformerConfig, SetTransformer]:
    """Read a network of the published layout; nothing in the file is executed.

    Parameters
    ----------
    path : str or Path
        ``.safetensors``, or a torch checkpoint (``.pth``, ``.ckpt``, ``.pt``): a dict of tensors,
        or one that holds it as ``state_dict``. A prefix that all names have is taken off.
    heads : int
        Number of heads, which the weights do not tell; all published networks have 10.

    Returns
    -------
    config : SetTransformerConfig
        Its shape, as the tensors tell.
    network : SetTransformer
        In the dtype of the file's tensors, in evaluation mode.

    Raises
    ------
    FileError
        If the file is missing, broken, of another kind, or holds more than tensors and plain data.
    MismatchError
        If a tensor is missing, unknown, or of another shape; names it.
    InputError
        If the width is no multiple of ``heads``.

    References
    ----------
    Yu et al. (2025), Meta-learning an in-context transformer model of human higher visual cortex;
    arXiv 2505.15813.
    """
    place = Path(path)
    theirs = _named(place, _read(place))
    config, embedding_width = _shape_of(place, theirs, heads)
    with torch.device("meta"):
        network = SetTransformer(config, embedding_width)
    _check(place, theirs, _theirs(network))
    kind = theirs[REGISTERS].dtype
    state = _ours(theirs, config.layers)
    state |= {"mean": torch.zeros(embedding_width), "scale": torch.ones(embedding_width)}
    network.load_state_dict({name: each.to(kind) for name, each in state.items()}, assign=True)
    return config, network.eval()


def published_state(network: SetTransformer) -> dict[str, Tensor]:
    """Return the weights under the names and in the shapes of the published layout.

    Parameters
    ----------
    network : SetTransformer
        With what that layout knows: softmax, logits scaled by the logarithm of the length, the
        first rectifier, and embeddings read as they come.

    Returns
    -------
    dict of str to Tensor
        Detached; the projections of query, key and value are one tensor.

    Raises
    ------
    InputError
        If the network has something that the layout has no place for.
    """
    config = network.config
    kept = ("attention", "attention_parameters", "logit_scaling", "input_activation")
    for name in kept:
        has, allowed = getattr(config, name), getattr(SetTransformerConfig(), name)
        if has != allowed:
            raise InputError(f"{name}={has!r} has no place in the published layout: {allowed!r}.")
    if network.mean.any() or (network.scale != 1).any():
        raise InputError(
            "The published layout has no place for the mean and scale of embeddings; those of this "
            "network are not zeros and ones. Save it as an encoder instead."
        )
    return _theirs(network)


def _theirs(network: SetTransformer) -> dict[str, Tensor]:
    """Return the weights under their names."""
    layers = network.config.layers
    ours = {name: each.detach() for name, each in network.state_dict().items()}
    state = {REGISTERS: ours["registers"]}
    state |= {theirs: ours[own] for theirs, own in _pairs(layers)}
    for layer, kind in _stacks(layers):
        parts = [ours[f"blocks.{layer}.attention.{name}.{kind}"] for name in STACKED]
        state[f"transformer.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    return state


def _pairs(layers: int) -> Iterator[tuple[str, str]]:
    """Yield their name and ours of each tensor that is one in both."""
    groups = [(theirs, ours, RESIDUAL_LAYERS) for theirs, ours in RESIDUAL.items()]
    groups += [(f"transformer.{each}", f"blocks.{each}", BLOCK_LAYERS) for each in range(layers)]
    for theirs, ours, names in groups:
        for old, new in names.items():
            for kind in ("weight", "bias"):
                yield f"{theirs}.{old}.{kind}", f"{ours}.{new}.{kind}"


def _stacks(layers: int) -> Iterator[tuple[int, str]]:
    """Yield layer and kind of each tensor that they keep as one and we as three."""
    for layer in range(layers):
        for kind in ("weight", "bias"):
            yield layer, kind


def _ours(theirs: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    state = {"registers": theirs[REGISTERS]}
    state |= {own: theirs[name] for name, own in _pairs(layers)}
    for layer, kind in _stacks(layers):
        stacked = theirs[f"transformer.{layer}.attn.in_proj_{kind}"]
        for name, part in zip(STACKED, stacked.chunk(len(STACKED)), strict=True):
            state[f"blocks.{layer}.attention.{name}.{kind}"] = part
    return state


def _read(place: Path) -> Any:
    existing(place, "published weights")
    if place.suffix == ".safetensors":
        return read_tensors(place)[0]
    broken = (OSError, RuntimeError, EOFError, ValueError, LookupError)
    try:
        return torch.load(place, map_location="cpu", weights_only=True)
    except (*broken, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        # Torch's own words advise to execute what is in the file.
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise FileError(
            f"{place} is no file of tensors and plain data{reason}. Needed is .safetensors, or a "
            "torch checkpoint that torch.load(..., weights_only=True) reads."
        ) from error


def _named(place: Path, found: Any) -> dict[str, Tensor]:
    """Return the tensors under the published names, without what stands before all of them."""
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise FileError(
            f"{place} holds a {type(found).__name__}; needed is a dict of tensors, or one with it "
            "as 'state_dict'."
        )
    ends = [str(name) for name in found if str(name).endswith(REGISTERS)]
    if not ends:
        few = ", ".join(str(name) for name in list(found)[:3]) or "nothing"
        raise MismatchError(
            f"{place} is no network of the published layout: {REGISTERS} is missing; it has {few}."
        )
    prefix = min(ends, key=len).removesuffix(REGISTERS)
    named = {}
    for name, each in found.items():
        if not isinstance(each, Tensor) or not each.is_floating_point():
            what = each.dtype if isinstance(each, Tensor) else type(each).__name__
            raise MismatchError(f"{place}: {name} is {what}; needed is a tensor of numbers.")
        named[str(name).removeprefix(prefix)] = each
    return named


def _shape_of(
    place: Path, theirs: Mapping[str, Tensor], heads: int
) -> tuple[SetTransformerConfig, int]:
    """Return the configuration and the width of the embedding, from the shapes."""
    sizes = {}
    for name, axes in {
        REGISTERS: 3,
        "early_layers.0.bypass.weight": 2,
        "transformer.0.ffn.linear2.weight": 2,
    }.items():
        if name not in theirs:
            raise MismatchError(f"{place} lacks {name}, which the published layout has.")
        sizes[name] = tuple(theirs[name].shape)
        if len(sizes[name]) != axes or min(sizes[name]) < 1:
            raise MismatchError(
                f"{place}: {name} has shape {sizes[name]}; needed are {axes} axes, none empty."
            )
    (_, registers, width), (_, pair), (_, feedforward) = sizes.values()
    numbers = {name.split(".")[1] for name in theirs if name.startswith("transformer.")}
    layers = sum(each.isdigit() for each in numbers)
    if pair < 2 or heads < 1 or width % heads:
        raise InputError(
            f"heads={heads} must divide the width {width} of the tokens in {place}, whose pairs "
            f"have {pair} numbers (at least 2)."
        )
    config = SetTransformerConfig(
        width=width,
        heads=heads,
        layers=layers,
        feedforward=feedforward,
        registers=registers,
    )
    return config, pair - 1


def _check(place: Path, theirs: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> None:
    for name in sorted({*theirs, *needed}):
        if name not in needed:
            raise MismatchError(f"{place} has {name}, which the published layout does not know.")
        shape = tuple(needed[name].shape)
        if name not in theirs:
            raise MismatchError(f"{place} lacks {name}; needed is a tensor of shape {shape}.")
        if tuple(theirs[name].shape) != shape:
            raise MismatchError(
                f"{place}: {name} has shape {tuple(theirs[name].shape)}; beside the other tensors "
                f"it must have {shape}."
            )
