"""Gabor pyramid: gratings, phase, place, and a convolution done the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import fftconvolve

from neuroattn.errors import InputError
from neuroattn.features import GaborPyramid
from neuroattn.features.gabor import ENVELOPE, GAINS


def grating(size: int, wavelength: float, angle: float, phase: float = 0.0) -> np.ndarray:
    row, column = np.mgrid[:size, :size]
    along = column * np.cos(np.radians(angle)) + row * np.sin(np.radians(angle))
    wave = 127.5 + 127.5 * np.cos(2 * np.pi * along / wavelength + phase)
    return np.repeat(np.round(wave).astype(np.uint8)[..., None], 3, axis=2)


def inner(tokens: np.ndarray, basis: GaborPyramid, border: int = 3) -> np.ndarray:
    grid = tokens.reshape(len(tokens), *basis.grid, -1)
    return grid[:, border:-border, border:-border]


@pytest.mark.parametrize("scale", [0, 1, 2])
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_grating_drives_its_own_channel_most(scale, turn):
    """Catches swapped axes, angles that turn the wrong way, and a wrong gain at the peak."""
    basis = GaborPyramid()
    wavelength, angle = 4 * 2**scale, 45 * turn
    energy = inner(basis.extract([grating(112, wavelength, angle)]), basis)[..., :12].mean(
        (0, 1, 2)
    )
    assert energy.argmax() == scale * 4 + turn
    assert basis.channel_names[energy.argmax()] == f"energy {wavelength}px {angle}deg"
    # a matched grating of full contrast has energy 1 before the gain
    assert energy.max() / GAINS["energy"] == pytest.approx(1, abs=0.01)
    assert np.sort(energy)[-2] < energy.max() / 4


def test_energy_does_not_depend_on_phase():
    """Catches real filters: their response oscillates with the phase."""
    basis = GaborPyramid()
    phases = [grating(112, 8, 45, phase) for phase in np.linspace(0, 2 * np.pi, 7)]
    energy = inner(basis.extract(phases), basis)[..., 5]
    assert np.ptp(energy, axis=0).max() < 0.02 * energy.mean()


def test_energy_agrees_with_direct_convolution():
    """Catches a wrong window, shift or pooling: the oracle convolves in space, pixel by pixel."""
    size, grid = 48, 6
    basis = GaborPyramid(size=size, grid=grid, scales=2, orientations=3)
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    luminance = image / 255 @ np.array([0.299, 0.587, 0.114])
    tokens = basis.extract([image])[0].reshape(grid, grid, -1)
    for channel in range(6):
        wavelength, angle = 4 * 2 ** (channel // 3), np.pi * (channel % 3) / 3
        spread = ENVELOPE * wavelength
        row, column = np.mgrid[-40:41, -40:41]
        envelope = np.exp(-(row**2 + column**2) / (2 * spread**2)) / (2 * np.pi * spread**2)
        along = column * np.cos(angle) + row * np.sin(angle)
        gabor = envelope * np.exp(2j * np.pi * along / wavelength)
        kernel = gabor - fftconvolve(gabor, envelope, mode="same")
        padded = np.pad(luminance, 40, mode="symmetric")
        magnitude = 4 * np.abs(fftconvolve(padded, kernel, mode="valid"))
        # sampled every 2 or 4 pixels, each sample standing for the pixels around it
        step = 2 * 2 ** (channel // 3)
        held = np.kron(magnitude[:-1:step, :-1:step], np.ones((2 * step, 2 * step)))
        half = 2 * (size // grid)
        held = held[step - 1 :, step - 1 :]
        cells = [
            [held[r : r + half, c : c + half].mean() for c in range(half, 5 * half, half)]
            for r in range(half, 5 * half, half)
        ]
        found = tokens[1:-1, 1:-1, channel] / GAINS["energy"]
        np.testing.assert_allclose(found, cells, atol=0.005 * np.mean(cells))


def test_shift_by_one_token_shifts_the_map_by_one_token():
    """Catches tokens in column-major order and samples that drift over the grid."""
    basis = GaborPyramid()
    scene = np.random.default_rng(1).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    here, right, down = (scene[r : r + 112, c : c + 112] for r, c in ((8, 8), (8, 16), (16, 8)))
    maps = basis.extract([here, right, down]).reshape(3, 14, 14, -1)
    middle = slice(4, 10)
    moved = slice(5, 11)
    np.testing.assert_allclose(maps[1, middle, middle], maps[0, middle, moved], atol=0.02)
    np.testing.assert_allclose(maps[2, middle, middle], maps[0, moved, middle], atol=0.02)
    assert np.abs(maps[1, middle, middle] - maps[0, middle, middle]).max() > 0.5


def test_token_index_is_row_times_columns_plus_column():
    """Catches a transposed grid: only one cell of the image is coloured."""
    basis = GaborPyramid(size=56, grid=7, scales=2)
    image = np.full((56, 56, 3), 128, np.uint8)
    image[2 * 8 : 3 * 8, 5 * 8 : 6 * 8] = (255, 0, 0)
    tokens = basis.extract([image])[0]
    for name in ("luminance", "red-green"):
        values = np.abs(tokens[:, basis.channel_names.index(name)])
        assert np.flatnonzero(values > values.mean() * 3).tolist() == [2 * 7 + 5]


@pytest.mark.parametrize("shade", [0, 77, 255])
def test_uniform_grey_has_no_energy_contrast_or_colour(shade):
    """Catches a response to uniform light, which would copy luminance into every channel."""
    basis = GaborPyramid()
    tokens = basis.extract([np.full((30, 50, 3), shade, np.uint8)])[0]
    luminance = basis.channel_names.index("luminance")
    others = np.delete(tokens, luminance, axis=1)
    assert np.abs(others).max() < 1e-4
    expected = (shade / 255 - 0.5) * GAINS["luminance"]
    np.testing.assert_allclose(tokens[:, luminance], expected, atol=1e-5)


def test_uniform_regions_beside_an_edge_have_no_energy():
    """Catches filters without the term that removes the response to uniform light."""
    basis = GaborPyramid()
    halves = np.zeros((112, 112, 3), np.uint8)
    halves[:, 56:] = 255
    energy = basis.extract([halves]).reshape(14, 14, -1)[..., :12]
    assert energy[:, [0, 13]].max() < 0.005
    assert energy[:, [6, 7], 8].min() > 1


def test_colour_channels_have_the_right_sign():
    """Catches red and blue swapped."""
    basis = GaborPyramid()
    colours = [np.full((8, 8, 3), rgb, np.uint8) for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    tokens = basis.extract(colours)[:, 0, [14, 15]] / GAINS["opponent"]
    np.testing.assert_allclose(tokens, [[1, -0.5], [-1, -0.5], [0, 1]], atol=1e-5)


def test_images_do_not_influence_each_other():
    """Catches normalisation over a batch, and a chunk written to the wrong place."""
    images = np.random.default_rng(2).integers(0, 256, (19, 40, 40, 3), dtype=np.uint8)
    basis = GaborPyramid(size=28, grid=7, scales=2)
    together = basis.extract(list(images))
    assert np.array_equal(together, np.concatenate([basis.extract([image]) for image in images]))
    assert together.shape == (19, 49, basis.channels)
    assert together.dtype == np.float32
    assert basis.extract([]).shape == (0, 49, basis.channels)


def test_key_changes_with_every_argument_and_only_then():
    """Catches an argument forgotten in the key: a stale entry of the store would be served."""
    given = {
        "size": 112,
        "grid": 14,
        "orientations": 4,
        "scales": 3,
        "wavelength": 4.0,
        "colour": True,
    }
    other = {
        "size": 56,
        "grid": 7,
        "orientations": 6,
        "scales": 2,
        "wavelength": 5.0,
        "colour": False,
    }
    keys = {GaborPyramid(**{**given, name: value}).key() for name, value in other.items()}
    assert len(keys | {GaborPyramid(**given).key()}) == len(given) + 1
    assert GaborPyramid(**given).key() == GaborPyramid().key()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"size": 100, "grid": 14}, "size=100, grid=14"),
        ({"orientations": 0}, "orientations=0"),
        ({"wavelength": 2.0}, "wavelength=2.0"),
        ({"scales": 5}, "wavelength=4.0 with scales=5"),
    ],
)
def test_impossible_arguments_are_refused(bad, message):
    """Catches filters beyond Nyquist or larger than the image."""
    with pytest.raises(InputError, match=message):
        GaborPyramid(**bad)
