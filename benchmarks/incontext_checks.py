"""What is measured of a finished run of an in-context encoder on a simulated cortex."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.common import gate
from benchmarks.incontext_run import NAME, Figures, FinishedRun, rounded
from neuroattn.data import SimulatedCortex
from neuroattn.data.preparation import prepare
from neuroattn.data.scenes import CATEGORIES
from neuroattn.data.simulated_cortex import CATEGORY_AREAS, Scanner
from neuroattn.encoders import (
    Encoder,
    GroupAverageEncoder,
    scaling_curve,
)
from neuroattn.encoders.adaptive import AdaptiveEncoder, chosen_images
from neuroattn.encoders.baselines import AS_EMBEDDED
from neuroattn.encoders.context_choice import choose_context
from neuroattn.features import FeatureStore
from neuroattn.report import context_mass

#: Draws of a context at random.
RANDOM_DRAWS = 5
#: The other cortex of the transfer: its seed, and its scanner, noisier than the training's.
OTHER_SEED = 7
OTHER_SCANNER = Scanner(ncsnr=(0.3, 0.8))
#: Further subjects of the run's cortex.
FURTHER = 5


def figures(curve: xr.Dataset, roi: str = "all") -> dict[str, Figures]:
    """Return a curve's scores, and differences from its reference, as plain numbers.

    Parameters
    ----------
    curve : xarray.Dataset
        Of :func:`neuroattn.encoders.scaling_curve`.
    roi : str
        Of which voxels.

    Returns
    -------
    dict
        By length and encoder: ``score`` and ``difference``, each (value, low, high).
    """
    keys = {
        "score": ("mean", "low", "high"),
        "difference": ("difference", "difference_low", "difference_high"),
    }
    at = curve.sel(roi=roi)
    return {
        str(length): {
            str(name): {
                what: rounded(at[key].sel(length=length, encoder=name) for key in names)
                for what, names in keys.items()
            }
            for name in at["encoder"].values
        }
        for length in at["length"].values
    }


def labels(cortex: SimulatedCortex) -> dict[str, str]:
    """Return the category with the largest visible area of each image."""
    area = cortex.scenes.masks().sum(axis=(2, 3))
    return {
        image: CATEGORIES[index]
        for image, index in zip(cortex.images().ids, area.argmax(axis=1), strict=True)
    }


def choices(run: FinishedRun, counts: Sequence[int]) -> Figures:
    """Score encoders by how their context was chosen.

    Returns
    -------
    dict
        By count and way of choosing: ``images``, and for "in-context" and "empirical Bayes" the
        mean normalised score by ROI; "random" is the mean over draws, "random, sd" their standard
        deviation.
    """
    data = run.data
    pool, test = data.part("train"), data.part("test")
    kind = labels(run.cortex)
    ids = pool["image"].values.astype(str)
    available = {name: sum(kind[image] == name for image in ids) for name in CATEGORIES}

    def scores(images: Sequence[str]) -> Figures:
        found: Figures = {"images": len(images)}
        for name in (NAME, "empirical Bayes"):
            features = data.features if name == NAME else run.embedded
            encoder = copy.copy(run.encoders[name])
            if isinstance(encoder, AdaptiveEncoder):
                encoder.adapt(features, pool, images)
            found[name] = _by_roi(encoder, features, test)
        return found

    def chosen(how: str, count: int, **given: Any) -> tuple[str, ...]:
        return choose_context(data.features, pool, count, how, **given)

    table: Figures = {}
    for count in counts:
        drawn = [scores(chosen("random", count, seed=seed)) for seed in range(RANDOM_DRAWS)]
        rows = {"random": _over(drawn, np.mean), "random, sd": _over(drawn, np.std)}
        for name in CATEGORIES:
            most = min(count, available[name])
            rows[name] = scores(chosen("category", most, labels=kind, category=name))
        rows["diverse"] = scores(chosen("diverse", count, embedding=run.incontext.embedding_))
        greedy = chosen("greedy", count, embedding=run.incontext.embedding_, prior=run.bayes.prior_)
        rows["greedy"] = scores(greedy)
        table[str(count)] = rows
    return table


def transfer(run: FinishedRun, lengths: Sequence[int], images: int, resamples: int) -> Figures:
    """Adapt to another cortex: other scenes, other subjects' voxels, more noise.

    Parameters
    ----------
    run : FinishedRun
        Whose encoders.
    lengths : sequence of int
        Numbers of context images.
    images : int
        How many there are to draw contexts from, and as many others to score.
    resamples : int
        Bootstrap samples and permutations.

    Returns
    -------
    dict
        :func:`figures`, by ROI "all" and each category area; the reference is ridge.
    """
    own = run.cortex
    other = SimulatedCortex(
        2 * images, own.size, own.repeats, 2, own.voxels, OTHER_SEED, OTHER_SCANNER, own.basis
    )
    responses = prepare(other.responses(), run.data.zscore)
    first = np.isin(responses["image"].values.astype(str), other.images().ids[:images])
    features = FeatureStore(run.data.store).fill(
        run.data.basis, other.images(), dtype=run.data.store_dtype
    )
    embedded = run.incontext.embedding_.features(features)
    average = GroupAverageEncoder(embedding=AS_EMBEDDED, by="roi", seed=run.data.seed)
    average.fit(run.embedded, run.data.training_parts("train"))
    curve = scaling_curve(
        {**run.encoders, "group average": average},
        run.reads(features, embedded),
        responses.isel(presentation=np.flatnonzero(first)),
        responses.isel(presentation=np.flatnonzero(~first)),
        lengths,
        run.data.evaluation.draws,
        run.data.seed,
        resamples=resamples,
    )
    return {roi: figures(curve, roi) for roi in ("all", *CATEGORY_AREAS)}


def context_attention(run: FinishedRun, count: int) -> Figures:
    """Return by category area the attention to context images of each category, 1 by chance.

    Returns
    -------
    dict
        By area: its ``category``; ``own`` and ``others``, mass on images of its category and mean
        mass on those of the others; ``low`` and ``high``, 95 % interval of the difference over
        voxels; ``larger``, share of voxels with a positive difference.
    """
    pool = run.data.part("train")
    images = choose_context(run.data.features, pool, count, seed=run.data.seed)
    context = chosen_images(pool, images)
    encoder = copy.copy(run.incontext).adapt(run.data.features, context)
    mass = context_mass(encoder.context_attention(run.data.features, context), labels(run.cortex))
    found = {}
    for area, (category, _) in CATEGORY_AREAS.items():
        voxels = pool["roi_mask"].sel(roi=area).values
        own = mass.sel(category=category).values[voxels]
        others = mass.drop_sel(category=category).mean("category").values[voxels]
        gap = own - others
        half = 1.96 * gap.std(ddof=1) / len(gap) ** 0.5
        middle = gap.mean()
        numbers = (own.mean(), others.mean(), middle - half, middle + half, (gap > 0).mean())
        names = ("own", "others", "low", "high", "larger")
        found[area] = {"category": category, **dict(zip(names, rounded(numbers), strict=True))}
    return found


def further_subjects(run: FinishedRun, lengths: Sequence[int], resamples: int) -> Figures:
    """Repeat the run's curve for new subjects of the same cortex, who saw the same images.

    The contexts are drawn anew; subjects stand beside the ROIs.

    Returns
    -------
    dict
        :func:`figures` of "all" (the new subjects together) and of each.
    """
    own, data = run.cortex, run.data
    more = SimulatedCortex(
        own.n_scenes,
        own.size,
        own.repeats,
        own.subjects + FURTHER,
        own.voxels,
        own.seed,
        own.scanner,
        own.basis,
    )
    ours = own.truth()["weights"].values
    same = np.array_equal(more.truth()["weights"].values[: len(ours)], ours)
    gate("more subjects leave the first ones as they were", same, ours.shape)
    measured = more.responses()
    new = np.flatnonzero(~np.isin(measured["subject"], own.truth()["subject"]))
    responses = prepare(_subjects_as_rois(measured.isel(voxel=new)), data.zscore)
    parts = (
        responses.isel(presentation=np.flatnonzero(np.isin(responses["image"], data.split[name])))
        for name in ("train", "test")
    )
    curve = scaling_curve(
        run.encoders,
        run.reads(data.features, run.embedded),
        *parts,
        lengths,
        data.evaluation.draws,
        data.seed + 1,
        resamples=resamples,
    )
    subjects = np.unique(responses["subject"].values.astype(str)).tolist()
    return {roi: figures(curve, roi) for roi in ("all", *subjects)}


def _subjects_as_rois(responses: xr.Dataset) -> xr.Dataset:
    subject = responses["subject"].values.astype(str)
    names = np.unique(subject)
    masks = xr.DataArray(subject == names[:, None], dims=("roi", "voxel"), coords={"roi": names})
    joined = xr.concat([responses["roi_mask"].reset_coords(drop=True), masks], dim="roi")
    return responses.drop_dims("roi").assign(roi_mask=joined)


def _by_roi(encoder: Encoder, features: xr.Dataset, test: xr.Dataset) -> dict[str, float | None]:
    found = encoder.score(features, test).by_roi(resamples=0)
    rois = ("all", *CATEGORY_AREAS)
    return dict(zip(rois, rounded(found["mean"].sel(roi=list(rois)).values), strict=True))


def _over(drawn: Sequence[Figures], average: Callable[[list[float]], Any]) -> Figures:
    """Return ``average`` over several scores; None where one of them is."""
    found: Figures = {"images": drawn[0]["images"]}
    for name in (NAME, "empirical Bayes"):
        found[name] = {}
        for roi in drawn[0][name]:
            values = [each[name][roi] for each in drawn]
            missing = None in values
            found[name][roi] = None if missing else round(float(average(values)), 4)
    return found
