"""Attention on the objects of a simulated cortex: heads chosen on one part, measured on another."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.data import SimulatedCortex, split_by_image
from neuroattn.data.scenes import CATEGORIES
from neuroattn.data.simulated_cortex import CATEGORY_AREAS
from neuroattn.report import object_attention, object_attention_figure

QUERIES = ("left V1", *(f"{side} {area}" for area in CATEGORY_AREAS for side in ("left", "right")))


@pytest.fixture(scope="module")
def cortex() -> SimulatedCortex:
    return SimulatedCortex(scenes=60, size=56, repeats=2, voxels=(4, 2))


class Looking:
    """Looks at the true object with head 0 in validation images, and with head 1 in others."""

    def __init__(self, cortex: SimulatedCortex, validation: set[str]) -> None:
        self.cortex, self.validation = cortex, validation

    def attention_maps(self, features: object, images: tuple[str, ...]) -> xr.DataArray:
        rows, columns = self.cortex.basis.grid
        ids = list(self.cortex.images().ids)
        weights = np.full((len(images), len(QUERIES), 2, rows * columns), 1 / (rows * columns))
        for n, image in enumerate(images):
            for q, query in enumerate(QUERIES[1:], 1):
                category = CATEGORY_AREAS[query.split()[1]][0]
                seen = self.cortex.routing[ids.index(image), CATEGORIES.index(category)]
                if seen.any():
                    weights[n, q, 0 if image in self.validation else 1] = seen
        return xr.DataArray(
            weights.reshape(*weights.shape[:3], rows, columns),
            dims=("image", "query", "head", "row", "column"),
            coords={"image": list(images), "query": list(QUERIES)},
        )


def found(cortex: SimulatedCortex):
    everything = xr.Dataset(coords={"image": ("image", list(cortex.images().ids))})
    split = split_by_image(everything, {"train": 0.2, "validation": 0.4, "test": 0.4}, 0)
    looking = Looking(cortex, set(split["validation"]))
    return object_attention(looking, everything, cortex, split), split


def test_heads_are_chosen_on_validation_and_measured_on_test_images(cortex) -> None:
    # Catches a head that is chosen on the images it is judged on: its ratio would be large.
    measured, split = found(cortex)
    assert set(measured.heads) == set(QUERIES[1:])
    assert set(measured.heads.values()) == {0}
    for ratio in measured.ratios.values():
        assert ratio == pytest.approx(1.0, abs=1e-6)
    assert measured.maps["image"].values.tolist() == list(split["test"])


def test_areas_average_their_hemispheres_and_the_sentence_names_them(cortex) -> None:
    # Catches an area that shows one hemisphere for both.
    measured, _ = found(cortex)
    areas = measured.by_area()
    assert set(areas) == set(CATEGORY_AREAS)
    assert areas["FFA"] == pytest.approx(
        (measured.ratios["left FFA"] + measured.ratios["right FFA"]) / 2
    )
    assert all(area in measured.sentence() for area in areas)


def test_the_figure_shows_left_category_queries_in_crowded_images(cortex) -> None:
    # Catches early queries among the panels, and images without several objects.
    measured, _ = found(cortex)
    figure, caption = object_attention_figure(measured, cortex, images=2)
    titles = [axes.get_title() for axes in figure.axes[: 1 + len(CATEGORY_AREAS)]]
    assert titles[0] == "image"
    assert all(title.startswith("left ") and "V1" not in title for title in titles[1:])
    assert "validation" in caption
