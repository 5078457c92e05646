"""What the report of a run with held-out subjects shows, read from the files of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroattn.encoders.base import Encoder
from neuroattn.io import existing, read_json, read_netcdf
from neuroattn.report import excess_table, scaling_figure, scaling_table
from neuroattn.training.run_directory import RunDirectory

#: The name of the in-context encoder in tables.
NAME = "in-context"
#: Files of such a run: images of every context, scaling curve, distance from the oracle, and the
#: weights of the context images for one voxel with their picture.
CONTEXTS, SCALING, EXCESS, ATTENTION = ("contexts.json", "scaling.nc", "excess.nc", "attention.nc")
CONTEXT_FIGURE = "Which images wrote a voxel"


@dataclass(frozen=True)
class ContextPages:
    """What the report of a run shows beside scores and maps.

    Attributes
    ----------
    pictures : dict of str to (Figure or PNG bytes, caption)
        Scaling curve, and the context of one voxel.
    tables : dict of str to pandas.DataFrame
        Scaling curve and excess.
    notes : list of str
        Remarks.
    context : int
        Images that the encoders were written from; 0 for a run without held-out subjects.
    """

    pictures: dict[str, tuple[Any, str]] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    context: int = 0


def context_pages(run: RunDirectory, encoder: Encoder) -> ContextPages:
    """Read what a run with held-out subjects left; of any other run there is nothing.

    Parameters
    ----------
    run : RunDirectory
        With scores.
    encoder : Encoder
        The run's main encoder.

    Raises
    ------
    FileError
        If one of the files is damaged.
    """
    if not (run.path / CONTEXTS).exists():
        return ContextPages()
    context = len(read_json(run.path / CONTEXTS)["context"])
    curve, excess = (
        read_netcdf(run.path / name, what)
        for name, what in ((SCALING, "scaling curve"), (EXCESS, "table of the excess"))
    )
    subjects = ", ".join(np.unique(encoder.voxels_["subject"].values.astype(str)))
    notes = [
        f"Held out: {subjects}, of whom nothing was trained on. Their encoders were written from, "
        f"or fitted on, {context} context images."
    ]
    pictures: dict[str, tuple[Any, str]] = {"Scaling": scaling_figure(curve)}
    if (run.path / ATTENTION).exists():
        caption = str(read_netcdf(run.path / ATTENTION, "context weights").attrs["caption"])
        picture = existing(context_picture(run), "figure").read_bytes()
        pictures[CONTEXT_FIGURE] = (picture, caption)
    else:
        notes.append("The network's mechanism has no attention weights to show for its context.")
    tables = {
        "Scaling curve": scaling_table(curve),
        "Distance from the Bayes oracle": excess_table(excess, NAME),
    }
    return ContextPages(pictures, tables, notes, context)


def context_picture(run: RunDirectory) -> Path:
    """Return the path of the picture of the context."""
    return run.path / "figures" / "which-images-wrote-a-voxel.png"
