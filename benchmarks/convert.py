"""Conversion of an NSD-shaped subject of random numbers, next to a bare loop.

The bare loop reads the same bytes with h5py, two layers at a time as the reader does, scales int16
to float32 and writes them one after the other to one file; nothing is checked, labelled or put in
blocks. Before each run the source leaves the page cache and what was written before is flushed;
neither side waits for the disk at its end. The ceiling needs a second pass over the responses,
which is timed by itself. Memory is the peak of a fresh process with everything, ceiling included.
``python -m benchmarks.convert`` takes some ten minutes and 17 GB of disk, ``--quick`` seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np

from benchmarks.chunking import TARGETS, access_rates, chunk_paths, forget
from benchmarks.common import RESULTS, Target, conclude, gate, peak_memory, run
from benchmarks.nsd_shaped import DIMS, TRIALS, betas_path, write_subject
from neuroattn.data import NSD, ResponseSet, conversion, convert, open_responses
from neuroattn.data.transforms import add_ncsnr
from neuroattn.errors import FileError

LAYERS = 2


def reader(source: Path, sessions: int) -> NSD:
    return NSD(str(source), subject=1, roi=["all"], sessions=sessions)


def converted(source: Path, sessions: int, out: Path) -> None:
    """Convert with everything; of a module's top level, for a process of its own."""
    convert(reader(source, sessions), out, progress=False)


def bare_loop(source: Path, sessions: int, out: Path) -> None:
    with out.open("wb") as stream:
        for session in range(1, sessions + 1):
            with h5py.File(betas_path(source, session)) as file:
                data = file["betas"]
                for layer in range(0, data.shape[1], LAYERS):
                    values = data[:, layer : layer + LAYERS].astype(np.float32)
                    values /= np.float32(300)
                    stream.write(values.data)


def check_values(source: Path, sessions: int, out: Path) -> int:
    """Compare the responses with the integers at some trials and voxels; return how many."""
    found = open_responses(out / "responses.zarr")
    place = tuple(found[axis].values for axis in "kji")
    compared, first = 0, 0
    for session in range(1, sessions + 1):
        with h5py.File(betas_path(source, session)) as file:
            data = file["betas"]
            for trial in sorted({0, len(data) // 3, len(data) - 1}):
                expected = data[trial][place].astype(np.float32) / np.float32(300)
                row = found["response"][first + trial].values
                same = np.array_equal(row, expected)
                gate("converted values are int16 / 300", same, f"session {session}, {trial}")
                compared += len(row)
            first += len(data)
    return compared


def check_damage(source: Path, sessions: int, out: Path) -> None:
    """See that a lost block and a flipped bit are found when the conversion is run again."""
    again = reader(source, sessions)
    gate("a whole conversion is verified", convert(again, out)["verified"], "not verified")
    files = sorted(chunk_paths(out / "responses.zarr/response"))
    victim = files[len(files) // 2]
    aside = out.with_name("aside")
    victim.rename(aside)
    gate("a lost block is found", _refused(lambda: convert(again, out)), victim)
    shutil.copyfile(aside, victim)
    with victim.open("r+b") as stream:
        stream.seek(victim.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    gate("a flipped bit is found", _refused(lambda: convert(again, out)), victim)
    os.replace(aside, victim)


def _refused(function: Callable[[], Any]) -> bool:
    try:
        function()
    except FileError:
        return True
    return False


@contextmanager
def _without_ceiling() -> Iterator[None]:
    def unknown(dataset: ResponseSet) -> ResponseSet:
        return dataset.assign(ncsnr=("voxel", np.full(dataset.sizes["voxel"], np.nan)))

    with patch.object(conversion, "add_ncsnr", unknown):
        yield


def rates(source: Path, sessions: int, folder: Path, repeats: int, size: int) -> dict[str, Any]:
    """Time conversion and bare loop in turn; bytes are those of the int16 betas."""
    files = [betas_path(source, session) for session in range(1, sessions + 1)]
    runs = []
    for _ in range(repeats):
        pair = {}
        for name in ("convert", "bare"):
            out = folder / name
            _remove(out)
            os.sync()
            forget(files)
            start, cpu = time.perf_counter(), time.process_time()
            if name == "convert":
                with _without_ceiling():
                    converted(source, sessions, out)
            else:
                bare_loop(source, sessions, out)
            pair[f"{name}_s"] = time.perf_counter() - start
            pair[f"{name}_cpu_s"] = time.process_time() - cpu
        _remove(folder / "bare")
        runs.append(pair)
    medians = {name: statistics.median(pair[name] for pair in runs) for name in runs[0]}
    return {
        "bytes_int16": size,
        "convert_bytes_per_s": size / medians["convert_s"],
        "bare_bytes_per_s": size / medians["bare_s"],
        "share_of_bare": statistics.median(p["bare_s"] / p["convert_s"] for p in runs),
        "cpu_share_of_bare": statistics.median(p["bare_cpu_s"] / p["convert_cpu_s"] for p in runs),
        "source": "cold",
        "fsync": False,
        "runs": runs,
    }


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def memory(source: Path, counts: list[int], folder: Path) -> dict[str, int]:
    """Return the peak resident bytes of whole conversions of so many sessions."""
    peaks = {}
    for sessions in counts:
        out = folder / "memory"
        _remove(out)
        peaks[str(sessions)] = peak_memory(converted, source, sessions, out)
        _remove(out)
    return peaks


def measure(
    folder: Path, sessions: int, trials: int, dims: tuple[int, int, int], repeats: int
) -> dict[str, Any]:
    source, out = folder / "nsd", folder / "convert"
    size = write_subject(source, sessions, trials, dims)
    speed = rates(source, sessions, folder, repeats, size)
    compared = check_values(source, sessions, out)
    check_damage(source, sessions, out)
    start = time.perf_counter()
    add_ncsnr(open_responses(out / "responses.zarr"))
    ceiling = time.perf_counter() - start
    access = access_rates(out / "responses.zarr/response", repeats=3)
    _remove(out)
    return {
        "sessions": sessions,
        "trials": trials,
        "dims": dims,
        "values_compared": compared,
        "rate": speed,
        "ceiling_pass_s": ceiling,
        "access": access,
        "peak_memory_bytes": memory(source, sorted({max(1, sessions // 2), sessions}), folder),
    }


def targets(found: dict[str, Any]) -> list[Target]:
    peaks = list(found["peak_memory_bytes"].values())
    shares = [
        Target(f"{name}, {state}, share of the rate in order", values["share_of_in_order"], 0.5)
        for state, table in found["access"].items()
        for name, values in table.items()
        if name in TARGETS
    ]
    return [
        Target("conversion, share of the bare loop's rate", found["rate"]["share_of_bare"], 0.6),
        Target("peak resident memory, GB", max(peaks) / 1e9, most=2),
        Target("peak memory of all sessions over that of half", peaks[-1] / peaks[0], most=1.05),
        *shares,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, some seconds")
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3, help="paired runs, their median counts")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    trials, dims = (60, (21, 24, 13)) if chosen.quick else (TRIALS, DIMS)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        found = measure(Path(folder), chosen.sessions, trials, dims, chosen.repeats)
    conclude("convert", found, targets(found), chosen)


if __name__ == "__main__":
    run(main)
