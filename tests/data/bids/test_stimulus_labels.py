from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data.bids import BIDS, StimulusLabels, Trials
from neuroattn.errors import InputError
from neuroattn.features import FeatureStore
from tests.data.bids.builders import mini


def test_each_image_has_the_channel_of_its_entry(tmp_path):
    # Catches labels in the order of the types instead of the trials.
    made = mini(tmp_path)
    reader = BIDS(str(tmp_path), 1)
    basis = StimulusLabels(reader, "trial_type")
    assert basis.channel_names == ("cat", "dog")
    assert basis.grid == (1, 1)
    kinds = [kind for run in made.types for kind in run]
    features = FeatureStore(tmp_path / "store").fill(basis, reader.images(), progress=False)
    expected = [[float(kind == name) for name in ("cat", "dog")] for kind in kinds]
    np.testing.assert_array_equal(features["tokens"].values[:, 0], expected)


def test_another_column_or_other_labels_are_other_features(tmp_path):
    # Catches a store that gives the features of other labels.
    mini(tmp_path / "a"), mini(tmp_path / "b", runs=3)
    keys = {
        StimulusLabels(BIDS(str(tmp_path / name), 1), column).key()
        for name in "ab"
        for column in ("trial_type", "first_run")
    }
    assert len(keys) == 4


def test_a_missing_column_is_told(tmp_path):
    # Catches a misspelt column that makes no features.
    mini(tmp_path)
    reader = BIDS(str(tmp_path), 1, trials=Trials())
    with pytest.raises(InputError, match=r"'trial_typ'.*did you mean 'trial_type'.*shown"):
        StimulusLabels(reader, "trial_typ")
