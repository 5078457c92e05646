"""The page on representational similarity: its programs run and find what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rsa.md"


def program(fence: str) -> str:
    (source,) = re.findall(rf"```{fence}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return re.sub(r"\A(?::\w+:.*\n)+", "", source)


def test_the_small_program_prints_a_model_between_the_bounds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a renamed function, and models that are printed under each other's names."""
    exec(compile(program("python"), "page", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    predicted, unrelated = (
        [float(x) for x in re.findall(r"-?\d\.\d+", line)] for line in printed[:2]
    )
    lower, upper = (float(x) for x in re.findall(r"\d\.\d+", printed[2]))
    assert unrelated[1] < 0.05 < predicted[1]
    assert lower < predicted[0] < upper


@pytest.mark.realdata
def test_predictions_of_two_areas_are_no_geometry_of_it(
    realdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches objects in another order in the two data sets, and a table that has grown old."""
    monkeypatch.setenv("NEUROATTN_REALDATA", str(realdata))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(program(r"\{code-block\} python"), "page", "exec"), names)
    found = names["found"]
    row = r"\| ([\w ,]+) \| (-?\d\.\d\d) \[(-?\d\.\d\d), (-?\d\.\d\d)\] \|"
    table = re.findall(row, PAGE.read_text("utf-8"))
    told = {name.split(",")[0]: [float(x) for x in numbers] for name, *numbers in table}
    assert list(told) == found["model"].values.tolist()
    for name, (score, low, high) in told.items():
        here = found.sel(model=name)
        assert float(here["score"]) == pytest.approx(score, abs=0.011), name
        assert float(here["low"]) == pytest.approx(low, abs=0.02), name
        assert float(here["high"]) == pytest.approx(high, abs=0.02), name
    assert float(found["p"].sel(model="predicted FFA and VWFA")) > 0.05
    assert float(found["p"].sel(model="measured FFA and VWFA")) < 0.01
