"""The door of the command line: finds the subcommand, and turns errors into one message."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

import neuroattn
from neuroattn.errors import NeuroattnError
from neuroattn.names import did_you_mean

#: Subcommand: the module whose ``main(arguments)`` runs it, and what it does.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "the whole story on a simulated cortex: fit, score, map, report"),
    "fit": ("recipe", "train an encoder from a recipe: --config encoders/NAME.yaml --run DIR"),
    "validate": ("recipe", "validation loss of a run: validate RUN"),
    "test": ("recipe", "score a run on its test images: test RUN"),
    "predict": ("recipe", "predict every image of a run: predict RUN"),
    "compare": ("compare", "several encoders on the same images, split or cross-validated"),
    "convert": ("convert", "published data to a response set: convert DATASET SOURCE OUT"),
    "features": ("features", "fill the feature store of a recipe; resumable"),
    "score": ("results", "print the score table of a run: score RUN"),
    "report": ("results", "write report.html of a run again: report RUN"),
    "maps": ("results", "write the brain maps of a run again: maps RUN"),
    "verify": ("verify", "run claims of the attention literature: verify [PATTERN]"),
    "attention": ("attention", "list, show or measure the attention mechanisms"),
    "info": ("info", "versions and devices, to paste into an issue"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``neuroattn`` and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        0 on success, 1 when a claim of `verify` fails, 2 after a user's mistake (one message on
        stderr), 130 after Ctrl-C.
    """
    # Threads that wait by spinning make a shared machine several times slower; torch reads
    # this once, when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, io.TextIOWrapper):  # lines appear at once in a log file too
        sys.stdout.reconfigure(line_buffering=True)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"neuroattn {neuroattn.__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        return _fail(
            f"unknown command {name!r}{did_you_mean(name, COMMANDS)} "
            f"Commands: {', '.join(COMMANDS)}."
        )
    try:
        module = importlib.import_module(f"neuroattn.cli.{COMMANDS[name][0]}")
        # Only `verify` has an answer that is not a mistake of the user: 1 when a claim fails.
        return int(module.main(name, arguments[1:]) or 0)
    except NeuroattnError as error:
        return _fail(_message(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("neuroattn: interrupted; what was finished is kept.", file=sys.stderr)
        return 130


def usage() -> str:
    """Return the text of ``neuroattn --help``."""
    width = max(len(name) for name in COMMANDS)
    rows = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: neuroattn COMMAND [arguments]",
            "",
            "Transformer brain encoders on fMRI, beside the baselines a reviewer would ask for.",
            "",
            *rows,
            "",
            "`neuroattn COMMAND --help` explains a command; start with `neuroattn demo --out DIR`.",
        ]
    )


def _message(error: NeuroattnError) -> str:
    text = error.args[0] if len(error.args) == 1 else str(error)
    return str(text)


def _fail(message: str) -> int:
    print(f"neuroattn: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
