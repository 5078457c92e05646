"""The door: help at once, exit codes, one message for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import neuroattn
from neuroattn.cli import main as door
from neuroattn.cli.main import COMMANDS, main
from neuroattn.errors import FileError, InputError
from tests.cli.recipes import refused

HEAVY = ("torch", "pytorch_lightning", "numpy", "xarray", "nilearn", "matplotlib", "jsonargparse")


def test_help_imports_nothing_heavy_and_takes_no_time():
    # Catches an import at the top of a module that --help needs.
    code = (
        "import sys, time, resource\n"
        "from neuroattn.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, heavy, seconds = done.stdout.splitlines()
    assert heavy == "[]"
    # Processor time: wall time would depend on what else runs here.
    assert float(seconds) < 1.5
    assert text[0] == "usage: neuroattn COMMAND [arguments]"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_every_command(arguments, capsys):
    # Catches a command that nobody can find.
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in shown


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_is_that_of_the_package(flag, capsys):
    # Catches a second copy of the version.
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"neuroattn {neuroattn.__version__}\n"


def test_an_unknown_command_is_answered_with_the_closest_one(capsys):
    # Catches "invalid choice" without a hint.
    message = refused(capsys, "tset", "runs/first")
    assert message.startswith("unknown command 'tset'; did you mean 'test'? Commands: demo, fit,")


def given(error, monkeypatch):
    """A command that raises ``error``."""

    class Module:
        @staticmethod
        def main(name, arguments):
            raise error

    monkeypatch.setattr(door.importlib, "import_module", lambda name: Module)
    return main(["info"])


@pytest.mark.parametrize("error", [InputError("x=1 is wrong"), FileError("x=1 is wrong")])
def test_a_users_mistake_is_one_message_and_exit_code_2(error, monkeypatch, capsys):
    # Catches a traceback, and an errno that stands before the message.
    assert given(error, monkeypatch) == 2
    assert capsys.readouterr().err == "neuroattn: error: x=1 is wrong\n"


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    # Catches a traceback after Ctrl-C.
    assert given(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == "neuroattn: interrupted; what was finished is kept.\n"


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    # Catches a door that hides bugs behind a short message.
    with pytest.raises(ZeroDivisionError):
        given(ZeroDivisionError(), monkeypatch)


def test_a_reader_that_closes_the_pipe_is_no_error():
    # Catches BrokenPipeError from `neuroattn --help | head -1`.
    code = (
        "import os, sys\n"
        "import neuroattn.cli.main as door\n"
        "class Module:\n"
        "    def main(name, arguments):\n"
        "        print('x' * 10**6, flush=True)\n"
        "door.importlib.import_module = lambda name: Module\n"
        "sys.exit(door.main(['info']))\n"
    )
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    os.close(reader)
    assert process.communicate()[1] == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "extra"), "takes no arguments, got ['extra']"),
        (("score",), "neuroattn score: the following arguments are required: run"),
        (("score", "r", "--cvs", "x"), "did you mean '--csv'?"),
        (("demo", "--scenes", "many"), "argument --scenes: invalid int value: 'many'"),
        (("demo", "--sceness", "3"), "--sceness 3; did you mean '--scenes'?"),
        (("attention",), "required: action"),
        (("attention", "show", "softmaxx"), "did you mean 'softmax'?"),
        (("attention", "list", "--family", "nope"), "--family='nope' is unknown"),
    ],
)
def test_mistakes_in_plain_commands_are_one_message(arguments, message, capsys):
    # Catches argparse's own exit with usage and no hint.
    assert message in refused(capsys, *arguments)


def test_info_prints_versions_and_devices(capsys):
    # Catches a bug report without the facts it needs.
    assert main(["info"]) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert shown["neuroattn"].strip() == neuroattn.__version__
    assert {"python", "torch", "numpy", "platform", "threads", "gpu"} <= set(shown)


def test_attention_mechanisms_are_listed_and_shown(capsys):
    # Catches a registry that the command line does not show.
    from neuroattn.attention import get, list_mechanisms

    def listed(*options):
        assert main(["attention", "list", *options]) == 0
        return [line.split()[0] for line in capsys.readouterr().out.splitlines()]

    assert listed() == list_mechanisms()
    assert listed("--family", "softmax") == list_mechanisms("softmax")
    assert listed("--recurrent") == list_mechanisms(recurrent=True)
    assert listed("--causal") == list_mechanisms(causal=True)
    assert main(["attention", "show", "softmax"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    spec = get("softmax")
    for wanted in (
        spec.paper,
        spec.cost,
        *spec.laws.values(),
        "bias = None",
        "explicit weights yes",
    ):
        assert wanted in shown


def test_attention_bench_measures_what_is_asked_for(capsys, tmp_path):
    # Catches a table without the slopes, and options that are read and never used.
    rows = tmp_path / "rows.json"
    chosen = ["--lengths", "32", "16", "--repeats", "1", "--dim", "8", "--json", str(rows)]
    assert main(["attention", "bench", "softmax", "--backend", "reference", *chosen]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "slope" in lines[0]
    assert lines[1].startswith("softmax parallel/reference")
    assert len(lines) == 3
    (row,) = json.loads(rows.read_text("utf-8"))["rows"]
    assert row["lengths"] == [16, 32]
    assert row["peak_bytes"][1] >= 32 * 32 * 4
    assert main(["attention", "bench", "softmax", *chosen[3:], "--lengths", "16"]) == 0
    assert " – " in capsys.readouterr().out
    assert json.loads(rows.read_text("utf-8"))["rows"][0]["slope"] is None
    assert "--lengths=[0]" in refused(capsys, "attention", "bench", "softmax", "--lengths", "0")
    assert "'sofmax'" in refused(capsys, "attention", "bench", "sofmax")
    assert "--backend='cuda'" in refused(
        capsys, "attention", "bench", "softmax", "--backend", "cuda"
    )
