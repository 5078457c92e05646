"""compare, score, report, maps and features: on a small comparison."""

from __future__ import annotations

import os
import re
from itertools import chain

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml

import neuroattn
from neuroattn.cli.main import main
from neuroattn.data.nifti import write_responses_nifti
from neuroattn.data.rules import validate
from neuroattn.data.storage import open_responses
from neuroattn.encoders.comparison import Comparison
from neuroattn.errors import InputError
from neuroattn.io import read_json
from neuroattn.metrics import Score
from tests.cli.recipes import COMPARE, FIT, changed, refused, write


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a recipe and the run of its comparison."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["compare", "--config", write(folder, COMPARE), "--run", "run"]) == 0
    return folder


def test_a_comparison_writes_the_last_encoder_and_the_others_as_baselines(made):
    # Catches encoders that overwrite one another.
    run = made / "run"
    assert sorted(os.listdir(made)) == ["recipe.yaml", "run", "store"]
    assert os.listdir(run / "baselines") == ["ridge"]
    assert type(neuroattn.load(run)).__name__ == "TransformerEncoder"
    assert type(neuroattn.load(run / "baselines" / "ridge")).__name__ == "RidgeEncoder"
    scores = [Score.load(folder / "scores.nc").dataset for folder in (run, run / "baselines/ridge")]
    assert scores[0]["image"].values.tolist() == scores[1]["image"].values.tolist()
    assert read_json(run / "manifest.json")["encoders"] == ["ridge", "transformer"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    others = {"file": None, "published": None, "group_by": None}
    assert config["split"] == {**COMPARE["split"], **others}


def test_the_report_needs_nothing_from_elsewhere(made):
    # Catches a script, style, font or picture that is fetched when the page is opened.
    page = (made / "run" / "report.html").read_text()
    fetched = re.findall(r"<(?:script|link|img|iframe|source)[^>]+(?:src|href)=[\"']?(.{5})", page)
    assert fetched
    assert set(fetched) == {"data:"}
    assert set(re.findall(r"url\([\"']?(.{5})", page)) <= {"data:"}
    assert not re.search(r"@import", page)
    assert "ridge" in page
    assert "transformer" in page


def test_scores_are_printed_and_written_as_a_table(made, capsys):
    # Catches a table without one of the encoders or of the ROIs.
    run = str(made / "run")
    assert main(["score", run, "--csv", str(made / "table.csv")]) == 0
    shown = capsys.readouterr().out
    for name in ("ridge", "transformer", "V1", "FFA", "all"):
        assert name in shown
    table = pd.read_csv(made / "table.csv")
    assert len(table) >= 10
    os.remove(made / "table.csv")


def test_maps_are_written_again(made, capsys):
    # Catches maps that only the first run can make.
    path = made / "run" / "maps" / "sub-01_raw.nii.gz"
    before = path.read_bytes()
    path.unlink()
    capsys.readouterr()
    assert main(["maps", str(made / "run"), "--format", "nifti"]) == 0
    assert str(path) in capsys.readouterr().out.split()
    assert len(path.read_bytes()) == len(before)


def test_maps_are_written_in_the_formats_asked_for(made, capsys):
    # Catches a format that is ignored, a list of files that are not those written, and an
    # impossible format that ends in silence.
    folder = made / "run" / "maps"
    assert main(["maps", str(made / "run"), "--format", "nifti", "html"]) == 0
    shown = capsys.readouterr().out.split()
    assert shown
    assert {path.rsplit(".", 1)[1] for path in shown} == {"gz", "html"}
    assert all(os.path.getsize(path) > 0 and path.startswith(str(folder)) for path in shown)
    message = refused(capsys, "maps", str(made / "run"), "--format", "gifti")
    assert "format 'gifti' cannot be written" in message
    assert "no vertex" in message
    assert "invalid choice: 'gif'" in refused(capsys, "maps", str(made / "run"), "--format", "gif")


def test_predictions_are_a_response_set_that_becomes_a_volume(made):
    # Catches predictions without a place, or with the images in another order.
    predictions = open_responses(made / "run" / "predictions.zarr")
    validate(predictions)
    path = write_responses_nifti(predictions, made / "predictions.nii.gz")
    volumes = np.asanyarray(nibabel.load(path).dataobj)
    i, j, k = (predictions[axis].values for axis in "ijk")
    np.testing.assert_array_equal(volumes[i, j, k].T, predictions["response"].values)
    os.remove(path)


def test_a_report_is_written_again_with_another_title(made, capsys):
    # Catches a title that does not reach the page.
    assert main(["report", str(made / "run"), "--title", "Another title"]) == 0
    assert "Another title" in (made / "run" / "report.html").read_text()


def test_a_comparison_that_fails_leaves_no_run(made, monkeypatch, capsys):
    # Catches a half-written run directory.
    def failing(self, report=print):
        raise InputError("the second encoder broke")

    monkeypatch.chdir(made)
    monkeypatch.setattr(Comparison, "run", failing)
    message = refused(capsys, "compare", "--config", "recipe.yaml", "--run", "failed")
    assert message == "the second encoder broke\n"
    assert not (made / "failed").exists()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"encodrs": 1}, "did you mean 'encoders'?"),
        ({"encoders__ridge__init_args": {"alpha": 1}}, "did you mean 'alphas'?"),
        ({"encoders__ridge__class_path": "neuroattn.encoders.RidgEncoder"}, "'RidgeEncoder'?"),
        ({"encoders": {}}, "encoders is empty"),
        ({"folds": 1}, "folds=1"),
        ({"folds": "x"}, "folds='x' is unknown"),
    ],
)
def test_a_wrong_comparison_is_told_by_key(made, changes, part, monkeypatch, capsys):
    # Catches jsonargparse's pages.
    monkeypatch.chdir(made)
    path = write(made, changed(COMPARE, **changes), "wrong.yaml")
    assert part in refused(capsys, "compare", "--config", path, "--run", "new")
    assert not (made / "new").exists()
    os.remove(path)


def test_a_comparison_needs_a_new_run(made, monkeypatch, capsys):
    # Catches a run that is overwritten.
    monkeypatch.chdir(made)
    assert "--run is missing" in refused(capsys, "compare", "--config", "recipe.yaml")
    message = refused(capsys, "compare", "--config", "recipe.yaml", "--run", "run")
    assert "run exists already" in message


@pytest.mark.parametrize("command", ["score", "report", "maps"])
def test_a_folder_without_scores_is_refused(command, tmp_path, capsys):
    # Catches a traceback on a run that was never finished.
    assert "does not exist" in refused(capsys, command, str(tmp_path / "nope"))
    assert "holds no scores.nc" in refused(capsys, command, str(tmp_path))


def test_features_are_filled_once_and_go_on_after_a_kill(tmp_path, monkeypatch, capsys):
    # Catches a fill that starts again from the first image.
    from neuroattn.features import GaborPyramid

    extract, seen = GaborPyramid.extract_images, []

    def dies(self, images, indices):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(list(indices))
        return extract(self, images, indices)

    def counted(self, images, indices):
        seen.append(list(indices))
        return extract(self, images, indices)

    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, FIT)
    monkeypatch.setattr(GaborPyramid, "extract_images", dies)
    assert main(["features", path, "--batch-size", "10"]) == 130
    monkeypatch.setattr(GaborPyramid, "extract_images", counted)
    assert main(["features", path, "--batch-size", "10"]) == 0
    assert [*chain.from_iterable(seen)] == list(range(41))
    capsys.readouterr()
    assert main(["features", path]) == 0
    assert len([*chain.from_iterable(seen)]) == 41
    assert capsys.readouterr().out.startswith("41 × 49 × ")


@pytest.mark.parametrize(
    ("recipe", "part"),
    [
        ({"data": {"source": 1}}, "names no source and basis"),
        (changed(FIT, data__source__init_args__scene=3), "did you mean 'scenes'?"),
        (changed(FIT, data__basis__init_args__grid=5), "grid=5"),
    ],
)
def test_a_recipe_without_features_is_refused(recipe, part, tmp_path, monkeypatch, capsys):
    # Catches a store that is made for nothing.
    monkeypatch.chdir(tmp_path)
    assert part in refused(capsys, "features", write(tmp_path, recipe))
    assert os.listdir(tmp_path) == ["recipe.yaml"]


def test_a_report_written_again_keeps_its_title(made, capsys):
    # Catches a recipe's title that only the first report knows.
    page = made / "run" / "report.html"
    assert main(["report", str(made / "run")]) == 0
    # What `compare` calls a report by default, not what `report` would call any.
    assert re.search(r"<title>(.*?)</title>", page.read_text())[1] == "Encoders compared"
