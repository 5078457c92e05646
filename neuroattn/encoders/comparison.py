"""Several encoders on the same images: one split, or cross-validation by image."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import cached_property

import numpy as np
import xarray as xr
from sklearn.base import clone

from neuroattn.data.preparation import prepare
from neuroattn.data.reader import Reader
from neuroattn.data.split import Split, folds_by_image
from neuroattn.encoders.adaptive import AdaptiveEncoder
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.scoring import score_predictions
from neuroattn.errors import InputError
from neuroattn.features.base import FeatureBasis
from neuroattn.features.store import FeatureStore
from neuroattn.metrics import Score
from neuroattn.names import check_name
from neuroattn.training.datamodule import SplitPlan

Report = Callable[[str], None]

_GROUPS = ("run", "session")


class Comparison:
    """Fit and score encoders on the same images, the same split and the same ceilings.

    Encoders that are trained by gradient descent watch the validation images; the others
    cross-validate inside what they are given, and are given training and validation images.

    Parameters
    ----------
    source : Reader
        The data set.
    basis : FeatureBasis
        Turns images into tokens.
    encoders : dict of str to Encoder
        Name in the tables to unfitted encoder.
    split : SplitPlan, optional
        Fractions of one split by image; used when ``folds`` is 0.
    folds : int or {"run", "session"}
        Folds of a cross-validation by image; each image is predicted by the encoder that did not
        see it, and after the scores every encoder is fitted once more on all images. "run": one
        fold a run (leave one run out), for images that were shown in one run each, such as the
        trials of a BIDS data set; "session" likewise.
    seed : int
        Seed of the folds.
    threshold : float
        Voxels with a lower ceiling are excluded from normalised scores.
    zscore : bool
        Z-score each voxel within each session.
    store : str
        Folder of the feature store.
    store_dtype : {"float16", "float32"}
        Precision of the stored features.

    Raises
    ------
    InputError
        If there is no encoder, or ``folds`` is 1, negative, or another word.
    """

    def __init__(
        self,
        source: Reader,
        basis: FeatureBasis,
        encoders: dict[str, Encoder],
        split: SplitPlan | None = None,
        folds: int | str = 0,
        seed: int = 0,
        threshold: float = 0.1,
        zscore: bool = True,
        store: str = ".neuroattn/features",
        store_dtype: str = "float16",
    ) -> None:
        if not encoders:
            raise InputError("encoders is empty; name at least one.")
        for name in encoders:
            if not re.fullmatch(r"\w[\w .()+-]*", name):
                raise InputError(
                    f"encoders has the name {name!r}; a name is a folder too: letters, digits, "
                    "spaces and _.()+- are allowed, and it begins with a letter or digit."
                )
            if isinstance(encoders[name], AdaptiveEncoder):
                raise InputError(
                    f"encoders has {name!r}, a {type(encoders[name]).__name__}: it learns from "
                    "some subjects and is written for others, which one split by image cannot "
                    "say. Use `neuroattn fit` with its recipe, or scaling_curve in Python."
                )
        if isinstance(folds, str):
            check_name("folds", folds, _GROUPS)
        elif folds == 1 or folds < 0:
            raise InputError(
                f"folds={folds} must be 0 (one split), at least 2, or any of {', '.join(_GROUPS)}."
            )
        self.source, self.basis, self.encoders = source, basis, dict(encoders)
        self.plan, self.folds, self.seed = split or SplitPlan(), folds, seed
        self.threshold, self.zscore = threshold, zscore
        self.store, self.store_dtype = store, store_dtype

    @cached_property
    def responses(self) -> xr.Dataset:
        """The prepared responses of all images."""
        presented = self.source.responses()
        # Averages have no runs any more.
        self._groups = _groups(presented, self.folds) if isinstance(self.folds, str) else {}
        return prepare(presented, self.zscore)

    @cached_property
    def features(self) -> xr.Dataset:
        """The features of all images, computed once and kept in the store."""
        store = FeatureStore(self.store)
        return store.fill(self.basis, self.source.images(), dtype=self.store_dtype)

    @cached_property
    def splits(self) -> list[Split]:
        """The split, or one a fold."""
        responses = self.responses
        if isinstance(self.folds, str):
            count = len(set(self._groups.values()))
            return folds_by_image(responses, count, self.seed, self._groups)
        if self.folds:
            return folds_by_image(responses, self.folds, self.seed)
        return [self.plan.split(self.responses, [self.source])]

    @property
    def scored_images(self) -> tuple[str, ...]:
        """The images that scores are of, in the order of the responses."""
        tested = {image for split in self.splits for image in split["test"]}
        shown = self.responses["image"].values.astype(str)
        return tuple(image for image in shown if image in tested)

    def run(self, report: Report = print) -> tuple[dict[str, Score], dict[str, Encoder]]:
        """Fit and score every encoder.

        Parameters
        ----------
        report : callable
            Told what is done, one line each.

        Returns
        -------
        scores : dict of str to Score
            Of the test images, or in cross-validation of all images.
        encoders : dict of str to Encoder
            Fitted on the training images, or in cross-validation on all images.
        """
        scores, fitted = {}, {}
        sizes = ", ".join(f"{part} {len(ids)}" for part, ids in self.splits[0].parts.items())
        report(f"fitting {', '.join(self.encoders)} ({sizes} images{self._folds_in_words()})")
        for name, encoder in self.encoders.items():
            started = time.perf_counter()
            prediction, last = self._predictions(encoder)
            scores[name] = score_predictions(
                prediction, self._scored(), threshold=self.threshold, encoder=name
            )
            fitted[name] = clone(encoder).fit(self.features, self.responses) if self.folds else last
            report(f"fitted and scored {name} in {time.perf_counter() - started:.0f} s")
        return scores, fitted

    def _folds_in_words(self) -> str:
        return f" in each of {len(self.splits)} folds" if self.folds else ""

    def _scored(self) -> xr.Dataset:
        kept = np.isin(self.responses["image"].values.astype(str), self.scored_images)
        return self.responses.isel(presentation=np.flatnonzero(kept))

    def _predictions(self, encoder: Encoder) -> tuple[xr.DataArray, Encoder]:
        parts = []
        for split in self.splits:
            fold: Encoder = clone(encoder)
            training = self.responses
            held_out = None
            if fold.watches_validation and "validation" in split.parts:
                held_out = split.select(self.responses, "validation")
            shown = set(split["train"])
            if not fold.watches_validation:
                shown |= set(split.parts.get("validation", ()))
            kept = np.isin(training["image"].values.astype(str), list(shown))
            fold.fit(self.features, training.isel(presentation=np.flatnonzero(kept)), held_out)
            parts.append(fold.predict(self.features, split["test"]))
        joined = xr.concat(parts, dim="image").sel(image=list(self.scored_images))
        return joined, fold


def _groups(presented: xr.Dataset, level: str) -> dict[str, str]:
    """Return the run (within its session) or the session of each image."""
    image = presented["image"].values.astype(str)
    label = presented["session"].values.astype(str)
    if level == "run":
        runs = presented["run"].values.astype(str)
        label = np.char.add(np.char.add(label, "/"), runs)
    groups: dict[str, str] = {}
    for name, group in zip(image.tolist(), label.tolist(), strict=True):
        if groups.setdefault(name, group) != group or group.endswith("-1"):
            raise InputError(
                f"folds={level!r}: image {name!r} was shown in more than one {level}, or its "
                f"{level} is unknown, so that no {level} can be left out with all of its images. "
                "Give a number of folds, or responses in which every trial is its own image."
            )
    if len(set(groups.values())) < 2:
        raise InputError(f"folds={level!r}: the responses are of one {level}; needed are two.")
    return groups
