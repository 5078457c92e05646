"""Lazily read responses are what the zarr library reads, and a damaged file is never zeros."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from neuroattn.data import chunk_files
from neuroattn.data.chunk_files import lazy_response, write_chunk
from neuroattn.errors import FileError

CODECS = {"plain": [], "checksum": [Crc32cCodec()], "zstd": [ZstdCodec()]}


def written(path: Path, shape=(23, 37), chunks=(7, 11), kind="checksum", **options) -> np.ndarray:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) - 5.5
    array = zarr.create_array(
        path,
        shape=shape,
        chunks=chunks,
        dtype="float32",
        compressors=CODECS[kind] or None,
        dimension_names=("presentation", "voxel"),
        fill_value=0.0,
        config={"write_empty_chunks": True},
        **options,
    )
    array[:] = values
    return values


def axis_keys(size: int):
    """All ways to choose along an axis: a number, slices of any step, any list, a mask."""
    ends = st.none() | st.integers(-size - 2, size + 2)
    steps = st.none() | st.integers(-5, 5).filter(bool)
    lists = st.lists(st.integers(-size, size - 1), max_size=2 * size)
    masks = st.lists(st.booleans(), min_size=size, max_size=size)
    return (
        st.integers(-size, size - 1)
        # xarray itself, with any backend, fails on downward slices that hold nothing.
        | st.builds(slice, ends, ends, steps).filter(
            lambda chosen: (chosen.step or 1) > 0 or len(range(*chosen.indices(size)))
        )
        | lists.map(lambda chosen: np.array(chosen, dtype=int))
        | masks.map(lambda chosen: np.array(chosen, dtype=bool))
    )


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 14)))
    chunks = tuple(draw(st.integers(1, size + 2)) for size in shape)
    return shape, chunks, tuple(draw(axis_keys(size)) for size in shape)


def expected(values: np.ndarray, key) -> np.ndarray:
    rows, columns = key
    return values[rows][..., columns]


@given(
    case=cases(),
    kind=st.sampled_from(list(CODECS)),
    gap=st.sampled_from([0, 4, 12, 2**14]),
    job=st.sampled_from([1, 40, 2**22]),
    ahead=st.sampled_from([0, 2]),
)
@settings(max_examples=60, deadline=None)
def test_any_selection_of_any_array_is_what_zarr_holds(case, kind, gap, job, ahead):
    # Catches a row, column, step, order, duplicate, chunk edge or gap that is taken wrongly.
    shape, chunks, key = case
    with (
        TemporaryDirectory() as folder,
        patch.object(chunk_files, "GAP", gap),
        patch.object(chunk_files, "JOB", job),
        patch.object(chunk_files, "AHEAD", ahead),
    ):
        values = written(Path(folder) / "r", shape, chunks, kind)
        variable = lazy_response(Path(folder) / "r")
        assert variable.dims == ("presentation", "voxel")
        found = variable[key].values
        np.testing.assert_array_equal(found, expected(values, key), strict=True)


@given(first=cases(), steps=st.lists(st.integers(1, 3), min_size=2, max_size=2))
@settings(max_examples=20, deadline=None)
def test_selections_of_a_selection_are_read_once_and_rightly(first, steps):
    # Catches lazy indexers that are joined wrongly, as after isel().isel().
    shape, chunks, key = first
    key = tuple(np.atleast_1d(each) if isinstance(each, int) else each for each in key)
    with TemporaryDirectory() as folder:
        values = written(Path(folder) / "r", shape, chunks)
        then = tuple(slice(None, None, -step) for step in steps)
        found = lazy_response(Path(folder) / "r")[key][then].values
    np.testing.assert_array_equal(found, expected(values, key)[then])


def test_pointwise_selection_is_right(tmp_path):
    # Catches vectorised indexing that is taken for orthogonal indexing.
    values = written(tmp_path / "r")
    rows, columns = np.array([22, 0, 7, 7]), np.array([36, 11, 10, 11])
    array = xr.DataArray(lazy_response(tmp_path / "r"))
    found = array.isel(presentation=("z", rows), voxel=("z", columns))
    np.testing.assert_array_equal(found.values, values[rows, columns])


def test_only_the_wanted_bytes_are_asked_for(tmp_path, monkeypatch):
    # Catches whole chunks that are read for a few rows: what this module is there to avoid.
    written(tmp_path / "r", (40, 9000), (20, 9000))
    asked = []
    real = chunk_files._ask_for

    class Recorder:
        def __init__(self, area):
            self.area = area

        def madvise(self, advice, start=0, length=0):
            asked.append((start, length))
            return self.area.madvise(advice, start, length) if length else None

    def recorded(job):
        real(chunk_files._Job(Recorder(job.area), job.block, job.rows, job.columns))

    monkeypatch.setattr(chunk_files, "_ask_for", recorded)
    page = chunk_files.mmap.PAGESIZE
    lazy_response(tmp_path / "r")[[3, 33], :].values  # noqa: B018
    assert 2 * 36_000 <= sum(length for _, length in asked) <= 2 * (36_000 + page)
    assert {start // 36_000 for start, length in asked if length} <= {2, 3, 12, 13}
    asked.clear()
    lazy_response(tmp_path / "r")[:, 100:200].values  # noqa: B018
    assert 40 * 400 <= sum(length for _, length in asked) <= 40 * (400 + page)
    asked.clear()
    lazy_response(tmp_path / "r")[:, [8990, 3]].values  # noqa: B018
    assert sum(length for _, length in asked) <= 40 * 2 * (4 + page)
    asked.clear()
    monkeypatch.setattr(chunk_files, "REQUEST", page)
    lazy_response(tmp_path / "r")[2].values  # noqa: B018
    pages = sorted(start // page for start, length in asked if length)
    assert pages == list(range(72_000 // page, -(-108_000 // page)))


def test_nothing_is_read_before_values_are_used(tmp_path):
    # Catches a reading that loads everything when it opens.
    written(tmp_path / "r")
    variable = lazy_response(tmp_path / "r")
    for chunk in (tmp_path / "r/c").rglob("?"):
        if chunk.is_file():
            chunk.unlink()
    assert variable[::2, :5].shape == (12, 5)


@pytest.mark.parametrize("kind", list(CODECS))
def test_a_lost_chunk_is_an_error_and_never_zeros(tmp_path, kind):
    # Catches the zarr library's answer for a file that is gone: the fill value.
    values = written(tmp_path / "r", kind=kind)
    variable = lazy_response(tmp_path / "r")
    (tmp_path / "r/c/1/2").unlink()
    with pytest.raises(FileError, match="c/1/2"):
        variable[[8], 22:24].values  # noqa: B018
    np.testing.assert_array_equal(variable[[8], 33:].values, values[[8], 33:])


@pytest.mark.parametrize("size", [0, 307, 311, 313])
def test_a_chunk_of_another_size_is_an_error(tmp_path, size):
    # Catches a truncated or foreign file whose first rows would still be read.
    written(tmp_path / "r")
    chunk = tmp_path / "r/c/0/0"
    chunk.write_bytes(chunk.read_bytes().ljust(400, b"x")[:size])
    with pytest.raises(FileError, match=rf"c/0/0 has {size} bytes, expected are 312"):
        lazy_response(tmp_path / "r")[0, :3].values  # noqa: B018


def test_a_damaged_compressed_chunk_is_an_error(tmp_path):
    # Catches a decoder's own exception that does not name the array.
    written(tmp_path / "r", kind="zstd")
    (tmp_path / "r/c/0/0").write_bytes(b"no zstd")
    with pytest.raises(FileError, match="damaged"):
        lazy_response(tmp_path / "r")[0].values  # noqa: B018


def test_a_chunk_that_cannot_be_read_is_named(tmp_path):
    # Catches a bare OSError for what is no file.
    written(tmp_path / "r")
    chunk = tmp_path / "r/c/0/0"
    chunk.unlink()
    chunk.mkdir()
    with pytest.raises(FileError, match="c/0/0"):
        lazy_response(tmp_path / "r")[0, 0].values  # noqa: B018


def test_what_is_no_array_of_responses_is_refused(tmp_path):
    # Catches a missing, foreign or unnamed array that fails late or with a zarr error.
    with pytest.raises(FileError, match="does not exist"):
        lazy_response(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="no zarr 3 array"):
        lazy_response(tmp_path / "empty")
    zarr.create_array(tmp_path / "flat", shape=(3,), dtype="f4", dimension_names=("voxel",))
    with pytest.raises(FileError, match=r"shape \(3,\)"):
        lazy_response(tmp_path / "flat")
    zarr.create_array(tmp_path / "unnamed", shape=(3, 3), dtype="f4")
    with pytest.raises(FileError, match="dimension names None"):
        lazy_response(tmp_path / "unnamed")


@pytest.mark.parametrize(
    "options",
    [
        {"serializer": BytesCodec(endian="big")},
        {"shards": (14, 22)},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
    ids=["big endian", "shards", "other names"],
)
def test_other_layouts_are_left_to_zarr(tmp_path, options):
    # Catches numbers taken from places where they are not.
    values = written(tmp_path / "r", **options)
    variable = lazy_response(tmp_path / "r")
    rows = np.array([20, 3, 3])
    np.testing.assert_array_equal(variable[rows, ::-2].values, values[rows, ::-2])


def test_systems_that_take_no_advice_read_the_same(tmp_path, monkeypatch):
    # Catches an AttributeError on systems whose memory maps know no madvise.
    values = written(tmp_path / "r")
    monkeypatch.delattr(chunk_files.mmap, "MADV_WILLNEED")
    np.testing.assert_array_equal(lazy_response(tmp_path / "r")[5:9].values, values[5:9])


def _row_sum(variable: xr.Variable, row: int) -> float:
    return float(variable[row].values.sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(tmp_path, method):
    # Catches an open file or lock that does not survive a fork, or cannot be pickled.
    values = written(tmp_path / "r")
    variable = lazy_response(tmp_path / "r")
    variable[:].values  # noqa: B018
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_row_sum, (variable, 9)) == values[9].sum()
    again = pickle.loads(pickle.dumps(variable))
    np.testing.assert_array_equal(again[3:5].values, values[3:5])


def test_many_threads_read_the_same(tmp_path):
    # Catches shared state between reads under way.
    values = written(tmp_path / "r", (60, 200), (9, 31))
    variable = lazy_response(tmp_path / "r")
    draw = np.random.default_rng(0)
    keys = [(draw.permutation(60)[:20], slice(k, k + 70)) for k in range(80)]
    with ThreadPoolExecutor(8) as pool:
        for key, found in zip(keys, pool.map(lambda key: variable[key].values, keys), strict=True):
            np.testing.assert_array_equal(found, expected(values, key))


def test_the_chunks_are_told_to_those_who_plan_by_them(tmp_path):
    # Catches a dask reading that cuts across chunks: the encoding says where they are.
    written(tmp_path / "r")
    encoding = lazy_response(tmp_path / "r").encoding
    assert encoding["preferred_chunks"] == {"presentation": 7, "voxel": 11}
    assert encoding["chunks"] == (7, 11)


@pytest.mark.parametrize("columns", [5, 3])
def test_a_chunk_written_here_is_what_the_zarr_library_writes(tmp_path, columns) -> None:
    """Catches a checksum, byte order or padding that another reader would refuse."""
    from neuroattn.data.storage import create_response, open_response

    values = np.random.default_rng(0).normal(size=(8, 5 + columns)).astype(np.float32)
    for name in ("ours", "theirs"):
        create_response(tmp_path / name, (8, 5 + columns), (4, 5))
    open_response(tmp_path / "theirs")[:] = values
    for row in range(2):
        for column in range(2):
            here = values[4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
            write_chunk(tmp_path / "ours" / "response", (row, column), here)
            place = f"response/c/{row}/{column}"
            assert (tmp_path / "ours" / place).read_bytes() == (
                tmp_path / "theirs" / place
            ).read_bytes()
    np.testing.assert_array_equal(open_response(tmp_path / "ours")[:], values)
    for wrong in (values[:3, :5], values[:4, :6], values[:4, :5].astype(np.float64)):
        with pytest.raises(FileError, match="cannot be written as one of them"):
            write_chunk(tmp_path / "ours" / "response", (0, 0), wrong)
