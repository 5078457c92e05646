"""Scaling curves: how well encoders predict, by the number of context images they were given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.base import clone

from neuroattn.data.transforms import average_repetitions
from neuroattn.encoders.adaptive import LEAST_CONTEXT, AdaptiveEncoder
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.scoring import score_predictions
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuroattn.metrics import Score

__all__ = ["scaling_curve", "table"]

Report = Callable[[str], None]

#: What the variables of a curve are, all (encoder, length, roi).
DEFINITIONS = {
    "mean": "mean score over the voxels of the ROI and over draws of the context",
    "low": "lower end of the 95 % bootstrap interval of the mean over test images",
    "high": "upper end of the 95 % bootstrap interval of the mean over test images",
    "raw_mean": "mean score before division by the ceiling, over all voxels and draws",
    "difference": "mean score minus that of the reference, same voxels and same contexts",
    "difference_low": "lower end of the paired 95 % bootstrap interval of the difference",
    "difference_high": "upper end of the paired 95 % bootstrap interval of the difference",
    "p": "two-sided p of the difference, permutation test that swaps predictions by test image",
}
_SHOWN = ("mean", "low", "high")
_INTERVAL = "over test images; voxels and draws of the context stay as they are"


def scaling_curve(
    encoders: Mapping[str, Encoder],
    features: xr.Dataset | Mapping[str, xr.Dataset],
    context: xr.Dataset,
    test: xr.Dataset,
    lengths: Sequence[int] = (10, 30, 100, 300, 1000),
    draws: int = 3,
    seed: int = 0,
    threshold: float = 0.1,
    reference: str = "ridge",
    resamples: int = 1000,
    report: Report | None = None,
) -> xr.Dataset:
    """Score encoders of new voxels that were given more and more context images.

    Within a draw the context of 10 images is the beginning of that of 30, and so on; all encoders
    are given the same. Adaptive encoders, fitted beforehand on other subjects, are adapted to the
    context; of the others unfitted copies are fitted on it. The encoders given stay as they are.

    Parameters
    ----------
    encoders : mapping of str to Encoder
        Name in the table to encoder.
    features : xarray.Dataset or mapping of str to xarray.Dataset
        Features of all images, for all encoders, or those of each encoder by its name (ridge on
        ``embedding.features(features)``, say).
    context : xarray.Dataset
        Responses of the new voxels from which contexts are drawn; repetitions are averaged first.
    test : xarray.Dataset
        Responses of the same voxels to other images; averaged likewise.
    lengths : sequence of int
        Numbers of context images. Those over the number of images in ``context`` are left out,
        and ``report`` is told.
    draws : int
        How many contexts of each length, at least 1.
    seed : int
        Of the draws, of the bootstrap and of the permutations.
    threshold : float
        Voxels with a lower ceiling have no normalised score.
    reference : str
        The encoder that the others are compared with.
    resamples : int
        Bootstrap samples, and permutations.
    report : callable, optional
        Told what is done, one line each.

    Returns
    -------
    xarray.Dataset
        By ``encoder``, ``length`` and ``roi`` (the last is "all", every voxel): ``mean``, ``low``,
        ``high``, ``raw_mean``; ``difference``, ``difference_low``, ``difference_high``, ``p``
        against the reference, whose own differences are 0. ``images (draw, position)``: the first
        n positions are the context of n images. The attributes say what each is; ``units`` is
        "normalised", or "raw" where no voxel has a ceiling: then ``mean`` is of raw scores.

    Raises
    ------
    InputError
        If test images may be drawn as context, no length is left, or an argument is out of range.
    MismatchError
        If the voxels of ``context`` and ``test`` differ, or an encoder has no features.
    UnknownNameError
        If the reference is not one of the encoders.
    """
    check_name("reference", reference, encoders)
    if draws < 1:
        raise InputError(f"draws={draws} must be at least 1.")
    given = _features_of(encoders, features)
    context, test = average_repetitions(context), average_repetitions(test)
    _check_voxels(context, test)
    pool = _pool(context, test)
    kept = _lengths(lengths, len(pool), report)
    # A generator for each draw: more draws leave the first ones as they are.
    orders = [np.random.default_rng([seed, d]).permutation(len(pool)) for d in range(draws)]
    images = np.stack([pool[order[: kept[-1]]] for order in orders])
    columns = []
    for length in kept:
        scores = {
            name: _score(name, encoder, given[name], context, test, images[:, :length], threshold)
            for name, encoder in encoders.items()
        }
        columns.append(_column(scores, reference, resamples, seed))
        if report:
            for name in encoders:
                mean, low, high = (float(columns[-1][key].loc[name, "all"]) for key in _SHOWN)
                report(f"{name}, {length} images: {mean:.3f} [{low:.3f}, {high:.3f}]")
    curve = xr.concat(columns, dim="length", combine_attrs="identical").assign_coords(length=kept)
    curve = curve.transpose("encoder", "length", "roi").assign(
        images=(("draw", "position"), images)
    )
    for name, words in DEFINITIONS.items():
        curve[name].attrs["definition"] = words
    return curve.assign_attrs(
        reference=reference,
        draws=draws,
        seed=seed,
        resamples=resamples,
        threshold=threshold,
        test_images=test.sizes["presentation"],
        voxels=test.sizes["voxel"],
        interval=_INTERVAL,
    )


def _features_of(
    encoders: Mapping[str, Encoder], features: xr.Dataset | Mapping[str, xr.Dataset]
) -> Mapping[str, xr.Dataset]:
    """Return the features of each encoder by its name."""
    if isinstance(features, xr.Dataset):
        return dict.fromkeys(encoders, features)
    missing = [name for name in encoders if name not in features]
    if missing:
        raise MismatchError(
            f"features are given for {', '.join(features)}, but not for {', '.join(missing)}. "
            "Give one set of features, or one for each encoder by its name."
        )
    return features


def _check_voxels(context: xr.Dataset, test: xr.Dataset) -> None:
    names = [name for name, values in context.coords.items() if values.dims == ("voxel",)]
    different = [
        str(name)
        for name in names
        if name not in test.coords or not np.array_equal(context[name].values, test[name].values)
    ]
    if different:
        raise MismatchError(
            f"context has {context.sizes['voxel']} voxels and test {test.sizes['voxel']}; they "
            f"differ in {', '.join(different)}. Give responses of the same voxels in one order."
        )


def _pool(context: xr.Dataset, test: xr.Dataset) -> NDArray[np.str_]:
    """Return the images that contexts are drawn from, sorted."""
    pool = np.sort(context["image"].values.astype(str))
    leaked = pool[np.isin(pool, test["image"].values.astype(str))]
    if leaked.size:
        raise InputError(
            f"{leaked.size} test images are among those that contexts are drawn from (first: "
            f"{leaked[:3].tolist()}): such scores say nothing. Split by image first."
        )
    return pool


def _lengths(lengths: Sequence[int], pool: int, report: Report | None) -> list[int]:
    """Return the lengths that the pool allows, ascending."""
    wanted = sorted(set(lengths))
    if not wanted or wanted[0] < LEAST_CONTEXT or any(int(n) != n for n in wanted):
        raise InputError(
            f"lengths={list(lengths)} must be whole numbers of at least {LEAST_CONTEXT} images."
        )
    kept = [int(n) for n in wanted if n <= pool]
    if not kept:
        raise InputError(f"lengths={list(lengths)}, but contexts are drawn from {pool} images.")
    if report and len(kept) < len(wanted):
        out = ", ".join(map(str, wanted[len(kept) :]))
        report(f"left out: contexts of {out} images; there are {pool} to draw from")
    return kept


def table(curve: xr.Dataset, roi: str = "all") -> pd.DataFrame:
    """Return the curve of an ROI as a table: a row a length and encoder, a column a variable.

    Parameters
    ----------
    curve : xarray.Dataset
        What :func:`scaling_curve` returned.
    roi : str
        Whose.

    Raises
    ------
    UnknownNameError
        If the curve has no such ROI.
    """
    check_name("roi", roi, curve["roi"].values.tolist())
    shown = curve[list(DEFINITIONS)].sel(roi=roi, drop=True)
    return shown.to_dataframe(dim_order=["length", "encoder"])


def _score(
    name: str,
    encoder: Encoder,
    features: xr.Dataset,
    context: xr.Dataset,
    test: xr.Dataset,
    images: NDArray[np.str_],
    threshold: float,
) -> Score:
    """Score an encoder on contexts (draw, image); the voxels of each draw stand side by side."""
    row = pd.Index(context["image"].values.astype(str))
    predictions = []
    for shown in images:
        seen = context.isel(presentation=row.get_indexer(shown))
        if isinstance(encoder, AdaptiveEncoder):
            # A copy: the caller's encoder keeps the voxels that it was adapted to.
            ready: Encoder = copy.copy(encoder).adapt(features, seen)
        else:
            ready = clone(encoder).fit(features, seen)
        predictions.append(ready.predict(features, test["image"].values))
    side_by_side = np.tile(np.arange(test.sizes["voxel"]), len(images))
    repeated = test.isel(voxel=side_by_side)
    prediction = predictions[0].isel(voxel=side_by_side)
    prediction = prediction.copy(data=np.concatenate([p.values for p in predictions], axis=1))
    return score_predictions(prediction, repeated, threshold=threshold, encoder=name)


def _column(scores: Mapping[str, Score], reference: str, resamples: int, seed: int) -> xr.Dataset:
    """Return everything that a curve says of one length, (encoder, roi)."""
    parts = []
    for name, score in scores.items():
        own = score.by_roi(resamples=resamples, seed=seed)
        limited = (score.dataset["ceiling"] >= score.dataset.attrs["threshold"]).any()
        units = "normalised" if limited else "raw"
        names = _SHOWN if units == "normalised" else [f"raw_{key}" for key in _SHOWN]
        part = {key: own[found] for key, found in zip(_SHOWN, names, strict=True)}
        part["raw_mean"] = own["raw_mean"]
        if name == reference:
            # NaN stays where the ROI is empty.
            nothing = xr.zeros_like(part["mean"]).where(part["mean"].notnull())
            part |= {key: nothing for key in DEFINITIONS if key.startswith("difference")}
            part["p"] = 1 + nothing
        else:
            paired = score.compare(scores[reference], resamples=resamples, seed=seed)
            part |= {"difference": paired["difference"], "p": paired["p"]}
            part |= {f"difference_{end}": paired[end] for end in ("low", "high")}
        attrs = {"metric": score.metric, "units": units}
        parts.append(xr.Dataset(part, attrs=attrs))
    joined = xr.concat(parts, dim="encoder", combine_attrs="identical")
    return joined.assign_coords(encoder=list(scores))
