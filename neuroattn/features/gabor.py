"""Oriented energy, contrast, luminance and colour opponency on a token grid, without downloads."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import InputError
from neuroattn.features.base import FeatureBasis
from neuroattn.images import resize, to_float

# Envelope (standard deviation) over wavelength for a bandwidth of one octave at half height:
# sqrt(ln 2 / 2) / pi * (2 + 1) / (2 - 1).
ENVELOPE = math.sqrt(math.log(2) / 2) / math.pi * 3
LUMINANCE = (0.299, 0.587, 0.114)
# Images whose spectra are held at once; small enough to stay in the processor's cache.
CHUNK = 16
# About one over the standard deviation of each kind of channel over tokens of photographs.
GAINS = {
    "energy": 24.0,
    "contrast": 14.0,
    "luminance": 4.0,
    "opponent": 6.0,
    "colour contrast": 24.0,
}


class GaborPyramid(FeatureBasis):
    """Gabor energy at several scales and orientations, with contrast, luminance and colour.

    The image is resized to a square and filtered with complex Gabor functions without response
    to uniform light. The magnitude (the square root of the energy of a quadrature pair) does not
    depend on phase; it is averaged within each token's cell. To this come the mean luminance and
    its standard deviation in the cell and, with ``colour``, mean and standard deviation of the
    red-green and blue-yellow differences. Fixed gains bring the channels of photographs to a
    standard deviation of about one.

    Parameters
    ----------
    size : int
        Height and width in pixels after resizing; a multiple of ``grid``.
    grid : int
        Rows and columns of the token grid.
    orientations : int
        Orientations, evenly spaced over 180 degrees. Orientation 0 is modulated along the row
        (vertical stripes); the angle grows from rightwards to downwards.
    scales : int
        Wavelengths, each twice the one before.
    wavelength : float
        The shortest wavelength in pixels of the resized image, at least 4.
    colour : bool
        Add the four colour channels.

    Attributes
    ----------
    channel_names : tuple of str
        What each channel is, e.g. ``"energy 8px 45deg"``.

    References
    ----------
    Daugman, J. G. (1985). Uncertainty relation for resolution in space, spatial frequency, and
    orientation optimized by two-dimensional visual cortical filters. JOSA A 2(7) (2-D Gabor
    functions; here less their blur by their own envelope, which removes uniform light).
    Adelson, E. H. and Bergen, J. R. (1985). Spatiotemporal energy models for the perception of
    motion. JOSA A 2(2) (energy of a quadrature pair).

    Examples
    --------
    >>> from neuroattn.features import GaborPyramid
    >>> basis = GaborPyramid(size=56, grid=7)
    >>> basis.extract([np.zeros((40, 60, 3), np.uint8)]).shape
    (1, 49, 18)
    """

    name = "gabor-pyramid"

    def __init__(
        self,
        size: int = 112,
        grid: int = 14,
        orientations: int = 4,
        scales: int = 3,
        wavelength: float = 4.0,
        colour: bool = True,
    ) -> None:
        if min(size, grid, orientations, scales) < 1 or size % grid:
            raise InputError(
                f"size={size}, grid={grid}, orientations={orientations}, scales={scales}: all are "
                "at least 1 and size is a multiple of grid, as 112 is of 14."
            )
        if not 4 <= wavelength <= size / 2**scales:
            raise InputError(
                f"wavelength={wavelength} with scales={scales} and size={size}: the shortest is at "
                f"least 4 pixels and the longest, {wavelength * 2 ** (scales - 1):g}, at most half "
                "the size. Take fewer scales or a larger size."
            )
        self.size, self.orientations, self.scales = size, orientations, scales
        self.wavelength, self.colour = float(wavelength), bool(colour)
        self.grid = (grid, grid)
        kinds = [
            (f"energy {wavelength * 2**scale:g}px {180 * turn / orientations:g}deg", "energy")
            for scale in range(scales)
            for turn in range(orientations)
        ]
        kinds += [("contrast", "contrast"), ("luminance", "luminance")]
        if colour:
            kinds += [("red-green", "opponent"), ("blue-yellow", "opponent")]
            kinds += [
                (f"{pair} contrast", "colour contrast") for pair in ("red-green", "blue-yellow")
            ]
        self.channel_names = tuple(name for name, _ in kinds)
        self.channels = len(kinds)
        self._gains = np.array([GAINS[kind] for _, kind in kinds], np.float32)
        self._padding, self._length = _padding(size, scales, self.wavelength)
        self._filters = [
            _filter(self._length, self.wavelength * 2**scale, 2 ** (scale + 1), turn / orientations)
            for scale in range(scales)
            for turn in range(orientations)
        ]
        self._pools = [
            _pool_matrix(size, grid, self._padding, self._length, 2 ** (scale + 1))
            for scale in range(scales)
        ]

    def extract(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return tokens, float32 of shape (image, grid * grid, channel)."""
        rows, columns = self.grid
        tokens = np.empty((len(images), rows * columns, self.channels), np.float32)
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            pixels = np.stack([to_float(resize(image, self.size, self.size)) for image in chunk])
            tokens[start : start + CHUNK] = self._tokens(pixels)
        return tokens

    def spec(self) -> dict[str, Any]:
        """Return the arguments and the constants of the filters."""
        return {
            "version": 1,
            "size": self.size,
            "grid": list(self.grid),
            "orientations": self.orientations,
            "scales": self.scales,
            "wavelength": self.wavelength,
            "colour": self.colour,
            "gains": GAINS,
        }

    def _tokens(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        luminance = pixels @ np.array(LUMINANCE, np.float32)
        mean, deviation = self._cells(luminance - np.float32(0.5))
        maps = [*self._energy(luminance), deviation, mean]
        if self.colour:
            red, green, blue = np.moveaxis(pixels, -1, 0)
            pairs = [self._cells(red - green), self._cells(blue - (red + green) / 2)]
            maps += [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
        return np.stack(maps, axis=-1).reshape(len(pixels), -1, self.channels) * self._gains

    def _cells(self, plane: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        grid, side = self.grid[0], self.size // self.grid[0]
        cells = plane.reshape(len(plane), grid, side, grid, side)
        return cells.mean(axis=(2, 4)), cells.std(axis=(2, 4))

    def _energy(self, luminance: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        from scipy import fft

        after = self._length - self.size - self._padding
        # Uniform light taken away first: it would leak into the filters by rounding.
        level = luminance.mean(axis=(1, 2), keepdims=True)
        border = ((0, 0), (self._padding, after), (self._padding, after))
        padded = np.pad(luminance - level, border, mode="symmetric")
        workers = min(4, os.cpu_count() or 1)
        spectrum = fft.fft2(padded, workers=workers)
        maps = []
        for number, (index, gain) in enumerate(self._filters):
            pool = self._pools[number // self.orientations]
            band = spectrum[:, index[0][:, None], index[1][None, :]] * gain
            magnitude = np.abs(fft.ifft2(band, workers=workers, overwrite_x=True))
            maps.append(pool @ magnitude @ pool.T)
        return maps


def _padding(size: int, scales: int, wavelength: float) -> tuple[int, int]:
    """Return the border before the image and the padded length, a multiple of every step."""
    from scipy import fft

    step = 2**scales
    # Whole steps keep the samples at the same places in every cell; four standard deviations
    # keep the seam, where the mirrored borders meet, out of sight of the image.
    border = step * math.ceil(4 * ENVELOPE * wavelength * 2 ** (scales - 1) / step)
    return border, step * int(fft.next_fast_len(-(-(size + 2 * border) // step)))


def _filter(
    length: int, wavelength: float, step: int, turn: float
) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], NDArray[np.float32]]:
    """Return the spectral window of one Gabor filter and its gains in it.

    Only the window around the centre frequency is transformed back, which shifts the response
    to the baseband and samples it every ``step`` pixels; the magnitude stays what it was. The gain
    vanishes at zero frequency with its slope, so that the window's end there does not ring.
    """
    side = length // step
    centre = (math.sin(math.pi * turn) / wavelength, math.cos(math.pi * turn) / wavelength)
    bins = [np.arange(side) - side // 2 + round(length * c) for c in centre]
    row, column = np.meshgrid(bins[0] / length, bins[1] / length, indexing="ij")
    spread = 2 * (1 / (2 * math.pi * ENVELOPE * wavelength)) ** 2
    gain = np.exp(-((row - centre[0]) ** 2 + (column - centre[1]) ** 2) / spread)
    gain *= 1 - np.exp(-(row**2 + column**2) / spread)
    # A grating of contrast c is 0.5 + 0.5 c cos(.): its line in the spectrum is c / 4.
    gain *= 4 / step**2
    return (bins[0] % length, bins[1] % length), gain.astype(np.float32)


def _pool_matrix(size: int, grid: int, before: int, length: int, step: int) -> NDArray[np.float32]:
    """Return (grid, sample) weights: the mean over a cell of samples ``step`` pixels apart."""
    edges = before + np.linspace(0, size, grid + 1)
    centres = np.arange(length // step) * step + 0.5
    low = np.maximum(edges[:-1, None], centres - step / 2)
    high = np.minimum(edges[1:, None], centres + step / 2)
    overlap = np.clip(high - low, 0, None)
    weights: NDArray[np.float32] = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights
