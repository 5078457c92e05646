"""Attention of category queries on the objects that a simulated cortex routed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.scenes import CATEGORIES
from neuroattn.data.simulated_cortex import CATEGORY_AREAS, SimulatedCortex
from neuroattn.data.split import Split
from neuroattn.encoders.transformer import TransformerEncoder
from neuroattn.report.attention_figures import attention_figure
from neuroattn.report.object_mass import attention_mass, best_heads, query_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ObjectAttention:
    """Where category queries look in the test images of a simulated cortex.

    Attributes
    ----------
    maps : DataArray (image, query, head, row, column)
        Attention in the test images.
    masks : mapping of str to ndarray of bool
        Query to the true objects of its category, (image, height, width).
    heads : mapping of str to int
        Query to the head that looks most at the objects of the *validation* images.
    ratios : mapping of str to float
        Query to the attention of that head inside the objects of the *test* images, relative to
        a uniform map; see :func:`neuroattn.report.attention_mass`.
    scenes : ndarray of int
        Position of each image among the scenes.
    """

    maps: xr.DataArray
    masks: Mapping[str, NDArray[np.bool_]]
    heads: Mapping[str, int]
    ratios: Mapping[str, float]
    scenes: NDArray[np.intp]

    def by_area(self) -> dict[str, float]:
        """Return the mean ratio of each area over its hemispheres."""
        found: dict[str, list[float]] = {}
        for query, ratio in self.ratios.items():
            found.setdefault(query.split()[-1], []).append(ratio)
        return {area: float(np.mean(ratios)) for area, ratios in found.items()}

    def sentence(self) -> str:
        """Return the ratios in words."""
        areas = ", ".join(f"{area} {ratio:.1f}" for area, ratio in self.by_area().items())
        return (
            "Attention inside the true object, as a multiple of what a uniform map would put there "
            "(head chosen on validation images, measured on test images, mean of hemispheres): "
            f"{areas}; mean {np.mean(list(self.by_area().values())):.1f}."
        )


def object_attention(
    encoder: TransformerEncoder, features: xr.Dataset, cortex: SimulatedCortex, split: Split
) -> ObjectAttention:
    """Measure the attention of category queries on the true objects of a simulated cortex.

    Parameters
    ----------
    encoder : TransformerEncoder
        Fitted with ROI queries.
    features : xarray.Dataset
        Of the cortex's scenes.
    cortex : SimulatedCortex
        Knows the objects.
    split : Split
        With parts ``validation`` (chooses heads) and ``test`` (measures).
    """
    masks, ids = cortex.scenes.masks(), {name: n for n, name in enumerate(cortex.images().ids)}
    heads: dict[str, int] = {}
    for part in ("validation", "test"):
        shown = np.array([ids[image] for image in split[part]])
        maps = encoder.attention_maps(features, split[part])
        areas = {
            area: masks[shown, CATEGORIES.index(category)]
            for area, (category, _) in CATEGORY_AREAS.items()
        }
        inside = query_masks(maps["query"].values, areas)
        mass = attention_mass(maps, inside)
        heads = heads or best_heads(mass)
    ratios = {query: float(mass["ratio"].sel(query=query)[head]) for query, head in heads.items()}
    return ObjectAttention(maps, inside, heads, ratios, shown)


def object_attention_figure(
    found: ObjectAttention, cortex: SimulatedCortex, images: int = 6
) -> tuple[Figure, str]:
    """Draw the first test images with several objects and where the left queries look.

    Returns
    -------
    Figure, str
        Figure and caption.
    """
    queries = [query for query in found.heads if "left" in query.split()]
    crowded = (cortex.scenes.category[found.scenes] >= 0).sum(axis=1) > 1
    several = np.flatnonzero(crowded)[:images]
    figure = attention_figure(
        [cortex.scenes.images[found.scenes[index]] for index in several],
        found.maps.isel(image=several).sel(query=queries),
        {query: found.masks[query][several] for query in queries},
        found.heads,
    )
    return figure, (
        "Test images and the attention of each category query (left hemisphere, the head chosen "
        "on validation images). Blue: the objects of the query's category, where there are any. "
        "Where there is none the query has nothing to find, and its attention is diffuse."
    )
