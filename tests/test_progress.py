"""The progress bar: on stderr, only where somebody looks, and counting what was done."""

from __future__ import annotations

import sys

import pytest

from neuroattn.progress import ticker


@pytest.mark.parametrize(
    ("progress", "done"), [(False, 0), (None, 0), (True, 7)], ids=["off", "no terminal", "all done"]
)
def test_nothing_is_shown_where_nobody_looks_or_nothing_is_left(capfd, progress, done):
    """Catches control characters in logs, and a bar for work that is not there."""
    with ticker(7, "voxels", progress, done) as tick:
        tick(3)
    assert capfd.readouterr() == ("", "")


def test_the_bar_goes_to_stderr_and_counts_from_what_was_done(capsys):
    """Catches a bar in the output of a command, a count that starts at 0, and ticks of one."""
    with ticker(9, "features gabor", True, done=2) as tick:
        tick(3)
        tick(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "features gabor" in err
    assert err.split("features gabor")[-1].count("6/9") == 1


def test_a_terminal_is_shown_the_bar_unless_it_is_turned_off(capsys, monkeypatch):
    """Catches a default that asks stdout, or that overrides the caller."""
    for progress, shown in ((None, True), (False, False)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with ticker(4, "epochs", progress) as tick:
            tick(4)
        assert ("4/4" in capsys.readouterr().err) is shown


def test_an_error_inside_passes_and_the_bar_is_closed(capsys):
    """Catches an error that is swallowed, and a bar that lives on and blocks the next."""

    def work() -> None:
        with ticker(4, "voxels", True) as tick:
            tick(1)
            raise KeyError("inside")

    for _ in range(2):
        with pytest.raises(KeyError, match="inside"):
            work()
    assert "1/4" in capsys.readouterr().err
