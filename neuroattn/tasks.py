"""Run independent tasks here, in several processes, or on a Dask cluster; results as they come."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

from neuroattn.errors import FileError, InputError, MissingExtraError, NeuroattnError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Workers", "run_tasks", "use_workers", "workers_in_use"]

#: Seconds after which a scheduler that does not answer, or has no worker, is an error.
PATIENCE = 5


@dataclass(frozen=True)
class Workers:
    """Where tasks run.

    Parameters
    ----------
    jobs : int
        Processes on this machine; 1 is this process itself.
    scheduler : str, optional
        Address of a Dask scheduler to send the tasks to instead.

    Raises
    ------
    InputError
        If ``jobs`` is not a whole number of at least 1, both are given, or the address is empty.
    """

    jobs: int = 1
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.jobs, int) or isinstance(self.jobs, bool) or self.jobs < 1:
            raise InputError(f"jobs={self.jobs!r} must be a whole number of at least 1.")
        if self.scheduler is None:
            return
        if not isinstance(self.scheduler, str) or not self.scheduler.strip():
            raise InputError(
                f"scheduler={self.scheduler!r} is no address; give what `dask scheduler` prints, "
                "such as tcp://127.0.0.1:8786."
            )
        # Within a process an address is of another kind: inproc://….
        if not re.fullmatch(r"inproc://.+|(\w+://)?[^/]+:\d+", self.scheduler.strip()):
            raise InputError(
                f"scheduler={self.scheduler!r} has no port; give what `dask scheduler` prints, "
                "such as tcp://127.0.0.1:8786."
            )
        if self.jobs > 1:
            raise InputError(
                f"jobs={self.jobs} and scheduler={self.scheduler!r}: tasks run in processes here "
                "or on the scheduler's workers; give one of them."
            )

    @property
    def here(self) -> bool:
        """Whether tasks run in this process."""
        return self.jobs == 1 and self.scheduler is None


_IN_USE: ContextVar[Workers | None] = ContextVar("workers", default=None)


def workers_in_use() -> Workers:
    """Return the workers of the innermost :func:`use_workers`, by default this process."""
    return _IN_USE.get() or Workers()


@contextmanager
def use_workers(jobs: int = 1, scheduler: str | None = None) -> Iterator[None]:
    """Let what is voxelwise be fitted by other processes while the context lasts.

    Where work is done is no property of a model: it is neither an argument of an encoder nor
    written with one. The scheduler is asked at once, before anything long is begun.

    Parameters
    ----------
    jobs : int
        Processes on this machine.
    scheduler : str, optional
        Address of a Dask scheduler instead.

    Raises
    ------
    InputError
        As :class:`Workers`.
    FileError
        If no scheduler answers at the address, or it has no worker.
    MissingExtraError
        If ``scheduler`` is given and Dask is not installed.
    """
    workers = Workers(jobs, scheduler)
    if scheduler is not None:
        with _connected(scheduler):
            pass
    token = _IN_USE.set(workers)
    try:
        yield
    finally:
        _IN_USE.reset(token)


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    shared: tuple[Any, ...] = (),
    jobs: int = 1,
    scheduler: str | None = None,
    lost: Callable[[int, str], Any] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Call ``function(*shared, *task)`` for each task, in any order.

    A process or worker that dies costs nothing but time: what it had begun is begun again; on this
    machine once more and alone, on a cluster as often as its setting ``allowed-failures`` says
    (3). An error that the function raises is raised here as it is, and ends the others; so does
    closing the iterator, and Ctrl-C.

    Parameters
    ----------
    function : callable
        Defined in a module that the workers can import.
    tasks : sequence of tuple
        Arguments of each call; picklable unless ``jobs`` is 1 and there is no scheduler. Each is
        asked for when it is sent; a few more than there are workers are under way at a time.
    shared : tuple
        First arguments of every call; sent once to each process.
    jobs : int
        Processes on this machine, fresh interpreters; 1 calls the function in this one. In a
        script, more than one need the call to stand under ``if __name__ == "__main__":``.
    scheduler : str, optional
        Address of a Dask scheduler to send them to instead, such as ``"tcp://host:8786"``.
    lost : callable, optional
        Called with index and reason for a task whose process died each time; what it returns is
        the task's result (default: an error).

    Yields
    ------
    tuple of int and object
        Index of a task and its result, in the order of completion.

    Raises
    ------
    InputError
        As :class:`Workers`; or if the processes cannot start.
    FileError
        If no scheduler answers at the address, it has no worker, or it goes away.
    MissingExtraError
        If ``scheduler`` is given and Dask is not installed.
    NeuroattnError
        If the process of a task died each time.
    """
    workers = Workers(jobs, scheduler)
    lost = lost or _give_up
    if not len(tasks):
        return iter(())
    if workers.scheduler is not None:
        return _on_dask(function, tasks, shared, workers.scheduler, lost)
    if workers.jobs == 1 or len(tasks) == 1:
        return ((index, function(*shared, *task)) for index, task in enumerate(tasks))
    return _in_processes(function, tasks, shared, min(workers.jobs, len(tasks)), lost)


def _give_up(index: int, why: str) -> Any:
    raise NeuroattnError(f"task {index} was begun again and again: {why}.")


# Processes on this machine.

_SHARED: tuple[Any, ...] = ()


def _in_processes(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    shared: tuple[Any, ...],
    jobs: int,
    lost: Callable[[int, str], Any],
) -> Iterator[tuple[int, Any]]:
    waiting = deque(range(len(tasks)))
    while waiting:
        under_way: dict[Future[Any], int] = {}
        with _pool(jobs, shared) as pool:
            while waiting or under_way:
                try:
                    while waiting and len(under_way) <= jobs:
                        under_way[pool.submit(_call, function, tasks[waiting[0]])] = waiting[0]
                        waiting.popleft()
                except BrokenProcessPool:
                    break
                done = wait(under_way, return_when=FIRST_COMPLETED).done
                whole = [one for one in done if not _broken(one)]
                for each in whole:
                    yield under_way.pop(each), each.result()
                if len(whole) < len(done):
                    break
        # One process that dies takes the pool with it; who killed it dies alone as well.
        for index in under_way.values():
            with _pool(1, shared) as pool:
                alone = pool.submit(_call, function, tasks[index])
                if _broken(alone):
                    yield index, lost(index, "its process died, for want of memory perhaps")
                else:
                    yield index, alone.result()


def _broken(future: Future[Any]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


@contextmanager
def _pool(jobs: int, shared: tuple[Any, ...]) -> Iterator[ProcessPoolExecutor]:
    # A fresh interpreter each: a fork would inherit torch's threads half-way.
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(shared,),
    )
    through = False
    try:
        # All at once: each that is asked for starts a process.
        for start in [pool.submit(_ready) for _ in range(jobs)]:
            start.result()
    except BrokenProcessPool as error:
        pool.shutdown(wait=False, cancel_futures=True)
        raise InputError(
            f"jobs={jobs}: the processes could not start. In a script, work with several under "
            "`if __name__ == '__main__':`, because each process imports the script."
        ) from error
    try:
        yield pool
        through = True
    finally:
        # After an error, Ctrl-C, or when whoever reads stops, what runs is not waited for.
        if not through:
            for process in list((pool._processes or {}).values()):
                process.terminate()
        pool.shutdown(wait=through, cancel_futures=True)


def _begin(shared: tuple[Any, ...]) -> None:
    global _SHARED
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _SHARED = shared


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: killed, it cannot say so."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _ready() -> bool:
    return True


def _call(function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    return function(*_SHARED, *task)


# A Dask cluster.


def _on_dask(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    shared: tuple[Any, ...],
    address: str,
    lost: Callable[[int, str], Any],
) -> Iterator[tuple[int, Any]]:
    with _connected(address) as client:
        from distributed import KilledWorker, as_completed

        # A task whose result is what was sent, not scattered data: a scheduler can make it again
        # when the last worker that held it dies.
        held = _sent(client, _together, *shared)
        waiting, arriving = deque(range(len(tasks))), as_completed()
        under_way: dict[Any, int] = {}
        while waiting or under_way:
            # Twice the threads: a worker has its next task before it has finished one.
            while waiting and len(under_way) < 2 * max(1, _threads(client, address)):
                index = waiting.popleft()
                future = _sent(client, _apply, function, held, *tasks[index])
                under_way[future] = index
                arriving.add(future)
            future = next(arriving)
            index = under_way.pop(future)
            try:
                result = future.result()
            except KilledWorker as error:
                result = lost(index, str(error))
            except CancelledError as error:
                raise _gone(address, error) from error
            del future
            yield index, result


def _threads(client: Client, address: str) -> int:
    try:
        return sum(client.nthreads().values())
    except OSError as error:
        raise _gone(address, error) from error


def _gone(address: str, error: BaseException) -> FileError:
    return FileError(
        f"scheduler={address!r} went away ({error}); start it and its workers again, then this."
    )


def _sent(client: Client, function: Callable[..., Any], *arguments: Any) -> Any:
    with warnings.catch_warnings():
        # A few tasks at a time, each with the one block that it is about: nothing to gain.
        warnings.filterwarnings("ignore", "Sending large graph")
        return client.submit(function, *arguments, pure=False)


def _together(*shared: Any) -> tuple[Any, ...]:
    return shared


def _apply(function: Callable[..., Any], shared: tuple[Any, ...], *task: Any) -> Any:
    return function(*shared, *task)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError(
            "--scheduler needs Dask: pip install 'neuroattn[dask]', or from a clone "
            "pip install -c constraints.txt '.[dask]'."
        ) from error
    try:
        # As a default it would also be what xarray locks its files with, afterwards.
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise FileError(
            f"scheduler={address!r} does not answer ({error}); start one with `dask scheduler` and "
            "give the address that it prints, such as tcp://127.0.0.1:8786."
        ) from error
    with client, client.as_current():
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise FileError(
                f"scheduler={address!r} answers, but has no worker; start some with "
                f"`dask worker {address}`."
            ) from error
        yield client
