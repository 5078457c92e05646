"""Independent tasks: here, in processes, on a cluster; what dies is begun again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuroattn import tasks as module
from neuroattn.errors import FileError, InputError, MissingExtraError, NeuroattnError
from neuroattn.tasks import Workers, run_tasks, use_workers, workers_in_use
from tests.cluster import add, always_dies, process, refuse, two_workers

NUMBERS = [(number,) for number in range(6)]
SUMS = [(number, 10 + number) for number in range(6)]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with two_workers() as address:
        yield address


def test_tasks_here_are_done_in_order_when_asked_for() -> None:
    """Catches a serial run that does everything before the first result is seen."""
    begun: list[int] = []
    found = run_tasks(lambda base, number: begun.append(number) or base, NUMBERS, shared=(3,))
    assert begun == []
    assert next(found) == (0, 3)
    assert begun == [0]
    assert [index for index, _ in found] == [1, 2, 3, 4, 5]


def test_nothing_to_do_starts_nothing() -> None:
    """Catches a pool or a connection for an empty list."""
    assert list(run_tasks(add, [], scheduler="tcp://127.0.0.1:1")) == []


def test_processes_give_every_result_once_also_when_one_dies(tmp_path: Path) -> None:
    """Catches results that are lost with a pool, or given twice."""
    tasks = [(n, str(tmp_path / "died") if n == 2 else "") for n in range(6)]
    assert sorted(run_tasks(add, tasks, shared=(10,), jobs=2)) == SUMS
    assert (tmp_path / "died").exists()


def test_a_cluster_gives_every_result_once_also_when_a_worker_is_killed(
    tmp_path: Path, scheduler: str
) -> None:
    """Catches shared data or results that go with the worker that held them."""
    tasks = [(n, str(tmp_path / f"died{n}") if n in (2, 4) else "") for n in range(6)]
    assert sorted(run_tasks(add, tasks, shared=(10,), scheduler=scheduler)) == SUMS
    assert (tmp_path / "died2").exists()
    assert (tmp_path / "died4").exists()


def test_work_is_divided_among_processes(scheduler: str) -> None:
    """Catches a pool or a cluster of which one process does everything, or this one."""
    for where in ({"jobs": 2}, {"scheduler": scheduler}):
        pids = {pid for _, pid in run_tasks(process, NUMBERS, **where)}
        assert len(pids) == 2
        assert os.getpid() not in pids


def test_what_always_kills_its_process_is_told_and_the_others_finish() -> None:
    """Catches a poisonous task that is begun for ever, or that takes others with it."""
    lost: list[tuple[int, str]] = []
    found = run_tasks(
        always_dies, NUMBERS, jobs=2, lost=lambda index, why: lost.append((index, why)) or -1
    )
    assert sorted(found) == [(0, 0), (1, -1), (2, 2), (3, 3), (4, 4), (5, 5)]
    assert [index for index, _ in lost] == [1]
    assert "died" in lost[0][1]


def test_what_always_kills_its_worker_is_an_error() -> None:
    """Catches a cluster that loses its workers one by one, for ever."""
    import dask

    allowed = dask.config.set({"distributed.scheduler.allowed-failures": 1})
    with (
        allowed,
        two_workers() as address,
        pytest.raises(NeuroattnError, match=r"task \d .*died"),
    ):
        list(run_tasks(always_dies, NUMBERS, scheduler=address))


def test_an_error_of_a_task_arrives_as_it_is_and_ends_the_others(scheduler: str) -> None:
    """Catches an error in the clothes of the pool's, and a wait for tasks nobody will read."""
    with pytest.raises(FileError, match="number 1 is missing"):
        list(run_tasks(refuse, NUMBERS))
    for where in ({"jobs": 2}, {"scheduler": scheduler}):
        started = time.perf_counter()
        with pytest.raises(FileError, match="number 1 is missing"):
            list(run_tasks(refuse, NUMBERS[:3], **where))
        assert time.perf_counter() - started < 15


def test_ctrl_c_ends_processes_and_leaves_none(tmp_path: Path) -> None:
    """Catches children that go on after an interrupt."""
    script = tmp_path / "script.py"
    script.write_text(
        "from neuroattn.tasks import run_tasks\n"
        "from tests.cluster import slow_echo\n"
        "if __name__ == '__main__':\n"
        "    for index, _ in run_tasks(slow_echo, [(n,) for n in range(60)], jobs=2):\n"
        "        print(index, flush=True)\n",
        "utf-8",
    )
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    running = subprocess.Popen(
        [sys.executable, script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert running.stdout is not None
    running.stdout.readline()
    os.kill(running.pid, signal.SIGINT)
    _, told = running.communicate(timeout=10)
    assert b"KeyboardInterrupt" in told
    # Python's tracker of shared resources ends a moment after the script.
    deadline = time.perf_counter() + 5
    while lives(running.pid) and time.perf_counter() < deadline:
        time.sleep(0.05)
    assert not lives(running.pid)


def lives(group: int) -> bool:
    """Say whether a process of a group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let errors that wait for an answer come sooner."""
    assert module.PATIENCE <= 10
    monkeypatch.setattr(module, "PATIENCE", 1)


@pytest.mark.usefixtures("hurried")
def test_a_scheduler_that_does_not_answer_is_an_error_within_seconds() -> None:
    """Catches a command that waits for ever, or is told so after hours of other work."""
    for address in ("tcp://127.0.0.1:9", "nonsense://127.0.0.1:1"):
        started = time.perf_counter()
        with pytest.raises(FileError, match=f"{address}.*not answer.*dask scheduler"):
            list(run_tasks(add, SUMS, scheduler=address))
        with pytest.raises(FileError, match="does not answer"), use_workers(scheduler=address):
            pytest.fail("the context was entered")
        assert time.perf_counter() - started < 10


@pytest.mark.usefixtures("hurried")
def test_a_scheduler_without_workers_is_an_error_within_seconds() -> None:
    """Catches a wait for workers that nobody will start."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        with pytest.raises(FileError, match="has no worker; start some with `dask worker"):
            list(run_tasks(add, SUMS, scheduler=address))


@pytest.mark.usefixtures("hurried")
def test_a_scheduler_that_goes_away_is_an_error() -> None:
    """Catches a client that waits for ever for a scheduler that was stopped."""
    tasks = [(n,) for n in range(40)]
    with two_workers() as address:
        found = run_tasks(process, tasks, scheduler=address)
        next(found)
    with pytest.raises(FileError, match="went away"):
        list(found)


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"neuroattn\[dask\]"):
        list(run_tasks(add, SUMS, scheduler="tcp://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("jobs", "scheduler", "said"),
    [
        (0, None, "jobs=0"),
        (True, None, "jobs=True"),
        (1.5, None, "jobs=1.5"),
        (2, "tcp://a:1", "give one of them"),
        (1, " ", "no address"),
    ],
)
def test_impossible_workers_are_refused_before_anything_runs(
    jobs: int, scheduler: str | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run_tasks(add, SUMS, jobs=jobs, scheduler=scheduler)


def test_workers_are_in_use_inside_the_context_only(scheduler: str) -> None:
    """Catches a place that stays set after an error, and so for the next fit."""
    assert workers_in_use().here
    with use_workers(jobs=3):
        with pytest.raises(ZeroDivisionError), use_workers(scheduler=scheduler):
            assert 1 / (workers_in_use() != Workers(scheduler=scheduler))
        assert workers_in_use() == Workers(jobs=3)
    assert workers_in_use() == Workers()


@pytest.mark.parametrize("address", ["foo", "tcp://host", "127.0.0.1"])
def test_an_address_without_a_port_is_told_at_once(address) -> None:
    """Catches a wait for a scheduler that nobody could find."""
    with pytest.raises(InputError, match="has no port"):
        Workers(scheduler=address)


def test_processes_end_with_the_one_that_started_them(tmp_path) -> None:
    """Catches workers that stay for ever after a kill."""
    program = (
        "from neuroattn.tasks import run_tasks\n"
        "from tests.cluster import report_and_sleep\n"
        "if __name__ == '__main__':\n"
        f"    list(run_tasks(report_and_sleep, [({str(tmp_path)!r},)] * 2, jobs=2))\n"
    )
    path = tmp_path / "program.py"
    path.write_text(program)
    started = subprocess.Popen(
        [sys.executable, str(path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = [int(each.stem) for each in tmp_path.glob("*.pid")]
    started.kill()
    started.wait()
    assert len(workers) == 2
    while any(map(_lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(_lives, workers))


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
