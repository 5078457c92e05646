"""Splits by image: no image ever stands on both sides, and the split is kept with the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.io import read_json, write_json
from neuroattn.names import check_name

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Which images belong to which part; made by :func:`split_by_image` or from lists.

    Parameters
    ----------
    parts : mapping of str to sequence of str
        "train", "validation", "test" (any of them) to image ids. No id occurs twice.

    Raises
    ------
    InputError
        If a part is unknown or empty, or an image stands twice.
    """

    parts: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        fixed = {part: tuple(map(str, ids)) for part, ids in self.parts.items()}
        if not fixed:
            raise InputError(f"parts is empty; give any of {', '.join(PARTS)}.")
        home: dict[str, str] = {}
        for part, ids in fixed.items():
            check_name("part", part, PARTS)
            if not ids:
                raise InputError(
                    f"part {part!r} of the split holds no image; every part needs one."
                )
            for image in ids:
                if image in home:
                    raise InputError(
                        f"image {image!r} stands in part {home[image]!r} and again in {part!r}; "
                        "an image belongs to one part, once."
                    )
                home[image] = part
        object.__setattr__(self, "parts", MappingProxyType(fixed))

    def __getitem__(self, part: str) -> tuple[str, ...]:
        """Return the image ids of a part."""
        return self.parts[check_name("part", part, self.parts)]

    def __reduce__(self) -> tuple[type[Split], tuple[dict[str, tuple[str, ...]]]]:
        """Copy as plain data: a mapping proxy cannot be copied to another process."""
        return Split, (dict(self.parts),)

    @classmethod
    def from_lists(cls, **parts: Sequence[str]) -> Split:
        """Make a split from explicit lists: ``Split.from_lists(train=[...], test=[...])``."""
        return cls({part: tuple(ids) for part, ids in parts.items()})

    @classmethod
    def joined(cls, splits: Sequence[Split]) -> Split:
        """Return one split of the images of several data sets.

        Parameters
        ----------
        splits : sequence of Split
            At least one. An image of several of them counts once.

        Raises
        ------
        InputError
            If an image is in different parts.
        """
        parts: dict[str, dict[str, None]] = {}
        for split in splits:
            for part, ids in split.parts.items():
                parts.setdefault(part, {}).update(dict.fromkeys(ids))
        return cls({part: tuple(ids) for part, ids in parts.items()})

    def select(self, dataset: xr.Dataset, part: str) -> xr.Dataset:
        """Return the presentations (or images) of ``dataset`` whose image is in ``part``.

        Parameters
        ----------
        dataset : xarray.Dataset
            A response set, or features: anything with a one-dimensional coordinate ``image``.
        part : str
            A part of this split.

        Raises
        ------
        MismatchError
            If images of the part are not in ``dataset``.
        """
        wanted = np.asarray(self[part])
        image = np.asarray(dataset["image"].values).astype(str)
        missing = wanted[~np.isin(wanted, image)]
        if missing.size:
            raise MismatchError(
                f"{missing.size} of the {wanted.size} images of part {part!r} are not in the data "
                f"(first: {missing[:3].tolist()}); the data hold {len(np.unique(image))} images. "
                "This split belongs to other data: make a new one with split_by_image."
            )
        keep = np.flatnonzero(np.isin(image, wanted))
        return dataset.isel({dataset["image"].dims[0]: keep})

    def save(self, path: str | Path) -> None:
        """Write the split as JSON, atomically."""
        write_json(path, {part: list(ids) for part, ids in self.parts.items()})

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """Read a split written by :meth:`save`.

        Raises
        ------
        FileError
            If the file is missing or is not a split.
        """
        data = read_json(path)
        lists = isinstance(data, dict) and all(
            isinstance(ids, list) and all(isinstance(image, str) for image in ids)
            for ids in data.values()
        )
        if not lists:
            raise FileError(
                f"{path} is no split: needed is an object of lists of image ids, such as "
                '{"train": ["img1"], "test": ["img2"]}.'
            )
        try:
            return cls(data)
        except InputError as error:
            raise FileError(f"{path} is no valid split: {error}") from error


def split_by_image(
    dataset: xr.Dataset,
    fractions: Mapping[str, float],
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> Split:
    """Draw a split of the images at random.

    Parameters
    ----------
    dataset : xarray.Dataset
        A response set, or anything with a coordinate ``image``. Only the set of its images
        counts, not how often or in which order they were shown.
    fractions : mapping of str to float
        Fraction of the images (of the groups, if given) of each part; they sum to 1.
    seed : int
        The same seed and images give the same split.
    groups : mapping of str to str, optional
        Image id to group (scene, category, film clip); a group is never divided.

    Raises
    ------
    InputError
        If fractions do not sum to 1, or leave a part empty.
    MismatchError
        If an image has no group.
    """
    shares = np.array([fractions[part] for part in fractions], dtype=float)
    for part in fractions:
        check_name("fractions key", part, PARTS)
    if not np.isfinite(shares).all() or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise InputError(
            f"fractions={dict(fractions)} sum to {shares.sum():g}; each must be above 0 and the "
            "sum 1."
        )
    images, labels = _images(dataset, groups)
    names = np.unique(labels)
    counts = _whole(shares, len(names))
    if (counts == 0).any():
        empty = list(fractions)[int(np.flatnonzero(counts == 0)[0])]
        what = "images" if groups is None else "groups of images"
        raise InputError(
            f"fractions={dict(fractions)} of {len(names)} {what} leave part {empty!r} empty; "
            "give it a larger fraction or leave the part out."
        )
    drawn = np.random.default_rng(seed).permutation(names)
    ends = np.cumsum(counts)
    return Split(
        {
            part: tuple(images[np.isin(labels, drawn[end - count : end])].tolist())
            for part, count, end in zip(fractions, counts, ends, strict=True)
        }
    )


def groups_by_mark(images: Iterable[str], mark: str) -> dict[str, str]:
    """Return the group of each image: what stands in its id before the last ``mark``.

    Parameters
    ----------
    images : iterable of str
        Image ids, such as "friends-s01e02a-00123".
    mark : str
        Such as "-", for the group "friends-s01e02a".

    Raises
    ------
    InputError
        If ``mark`` is empty, or an id is without it.
    """
    ids = [str(image) for image in images]
    without = [image for image in ids if not mark or mark not in image]
    if without:
        raise InputError(
            f"group_by={mark!r} is not in the image id {without[0]!r} ({len(without)} such ids); "
            "give a mark that all ids have."
        )
    return {image: image.rpartition(mark)[0] for image in ids}


def folds_by_image(
    dataset: xr.Dataset,
    folds: int = 5,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    validation: float = 0.0,
) -> list[Split]:
    """Divide the images into folds; each split tests on one and trains on the others.

    Parameters
    ----------
    dataset : xarray.Dataset
        As for :func:`split_by_image`.
    folds : int
        Number of folds, at least 2 and at most the number of images (or groups).
    seed : int
        The same seed and images give the same folds.
    groups : mapping of str to str, optional
        Image id to group; a group is never divided.
    validation : float
        Fraction of the images outside the test fold that becomes part "validation"; 0 for none.

    Returns
    -------
    list of Split
        Every image is in exactly one "test" part.

    Raises
    ------
    InputError
        If ``folds`` or ``validation`` is out of range.
    """
    from sklearn.model_selection import GroupKFold, KFold

    images, labels = _images(dataset, groups)
    count = len(np.unique(labels))
    if not 2 <= folds <= count:
        raise InputError(f"folds={folds} must be 2 to {count}, the number of images or groups.")
    if not 0 <= validation < 1:
        raise InputError(f"validation={validation} must be from 0 to below 1.")
    maker = KFold if groups is None else GroupKFold
    splitter = maker(n_splits=folds, shuffle=True, random_state=seed)
    sides = splitter.split(images, groups=None if groups is None else labels)
    splits = []
    for rest, test in sides:
        parts = {"train": tuple(images[rest].tolist())}
        if validation:
            inner = xr.Dataset(coords={"image": ("image", images[rest])})
            shares = {"train": 1 - validation, "validation": validation}
            parts = dict(split_by_image(inner, shares, seed, groups).parts)
        splits.append(Split({**parts, "test": tuple(images[test].tolist())}))
    return splits


def _images(
    dataset: xr.Dataset, groups: Mapping[str, str] | None
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return the sorted image ids and the group of each (the image itself without groups)."""
    images = np.unique(np.asarray(dataset["image"].values).astype(str))
    if groups is None:
        return images, images
    without = [image for image in images.tolist() if image not in groups]
    if without:
        raise MismatchError(
            f"{len(without)} of {len(images)} images have no group (first: {without[:3]}); "
            "groups needs every image."
        )
    return images, np.array([str(groups[image]) for image in images.tolist()])


def _whole(shares: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Divide ``count`` by ``shares`` into whole numbers, largest remainders first."""
    exact = shares * count
    whole = np.floor(exact + 1e-9).astype(np.int64)
    left = count - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return whole
