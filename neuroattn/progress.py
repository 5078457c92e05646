"""A progress bar on stderr for long work, silent where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ticker(
    total: int, title: str, progress: bool | None = None, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show a progress bar while the context lasts.

    Parameters
    ----------
    total : int
        Number of things to do.
    title : str
        Shown before the bar.
    progress : bool, optional
        Whether to show it; by default where stderr is a terminal.
    done : int
        How many are done already; where that is all, nothing is shown.

    Yields
    ------
    callable
        To be called with the number of things that were done since the last call.
    """
    shown = sys.stderr.isatty() if progress is None else progress
    if not shown or done == total:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
