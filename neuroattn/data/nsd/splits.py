"""The splits of NSD's images that published encoders use."""

from __future__ import annotations

import numpy as np

from neuroattn.data.nsd.design import Design, Ids
from neuroattn.data.nsd.layout import SESSIONS
from neuroattn.data.split import Split


def image_ids(numbers: Ids) -> list[str]:
    """Return the ids of 73k numbers (from 0), such as "nsd-00013"."""
    return [f"nsd-{number:05d}" for number in numbers.tolist()]


def published_splits(design: Design, seen: Ids, trials: int) -> dict[str, Split]:
    """Return the published splits of the images that a subject saw.

    Parameters
    ----------
    design : Design
        Says which images are shared, and how often each subject saw them.
    seen : ndarray
        73k numbers of the images in the sessions that are read; no other is in any split.
    trials : int
        Trials of a session.

    Returns
    -------
    dict of str to Split
        "shared515": test on the shared images that all subjects saw three times within the first
        30 sessions (515 of them), validation on the other shared images (485), train on the rest.
        "shared1000": test on all shared images, train on the rest. "unique": train on the images
        that are not shared. A part without an image is left out, and a split without "train".

    References
    ----------
    Allen et al. (2022), Nature Neuroscience 25, 116-126: every subject has at least 30 sessions,
    and 515 images were seen three times by all in them.
    """
    early = design.seen_by_all(min(SESSIONS), trials)
    seen = np.unique(seen)
    shared = np.isin(seen, design.shared)
    tested = np.isin(seen, early)
    unique = {"train": seen[~shared]}
    parts = {
        "shared515": {**unique, "validation": seen[shared & ~tested], "test": seen[tested]},
        "shared1000": {**unique, "test": seen[shared]},
        "unique": unique,
    }
    return {
        name: Split({part: tuple(image_ids(ids)) for part, ids in each.items() if len(ids)})
        for name, each in parts.items()
        if len(unique["train"])
    }
