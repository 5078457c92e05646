"""Tasks for the processes of a cluster, and the cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from neuroattn.errors import FileError

if TYPE_CHECKING:
    import torch


@contextmanager
def two_workers() -> Iterator[str]:
    """Yield the address of a scheduler with two worker processes of one thread."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, processes=True, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def die_once(marker: str) -> None:
    """Kill this process without a word, the first time."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def add(base: int, number: int, marker: str = "") -> int:
    """Add; the process dies once where there is a marker."""
    if marker:
        die_once(marker)
    return base + number


def always_dies(number: int) -> int:
    """Kill whoever runs number 1."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    """Raise for number 1; take long after that."""
    if number == 1:
        raise FileError(f"number {number} is missing")
    time.sleep(20 * (number > 1))
    return number


def slow_echo(number: int) -> int:
    """Return a number after a second, which leaves time to be interrupted."""
    time.sleep(1)
    return number


def process(number: int) -> int:
    """Return who did it."""
    time.sleep(0.2)
    return os.getpid()


def scaled(
    factor: torch.Tensor, marker: str, block: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multiply a block; the process dies once, in the middle of the blocks."""
    import torch

    if marker and bool((block == 5).any()):
        die_once(marker)
    return factor @ block, torch.tensor([float(torch.get_num_threads())] * block.shape[1])


def report_and_sleep(folder: str) -> None:
    """Leave a file with this process's number, and work for long."""
    Path(folder, f"{os.getpid()}.pid").touch()
    time.sleep(120)
