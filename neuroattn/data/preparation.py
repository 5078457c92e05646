"""From a reader's responses to those that encoders are fitted on and scored against."""

from __future__ import annotations

import numpy as np
import xarray as xr

from neuroattn.data.rules import validate
from neuroattn.data.schema import drop_unusable_voxels
from neuroattn.data.transforms import add_ncsnr, average_repetitions, zscore_within_session


def prepare(responses: xr.Dataset, zscore: bool = True) -> xr.Dataset:
    """Validate, drop unusable voxels, z-score within session, estimate ``ncsnr``, average.

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
        ``dropped_constant_voxels`` (constant throughout, or within a session that is z-scored)
        count what was removed.

    Raises
    ------
    InputError
        If a rule of the schema is broken or no usable voxel is left.
    """
    dataset = validate(responses)
    averaged = "repeats" in dataset.coords
    dataset, counts = drop_unusable_voxels(dataset)
    missing, constant = counts["nan_voxels"], counts["constant_voxels"]
    if zscore and not averaged:
        dataset, counts = drop_unusable_voxels(zscore_within_session(dataset))
        constant += counts["nan_voxels"]
    repeated = len(np.unique(dataset["image"].values)) < dataset.sizes["presentation"]
    # A ceiling of single responses does not outlive their average, so it is no substitute.
    if repeated and not averaged and "ncsnr" not in dataset:
        dataset = add_ncsnr(dataset)
    return average_repetitions(dataset).assign_attrs(
        dropped_nan_voxels=missing, dropped_constant_voxels=constant
    )
