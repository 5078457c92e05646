"""Text queries: what a voxel's written weights say to words, and whether its ROI agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from scipy import stats

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics import agreement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuroattn.encoders.adaptive import AdaptiveEncoder
    from neuroattn.features.text import TextTower

__all__ = ["PROMPTS", "PROMPT_ROIS", "category_accuracy", "text_selectivity"]

#: Prompts of the categories that higher visual areas are known for.
PROMPTS: dict[str, tuple[str, ...]] = {
    "faces": (
        "a close-up of a person's face",
        "a portrait of a smiling woman",
        "the face of a man looking at the camera",
        "two people face to face",
        "the face of an animal",
    ),
    "places": (
        "a wide view of a landscape",
        "an empty street with houses",
        "a room with furniture and no people",
        "the inside of a large building",
        "a beach under an open sky",
    ),
    "bodies": (
        "a person seen from head to foot",
        "people running and jumping",
        "the arms and legs of a dancer",
        "a hand reaching out",
        "the body of an animal in motion",
    ),
    "words": (
        "a page of printed text",
        "a street sign with words on it",
        "handwriting on a sheet of paper",
        "a shop window with large letters",
        "a label with numbers and writing",
    ),
    "food": (
        "a plate of food on a table",
        "fresh fruit and vegetables",
        "a slice of cake",
        "a bowl of soup with bread",
        "a meal seen from above",
    ),
}

_ROIS = {
    "faces": "FFA FFA-1 FFA-2 OFA mTL-faces aTL-faces faces floc-faces",
    "places": "PPA OPA RSC places floc-places",
    "bodies": "EBA FBA FBA-1 FBA-2 mTL-bodies bodies floc-bodies",
    "words": "VWFA VWFA-1 VWFA-2 OWFA mfs-words mTL-words words floc-words",
    "food": "food",
}
#: Category of each ROI that is defined by one, by the names of NSD, Algonauts and the simulation.
PROMPT_ROIS: dict[str, str] = {
    name: category for category, names in _ROIS.items() for name in names.split()
}


def text_selectivity(
    encoder: AdaptiveEncoder, texts: Mapping[str, Sequence[str]], tower: TextTower
) -> xr.DataArray:
    """Return what each written encoder predicts for categories that are described in words.

    A category is the mean of its prompts' normalised text vectors, normalised again, and then
    treated as an image's vector. Texts lie in a region of the joint space of their own, so that
    values compare between categories and voxels, but not with responses to images.

    Parameters
    ----------
    encoder : AdaptiveEncoder
        Adapted, on features of ``HuggingFaceVision(..., source="embedding")`` of a model that
        reads texts too.
    texts : mapping of str to sequence of str
        Category to prompts, e.g. :data:`PROMPTS`.
    tower : TextTower
        Of the same model; best :meth:`neuroattn.features.HuggingFaceVision.text_tower`, which
        is checked by the key of the features. Of a tower made by name only the width is checked,
        and two models of one width give nonsense.

    Returns
    -------
    xarray.DataArray
        (voxel, category) float32, in the units of the training responses, with the coordinates
        of the adapted voxels.

    Raises
    ------
    MismatchError
        If the features share no space with texts, or the tower is of another model or width.
    InputError
        If the encoder is not adapted, or a category has no prompts.
    """
    written = encoder.written()
    _check_tower(encoder, tower)
    vectors = encoder.embedding_.apply(_category_vectors(texts, tower))
    weights = torch.from_numpy(written["weights"].values)
    intercept = torch.from_numpy(written["intercept"].values)
    return xr.DataArray(
        torch.addmm(intercept[:, None], weights, vectors.T).numpy(),
        dims=("voxel", "category"),
        coords={**written["voxel"].coords, "category": list(texts)},
        name="selectivity",
    )


def category_accuracy(
    selectivity: xr.DataArray,
    roi_mask: xr.DataArray,
    categories: Mapping[str, str],
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Return the share of each ROI's voxels that respond most to the text of its category.

    Parameters
    ----------
    selectivity : xarray.DataArray
        (voxel, category), see :func:`text_selectivity`; finite.
    roi_mask : xarray.DataArray
        (roi, voxel) bool, with the coordinate ``roi``; ROIs may overlap or be empty.
    categories : mapping of str to str
        ROI to category, e.g. :data:`PROMPT_ROIS`. Names that ``roi_mask`` lacks are passed over,
        and so are ROIs without a category.
    resamples : int
        Bootstrap samples; 0 leaves the interval NaN.
    seed : int
        Of the bootstrap; alike for each ROI.

    Returns
    -------
    xarray.Dataset
        By ``roi``: ``accuracy``, with ``low`` and ``high`` of the 95 % percentile bootstrap over
        its voxels (neighbours are alike, so that the interval is narrow); ``elsewhere``, the same
        share of the voxels in no ROI of this category, which tells a text that wins everywhere;
        ``chance``, 1 / categories; ``voxels``. Of voxels whose largest values tie each tied
        category gets its part. NaN for an empty ROI. Coordinate ``category (roi)``.

    Raises
    ------
    MismatchError
        If the voxels differ, no ROI has a category, or a category has no text.
    InputError
        If there are fewer than two categories, or a value is not finite.
    """
    rois = _chosen_rois(selectivity, roi_mask, categories)
    values = selectivity.transpose("voxel", "category").values
    names = selectivity["category"].values.astype(str).tolist()
    largest = values == values.max(axis=1, keepdims=True)
    shares = largest / largest.sum(axis=1, keepdims=True)
    masks = roi_mask.transpose("roi", "voxel").values.astype(bool)
    known = roi_mask["roi"].values.astype(str)
    columns: dict[str, list[float]] = {
        name: [] for name in ("accuracy", "low", "high", "elsewhere")
    }
    for roi in rois:
        category = categories[roi]
        hits = shares[:, names.index(category)]
        alike = [categories.get(name) == category for name in known]
        inside, outside = hits[masks[known == roi][0]], hits[~masks[alike].any(axis=0)]
        low, high = _interval(inside, resamples, seed)
        found = (_mean(inside), low, high, _mean(outside))
        for column, value in zip(columns.values(), found, strict=True):
            column.append(value)
    voxels = [int(masks[known == roi][0].sum()) for roi in rois]
    return xr.Dataset(
        {
            **{name: ("roi", np.asarray(column, float)) for name, column in columns.items()},
            "chance": ("roi", np.full(len(rois), 1 / len(names))),
            "voxels": ("roi", np.asarray(voxels, dtype=np.int64)),
        },
        coords={"roi": rois, "category": ("roi", [categories[roi] for roi in rois])},
    )


def _check_tower(encoder: AdaptiveEncoder, tower: TextTower) -> None:
    from neuroattn.features.whole_image import JOINT

    features = encoder.features_
    if not features["basis"].endswith(f"-{JOINT}"):
        raise MismatchError(
            f"the encoder's features are of basis {features['basis']!r}, which shares no space "
            "with texts; adapt on HuggingFaceVision(..., source='embedding') of CLIP or SigLIP."
        )
    if tower.image_key not in ("", features["key"]):
        raise MismatchError(
            f"the text tower is of the image basis with key {tower.image_key}, but the encoder's "
            f"features have key {features['key']}; take text_tower() of the features' basis."
        )
    if tower.width != features["channels"]:
        raise MismatchError(
            f"the text tower {tower.model_name} gives vectors of {tower.width} channels, but the "
            f"encoder's features have {features['channels']}; take the tower of the same model."
        )


def _category_vectors(texts: Mapping[str, Sequence[str]], tower: TextTower) -> torch.Tensor:
    """Return one vector a category, (category, channel), of length 1."""
    if not texts:
        raise InputError("texts is empty; give categories with prompts, e.g. PROMPTS.")
    for category, prompts in texts.items():
        if isinstance(prompts, str) or not len(prompts):
            raise InputError(
                f"texts[{category!r}]={prompts!r} is no list of prompts; give at least one, "
                "e.g. ['a face']."
            )
    flat = [prompt for prompts in texts.values() for prompt in prompts]
    unit = torch.nn.functional.normalize(torch.from_numpy(tower.embed(flat)), dim=1)
    parts = unit.split([len(prompts) for prompts in texts.values()])
    return torch.nn.functional.normalize(torch.stack([part.mean(0) for part in parts]), dim=1)


def _chosen_rois(
    selectivity: xr.DataArray, roi_mask: xr.DataArray, categories: Mapping[str, str]
) -> list[str]:
    voxels, count = selectivity.sizes["voxel"], selectivity.sizes["category"]
    if roi_mask.sizes["voxel"] != voxels:
        raise MismatchError(
            f"roi_mask has {roi_mask.sizes['voxel']} voxels and selectivity {voxels}; give the "
            "mask of the adapted voxels, encoder.voxels_['roi_mask']."
        )
    agreement.check_same(selectivity, roi_mask, "roi_mask")
    if count < 2:
        raise InputError(f"selectivity has {count} category; a comparison needs at least two.")
    wrong = int((~np.isfinite(selectivity.values)).sum())
    if wrong:
        raise InputError(f"selectivity holds {wrong} values that are NaN or infinite; drop them.")
    known = roi_mask["roi"].values.astype(str).tolist()
    rois = [name for name in known if name in categories]
    if not rois:
        raise MismatchError(
            f"none of the ROIs ({', '.join(known) or 'there are none'}) has a category; those "
            f"with one are {', '.join(categories)}."
        )
    texts = selectivity["category"].values.astype(str).tolist()
    for roi in rois:
        if categories[roi] not in texts:
            raise MismatchError(
                f"ROI {roi!r} is of category {categories[roi]!r}, and selectivity has only "
                f"{', '.join(texts)}. Give texts for it, or leave the ROI out of categories."
            )
    return rois


def _mean(hits: NDArray[np.float64]) -> float:
    return float(hits.mean()) if hits.size else float("nan")


def _interval(hits: NDArray[np.float64], resamples: int, seed: int) -> tuple[float, float]:
    # One voxel cannot be resampled.
    if hits.size < 2 or not resamples:
        return float("nan"), float("nan")
    result = stats.bootstrap(
        (hits,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, 10**6 // hits.size),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
