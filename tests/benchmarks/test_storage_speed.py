"""The gates of the benchmarks of chunks and conversion at tiny sizes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

from benchmarks import convert as benchmark
from benchmarks.chunking import (
    access_rates,
    check,
    chunk_paths,
    drawn,
    layouts,
    selections,
    write_array,
)
from benchmarks.common import GateError
from benchmarks.nsd_shaped import betas_path, write_subject
from neuroattn.data.chunk_files import lazy_response

DIMS = (5, 4, 7)


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    write_subject(tmp_path / "nsd", 2, 12, DIMS)
    return tmp_path / "nsd"


def test_the_synthetic_subject_has_the_published_layout(tmp_path):
    # Catches axes in another order, other integers, or chunks that hold whole volumes.
    assert write_subject(tmp_path, 2, 12, DIMS) == 2 * 12 * 140 * 2
    with h5py.File(betas_path(tmp_path, 2)) as file:
        data = file["betas"]
        assert data.shape == (12, 7, 4, 5)
        assert data.dtype == np.int16
        assert data.chunks == (12, 1, 1, 5)
        second = data[:]
    with h5py.File(betas_path(tmp_path, 1)) as file:
        assert not np.array_equal(file["betas"][:], second)
    assert np.ptp(second) > 2000


def test_the_bare_loop_writes_all_scaled_values(subject, tmp_path):
    # Catches a bare loop that skips bytes, or divides integers.
    benchmark.bare_loop(subject, 2, tmp_path / "raw")
    numbers = np.fromfile(tmp_path / "raw", np.float32)
    expected = []
    for session in (1, 2):
        with h5py.File(betas_path(subject, session)) as file:
            stored = file["betas"][:]
        expected += [
            stored[:, layer : layer + 2].ravel() / np.float32(300) for layer in range(0, 7, 2)
        ]
    np.testing.assert_array_equal(numbers, np.concatenate(expected))


def test_the_conversion_passes_its_gates_and_damage_is_seen(subject, tmp_path):
    # Catches a gate that cannot fail: a changed source value and a whole conversion differ.
    out = tmp_path / "out"
    benchmark.converted(subject, 2, out)
    assert benchmark.check_values(subject, 2, out) == 2 * 3 * 140
    benchmark.check_damage(subject, 2, out)
    assert benchmark.check_values(subject, 2, out) == 2 * 3 * 140
    with h5py.File(betas_path(subject, 2), "r+") as file:
        file["betas"][0, 0, 0, 0] += 1
    with pytest.raises(GateError, match="int16 / 300"):
        benchmark.check_values(subject, 2, out)


def test_timed_conversions_leave_the_ceiling_out_and_others_do_not(subject, tmp_path):
    # Catches a rate that silently stands for another amount of work.
    from neuroattn.data import open_responses

    found = benchmark.rates(subject, 2, tmp_path, 1, 1000)
    assert open_responses(tmp_path / "convert/responses.zarr")["ncsnr"].isnull().all()
    assert found["share_of_bare"] == found["runs"][0]["bare_s"] / found["runs"][0]["convert_s"]
    assert not (tmp_path / "bare").exists()
    benchmark.converted(subject, 2, tmp_path / "whole")
    assert open_responses(tmp_path / "whole/responses.zarr")["ncsnr"].notnull().all()


@pytest.mark.parametrize("kind", ["plain", "zstd", "sharded"])
def test_each_layout_holds_the_numbers_and_is_timed(tmp_path, kind):
    # Catches a layout that is timed on other numbers, or a kind of selection that is left out.
    values = drawn((6, 24))
    write_array(tmp_path / "a", values, (3, 8), kind)
    array = zarr.open_array(tmp_path / "a", mode="r")
    np.testing.assert_array_equal(array[:], np.concatenate([values, values]))
    assert (array.shards is None) == (kind != "sharded")
    table = access_rates(tmp_path / "a", 1)
    kinds = {"in_order", "random_rows", "voxels_of_a_chunk"}
    kinds |= {"voxels_8192", "voxels_4096", "voxels_512"}
    assert set(table) == {"cold", "warm"}
    assert all(set(found) == kinds for found in table.values())
    assert table["cold"]["in_order"]["share_of_in_order"] == 1
    assert len(chunk_paths(tmp_path / "a")) == (2 if kind == "sharded" else 12)


def test_the_gate_sees_other_numbers_than_zarr_reads(tmp_path):
    # Catches a check that compares a reading with itself.
    values = drawn((6, 24))
    write_array(tmp_path / "a", values, (3, 8), "plain")
    array = zarr.open_array(tmp_path / "a", mode="r")
    check(lazy_response(tmp_path / "a"), array)
    with pytest.raises(GateError, match="zarr reads"):
        check(xr.Variable(("presentation", "voxel"), np.tile(values, (2, 1)) + 1), array)


def test_selections_have_the_sizes_they_are_named_for():
    # Catches rates of blocks that are smaller or of batches that repeat a presentation.
    found = selections((700, 9000), 4000, np.random.default_rng(0))
    chunk = found["voxels_of_a_chunk"][1]
    assert (chunk.start, chunk.stop) in {(0, 4000), (4000, 8000), (8000, 9000)}
    rows = found["random_rows"][0]
    assert len(np.unique(rows)) == 256
    assert (np.diff(rows) < 0).any()
    for width in (512, 4096, 8192):
        columns = found[f"voxels_{width}"][1]
        assert columns.stop - columns.start == width
        assert columns.stop <= 9000
    order = found["in_order"][0]
    assert order.stop - order.start == 256


def test_the_chosen_chunks_are_among_those_compared():
    # Catches a page that explains another choice than the one in use.
    from neuroattn.data.storage import chunk_shape

    rows, columns = chunk_shape((1500, 131_072), [750, 750])
    assert ("plain", (rows, columns), False) in layouts(quick=False)
