"""``neuroattn features RECIPE``: fill the feature store of a recipe."""

from __future__ import annotations

from collections.abc import Sequence

from neuroattn.cli.class_parser import ClassParser
from neuroattn.cli.messages import RECIPE_MODE, constructor_errors, recipe_errors
from neuroattn.cli.parser import PlainParser
from neuroattn.data.reader import Reader
from neuroattn.errors import InputError
from neuroattn.features.base import FeatureBasis
from neuroattn.features.store import FeatureStore
from neuroattn.images import JoinedImages
from neuroattn.io import existing


def main(command: str, arguments: Sequence[str]) -> None:
    """Compute what is missing in the feature store; a killed run goes on where it was.

    Raises
    ------
    InputError
        If the recipe has no ``source`` or ``sources``, or no ``basis``.
    """
    parser = PlainParser(prog="neuroattn features")
    parser.add_argument("recipe", help="a recipe for `neuroattn fit` or `neuroattn compare`")
    parser.add_argument("--batch-size", type=int, default=32, help="images at once")
    given = parser.parse_args(list(arguments))
    data = read_recipe(given.recipe)
    wanted = ClassParser(prog="neuroattn features", **RECIPE_MODE)
    wanted.add_argument("--source", type=Reader)
    wanted.add_argument("--sources", type=list[Reader])
    wanted.add_argument("--basis", type=FeatureBasis)
    wanted.add_argument("--store", type=str, default=".neuroattn/features")
    wanted.add_argument("--store_dtype", type=str, default="float16")
    names = ("source", "sources", "basis", "store", "store_dtype")
    given_parts = wanted.parse_object({name: data[name] for name in names if name in data})
    with constructor_errors():
        ready = wanted.instantiate(given_parts)
    images = [source.images() for source in ready.sources or [ready.source]]
    features = FeatureStore(ready.store).fill(
        ready.basis,
        images[0] if len(images) == 1 else JoinedImages(images),
        dtype=ready.store_dtype,
        batch_size=given.batch_size,
        progress=True,
    )
    shape = " × ".join(str(size) for size in features["tokens"].shape)
    print(f"{shape} (images × tokens × channels) in {ready.store}")


def read_recipe(path: str) -> dict[str, object]:
    """Return the part of a recipe that names source, basis and store.

    Raises
    ------
    InputError
        If the file is no YAML mapping with ``source`` or ``sources``, and ``basis`` (under
        ``data:`` or not).
    FileError
        If it is not there.
    """
    from omegaconf import OmegaConf

    with recipe_errors():
        found = OmegaConf.to_container(OmegaConf.load(existing(path, "recipe")), resolve=True)
    data = found.get("data", found) if isinstance(found, dict) else None
    if not isinstance(data, dict) or not (
        "basis" in data and (data.get("source") or data.get("sources"))
    ):
        raise InputError(f"{path} names no source and basis; a recipe has both, see encoders/.")
    return data
