"""Random tensors and networks that the tests of the in-context room share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroattn.encoders.incontext import SetTransformer, SetTransformerConfig

EMBEDDING, WIDTH, HEADS, IMAGES, VOXELS = 7, 12, 3, 9, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def redrawn(module: nn.Module, size: float = 0.4, seed: int = 10) -> nn.Module:
    """Give every weight, bias and gain random numbers, so that each of them matters."""
    for number, (name, parameter) in enumerate(module.named_parameters()):
        values = drawn(*parameter.shape, seed=seed + number) * size
        gain = "norm" in name and name.endswith("weight")
        parameter.data = (1 + values if gain else values).to(parameter.dtype)
    return module.eval()


def network(**changes: object) -> SetTransformer:
    """Return a small network with random weights, in float64 and evaluation mode."""
    shape = {"width": WIDTH, "heads": HEADS, "layers": 3, "feedforward": 11, "registers": 2}
    config = SetTransformerConfig(**{**shape, **changes})  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        made = SetTransformer(config, EMBEDDING).double()
    redrawn(made)
    return made


def pairs(images: int = IMAGES, voxels: int = VOXELS) -> tuple[Tensor, Tensor]:
    """Return a context (images, EMBEDDING) and responses (voxels, images)."""
    return drawn(images, EMBEDDING, seed=1), drawn(voxels, images, seed=2)
