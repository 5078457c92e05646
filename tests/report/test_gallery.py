"""The standard figures: which are drawn, and what is said of those that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from neuroattn.report import gallery, standard_figures, summary_table
from tests.report.small import small_scores, surface_voxels, volume_voxels
from tests.tolerances import TOLERANCE


def test_every_pair_with_the_last_encoder_is_drawn() -> None:
    # Catches a scatter of an encoder against itself, or of the wrong pair.
    scores = small_scores(("ridge", "factorised", "transformer"))
    figures, notes = standard_figures(scores, summary_table(scores, resamples=10))
    assert list(figures) == [
        "Scores by ROI",
        "Raw scores by ROI",
        "transformer against ridge",
        "transformer against factorised",
        "Distribution over voxels",
    ]
    figure, _ = figures["transformer against ridge"]
    assert figure.axes[0].get_xlabel().startswith("ridge")
    assert notes == []


def test_what_cannot_be_drawn_is_said() -> None:
    # Catches pictures that are missing without a word.
    scores = small_scores(("ridge",), voxels=9, ceiling=None)
    voxels = volume_voxels(("a", "b", "c"))
    figures, notes = standard_figures(scores, summary_table(scores, resamples=0), voxels)
    assert list(figures) == ["Raw scores by ROI", "Distribution over voxels"]
    assert notes[0].startswith("No voxel has a noise ceiling")
    assert "space 'native'" in notes[1]


def test_the_cortex_shows_the_last_encoder_and_its_gain_over_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Catches a difference with the wrong sign under its label; drawing itself is tested elsewhere.
    calls: list[tuple[np.ndarray, str]] = []

    def note(values: np.ndarray, voxels: Any, label: str, **options: Any) -> Figure:
        calls.append((values, label))
        return Figure()

    monkeypatch.setattr(gallery, "surface_picture", note)
    scores = small_scores(("ridge", "factorised", "transformer"), voxels=5, rois=("a", "b"))
    voxels = surface_voxels(10242, 10242)
    figures, notes = standard_figures(scores, summary_table(scores, resamples=0), voxels)
    assert notes == []
    assert list(figures)[-2:] == [
        "transformer on the cortex",
        "transformer minus ridge on the cortex",
    ]
    first, last = (scores[name].dataset["normalised"].values for name in ("ridge", "transformer"))
    np.testing.assert_allclose(calls[0][0], last, **TOLERANCE["float64"])
    np.testing.assert_allclose(calls[1][0], last - first, **TOLERANCE["float64"])
    assert calls[1][1] == "transformer minus ridge: explained variance / ceiling"
