"""Encoders on disk: exact, complete, never of the wrong class."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr

import neuroattn
from neuroattn.encoders.saving import plain, read_config, read_encoder, write_encoder
from neuroattn.errors import FileError, InputError, MismatchError, RunExistsError
from tests.encoders.small import small_features, small_responses
from tests.encoders.test_base import MeanEncoder

FEATURES = small_features()
RESPONSES = small_responses(FEATURES, list(range(20)))


@pytest.fixture
def saved(tmp_path):
    MeanEncoder(slope=0.25).fit(FEATURES, RESPONSES).save(tmp_path / "run")
    return tmp_path / "run"


def test_a_round_trip_is_exact(saved):
    # Catches rounding, lost labels, and parameters that fall back to defaults.
    fitted = MeanEncoder(slope=0.25).fit(FEATURES, RESPONSES)
    loaded = MeanEncoder.from_directory(saved)
    assert loaded.get_params() == fitted.get_params()
    assert loaded.note_ == "kept"
    xr.testing.assert_identical(loaded.voxels_, fitted.voxels_)
    for name in fitted.voxels_.variables:
        assert loaded.voxels_[name].dtype == fitted.voxels_[name].dtype
    xr.testing.assert_identical(loaded.predict(FEATURES), fitted.predict(FEATURES))


def test_voxels_without_rois_and_with_odd_attributes_survive(tmp_path):
    # Catches netCDF's troubles: text of length 0, nested lists, None, NaN.
    bare = RESPONSES.isel(roi=[]).assign_attrs(shape=[2, 3, 4], note=None, nested=[[1], "a"])
    fitted = MeanEncoder().fit(FEATURES, bare)
    fitted.save(tmp_path)
    loaded = MeanEncoder.from_directory(tmp_path).voxels_
    assert loaded["roi_mask"].shape == (0, 7)
    assert loaded["roi"].dtype.kind == "U"
    assert loaded.attrs["nested"] == [[1], "a"]
    assert np.isnan(loaded.attrs["tr"])


def test_the_configuration_names_class_version_and_basis(saved):
    # Catches a run of which nobody can tell what made it.
    config = json.loads((saved / "config.json").read_text())
    assert config["class"] == "MeanEncoder"
    assert config["version"] == neuroattn.__version__
    assert config["parameters"] == {"slope": 0.25}
    assert config["features"]["key"] == "k1"
    assert config["tensors"] == {"mean": [7]}


def test_an_encoder_is_replaced_only_on_request(saved):
    # Catches a run that overwrites another.
    before = (saved / "weights.safetensors").read_bytes()
    other = MeanEncoder(slope=9.0).fit(FEATURES, small_responses(FEATURES, [4, 5]))
    with pytest.raises(RunExistsError, match="overwrite=True"):
        other.save(saved)
    assert (saved / "weights.safetensors").read_bytes() == before
    other.save(saved, overwrite=True)
    assert MeanEncoder.from_directory(saved).slope == 9.0


def test_a_save_that_breaks_off_leaves_no_loadable_folder(saved, monkeypatch):
    # Catches old configuration beside new weights.
    def full(*_, **__):
        raise FileError("disk full")

    monkeypatch.setattr("neuroattn.encoders.saving._write_voxels", full)
    with pytest.raises(FileError, match="disk full"):
        MeanEncoder().fit(FEATURES, RESPONSES).save(saved, overwrite=True)
    with pytest.raises(FileError, match="no fitted encoder"):
        read_config(saved)


def test_weights_of_another_class_are_refused(saved):
    # Catches a class that restores whatever has tensors of the right names.
    class OtherEncoder(MeanEncoder):
        pass

    with pytest.raises(MismatchError, match="holds a MeanEncoder, not a OtherEncoder"):
        OtherEncoder.from_directory(saved)


def test_weights_that_are_not_of_this_configuration_are_refused(saved, tmp_path):
    # Catches files of two runs in one folder.
    voxels = MeanEncoder().fit(FEATURES, RESPONSES).voxels_
    config = {"class": "MeanEncoder", "parameters": {}, "features": {}, "state": {}}
    for tensors, message in (
        ({"mean": torch.zeros(6)}, r"mean of shape \[6\].*\[7\]"),
        ({"mean": torch.zeros(7), "more": torch.zeros(1)}, r"more of shape \[1\].*missing"),
        ({}, r"mean of shape missing.*\[7\]"),
    ):
        write_encoder(tmp_path / "other", tensors, voxels, config, overwrite=True)
        (saved / "weights.safetensors").write_bytes(
            (tmp_path / "other" / "weights.safetensors").read_bytes()
        )
        with pytest.raises(MismatchError, match=message):
            MeanEncoder.from_directory(saved)
    write_encoder(tmp_path / "third", {}, voxels, {**config, "class": "Third"})
    (saved / "weights.safetensors").write_bytes(
        (tmp_path / "third" / "weights.safetensors").read_bytes()
    )
    with pytest.raises(MismatchError, match="weights of Third"):
        read_encoder(saved)


@pytest.mark.parametrize("name", ["weights.safetensors", "voxels.nc", "config.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_missing_and_truncated_files_are_named(saved, name, damage):
    # Catches a library's own error, which does not say which file.
    path = saved / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match=name):
        MeanEncoder.from_directory(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '{"class": "X"}'])
def test_a_configuration_of_something_else_is_refused(tmp_path, content):
    # Catches KeyError on somebody else's config.json.
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(FileError, match="lacks"):
        read_config(tmp_path)


def test_parameters_are_made_plain_or_refused():
    # Catches numpy types that JSON cannot write, and objects that would be saved as text.
    assert plain("p", {"a": np.arange(2), "b": (np.float64(0.5), None)}) == {
        "a": [0, 1],
        "b": [0.5, None],
    }
    for value in (object(), float("nan"), [1j]):
        with pytest.raises(InputError, match="parameter p="):
            plain("p", value)
