"""From predictions and averaged responses to a score with its ceiling."""

from __future__ import annotations

import xarray as xr

from neuroattn.encoders.inputs import ceiling_of
from neuroattn.metrics import Score


def score_predictions(
    prediction: xr.DataArray,
    averaged: xr.Dataset,
    *,
    threshold: float = 0.1,
    metric: str = "explained_variance",
    encoder: str = "",
) -> Score:
    """Score predictions of the images of an averaged response set, in its order.

    Parameters
    ----------
    prediction : xarray.DataArray
        (image, voxel), as :meth:`neuroattn.encoders.Encoder.predict` gives it.
    averaged : xarray.Dataset
        One presentation an image, with ``ceiling`` or ``ncsnr`` where known.
    threshold, metric, encoder
        As for :meth:`neuroattn.metrics.Score.from_predictions`.
    """
    response = prediction.copy(data=averaged["response"].values).rename("response")
    ceiling = prediction[0].drop_vars("image").copy(data=ceiling_of(averaged)).rename("ceiling")
    repeats = xr.DataArray(
        averaged["repeats"].values, coords={"image": prediction["image"]}, dims="image"
    )
    return Score.from_predictions(
        prediction,
        response,
        ceiling,
        roi=averaged.get("roi_mask"),
        repeats=repeats,
        metric=metric,
        threshold=threshold,
        encoder=encoder,
    )
