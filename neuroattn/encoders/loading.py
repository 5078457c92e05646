"""Reading a fitted encoder back without knowing its class."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from neuroattn.encoders.saving import read_config
from neuroattn.names import check_name

if TYPE_CHECKING:
    from neuroattn.encoders.base import Encoder

# Explicit, so that a configuration file can never make us import something else.
ENCODERS = {
    "EmpiricalBayesEncoder": "neuroattn.encoders.empirical_bayes",
    "FactorizedEncoder": "neuroattn.encoders.factorized",
    "GroupAverageEncoder": "neuroattn.encoders.group_average",
    "InContextEncoder": "neuroattn.encoders.incontext.encoder",
    "RidgeEncoder": "neuroattn.encoders.ridge",
    "TransformerEncoder": "neuroattn.encoders.transformer",
}


def load(directory: str | Path) -> Encoder:
    """Read the fitted encoder of a run, or of a folder that ``Encoder.save`` wrote.

    Parameters
    ----------
    directory : str or Path
        Holds ``config.json``, ``weights.safetensors`` and ``voxels.nc``.

    Returns
    -------
    Encoder
        Of the class that ``config.json`` names.

    Raises
    ------
    FileError
        If the folder holds no encoder, or a file is broken.
    UnknownNameError
        If its class is not one of ours.
    MismatchError
        If weights and configuration do not belong together.
    """
    config = read_config(directory)
    name = check_name(f"class in {Path(directory) / 'config.json'}", config["class"], ENCODERS)
    encoder: Encoder = getattr(importlib.import_module(ENCODERS[name]), name).from_directory(
        directory
    )
    return encoder
