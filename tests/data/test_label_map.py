"""ROI names as pickle, JSON and npz."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data.label_map import read_mapping
from neuroattn.errors import FileError

NAMES = {0: "Unknown", 3: "FFA-1"}


def test_each_format_gives_the_same_map(tmp_path) -> None:
    # Catches JSON's text keys and npz's numpy types.
    np.save(tmp_path / "a.npy", NAMES)
    (tmp_path / "b.json").write_text('{"0": "Unknown", "3": "FFA-1"}')
    np.savez(tmp_path / "c.npz", label=[0, 3], name=["Unknown", "FFA-1"])
    for stem in "abc":
        result = read_mapping(tmp_path / stem)
        assert result == NAMES
        assert {type(key) for key in result} == {int}


def test_a_stem_with_dots_is_kept_whole(tmp_path) -> None:
    # Catches a suffix that replaces part of the name.
    np.save(tmp_path / "mapping.v1.npy", NAMES)
    assert read_mapping(tmp_path / "mapping.v1") == NAMES


@pytest.mark.parametrize("content", ["[1]", '{"x": "V1"}', '{"1": 2}', "{", '"V1"'])
def test_json_that_is_no_map_is_named(tmp_path, content) -> None:
    # Catches a KeyError or AttributeError at the user.
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(FileError, match=r"m\.json"):
        read_mapping(tmp_path / "m")


def test_npz_that_is_no_map_is_named(tmp_path) -> None:
    # Catches missing arrays, different lengths, pickled names and a truncated archive.
    path = tmp_path / "m.npz"
    for arrays in (
        {"label": [0]},
        {"label": [0, 1], "name": ["a"]},
        {"label": [0.0, 1.5], "name": ["a", "b"]},
        {"label": [0, 1], "name": [2, 3]},
        {"label": 0, "name": "a"},
        {"label": [0], "name": np.array([None], dtype=object)},
    ):
        np.savez(path, **arrays)
        with pytest.raises(FileError, match=r"m\.npz"):
            read_mapping(tmp_path / "m")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FileError, match=r"m\.npz"):
        read_mapping(tmp_path / "m")


def test_a_missing_map_is_asked_for_by_name(tmp_path) -> None:
    # Catches an empty map, in which every ROI would be missing.
    with pytest.raises(FileError, match=r"ROI names.*m\.npy does not exist"):
        read_mapping(tmp_path / "m")
