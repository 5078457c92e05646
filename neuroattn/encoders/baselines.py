"""The baselines that stand beside an in-context encoder in every table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import xarray as xr

from neuroattn.encoders.adaptive import AdaptiveEncoder
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.embedding import EmbeddingConfig
from neuroattn.encoders.empirical_bayes import EmpiricalBayesEncoder
from neuroattn.encoders.group_average import GroupAverageEncoder
from neuroattn.encoders.ridge import RidgeEncoder
from neuroattn.errors import NeuroattnError

__all__ = ["AS_EMBEDDED", "few_image_baselines", "given_context"]

#: For features that are an embedding already, see :meth:`neuroattn.encoders.Embedding.features`.
AS_EMBEDDED = EmbeddingConfig(view="flatten", normalise=False)


def few_image_baselines(
    embedded: xr.Dataset,
    training: Sequence[xr.Dataset],
    new: xr.Dataset,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> dict[str, Encoder]:
    """Return the group average, ridge and empirical Bayes, all on one embedding.

    Parameters
    ----------
    embedded : xarray.Dataset
        Features of one token an image.
    training : sequence of xarray.Dataset
        Prepared responses of the training subjects, to training images alone.
    new : xarray.Dataset
        Responses of the new voxels; their places and ROIs are read.
    seed : int
        Of folds and of the estimation.
    report : callable, optional
        Told which group average there is, or why there is none.

    Returns
    -------
    dict of str to Encoder
        "group average" (fitted; of the same place, else of the same ROI, else left out), "ridge"
        (unfitted: it has no prior; a penalty per voxel, refitted on all context images),
        "empirical Bayes" (fitted; a functional type for each ROI where all training sets have
        ROIs, else one type. The types of the new voxels are inferred: their ROIs are not read).
    """
    found: dict[str, Encoder] = {}
    chosen, reasons = "left out", []
    for by in ("place", "roi"):
        average = GroupAverageEncoder(embedding=AS_EMBEDDED, by=by, seed=seed)
        try:
            average.fit(embedded, training)
            if average.covered(new).all():
                found["group average"], chosen = average, f"by {by}"
                break
            reasons.append(f"by {by}: not every voxel has training voxels")
        except NeuroattnError as error:
            reasons.append(f"by {by}: {error}")
    if report:
        report(f"group average: {chosen}" + (f" ({'; '.join(reasons)})" if reasons else ""))
    found["ridge"] = RidgeEncoder(view="flatten", standardise=False, seed=seed)
    named = all("roi_mask" in each and bool(each["roi_mask"].any()) for each in training)
    types = "roi" if named else 1
    bayes = EmpiricalBayesEncoder(embedding=AS_EMBEDDED, types=types, seed=seed)
    found["empirical Bayes"] = bayes.fit(embedded, training)
    return found


def given_context(encoder: Encoder, features: xr.Dataset, responses: xr.Dataset) -> Encoder:
    """Return the encoder adapted to responses, or fitted on them where it has no prior."""
    if isinstance(encoder, AdaptiveEncoder):
        return encoder.adapt(features, responses)
    return encoder.fit(features, responses)
