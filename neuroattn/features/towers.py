"""The inside of a transformers vision model: its blocks, query projections and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuroattn.errors import InputError

if TYPE_CHECKING:
    import torch

SEPARATE_QUERIES, FUSED_QUERIES = ("q_proj", "query"), ("qkv", "in_proj")
# Weights behind the tokens, or used only while masking: they may be missing from a checkpoint.
UNUSED = ("pooler", "head", "mask_token")


def blocks(tower: torch.nn.Module, depth: int, name: str) -> torch.nn.ModuleList:
    """Return the ``depth`` attention blocks of a vision tower.

    Raises
    ------
    InputError
        If there is no such list, as in a model without attention.
    """
    import torch

    for module in tower.modules():
        if (
            isinstance(module, torch.nn.ModuleList)
            and len(module) == depth
            and query_layer(module[0])[0] is not module[0]
        ):
            return module
    raise InputError(
        f"{name} has no list of {depth} blocks with a query projection (looked for "
        f"{', '.join(SEPARATE_QUERIES + FUSED_QUERIES)}); take source='output'."
    )


def query_layer(block: torch.nn.Module) -> tuple[torch.nn.Module, bool]:
    """Return the layer that makes the queries and whether keys and values come out of it too."""
    for path, module in block.named_modules():
        last = path.rpartition(".")[2]
        if last in SEPARATE_QUERIES + FUSED_QUERIES and hasattr(module, "weight"):
            return module, last in FUSED_QUERIES
    return block, False


def used(key: str) -> bool:
    """Return whether the weight of this name can change the tokens."""
    return not any(part in UNUSED for part in key.split("."))


def weights_hash(tower: torch.nn.Module) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of the weights that are used."""
    import torch

    content = hashlib.sha256()
    for key, tensor in sorted(tower.state_dict().items()):
        if used(key):
            content.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            content.update(flat.view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the progress bar and the report of loading; what matters is checked here."""
    logging: Any = import_module("transformers.utils.logging")
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.ERROR)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
