"""The score of an encoder: per voxel, beside its ceiling, with what is needed to resample it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr

from neuroattn.errors import FileError, InputError
from neuroattn.io import existing, write_netcdf
from neuroattn.metrics import agreement
from neuroattn.metrics.averages import ALL, comparison, summary
from neuroattn.metrics.moments import METRICS, Float64, PairMoments
from neuroattn.names import check_name

if TYPE_CHECKING:
    import pandas as pd

_AVERAGING = (
    "metric over images for each voxel, then division by the voxel's ceiling, "
    "then the mean over the voxels of an ROI that are not excluded"
)
_VARIABLES = {"raw", "ceiling", "normalised", "prediction", "response", "roi_mask", "repeats"}
_ATTRS = {"metric", "averaging", "images", "repeats_min", "repeats_max", "threshold", "encoder"}


class Score:
    """Scores of one encoder on one set of images, never without their ceiling.

    Build it with :meth:`from_predictions` or :meth:`load`.

    Parameters
    ----------
    dataset : xarray.Dataset
        ``raw``, ``ceiling``, ``normalised`` (voxel); ``prediction``, ``response`` (image, voxel);
        ``roi_mask`` (roi, voxel); ``repeats`` (image), 0 where unknown; and the attributes
        ``metric``, ``averaging``, ``images``, ``repeats_min``, ``repeats_max``, ``threshold`` and
        ``encoder``.

    Raises
    ------
    InputError
        If a variable or attribute is missing.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        missing = (_VARIABLES - set(dataset.data_vars)) | (_ATTRS - set(dataset.attrs))
        if missing:
            raise InputError(
                f"dataset lacks {', '.join(sorted(missing))}; build a Score with "
                "Score.from_predictions or Score.load."
            )
        self.dataset = dataset

    @classmethod
    def from_predictions(
        cls,
        prediction: xr.DataArray,
        response: xr.DataArray,
        ceiling: xr.DataArray,
        *,
        roi: xr.DataArray | None = None,
        repeats: xr.DataArray | None = None,
        metric: str = "explained_variance",
        threshold: float = 0.1,
        encoder: str = "",
    ) -> Self:
        """Score predictions.

        Parameters
        ----------
        prediction, response : DataArray (image, voxel)
            The same images in the same order. The coordinates of ``response`` are kept.
        ceiling : DataArray (voxel,)
            Share of the variance of ``response`` that is signal, at most 1; NaN if unknown.
        roi : DataArray (roi, voxel), optional
            True where a voxel belongs to an ROI; ROIs may overlap or be empty.
        repeats : DataArray (image,), optional
            How many presentations each response averages; left out, the coordinate ``repeats``
            of ``response``, else 0 for unknown.
        metric : {"explained_variance", "pearson", "r2"}
            Normalised by the ceiling; ``pearson`` by its square root.
        threshold : float
            Voxels with a lower ceiling are excluded (NaN in ``normalised``), in (0, 1].
        encoder : str
            Name for tables.

        Raises
        ------
        MismatchError
            If dimensions, sizes, images or voxel coordinates do not fit.
        InputError
            If a ceiling is over 1, the threshold outside (0, 1], the metric unknown, or an ROI is
            called "all".
        """
        check_name("metric", metric, METRICS)
        masks = agreement.no_rois(response.sizes.get("voxel", 0)) if roi is None else roi
        if repeats is None:
            unknown = xr.DataArray(np.zeros(response.sizes.get("image", 0)), dims="image")
            repeats = response.coords.get("repeats", unknown)
        agreement.check_dimensions(
            response,
            prediction=(prediction, ("image", "voxel")),
            ceiling=(ceiling, ("voxel",)),
            roi=(masks, ("roi", "voxel")),
            repeats=(repeats, ("image",)),
        )
        for name, array in (("prediction", prediction), ("ceiling", ceiling), ("roi", masks)):
            agreement.check_same(response, array, name)
        limits = agreement.checked_ceiling(ceiling, threshold)
        if ALL in masks.coords["roi"].to_numpy().tolist():
            raise InputError(f"roi holds the name {ALL!r}, kept for all voxels; rename that ROI.")
        rules = {"metric": metric, "threshold": float(threshold), "encoder": encoder}
        return cls(_scored(prediction, response, limits, masks, repeats, rules))

    def by_roi(self, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> xr.Dataset:
        """Average over the voxels of each ROI, with a bootstrap interval over images.

        Parameters
        ----------
        resamples : int
            Bootstrap samples of the images; 0 leaves the intervals NaN. Each computes the metric
            of every voxel anew; the ceilings stay as they are.
        level : float
            Nominal coverage, in (0, 1).
        seed : int
            Of the bootstrap.

        Returns
        -------
        xarray.Dataset
            By ``roi``, the last row "all" being every voxel: ``mean``, ``median``, ``low``,
            ``high`` of the normalised score; ``raw_mean``, ``raw_low``, ``raw_high`` of the raw
            score over all voxels where it is defined; ``ceiling``, mean over the voxels averaged;
            ``voxels`` in the ROI, of which ``excluded`` have no ceiling or one under the threshold
            and ``undefined`` a ceiling but no score; ``interval`` and ``raw_interval``, "BCa",
            "percentile" or "none". Negative scores are kept.
        """
        return summary(self.dataset, resamples=resamples, level=level, seed=seed)

    def compare(
        self, other: Score, resamples: int = 1000, level: float = 0.95, seed: int = 0
    ) -> xr.Dataset:
        """Test whether this encoder scores differently from another on the same images.

        Parameters
        ----------
        other : Score
            Of the same images, voxels, responses, ceilings, ROIs, metric and threshold.
        resamples : int
            Random swaps of the paired permutation test, and bootstrap samples of the interval.
        level : float
            Nominal coverage, in (0, 1).
        seed : int
            Of both.

        Returns
        -------
        xarray.Dataset
            By ``roi``, the last row "all": ``difference`` (this minus other) of the mean scores
            over the voxels where both are defined, ``low``, ``high`` (paired bootstrap over
            images), ``p``, ``q`` (false discovery rate over the ROIs; the row "all" is a family
            of its own), ``voxels`` averaged. By ``voxel``: ``voxel_difference``, ``voxel_p``,
            ``voxel_q``. In units of the normalised score, or of the raw one where no voxel has a
            ceiling; attribute ``units`` says which.

        Raises
        ------
        MismatchError
            If the two scores do not belong together; the message names what differs.
        """
        return comparison(self.dataset, other.dataset, resamples=resamples, level=level, seed=seed)

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return str(self.dataset.attrs["metric"])

    def table(self, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """Return :meth:`by_roi` as a table with one row an ROI."""
        return self.by_roi(resamples, level, seed).to_dataframe()

    def __repr__(self) -> str:
        attrs = self.dataset.attrs
        shown = ["mean", "median", "raw_mean", "ceiling", "voxels", "excluded", "undefined"]
        table = self.table(resamples=0)[shown].to_string(max_rows=20, float_format="{:.3f}".format)
        return (
            f"<Score of {attrs['encoder'] or 'an encoder'}: {self.metric} over "
            f"{attrs['images']} images, ceiling threshold {attrs['threshold']:g}>\n{table}"
        )

    def save(self, path: str | Path) -> None:
        """Write the score as netCDF, beside first and then renamed.

        Raises
        ------
        FileError
            If it cannot be written (a full disk); an older file stays as it was.
        """
        write_netcdf(path, self.dataset)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a score that :meth:`save` wrote.

        Raises
        ------
        FileError
            If the file is missing, truncated, or not of a score.
        """
        place = existing(path, "score file")
        try:
            dataset = xr.load_dataset(place, engine="h5netcdf")
            text = {
                name: (array.dims, array.to_numpy().astype(str))
                for name, array in dataset.coords.items()
                if array.dtype.kind in "OTU" or name == "roi"
            }
            return cls(dataset.assign_coords(text).drop_encoding())
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise FileError(
                f"{place} is not a whole score file ({place.stat().st_size} bytes): {error} "
                "Copy it again or score the run again."
            ) from error


def _scored(
    prediction: xr.DataArray,
    response: xr.DataArray,
    ceiling: Float64,
    roi: xr.DataArray,
    repeats: xr.DataArray,
    rules: dict[str, Any],
) -> xr.Dataset:
    moments = PairMoments()
    moments.update(prediction.to_numpy(), response.to_numpy())
    raw = moments.metric(rules["metric"])
    counts = repeats.to_numpy().astype(np.int64)
    scale = agreement.normaliser(rules["metric"], ceiling, rules["threshold"])
    return xr.Dataset(
        {
            "raw": ("voxel", raw),
            "ceiling": ("voxel", ceiling),
            "normalised": ("voxel", raw * scale),
            "prediction": (("image", "voxel"), prediction.to_numpy()),
            "response": (("image", "voxel"), response.to_numpy()),
            "roi_mask": (("roi", "voxel"), roi.to_numpy().astype(bool)),
            "repeats": ("image", counts),
        },
        coords=agreement.coordinates(response, roi),
        attrs={
            **rules,
            "averaging": _AVERAGING,
            "images": int(response.sizes["image"]),
            "repeats_min": int(counts.min()),
            "repeats_max": int(counts.max()),
        },
    )
