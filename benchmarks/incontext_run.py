"""A finished run of an in-context encoder on a simulated cortex, with its data and encoders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import neuroattn
from benchmarks.common import GateError
from neuroattn.cli.recipe import RecipeParser
from neuroattn.data import SimulatedCortex
from neuroattn.encoders import EmpiricalBayesEncoder, Encoder, InContextData, InContextEncoder
from neuroattn.io import read_yaml
from neuroattn.training.run_directory import RunDirectory

Figures = dict[str, Any]

#: The in-context encoder in tables, as in the run's curve.
NAME = "in-context"
BASELINES = ("group average", "ridge", "empirical Bayes")


@dataclass(frozen=True)
class FinishedRun:
    """A run, the data that its recipe describes, and the encoders that it left.

    Attributes
    ----------
    data : InContextData
        Rebuilt from the run's configuration.
    cortex : SimulatedCortex
        Its only source.
    encoders : dict of str to Encoder
        Baselines, then the in-context encoder, named as in the run's curve.
    bayes, incontext : Encoder
        Two of them.
    embedded : xarray.Dataset
        The embedding of all images as features, which the baselines read.
    curve, excess : xarray.Dataset
        ``scaling.nc`` and ``excess.nc``.
    """

    data: InContextData
    cortex: SimulatedCortex
    encoders: dict[str, Encoder]
    bayes: EmpiricalBayesEncoder
    incontext: InContextEncoder
    embedded: xr.Dataset
    curve: xr.Dataset
    excess: xr.Dataset

    def reads(self, features: xr.Dataset, embedded: xr.Dataset) -> dict[str, xr.Dataset]:
        """Return which of two each encoder reads."""
        return {name: features if name == NAME else embedded for name in self.encoders}


def read_run(path: str | Path) -> FinishedRun:
    """Read a finished run.

    Raises
    ------
    FileError
        If there is none, or it is not finished.
    GateError
        If it is not of one simulated cortex, or lacks one of the baselines.
    """
    run = RunDirectory(path)
    run.require_finished()
    data = _data(run)
    cortex = data.sources[0]
    folders = {name: run.path / "baselines" / name for name in BASELINES}
    found = {name: neuroattn.load(folder) for name, folder in folders.items() if folder.is_dir()}
    bayes, incontext = found.get("empirical Bayes"), neuroattn.load(run.path)
    if not (
        len(data.sources) == 1
        and isinstance(cortex, SimulatedCortex)
        and len(found) == len(BASELINES)
        and isinstance(bayes, EmpiricalBayesEncoder)
        and isinstance(incontext, InContextEncoder)
    ):
        raise GateError(
            f"{run.path} must be a run of an in-context encoder on one SimulatedCortex, with the "
            f"baselines {', '.join(BASELINES)}; it has {', '.join(found)}."
        )
    # Learned anew on another number of threads, components differ in their last digits.
    embedded = incontext.embedding_.features(data.features)
    curve, excess = (
        xr.load_dataset(run.path / f"{name}.nc", engine="h5netcdf")
        for name in ("scaling", "excess")
    )
    return FinishedRun(
        data, cortex, {**found, NAME: incontext}, bayes, incontext, embedded, curve, excess
    )


def _data(run: RunDirectory) -> InContextData:
    """Return the data that the configuration of a run describes."""
    config = read_yaml(run.config)
    store = str(Path(config["base"], config["data"]["store"]))
    parser = RecipeParser()
    parser.add_class_arguments(InContextData, "data")
    parsed = parser.parse_object({"data": {**config["data"], "store": store}})
    data: InContextData = parser.instantiate(parsed)["data"]
    return data


def rounded(values: Iterable[Any]) -> list[float | None]:
    """Return values with four digits after the point; JSON has no NaN, which becomes None."""
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]
