"""``neuroattn verify``: what it prints, keeps and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuroattn.cli.main import main
from neuroattn.theory import claim as registry
from neuroattn.theory import verification
from tests.theory.test_verification import MINE


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the options that add four claims of a file."""
    monkeypatch.setattr(registry, "_CLAIMS", dict(registry.loaded()))
    path = tmp_path / "claims.py"
    path.write_text(MINE, "utf-8")
    return ["--claims", str(path)]


def test_the_table_says_what_was_found(mine: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "mine.double.a", *mine]) == 0
    told = capsys.readouterr().out
    for words in (
        "mine.double.a  holds",
        "Me (2026)",
        "x+x=2x",
        "predicted",
        "measured",
        "z ",
        "mutant killed: three times",
        "here; confirmed",
        "(the worst of 124)",
        "1 of 1 claims hold; 1 of 1 mutants killed. Of what the literature says: 1 confirmed.",
    ):
        assert words in told


def test_json_is_a_list_that_a_program_can_read(
    mine: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches progress or a summary among the JSON."""
    assert main(["verify", "mine", *mine, "--format", "json", "--seed", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["id"] for each in found] == [f"mine.double.{name}" for name in "abcd"]
    wanted = {"id", "paper", "statement", "predicted", "measured", "error", "tolerance", "seconds"}
    assert wanted | {"passed", "mutants"} <= set(found[0])
    assert found[0]["mutants"][0] | {"by": ""} == {"name": "three times", "killed": True, "by": ""}


def test_html_is_one_page(mine: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "mine.double.a", *mine, "--format", "html"]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("old", "new"), [("factor=2.0", "factor=2.5"), ('{"factor": 3.0}', '{"factor": 2.0}')]
)
def test_a_failed_claim_or_a_mutant_that_survives_exits_with_1(
    mine: list[str], capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    """Catches a check that is green in a script whatever it finds."""
    path = Path(mine[1]).with_name("wrong.py")
    path.write_text(MINE.replace(old, new), "utf-8")
    assert main(["verify", "mine.double.a", "--claims", str(path)]) == 1
    told = capsys.readouterr()
    assert "FAILED" in told.out or "SURVIVES" in told.out
    assert "mine.double.a" in told.err


def test_out_keeps_everything_and_overwrites_nothing(
    mine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept"
    assert main(["verify", "mine", *mine, "--out", str(out), "--jobs", "2"]) == 0
    assert sorted(x.name for x in out.iterdir()) == ["curves.nc", "report.html", "verdicts.json"]
    facts = json.loads((out / "verdicts.json").read_text("utf-8"))["facts"]
    assert facts["dtype"] == "float64"
    assert facts["claims"] == 4
    before = (out / "report.html").read_bytes()
    assert main(["verify", "mine", *mine, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (out / "report.html").read_bytes() == before


def test_after_ctrl_c_what_was_finished_is_told_and_kept(
    mine: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches minutes of work that one key throws away, against what the message says."""
    runs: list[str] = []
    whole = verification.run

    def second_is_interrupted(id: str, *rest: object) -> object:
        runs.append(id)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return whole(id, *rest)

    monkeypatch.setattr(verification, "run", second_is_interrupted)
    assert main(["verify", "mine", *mine, "--out", str(tmp_path / "kept")]) == 130
    told = capsys.readouterr()
    assert "mine.double.a  holds" in told.out
    assert "3 of 4 claims not run" in told.err
    assert (tmp_path / "kept" / "report.html").is_file()


def test_holding_nothing_is_no_success(
    mine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a matrix of settings that is green because it runs nothing."""
    assert main(["verify", "mine.double.a", *mine, "--dtype", "bfloat16"]) == 2
    assert "nothing was held" in capsys.readouterr().err
    taken = tmp_path / "file"
    taken.write_text("x", "utf-8")
    assert main(["verify", "mine.double.a", *mine, "--out", str(taken)]) == 2
    assert main(["verify", "mine.double.a", *mine, "--out", str(taken / "deeper")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_claims_are_listed_without_being_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "pavlovian.crosstalk", "--list"]) == 0
    assert capsys.readouterr().out.startswith("pavlovian.crosstalk.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sdn"], "did you mean 'sdm'"),
        (["pavlovian.crosstalk.variance", "--format", "tabel"], "did you mean 'table'"),
        (["pavlovian.crosstalk.variance", "--jobs", "0"], "jobs=0"),
        (["pavlovian.crosstalk.variance", "--seed", "x"], "invalid int value"),
        (["pavlovian.crosstalk.variance", "--backend", "flx"], "did you mean 'flex'"),
        (["pavlovian.crosstalk.variance", "--dtype", "float16x"], "did you mean 'float16'"),
        (["pavlovian.crosstalk.variance", "--claims", "none.py"], "does not exist"),
        (["pavlovian.crosstalk.variance", "--list", "--format", "json"], "no --format"),
        (["pavlovian.crosstalk.variance", "--jobs", "2", "--scheduler", "x"], "not allowed with"),
        (["pavlovian.crosstalk.variance", "--slowly"], "did you mean '--slow'"),
    ],
)
def test_a_mistake_is_one_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Catches a traceback for a typing error."""
    assert main(["verify", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
