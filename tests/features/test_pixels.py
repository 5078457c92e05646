"""Pixels: cells in reading order."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.features import Pixels


def test_average_is_the_mean_colour_of_each_cell():
    """Catches cells taken in the wrong order: a loop over rows and columns is the oracle."""
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    tokens = Pixels(size=12, grid=3).extract([image])[0]
    for row in range(3):
        for column in range(3):
            cell = image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] / 255
            np.testing.assert_allclose(tokens[row * 3 + column], cell.mean((0, 1)), rtol=1e-5)


def test_all_pixels_stand_in_the_documented_channel():
    """Catches colour before place in the channel order."""
    image = np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    basis = Pixels(size=6, grid=2, average=False)
    tokens = basis.extract([image])[0]
    assert tokens.shape == (4, basis.channels) == (4, 27)
    row, column, colour = 2, 1, 2
    channel = (row * 3 + column) * 3 + colour
    assert tokens[1, channel] == np.float32(image[row, 3 + column, colour]) / np.float32(255)


def test_key_changes_with_every_argument():
    """Catches an argument forgotten in the key."""
    variants = [Pixels(), Pixels(size=56), Pixels(grid=7), Pixels(average=False)]
    assert len({basis.key() for basis in variants}) == 4


def test_size_must_be_a_multiple_of_grid():
    """Catches cut-off borders."""
    with pytest.raises(InputError, match="size=10 with grid=3"):
        Pixels(size=10, grid=3)
