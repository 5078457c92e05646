"""``neuroattn attention bench --capacity``: tables, a result file and a figure."""

from __future__ import annotations

import json
import re

import pytest

from neuroattn.cli.main import main
from neuroattn.theory.capacity import measure

SMALL = ["--dims", "16", "4", "8", "--draws", "8", "--largest", "64"]


def test_capacity_is_printed_written_and_drawn(capsys, tmp_path):
    # Catches mechanisms that are dropped, options that are read and not used, and a result file
    # that says something else than the table.
    rows, figure = tmp_path / "rows.json", tmp_path / "figure.png"
    names = ["ssd", "softmax", "neural", "oja", "gated"]
    wanted = ["--json", str(rows), "--figure", str(figure), "--law", "rademacher"]
    command = ["attention", "bench", "--capacity", *names, *SMALL, *wanted]
    assert main(command) == 0
    printed = capsys.readouterr().out
    average, _, worst = printed.partition("worst case")
    assert re.search(r"dim 4 +dim 8 +dim 16 +exponent", average)
    assert re.search(r"softmax .*≥64", average)
    assert re.search(r"ssd +\d+ \[\d+, \d+\].* ± ", worst)
    assert "neural needs what is learned" in printed
    assert "not asked (worst case): oja has no explicit weights" in printed
    assert "given: gated: gate 1/2." in printed
    written = json.loads(rows.read_text("utf-8"))
    assert len(written["rows"]) == 5 * 3 * 2
    assert len(written["exponents"]) == 5 * 2
    (row,) = [
        each
        for each in written["rows"]
        if (each["mechanism"], each["dim"], each["case"]) == ("ssd", 8, "average")
    ]
    assert row == measure("ssd", 8, draws=8, largest=64, law="rademacher").as_dict()
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--capacity", "sofmax"), "did you mean 'softmax'"),
        (("--capacity", "softmax", "--dims", "0"), "--dims=[0]"),
        (("--capacity", "softmax", "--snr", "0"), "snr=0.0 must be a positive number"),
        (("--capacity", "softmax", "--law", "cube"), "law='cube' is unknown"),
        (("--capacity", "softmax", "--draws", "1"), "draws=1"),
        (("softmax", "--figure", "x.png"), "--figure are of --capacity"),
        (("softmax", "--dims", "8"), "--dims and --figure are of --capacity"),
    ],
)
def test_what_cannot_be_done_is_one_message(capsys, options, words):
    # Catches a traceback, and options that the other measurement would drop in silence.
    assert main(["attention", "bench", *options]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out
