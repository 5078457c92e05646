"""`neuroattn convert`: options of the reader on the line, a plan, one message for a mistake."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from neuroattn.cli.convert import DATASETS, parser, reader_class, with_lists
from neuroattn.cli.main import main
from neuroattn.data import Algonauts2023, Converted
from neuroattn.data.sessions import SessionReader
from tests.data.layouts import algonauts23_mini
from tests.data.nsd_mini import nsd_mini


@pytest.fixture
def source(tmp_path):
    return algonauts23_mini(tmp_path / "source")


def test_a_data_set_is_converted_and_then_verified(tmp_path, source, capsys) -> None:
    """Catches options that do not reach the reader, and a second run that converts again."""
    words = ["convert", "algonauts2023", str(source), str(tmp_path / "out")]
    assert main([*words, "--subject", "1", "--hemispheres", "right", "left"]) == 0
    assert "converted: 24 presentations of 24 images" in capsys.readouterr().out
    found = Converted(str(tmp_path / "out")).responses()
    wanted = Algonauts2023(str(source), 1, ("right", "left")).responses()
    assert found.load().identical(wanted)
    assert main([*words, "--subject=1", "--hemispheres=[right,left]"]) == 0
    assert "verified, nothing written" in capsys.readouterr().out


def test_a_dry_run_lists_files_and_writes_nothing(tmp_path, source, capsys) -> None:
    """Catches a plan that hides what is missing, or makes the folder."""
    gone = source / "subj01/roi_masks/rh.streams_challenge_space.npy"
    size = gone.stat().st_size
    words = ["convert", "algonauts2023", str(source), str(tmp_path / "out"), "--subject", "1"]
    assert main([*words, "--dry-run"]) == 0
    whole = capsys.readouterr().out
    assert f"{size} B  {gone}  (streams, right)" in whole
    assert "0 missing" in whole
    assert "24 presentations of 24 images × 84 voxels" in whole
    gone.unlink()
    assert main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"missing  {gone}" in told
    assert "1 missing" in told
    assert main(words) == 2
    assert "1 of 23 files are missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nsdd", "a", "b"], "did you mean 'nsd'"),
        (["algonauts2023", "a", "b", "--subjet", "1"], "did you mean 'subject'"),
        (["algonauts2023", "a"], "required: out"),
        (["algonauts2023", "nowhere", "b", "--subject", "1"], "nowhere"),
        (["algonauts2023", "{source}", "b", "--subject", "9"], "it holds ['subj01', 'subj06']"),
        (["algonauts2023", "{source}", "b", "--subject", "1", "--jobs", "none"], "jobs"),
        (["algonauts2023", "{source}", "{out}", "--subject", "1", "--jobs", "0"], "jobs=0"),
    ],
)
def test_a_mistake_is_one_message(tmp_path, source, capsys, words, said) -> None:
    """Catches a traceback, and a message that does not say what was wrong."""
    filled = [word.format(source=source, out=tmp_path / "out") for word in words]
    assert main(["convert", *filled]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_help_names_every_data_set(capsys) -> None:
    """Catches a reader that nobody finds."""
    assert main(["convert", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in DATASETS)


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_data_set_has_a_reader_that_only_stores(name) -> None:
    """Catches a reader that the record of a conversion could not describe."""
    kind = reader_class(name)
    assert issubclass(kind, SessionReader)
    parameters = inspect.signature(kind).parameters
    assert next(iter(parameters)) == "path"
    needed = {p: "x" for p, each in parameters.items() if each.default is each.empty}
    marks = {name: ["3", "5"] for name in ("sessions", "roi", "hemispheres") if name in parameters}
    options = kind(**needed, **marks).options()
    assert set(options) == set(parameters)
    assert {name: options[name] for name in [*needed, *marks]} == {**needed, **marks}
    assert json.loads(json.dumps(options)) == options


def test_several_words_are_a_list() -> None:
    """Catches words of a list that are taken for SOURCE or OUT."""
    given = ["a", "b", "--hemispheres", "left", "right", "--split", "test", "--hemispheres", "[x]"]
    made = with_lists(given, Algonauts2023)
    assert made == [
        "a",
        "b",
        '--hemispheres=["left", "right"]',
        "--split",
        "test",
        "--hemispheres=[x]",
    ]


@pytest.mark.parametrize(
    ("words", "sessions"),
    [(["--sessions", "10"], 10), (["--sessions", "3", "5"], [3, 5]), (["--sessions=[7]"], [7])],
)
def test_a_number_is_the_first_so_many_sessions(words, sessions) -> None:
    """Catches ``--sessions 10`` that reads session 10 alone."""
    kind = reader_class("nsd")
    line = with_lists(["a", "b", "--subject", "1", *words, "--roi", "V1v"], kind)
    given = parser("nsd", kind).parse_args(line)
    assert (given.sessions, given.roi) == (sessions, ["V1v"])


def test_the_recipe_for_converted_data_runs_from_the_published_files(
    tmp_path, monkeypatch, capsys
) -> None:
    """Catches a recipe that newcomers copy and nobody runs."""
    source = nsd_mini(tmp_path / "nsd", sessions=2, trials=24).root
    out = tmp_path / "converted"
    assert main(["convert", "nsd", str(source), str(out), "--subject", "1"]) == 0
    assert "ncsnr against the map that the data set ships" in capsys.readouterr().out
    monkeypatch.setenv("CONVERTED", str(out))
    recipe = Path(__file__).resolve().parents[2] / "encoders" / "converted.yaml"
    words = ["compare", "--config", str(recipe), "--run", str(tmp_path / "run")]
    words += ["--store", str(tmp_path / "store"), "--split.published", "shared1000"]
    words += ["--encoders.ridge.init_args.components", "2"]
    assert main(words) == 0
    assert (tmp_path / "run" / "scores.nc").exists()
    assert any((tmp_path / "run" / "maps").glob("*.nii.gz"))
