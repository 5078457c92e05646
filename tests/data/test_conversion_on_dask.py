"""Conversion on a Dask cluster: the same bytes, also when a worker is killed in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroattn.data import convert
from neuroattn.errors import FileError
from tests.cluster import two_workers
from tests.data.test_conversion import _bytes
from tests.data.toy_sessions import Toy, write_toy


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("distributed")
    with two_workers() as made:
        yield made


def test_a_worker_that_is_killed_costs_nothing_but_time(tmp_path: Path, address) -> None:
    """Catches sessions that are lost with their worker, and chunks that two workers share."""
    lengths = (300, 200, 150, 260, 130, 90)
    source = write_toy(tmp_path / "source", lengths, voxels=7)
    convert(Toy(str(source)), tmp_path / "here")
    mark = tmp_path / "mark"
    reader = Toy(str(source), deadly=str(mark))
    convert(reader, tmp_path / "there", scheduler=address)
    assert mark.exists()
    assert _bytes(tmp_path / "there/responses.zarr") == _bytes(tmp_path / "here/responses.zarr")


def test_a_mistake_on_a_worker_is_the_same_mistake(tmp_path: Path, address) -> None:
    """Catches an error that arrives as a traceback of the cluster, or not at all."""
    import numpy as np

    source = write_toy(tmp_path / "source")
    np.save(source / "session-1.npy", np.full((5, 11), np.inf, np.float32))
    with pytest.raises(FileError, match=r"session-1\.npy.* holds infinity in presentation 0"):
        convert(Toy(str(source)), tmp_path / "out", scheduler=address)
