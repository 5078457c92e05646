"""What the words of a command line say before they are parsed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from neuroattn import encoders
from neuroattn.encoders.incontext.data import InContextData
from neuroattn.errors import InputError
from neuroattn.io import read_yaml
from neuroattn.training.datamodule import EncodingData
from neuroattn.training.run_directory import RunDirectory


def data_class(arguments: Sequence[str]) -> type[EncodingData] | type[InContextData]:
    """Return the data module that the model of a recipe is trained on.

    Parameters
    ----------
    arguments : sequence of str
        Of the command line; the last word on the model's class counts.

    Raises
    ------
    InputError
        If the data of the recipe are of the other kind.
    """
    name, keys = "", set[str]()
    following = [*arguments[1:], ""]
    for each, value in zip(arguments, following, strict=True):
        flag, _, joined = each.partition("=")
        given = joined or value
        if flag in ("-c", "--config"):
            found = read_yaml(given, "recipe")
            model, data = found.get("model"), found.get("data")
            name = str((model.get("class_path") if isinstance(model, dict) else model) or name)
            keys |= set(data) if isinstance(data, dict) else set()
        elif flag in ("--model", "--model.class_path"):
            name = given
    name = name.rpartition(".")[2]
    wanted, other = ("sources", "source") if name == "InContextModule" else ("source", "sources")
    if name in encoders.__all__ and other in keys and wanted not in keys:
        raise InputError(
            f"model {name} is trained on data.{wanted}, but the recipe has data.{other}. Take a "
            "model that is trained on these data, or give the data of this one, see encoders/."
        )
    return InContextData if name == "InContextModule" or "sources" in keys else EncodingData


def with_own_recipe(arguments: list[str]) -> list[str]:
    """Return the arguments with the run's own configuration where a run goes on without one."""
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--config", "--run", "--ckpt_path"):
        given.add_argument(name, *(["-c"] if name == "--config" else []), nargs="?")
    found, _ = given.parse_known_args(arguments)
    if found.config or not found.run or not found.ckpt_path:
        return arguments
    own = RunDirectory(found.run).config
    return ["--config", str(own), *arguments] if own.is_file() else arguments
