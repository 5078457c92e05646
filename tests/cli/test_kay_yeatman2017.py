"""The recipe for Kay & Yeatman (2017): what docs/real_data.md says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuroattn.cli.main import main
from neuroattn.metrics import Score

RECIPE = Path(__file__).resolve().parents[2] / "encoders" / "kay_yeatman2017.yaml"


@pytest.fixture(scope="module")
def run(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole recipe once."""
    folder = tmp_path_factory.mktemp("kay")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROATTN_REALDATA", str(realdata))
        store = str(folder / "store")
        code = main(
            ["compare", "--config", str(RECIPE), "--run", str(folder / "run"), "--store", store]
        )
    assert code == 0
    return folder / "run"


def score(run: Path, encoder: str) -> Score:
    folder = run if encoder == "transformer" else run / "baselines" / encoder
    return Score.load(folder / "scores.nc")


def value(dataset: Score, name: str, roi: str) -> float:
    table = dataset.by_roi(resamples=1000)
    return float(table[name].sel(roi=roi))


@pytest.mark.realdata
def test_every_image_is_predicted_once_by_a_model_that_did_not_see_it(run: Path) -> None:
    # Catches folds that overlap or leave images out.
    assert score(run, "ridge").dataset.sizes["image"] == 115
    assert len(set(score(run, "ridge").dataset["image"].values.astype(str))) == 115


@pytest.mark.realdata
def test_bootstrap_ceilings_are_those_of_the_data(run: Path) -> None:
    # Catches ceilings in the wrong units (r for r squared) or swapped ROIs.
    ceilings = score(run, "ridge").by_roi(resamples=0)["ceiling"]
    assert np.sqrt(float(ceilings.sel(roi="FFA"))) == pytest.approx(0.97, abs=0.01)
    assert np.sqrt(float(ceilings.sel(roi="VWFA"))) == pytest.approx(0.60, abs=0.01)


@pytest.mark.realdata
def test_ridge_on_gabor_energy_predicts_ffa_and_not_vwfa(run: Path) -> None:
    # Catches images in the wrong order (FFA falls to zero) and leaks across folds (VWFA rises).
    ridge = score(run, "ridge")
    assert value(ridge, "low", "FFA") > 0.2
    assert value(ridge, "mean", "FFA") < 0.8
    assert value(ridge, "mean", "VWFA") < 0.1


@pytest.mark.realdata
def test_a_transformer_has_no_chance_with_115_images(run: Path) -> None:
    # The finding of docs/real_data.md; a leak across folds would make the transformer win.
    found = score(run, "transformer").compare(score(run, "ridge"))
    row = list(found["roi"].values.astype(str)).index("FFA")
    assert float(found["high"][row]) < 0
