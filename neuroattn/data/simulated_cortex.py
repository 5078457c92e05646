"""A cortex whose truth is known: retinotopic early voxels, and category voxels that route."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.reader import Reader
from neuroattn.data.scenes import CATEGORIES, Scenes, make_scenes
from neuroattn.data.schema import response_set
from neuroattn.errors import InputError
from neuroattn.features.base import FeatureBasis
from neuroattn.features.gabor import GaborPyramid
from neuroattn.images import ImageArray

Array = NDArray[np.float64]
Place = tuple[int, int, int]

#: Early areas: intercept and slope (tokens, tokens a token of eccentricity) of the receptive-field
#: radius, and the MNI centre (mm) of the left hemisphere's voxels.
EARLY_AREAS: dict[str, tuple[float, float, tuple[int, int, int]]] = {
    "V1": (0.45, 0.08, (-8, -92, 2)),
    "V2": (0.55, 0.12, (-16, -96, 12)),
    "V3": (0.65, 0.17, (-26, -90, 18)),
    "V4": (0.95, 0.25, (-28, -78, -12)),
}
#: Category areas: the category that each one prefers and its MNI centre (mm) on the left.
CATEGORY_AREAS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "FFA": ("face", (-40, -50, -20)),
    "EBA": ("body", (-46, -74, 4)),
    "PPA": ("place", (-26, -44, -10)),
    "VWFA": ("word", (-46, -60, -12)),
    "food": ("food", (-32, -64, -12)),
}
_AFFINE = ((-2.0, 0, 0, 90), (0, 2.0, 0, -126), (0, 0, 2.0, -72), (0, 0, 0, 1))
_SHAPE = (91, 109, 91)


@dataclass(frozen=True)
class Scanner:
    """What the measurement adds to the signal.

    Parameters
    ----------
    ncsnr : tuple of float
        Range of the voxels' noise-ceiling signal-to-noise ratio (standard deviation of the signal
        over that of a single presentation's noise), drawn uniformly.
    drift : float
        Fraction of the noise variance that is slow drift within a run, 0..1.
    gain : float
        Standard deviation of the logarithm of the gain of each voxel in each session.
    session_trials, run_trials : int
        Presentations in a session and in a run.
    """

    ncsnr: tuple[float, float] = (0.5, 1.3)
    drift: float = 0.1
    gain: float = 0.15
    session_trials: int = 750
    run_trials: int = 63


class SimulatedCortex(Reader):
    """Simulated fMRI responses to procedural scenes, with the truth that made them.

    Early voxels (V1 to V4) read a feature basis through a Gaussian receptive field that stays
    where it is and grows with eccentricity; each hemisphere sees the opposite half of the field.
    A category voxel (FFA, EBA, PPA, VWFA, food) reads the features averaged **over the visible
    pixels of the objects of its category, wherever they are**, and is silent when there is none:
    routing by content, which no static receptive field can do. Every voxel has its own weights
    on the channels. Signals have unit variance over the images; noise (white, and drift within
    runs) is scaled so that a voxel's ``ncsnr`` is known exactly; sessions differ in offset and
    gain.

    It is a test bench: it shows whether an encoder recovers routing that is there. It is no
    evidence that cortex routes this way, and its categories are easier than natural ones.

    Parameters
    ----------
    scenes : int
        Number of different images.
    size : int
        Image height and width in pixels.
    repeats : int
        Presentations of each image.
    subjects : int
        Subjects, all of whom see the same sequence; their voxels stand side by side.
    voxels : tuple of int
        Voxels of each early area and of each category area, in a subject.
    seed : int
        Seed of everything; the same seed gives the same digits.
    scanner : Scanner, optional
        Noise, drift, gain and session length.
    basis : FeatureBasis, optional
        The features that the cortex reads; :class:`~neuroattn.features.GaborPyramid` by default.

    Raises
    ------
    InputError
        If a count is not positive or the scanner's ranges make no sense; later, if the scenes are
        too few to show every category twice.
    """

    def __init__(
        self,
        scenes: int = 2000,
        size: int = 112,
        repeats: int = 3,
        subjects: int = 1,
        voxels: tuple[int, int] = (48, 32),
        seed: int = 0,
        scanner: Scanner | None = None,
        basis: FeatureBasis | None = None,
    ) -> None:
        counts = {"scenes": scenes, "size": size, "repeats": repeats, "subjects": subjects}
        for name, value in {**counts, "voxels": min(voxels)}.items():
            if value < 1:
                raise InputError(f"{name}={value} must be at least 1.")
        self.n_scenes, self.size, self.repeats, self.subjects = scenes, size, repeats, subjects
        self.voxels, self.seed = tuple(voxels), seed
        self.scanner = scanner or Scanner()
        low, high = self.scanner.ncsnr
        if not 0 < low <= high or not 0 <= self.scanner.drift <= 1:
            raise InputError(
                f"scanner={self.scanner} must have 0 < ncsnr[0] <= ncsnr[1] and drift within 0..1."
            )
        self.basis = basis or GaborPyramid(size=size)

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])

    @cached_property
    def scenes(self) -> Scenes:
        """The images and the masks of their objects."""
        return make_scenes(self.n_scenes, self.size, self._rng(0))

    def images(self) -> ImageArray:
        """Return the scenes as images with ids ``scene-00000`` and on."""
        return ImageArray(self.scenes.images, tuple(_image_ids(self.n_scenes)))

    @cached_property
    def _tokens(self) -> Array:
        """Features with zero mean and unit variance in each channel."""
        batches = np.array_split(np.arange(self.n_scenes), max(1, self.n_scenes // 64))
        blocks = [self.basis.extract(list(self.scenes.images[batch])) for batch in batches]
        tokens = np.concatenate(blocks).astype(np.float64)
        spread = tokens.std(axis=(0, 1))
        scaled: Array = (tokens - tokens.mean(axis=(0, 1))) / np.where(spread > 0, spread, 1.0)
        return scaled

    @cached_property
    def routing(self) -> Array:
        """Share of each token in its image's objects of a category, (image, category, token).

        Sums to 1 over the tokens where the category is shown, 0 where it is not.
        """
        rows, columns = self.basis.grid
        masks = self.scenes.masks().astype(np.float32)
        edges = [np.linspace(0, self.size, n + 1).astype(int)[:-1] for n in (rows, columns)]
        covered = np.add.reduceat(np.add.reduceat(masks, edges[0], axis=2), edges[1], axis=3)
        flat = covered.reshape(*covered.shape[:2], rows * columns).astype(np.float64)
        total = flat.sum(axis=2, keepdims=True)
        shares: Array = np.divide(flat, total, out=np.zeros_like(flat), where=total > 0)
        return shares

    @cached_property
    def _truth(self) -> xr.Dataset:
        parts = [self._subject(subject) for subject in range(self.subjects)]
        truth = xr.concat(parts, dim="voxel", data_vars="all", join="exact")
        routing = ("image", "category_name", "token"), self.routing
        coords = {"image": _image_ids(self.n_scenes), "category_name": list(CATEGORIES)}
        return truth.assign(routing=routing).assign_coords(coords)

    def truth(self) -> xr.Dataset:
        """Return what made the responses.

        Returns
        -------
        xarray.Dataset
            ``signal (image, voxel)`` noiseless, unit variance; ``ncsnr (voxel)``; ``ceiling
            (voxel)`` fraction of signal variance in the mean of all repeats; ``rf_row``,
            ``rf_column``, ``rf_radius (voxel)`` in tokens (NaN in category areas); ``weights
            (voxel, channel)``; ``area``, ``category`` (voxel; "" in early areas);
            ``routing (image, category_name, token)``.
        """
        return self._truth.copy(deep=True)

    def _subject(self, subject: int) -> xr.Dataset:
        rng = self._rng(1, subject)
        taken: set[Place] = set()
        columns = [
            *(self._early(area, rng, taken) for area in EARLY_AREAS),
            *(self._category(area, rng, taken) for area in CATEGORY_AREAS),
        ]
        voxels = xr.concat(columns, dim="voxel", data_vars="all", join="exact")
        count = voxels.sizes["voxel"]
        ncsnr = rng.uniform(*self.scanner.ncsnr, count)
        ceiling = ncsnr**2 / (ncsnr**2 + 1 / self.repeats)
        return voxels.assign(
            ncsnr=("voxel", ncsnr),
            ceiling=("voxel", ceiling),
            subject=("voxel", [f"sub-{subject + 1:02d}"] * count),
        )

    def _early(self, area: str, rng: np.random.Generator, taken: set[Place]) -> xr.Dataset:
        intercept, slope, centre = EARLY_AREAS[area]
        rows, columns = self.basis.grid
        count = self.voxels[0]
        left = np.arange(count) < (count + 1) // 2
        reach = min(rows, columns) / 2
        eccentricity = np.exp(rng.uniform(np.log(0.05), np.log(0.9), count)) * reach
        angle = rng.uniform(-np.pi / 2, np.pi / 2, count) + np.where(left, 0, np.pi)
        row = (rows - 1) / 2 - eccentricity * np.sin(angle)
        column = (columns - 1) / 2 + eccentricity * np.cos(angle)
        radius = intercept + slope * eccentricity
        token_row, token_column = np.divmod(np.arange(rows * columns), columns)
        distance = (token_row - row[:, None]) ** 2 + (token_column - column[:, None]) ** 2
        field = np.exp(-distance / (2 * radius[:, None] ** 2))
        field /= field.sum(axis=1, keepdims=True)
        weights = rng.standard_normal((count, self._tokens.shape[2]))
        seen = np.einsum("vt,itc->ivc", field, self._tokens, optimize=True)
        signal = np.einsum("ivc,vc->iv", seen, weights)
        places = {"rf_row": row, "rf_column": column, "rf_radius": radius}
        ijk = _blob(centre, left, taken)
        return _voxels(area, "", signal, weights, left, ijk, places)

    def _category(self, area: str, rng: np.random.Generator, taken: set[Place]) -> xr.Dataset:
        category, centre = CATEGORY_AREAS[area]
        count = self.voxels[1]
        lefts = count if area == "VWFA" else (count + 1) // 2
        left: NDArray[np.bool_] = np.arange(count) < lefts
        shown = self.routing[:, CATEGORIES.index(category)]
        present: NDArray[np.bool_] = np.asarray(shown.any(axis=1))
        if present.sum() < 2:
            raise InputError(
                f"scenes={self.n_scenes} (seed {self.seed}) show a {category} {present.sum()} "
                "times; every category is needed in at least 2 scenes. Simulate more."
            )
        weights = rng.standard_normal((count, self._tokens.shape[2]))
        content = np.einsum("it,itc->ic", shown, self._tokens, optimize=True) @ weights.T
        spread = content[present].std(axis=0)
        content, weights = (
            (content - content[present].mean(axis=0)) / spread,
            weights / spread[:, None],
        )
        preference = rng.uniform(0.5, 1.5, count)
        signal = np.where(present[:, None], preference + content, 0.0)
        nowhere = np.full(count, np.nan)
        places = {"rf_row": nowhere, "rf_column": nowhere, "rf_radius": nowhere}
        ijk = _blob(centre, left, taken)
        return _voxels(area, category, signal, weights, left, ijk, places)

    def responses(self) -> xr.Dataset:
        """Return the measured responses as a response set, not z-scored."""
        truth = self._truth
        order, session, run, repetition = self._sequence()
        measured = self._measure(truth, order, session, run)
        areas = [*EARLY_AREAS, *CATEGORY_AREAS]
        ijk = truth["ijk"].values
        return response_set(
            measured.astype(np.float32),
            presentation={
                "image": np.asarray(_image_ids(self.n_scenes))[order],
                "session": session,
                "run": run,
                "repetition": repetition,
            },
            voxel={
                "subject": truth["subject"].values,
                "hemisphere": truth["hemisphere"].values,
                **{axis: ijk[:, a] for a, axis in enumerate("ijk")},
            },
            roi={area: truth["area"].values == area for area in areas},
            attrs={
                "space": "MNI",
                "affine": [float(x) for row in _AFFINE for x in row],
                "shape": list(_SHAPE),
                "units": "arbitrary",
                "zscored": "none",
                "source": f"neuroattn SimulatedCortex, seed {self.seed}",
                "licence": "BSD-3-Clause",
            },
        )

    def _sequence(self) -> tuple[NDArray[np.int64], ...]:
        rng = self._rng(2)
        order = np.concatenate([rng.permutation(self.n_scenes) for _ in range(self.repeats)])
        repetition = np.repeat(np.arange(self.repeats), self.n_scenes)
        trial = np.arange(len(order))
        sessions = max(1, round(len(order) / self.scanner.session_trials))
        session = trial * sessions // len(order)
        first = np.searchsorted(session, session)
        run = (trial - first) // self.scanner.run_trials
        return order, session, run, repetition

    def _measure(
        self,
        truth: xr.Dataset,
        order: NDArray[np.int64],
        session: NDArray[np.int64],
        run: NDArray[np.int64],
    ) -> Array:
        rng, scanner = self._rng(3), self.scanner
        signal, spread = truth["signal"].values[order], 1 / truth["ncsnr"].values
        white = rng.standard_normal(signal.shape)
        drift = _drift(session, run, signal.shape[1], rng)
        noise = np.sqrt(1 - scanner.drift) * white + np.sqrt(scanner.drift) * drift
        shape = (session.max() + 1, signal.shape[1])
        gain = np.exp(scanner.gain * rng.standard_normal(shape))
        offset = rng.standard_normal(shape)
        measured: Array = gain[session] * (signal + spread * noise) + offset[session]
        return measured


def _image_ids(count: int) -> list[str]:
    return [f"scene-{index:05d}" for index in range(count)]


def _drift(
    session: NDArray[np.int64], run: NDArray[np.int64], voxels: int, rng: np.random.Generator
) -> Array:
    """Half and whole cosine over each run with random amplitudes; unit expected variance."""
    drift = np.empty((len(run), voxels))
    starts = np.flatnonzero(np.r_[True, (np.diff(run) != 0) | (np.diff(session) != 0)])
    for start, stop in zip(starts, [*starts[1:], len(run)], strict=True):
        phase = (np.arange(stop - start) + 0.5) / (stop - start)
        waves = np.sqrt(2) * np.cos(np.pi * np.outer(phase, [1, 2]))
        drift[start:stop] = waves @ rng.standard_normal((2, voxels)) / np.sqrt(2)
    return drift


def _blob(
    centre: tuple[int, int, int], left: NDArray[np.bool_], taken: set[Place]
) -> NDArray[np.int64]:
    """Voxel indices (voxel, 3): in each hemisphere the free places nearest to the centre.

    They are added to ``taken``.
    """
    radius = int(np.ceil(np.cbrt(len(left) + len(taken))))
    reach = np.arange(-radius, radius + 1)
    cube = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), axis=-1).reshape(-1, 3)
    ball = cube[np.argsort((cube**2).sum(axis=1), kind="stable")]
    inverse = np.linalg.inv(np.asarray(_AFFINE))
    midline = inverse[0, 3]
    ijk = np.empty((len(left), 3), np.int64)
    for sign, side in ((1, left), (-1, ~left)):
        place = (inverse @ (sign * centre[0], centre[1], centre[2], 1))[:3]
        around = np.rint(place).astype(int) + ball
        inside = ((around >= 0) & (around < _SHAPE)).all(axis=1)
        inside &= np.sign(around[:, 0] - midline) == np.sign(place[0] - midline)
        nearest = ((i, j, k) for i, j, k in around[inside].tolist() if (i, j, k) not in taken)
        chosen = list(islice(nearest, int(side.sum())))
        ijk[side] = np.reshape(chosen, (-1, 3))
        taken.update(chosen)
    return ijk


def _voxels(
    area: str,
    category: str,
    signal: Array,
    weights: Array,
    left: NDArray[np.bool_],
    ijk: NDArray[np.int64],
    places: dict[str, Array],
) -> xr.Dataset:
    spread = signal.std(axis=0)
    return xr.Dataset(
        {
            "signal": (("image", "voxel"), (signal - signal.mean(axis=0)) / spread),
            "weights": (("voxel", "channel"), weights / spread[:, None]),
            "hemisphere": ("voxel", np.where(left, "left", "right")),
            "area": ("voxel", [area] * len(left)),
            "category": ("voxel", [category] * len(left)),
            "ijk": (("voxel", "axis"), ijk),
            **{name: ("voxel", place) for name, place in places.items()},
        }
    )
