"""From a reader's responses to those that encoders are fitted on and scored against."""

from __future__ import annotations

import numpy as np
import xarray as xr

from neuroattn.data.response_set import drop_unusable_voxels
from neuroattn.data.rules import validate
from neuroattn.data.transforms import add_ncsnr, average_repetitions, zscore_within_session


def prepare(responses: xr.Dataset, zscore: bool = True) -> xr.Dataset:
    """Validate, z-score within session, estimate ``ncsnr``, drop unusable voxels, average.

    Parameters
    ----------
    responses : xarray.Dataset
        A response set. What is done already (z-scores, an ``ncsnr`` or ``ceiling`` that the data
        set ships, averages) is kept.
    zscore : bool
        Z-score each voxel within each session.

    Returns
    -------
    xarray.Dataset
        One presentation an image; attributes ``dropped_nan_voxels`` and
        ``dropped_constant_voxels`` count what was removed.

    Raises
    ------
    InputError
        If a rule of the schema is broken or no usable voxel is left.
    """
    dataset = validate(responses)
    averaged = "repeats" in dataset.coords
    if zscore and not averaged:
        dataset = zscore_within_session(dataset)
    dataset, counts = drop_unusable_voxels(dataset)
    repeated = len(np.unique(dataset["image"].values)) < dataset.sizes["presentation"]
    if repeated and not averaged and not {"ncsnr", "ceiling"} & set(dataset):
        dataset = add_ncsnr(dataset)
    dropped = {f"dropped_{name}": int(count) for name, count in counts.items()}
    return average_repetitions(dataset).assign_attrs(dropped)
