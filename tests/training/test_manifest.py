"""The manifest says what a run was made with."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata

import numpy as np
import pytest

import neuroattn
from neuroattn.training import manifest
from neuroattn.training.manifest import Manifest, git_revision, package_versions, response_hash
from tests.training.small import small_features, small_responses

FEATURES = small_features(20)
RESPONSES = small_responses(FEATURES, range(20))


def test_a_manifest_is_plain_data_with_every_promised_fact():
    # Catches numpy values that JSON cannot hold, and facts that are forgotten.
    source = RESPONSES.assign_attrs(
        source="mine", licence="CC0", dropped_nan_voxels=np.int64(2), dropped_constant_voxels=1
    )
    facts = Manifest("neuroattn fit", 7).facts(source, "key", encoders=["A"])
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert {"revision", "device", "dtype", "threads", "machine", "started_utc"} <= set(facts)
    assert facts["command"] == "neuroattn fit"
    assert facts["seed"] == 7
    assert facts["neuroattn"] == neuroattn.__version__
    assert facts["encoders"] == ["A"]
    assert facts["data"] == {
        "source": "mine",
        "licence": "CC0",
        "responses_sha256": response_hash(source),
        "features_key": "key",
        "dropped_nan_voxels": 2,
        "dropped_constant_voxels": 1,
    }
    assert 0 <= facts["wall_seconds"] < 60
    assert 0.05 < facts["peak_memory_gib"] < 100


def test_versions_are_those_that_are_installed():
    # Catches versions of the build instead of the environment.
    found = package_versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == metadata.version("torch")
    assert found["numpy"] == np.__version__


def test_a_package_that_is_not_installed_is_said_to_be_missing(monkeypatch):
    # Catches a run that fails at its end for want of an optional package.
    monkeypatch.setattr(manifest, "_PACKAGES", ("no-such-package-here",))
    assert package_versions()["no-such-package-here"] == "not installed"


@pytest.mark.parametrize("change", ["value", "order", "image"])
def test_the_data_hash_sees_values_order_and_images(change):
    # Catches a hash of the shape, or of the first rows.
    assert response_hash(RESPONSES.copy(deep=True)) == response_hash(RESPONSES)
    other = RESPONSES.copy(deep=True)
    if change == "value":
        other["response"][-1, -1] += 1e-3
    elif change == "order":
        other = other.isel(presentation=slice(None, None, -1))
    else:
        other["image"].values[19] = "other"
    assert response_hash(other) != response_hash(RESPONSES)


def test_the_revision_is_that_of_a_checkout_or_unknown(monkeypatch):
    # Catches an installed package that fails for want of git.
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert git_revision() == "unknown"
