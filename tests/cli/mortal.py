"""Commands that run in a process of their own and are killed there, with SIGKILL."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["neuroattn.cli.recipe", "neuroattn.encoders"])


def start(
    arguments: list[str], moment: tuple[Any, ...] = (), errors: str | Path = os.devnull
) -> BaseProcess:
    """Start ``neuroattn`` in a new process, which kills itself at ``moment``."""
    process = _SERVER.Process(target=_run, args=(arguments, moment, str(errors)))
    process.start()
    return process


def run(arguments: list[str], moment: tuple[Any, ...] = (), errors: str | Path = os.devnull) -> int:
    """Run ``neuroattn`` in a new process and return its exit code; -9 after a kill."""
    process = start(arguments, moment, errors)
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def _run(arguments: list[str], moment: tuple[Any, ...], errors: str) -> NoReturn:
    sys.stderr = open(errors, "w", buffering=1)  # noqa: SIM115
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    import torch

    from neuroattn.cli import main, recipe

    torch.set_num_threads(1)
    recipe.write_presentation = lambda run, title: None
    if moment:
        globals()[moment[0]](*moment[1:])
    os._exit(main.main(arguments))


def _kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _at_call(owner: Any, name: str, number: int, last_act: Callable[..., None]) -> None:
    """Kill this process at call ``number`` of a method, after ``last_act`` with its arguments."""
    original, calls = getattr(owner, name), [0]

    def counted(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            last_act(*args)
            _kill()
        return original(*args, **options)

    setattr(owner, name, counted)


def in_training_step(number: int) -> None:
    """Die in the n-th step."""
    from neuroattn.encoders import InContextModule
    from neuroattn.training.module import EncoderModule

    for kind in (EncoderModule, InContextModule):
        _at_call(kind, "training_step", number, lambda *args: None)


def in_checkpoint(number: int) -> None:
    """Die when the n-th checkpoint is half written."""

    def half(beside: Path, content: bytes) -> None:
        with beside.open("wb") as stream:
            stream.write(content[: len(content) // 2])

    _at_call(Path, "write_bytes", number, half)


def after_checkpoint(number: int) -> None:
    """Die between the n-th checkpoint and what follows it."""
    from neuroattn.training.checkpoints import AtomicCheckpointIO

    original = AtomicCheckpointIO.save_checkpoint

    def save(door: Any, checkpoint: Any, path: Any, *rest: Any) -> None:
        original(door, checkpoint, path)

    _at_call(AtomicCheckpointIO, "save_checkpoint", number, save)


def in_score() -> None:
    """Die after the training, before the scores are written."""
    from neuroattn.metrics import Score

    _at_call(Score, "save", 1, lambda *args: None)


def with_small_files(limit: int) -> None:
    """Let no file grow beyond ``limit`` bytes, as on a disk that is full."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def with_full_disk_for(name: str) -> None:
    """Have no room for files called ``name``."""
    import errno

    original = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(source, target)

    os.replace = replace
