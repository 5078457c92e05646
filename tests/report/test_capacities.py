"""The figure of capacities: equal mechanisms share a curve, censored points are hollow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neuroattn.errors import InputError
from neuroattn.report import capacity_figure
from neuroattn.theory.capacity import measure, table


def test_equal_mechanisms_share_a_curve_and_families_a_row() -> None:
    # Catches a curve a mechanism, a family that is left out, and cases in the wrong column.
    found = list(table(["ssd", "softmax", "gated", "mesa"], [4, 8], draws=4, largest=32))
    figure = capacity_figure(found)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(figure.axes) == 6
    assert titles[0].startswith("average")
    assert titles[1].startswith("worst")
    legends = [axes.get_legend() for axes in figure.axes]
    labels = [[text.get_text() for text in each.get_texts()] for each in legends if each]
    assert labels == [["softmax, gated"], ["ssd"], ["mesa"]]
    (line,) = [each.lines[0] for each in figure.axes[2].containers if each.get_label() == "ssd"]
    wanted = [each.capacity for each in found if (each.mechanism, each.case) == ("ssd", "average")]
    assert line.get_ydata().tolist() == wanted
    figure.draw_without_rendering()


def test_a_censored_point_is_hollow() -> None:
    # Catches a number that retrieval never reached, drawn as if it were a capacity.
    found = [measure("softmax", dim, draws=4, largest=32) for dim in (2, 16)]
    assert [each.censored for each in found] == [False, True]
    (axes,) = capacity_figure(found).axes
    (hollow,) = [each for each in axes.collections if each.get_facecolor().tolist() == [[1.0] * 4]]
    assert hollow.get_offsets().tolist() == [[16.0, 32.0]]


def test_nothing_to_draw_is_said() -> None:
    # Catches an empty picture, and points of two criteria on one axis.
    none = measure("neural", 4)
    with pytest.raises(InputError, match="none of the 1 capacities"):
        capacity_figure([none])
    one = measure("ssd", 4, draws=4)
    with pytest.raises(InputError, match="several"):
        capacity_figure([one, replace(one, snr=2.0)])
