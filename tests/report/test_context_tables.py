"""Tables of scaling curves and of the excess over the oracle."""

from __future__ import annotations

import io

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from neuroattn.errors import UnknownNameError
from neuroattn.report import excess_table, print_rows, scaling_table

KEYS = ("mean", "low", "high", "difference", "difference_low", "difference_high")


def curve(encoders=("ridge", "[red]"), units="normalised"):
    """A curve whose values tell where they stand."""
    shape = (len(encoders), 2, 2)
    values = np.arange(np.prod(shape), dtype=float).reshape(shape) / 100 - 0.03
    data = {key: (("encoder", "length", "roi"), values + 0.1 * n) for n, key in enumerate(KEYS)}
    coords = {"encoder": list(encoders), "length": [10, 1000], "roi": ["V1", "all"]}
    attrs = {"reference": "ridge", "metric": "explained_variance", "units": units}
    return xr.Dataset(data, coords=coords, attrs={**attrs, "test_images": 40})


def test_a_row_is_a_length_and_an_encoder():
    # Catches values of another length, encoder or ROI, and intervals in another order.
    table = scaling_table(curve())
    assert list(table.columns) == ["images", "encoder", "score", "minus ridge"]
    assert table["images"].tolist() == ["10", "10", "1,000", "1,000"]
    assert table["encoder"].tolist() == ["ridge", "[red]", "ridge", "[red]"]
    assert table["score"].tolist()[:2] == ["−0.020 [0.080, 0.180]", "0.020 [0.120, 0.220]"]
    assert table["minus ridge"].tolist()[:2] == ["–", "+0.320 [+0.420, +0.520]"]
    assert scaling_table(curve(), "V1")["score"][0] == "−0.030 [0.070, 0.170]"
    assert "mean over V1" in scaling_table(curve(), "V1").attrs["title"]
    with pytest.raises(UnknownNameError, match="roi='V2'"):
        scaling_table(curve(), "V2")


@pytest.mark.parametrize(("units", "told"), [("normalised", " / noise ceiling,"), ("raw", "ance,")])
def test_the_title_says_what_the_numbers_are(units, told):
    # Catches raw scores that pass for normalised ones.
    title = scaling_table(curve(units=units)).attrs["title"]
    assert told in title
    assert "40 test images" in title
    assert ("ceiling" in title) == (units == "normalised")


def test_what_is_not_there_is_a_dash():
    # Catches "nan [nan, nan]", and a comparison with nobody.
    lacking = curve()
    lacking["mean"][0, 0, 1] = np.nan
    lacking["difference_low"][1, 0, 1] = np.nan
    table = scaling_table(lacking)
    assert table["score"][0] == "–"
    assert table["minus ridge"][1] == "+0.320"
    assert "minus ridge" not in scaling_table(curve(("ridge",)))


def test_the_excess_has_its_standard_error():
    # Catches risk and oracle that change places.
    values = {"risk": 0.5, "oracle": 0.4, "excess": 0.1, "error": 0.012}
    data = {name: ("length", [value]) for name, value in values.items()}
    excess = xr.Dataset(data, coords={"length": [1000]}, attrs={"voxels": 2048})
    table = excess_table(excess, "mine")
    assert table.to_dict("list") == {
        "images": ["1,000"],
        "mine": ["0.500"],
        "Bayes oracle": ["0.400"],
        "excess": ["0.100 ± 0.012"],
    }
    assert "2,048 voxels" in table.attrs["title"]


def test_a_printed_table_says_a_length_once_and_obeys_no_name():
    # Catches rows wider than the screen, and an encoder's name that colours the terminal.
    stream = io.StringIO()
    print_rows(scaling_table(curve()), Console(file=stream, width=70))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 70
    assert sum(line.strip().startswith("10 ") for line in lines) == 1
    assert sum(line.strip().startswith("1,000 ") for line in lines) == 1
    assert sum("[red]" in line for line in lines) == 2
