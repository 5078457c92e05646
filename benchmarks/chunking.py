"""Which chunks of a zarr array of responses serve random presentations and blocks of voxels.

For each layout an array (presentation, voxel) of float32 numbers is written, then read by
:func:`neuroattn.data.chunk_files.lazy_response`: 256 presentations in a row, all voxels (in order);
256 presentations drawn at random; all presentations of one chunk's voxels, and of 8,192, 4,096 or
512 voxels from anywhere.
Rates are bytes delivered a second, median of the repeats; cold: after ``posix_fadvise(DONTNEED)``
of every file, which were flushed before. ``zarr`` reads with the zarr library instead.
``python -m benchmarks.chunking`` takes some minutes, ``--quick`` seconds.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from benchmarks.common import Target, conclude, gate, options, run
from neuroattn.data.chunk_files import lazy_response

BATCH = 256
BLOCKS = (8192, 4096, 512)
#: What is to reach half of the rate in order.
TARGETS = ("random_rows", "voxels_of_a_chunk")
Reading = Callable[[tuple[Any, ...]], np.ndarray]


def drawn(shape: tuple[int, int]) -> np.ndarray:
    """Return numbers as data sets have them: int16, 300 to a percent."""
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    return (400 * noise).astype(np.int16) / np.float32(300)


def write_array(path: Path, values: np.ndarray, chunks: tuple[int, int], kind: str) -> None:
    """Write ``values`` twice, one below the other: ``plain`` with checksums, ``zstd``, sharded."""
    rows, voxels = values.shape
    array = zarr.create_array(
        path,
        shape=(2 * rows, voxels),
        chunks=chunks,
        shards=(min(750, rows), min(32768, voxels)) if kind == "sharded" else None,
        dtype="float32",
        compressors=[Crc32cCodec() if kind == "plain" else ZstdCodec()],
        dimension_names=("presentation", "voxel"),
        config={"write_empty_chunks": True},
    )
    array[:rows] = values
    array[rows:] = values


def forget(files: Sequence[Path]) -> None:
    """Let files leave the page cache; they must have been flushed."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def chunk_paths(path: Path) -> list[Path]:
    return [file for file in (path / "c").rglob("*") if file.is_file()]


def selections(
    shape: tuple[int, int], chunk: int, draw: np.random.Generator
) -> dict[str, tuple[Any, Any]]:
    """Return one selection of each kind, all at random places; a chunk is so many voxels wide."""
    rows, voxels = shape
    batch = min(BATCH, rows)
    first = int(draw.integers(0, rows - batch + 1))
    found: dict[str, tuple[Any, Any]] = {
        "in_order": (slice(first, first + batch), slice(None)),
        "random_rows": (draw.permutation(rows)[:batch], slice(None)),
    }
    begin = chunk * int(draw.integers(0, -(-voxels // chunk)))
    found["voxels_of_a_chunk"] = (slice(None), slice(begin, min(begin + chunk, voxels)))
    for width in BLOCKS:
        begin = int(draw.integers(0, max(1, voxels - width + 1)))
        found[f"voxels_{width}"] = (slice(None), slice(begin, begin + width))
    return found


def access_rates(path: Path, repeats: int, library: bool = False) -> dict[str, Any]:
    """Return bytes a second by cold and warm, and by kind of selection."""
    files, variable = chunk_paths(path), lazy_response(path)
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    array = zarr.open_array(path, mode="r")

    def read(key: tuple[Any, ...]) -> np.ndarray:
        return np.asarray(array.oindex[key]) if library else variable[key].values

    check(variable, array)
    table: dict[str, Any] = {}
    for state in ("cold", "warm"):
        draw = np.random.default_rng(1)
        runs: list[dict[str, float]] = []
        for _ in range(repeats):
            kinds = selections(array.shape, (array.shards or array.chunks)[1], draw)
            runs.append({name: _rate(read, key, state, files) for name, key in kinds.items()})
        table[state] = {
            name: {
                "bytes_per_s": statistics.median(each[name] for each in runs),
                "share_of_in_order": statistics.median(e[name] / e["in_order"] for e in runs),
            }
            for name in runs[0]
        }
    return table


def _rate(read: Reading, key: tuple[Any, ...], state: str, files: Sequence[Path]) -> float:
    if state == "cold":
        forget(files)
    else:
        read(key)
    start = time.perf_counter()
    size = read(key).nbytes
    return size / (time.perf_counter() - start)


def check(variable: xr.Variable, array: zarr.Array) -> None:
    """See that our reading gives what the zarr library gives."""
    rows, voxels = array.shape
    keys = [
        (np.array([rows - 1, 0, rows // 2]), slice(0, min(40, voxels))),
        (slice(0, rows, max(1, rows // 7)), slice(voxels // 2, min(voxels, voxels // 2 + 9))),
    ]
    for key in keys:
        same = np.array_equal(variable[key].values, array.oindex[key])
        gate("values are those that zarr reads", same, key)


def layouts(quick: bool) -> list[tuple[str, tuple[int, int], bool]]:
    """Return (kind, chunks, read by the zarr library) of everything compared."""
    if quick:
        return [("plain", (150, 512), False), ("zstd", (150, 512), True)]
    plain = [(750, width) for width in (2048, 4096, 8192, 16384, 32768, 65536)]
    plain += [(16, 16384), (150, 16384)]
    return [
        *(("plain", chunks, False) for chunks in plain),
        ("plain", (750, 16384), True),
        ("zstd", (500, 4096), True),
        ("sharded", (50, 4096), True),
    ]


def measure(
    folder: Path, shape: tuple[int, int], repeats: int, quick: bool
) -> list[dict[str, Any]]:
    rows = []
    values = drawn((shape[0] // 2, shape[1]))
    for kind, chunks, library in layouts(quick):
        path = folder / "array"
        write_array(path, values, chunks, kind)
        rates = access_rates(path, 1 if library and not quick else repeats, library)
        files = chunk_paths(path)
        rows.append(
            {
                "layout": kind,
                "chunks": chunks,
                "reader": "zarr" if library else "neuroattn",
                "files": len(files),
                "stored_bytes": sum(file.stat().st_size for file in files),
                "rates": rates,
            }
        )
        print(_line(rows[-1]), flush=True)
        shutil.rmtree(path)
    return rows


def _line(row: dict[str, Any]) -> str:
    cells = [
        f"{row['rates'][state][name]['bytes_per_s'] / 1e6:,.0f}"
        for state in ("cold", "warm")
        for name in row["rates"][state]
    ]
    return (
        f"| {row['layout']} {row['chunks'][0]} × {row['chunks'][1]:,}, {row['reader']} | "
        f"{row['files']:,} | " + " | ".join(cells) + " |"
    )


def main() -> None:
    chosen = options(__doc__)
    shape = (300, 6000) if chosen.quick else (1500, 131_072)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), shape, chosen.repeats, chosen.quick)
    best = next(row for row in rows if chosen.quick or row["chunks"] == (750, 16384))
    targets = [
        Target(f"{name}, {state}, share of the rate in order", found["share_of_in_order"], 0.5)
        for state, table in best["rates"].items()
        for name, found in table.items()
        if name in TARGETS
    ]
    payload = {"shape": shape, "batch": BATCH, "repeats": chosen.repeats, "layouts": rows}
    conclude("chunking", payload, targets, chosen)


if __name__ == "__main__":
    run(main)
