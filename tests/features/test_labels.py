"""Labels: looked up by id, one token."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.features import FeatureStore, Labels
from neuroattn.images import ImageArray

IMAGES = ImageArray(np.zeros((3, 2, 2), np.uint8), ids=["a", "b", "c"])


def test_categories_become_indicators_by_id():
    """Catches rows given in the order of the table instead of the images."""
    labels = Labels({"c": "face", "b": ["body", "face"], "a": "place"})
    assert labels.channel_names == ("body", "face", "place")
    tokens = labels.extract_images(IMAGES, [2, 0, 1])["tokens"]
    assert tokens.tolist() == [[[0, 1, 0]], [[0, 0, 1]], [[1, 1, 0]]]
    assert labels.grid == (1, 1)


def test_numbers_are_channels():
    """Catches numbers taken for categories."""
    labels = Labels({"a": [1, 2.5], "b": np.array([0.0, -1.0]), "c": [3, 4]})
    assert labels.extract_images(IMAGES, [1])["tokens"].tolist() == [[[0, -1]]]
    assert Labels({"a": 2, "b": 3, "c": 4}).channels == 1


def test_csv_holds_numbers_or_categories(tmp_path):
    """Catches a header read as a row."""
    path = tmp_path / "labels.csv"
    path.write_text("image,valence,size\na,1,2\nb,3,4\nc,5,6\n")
    assert Labels(path).channel_names == ("valence", "size")
    assert Labels(path).extract_images(IMAGES, [2])["tokens"].tolist() == [[[5, 6]]]
    path.write_text("image,main,other\na,face,\nb,body,face\nc,food,\n")
    assert Labels(str(path)).channel_names == ("body", "face", "food")
    assert Labels(path).extract_images(IMAGES, [0])["tokens"].tolist() == [[[0, 1, 0]]]


@pytest.mark.parametrize("text", ["", "image,x\na\n", "image,x\na,1\na,2\n", "image\na\n"])
def test_broken_csv_is_refused_with_its_place(tmp_path, text):
    """Catches a short row padded in silence and a repeated id of which the last wins."""
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(FileError, match=r"labels\.csv"):
        Labels(path)


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"a": "face", "b": 1},
        {"a": [1, 2], "b": [1]},
        {"a": [float("nan")]},
        {"a": [[1]]},
        {"a": []},
    ],
)
def test_table_without_one_meaning_is_refused(table):
    """Catches ragged, mixed, empty and NaN rows."""
    with pytest.raises(InputError, match="table"):
        Labels(table)


def test_image_without_label_is_named():
    """Catches a row of zeros in its place."""
    with pytest.raises(MismatchError, match=r"1 of 2 .* first is 'c'"):
        Labels({"a": "x", "b": "y"}).extract_images(IMAGES, [0, 2])


def test_arrays_without_ids_are_refused_and_the_store_fills_by_id(tmp_path):
    """Catches a store that hands over pixels only."""
    labels = Labels({"a": "x", "b": "y", "c": "x"})
    with pytest.raises(InputError, match="extract_images"):
        labels.extract([IMAGES.read(0)])
    features = FeatureStore(tmp_path).fill(labels, IMAGES, batch_size=2)
    assert features.tokens.values[:, 0].tolist() == [[1, 0], [0, 1], [1, 0]]


def test_key_changes_with_the_table():
    """Catches a key of the channel names alone."""
    assert Labels({"a": "x", "b": "y"}).key() != Labels({"a": "y", "b": "x"}).key()
    assert Labels({"a": "x", "b": "y"}).key() == Labels({"b": "y", "a": "x"}).key()
