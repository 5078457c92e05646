"""Whom and what an adaptive encoder has learned from, so that no later stage is tested on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import xarray as xr

from neuroattn.errors import MismatchError

__all__ = ["Learned", "check_unseen", "joined", "learned_from"]

#: "subjects" (each with its source) and "images" whose responses were read, both sorted.
Learned = dict[str, list[str]]


def learned_from(parts: Iterable[tuple[xr.Dataset, Sequence[str]]]) -> Learned:
    """Return subjects and images of voxel tables and the images that they were shown.

    Parameters
    ----------
    parts : iterable of (xarray.Dataset, sequence of str)
        Coordinate ``subject (voxel)`` and attribute ``source``; ids of images.
    """
    subjects: set[str] = set()
    images: set[str] = set()
    for voxels, shown in parts:
        subjects |= _subjects(voxels)
        images |= set(map(str, shown))
    return {"subjects": sorted(subjects), "images": sorted(images)}


def joined(first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]]) -> Learned:
    """Return what either has learned from."""
    names = ("subjects", "images")
    return {name: sorted({*first.get(name, ()), *second.get(name, ())}) for name in names}


def check_unseen(
    start: str, before: Mapping[str, Sequence[str]], held_out: xr.Dataset, test: Sequence[str]
) -> None:
    """Refuse a start that has learned from the held-out subjects or the test images.

    Parameters
    ----------
    start : str
        Named in the message.
    before : mapping
        As :func:`learned_from` gives it, of the start.
    held_out : xarray.Dataset
        Voxels of the held-out subjects: ``subject (voxel)`` and attribute ``source``.
    test : sequence of str
        Ids of the test images.

    Raises
    ------
    MismatchError
        If it has.
    """
    for name, now in (("subjects", _subjects(held_out)), ("images", set(map(str, test)))):
        seen = sorted(now & set(before.get(name, ())))
        if seen:
            what = "held-out subjects" if name == "subjects" else "test images"
            raise MismatchError(
                f"start={start} has learned from {len(seen)} of the {what} of this stage (first: "
                f"{seen[0]}): its scores would say nothing. Give all stages the same held_out and "
                "the same split."
            )


def _subjects(voxels: xr.Dataset) -> set[str]:
    source = str(voxels.attrs.get("source", ""))
    return {f"{subject} of {source}" for subject in voxels["subject"].values.astype(str)}
