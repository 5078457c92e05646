"""Loading by class name, from an explicit list."""

from __future__ import annotations

import importlib
import json

import pytest

import neuroattn
from neuroattn.encoders import RidgeEncoder
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.loading import ENCODERS, load
from neuroattn.errors import FileError, UnknownNameError
from tests.encoders.small import small_features, small_responses

FEATURES = small_features()


@pytest.fixture
def saved(tmp_path):
    RidgeEncoder(view="mean").fit(FEATURES, small_responses(FEATURES, list(range(20)))).save(
        tmp_path
    )
    return tmp_path


def test_the_class_comes_from_the_configuration(saved):
    # Catches a loader that always makes the same class.
    assert type(load(saved)) is RidgeEncoder
    assert type(neuroattn.load(str(saved))) is RidgeEncoder


def test_an_unknown_class_is_answered_with_the_known_ones(saved):
    # Catches an import of whatever a configuration names.
    path = saved / "config.json"
    for name in ("RidgeEncoders", "os.system", "Encoder"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"class": name}))
        with pytest.raises(UnknownNameError, match=r"config\.json.*Allowed:.*RidgeEncoder"):
            load(saved)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    # Catches a traceback about config.json for a mistyped path.
    with pytest.raises(FileError, match="holds no fitted encoder"):
        load(tmp_path)
    with pytest.raises(FileError, match="does not exist"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_every_registered_name_is_an_encoder(name):
    # Catches a registry that points to a module or name that is gone.
    found = getattr(importlib.import_module(ENCODERS[name]), name)
    assert issubclass(found, Encoder)
    assert getattr(neuroattn.encoders, name) is found
