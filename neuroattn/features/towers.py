"""The inside of a transformers vision model: its blocks, query projections and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuroattn.errors import FileError, InputError, MissingExtraError

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


def weights_hash(tower: torch.nn.Module, counts: Callable[[str], bool] = used) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of the weights that count."""
    import torch

    content = hashlib.sha256()
    for key, tensor in sorted(tower.state_dict().items()):
        if counts(key):
            content.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            content.update(flat.view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def transformers_for(who: str) -> Any:
    """Return the transformers package.

    Raises
    ------
    MissingExtraError
        If it is not installed; says that ``who`` needs it.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"{who} needs transformers: pip install 'neuroattn[hub]'."
        ) from error
    return transformers


def find_file(name: str, file: str, where: dict[str, Any]) -> str | None:
    """Return the path of a file of a model, downloaded if need be; None if the model has none."""
    from transformers.utils.hub import cached_file

    found: str | None = cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=not where["local_files_only"],
        **where,
    )
    return found


def load_model(
    name: str, config: Any, dtype: str, where: dict[str, Any], kind: str = "AutoModel"
) -> tuple[torch.nn.Module, set[str]]:
    """Load a model and return it with the names of the weights that its checkpoint lacks.

    Parameters
    ----------
    name : str
        Name on the hub, or a local folder.
    config : transformers configuration
        Of the model.
    dtype : str
        Its numbers, such as "float32".
    where : dict
        ``revision`` and ``local_files_only``.
    kind : str
        Class of transformers.

    Raises
    ------
    FileError
        If the weights cannot be read.
    """
    import torch

    loader = getattr(import_module("transformers"), kind)
    # The weights of an unused head are drawn at random: the caller's generator is left alone.
    with reading(name, "weights"), quiet(), torch.random.fork_rng(devices=[]):
        model, report = loader.from_pretrained(
            name, config=config, dtype=getattr(torch, dtype), output_loading_info=True, **where
        )
    return model, set(report["missing_keys"])


def check_complete(name: str, absent: set[str], part: str) -> None:
    """Refuse a checkpoint that lacks weights of the ``part`` that is used.

    Raises
    ------
    FileError
        If ``absent``, the names of weights that are used and were not there, is not empty.
    """
    if absent:
        raise FileError(
            f"the weights of {name} lack {len(absent)} tensors of the {part}, "
            f"the first is {min(absent)!r}. Take a complete checkpoint of this model."
        )


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Turn what transformers raises while it reads ``what`` of model ``name`` into a FileError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise FileError(
            f"name={name!r}: its {what} cannot be read: {reason} Check the name, "
            "give a folder with config.json and model.safetensors, or download it first with "
            f"`hf download {name}`."
        ) from error


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
