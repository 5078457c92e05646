"""What CNeuroMod's subjects did not see, and the splits by film that others use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neuroattn.data.split import Split

#: Friends episodes that were not recorded, by subject, as the challenge's README says.
NOT_RECORDED = {2: ("s05e20a",), 5: ("s04e01a", "s04e01b", "s04e13b")}
#: Films of movie10 that every subject saw twice.
SEEN_TWICE = ("figures", "life")


def missing_episodes(subject: int, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the episodes that were never recorded, and gaps that nobody has explained.

    Parameters
    ----------
    subject : int
        1, 2, 3 or 5.
    names : sequence of str
        What is there, as :attr:`neuroattn.data.episodes.Episode.name`.

    Returns
    -------
    known, unexplained : list of str
        Known to be missing for this subject, of the tasks that are there; and parts whose
        neighbours are there (a without b, 03 without 02).
    """
    there = set(names)
    friends = any(name.startswith("friends-") for name in there)
    known = [f"friends-{part}" for part in NOT_RECORDED.get(subject, ()) if friends]
    known = [name for name in known if name not in there]
    parts: dict[str, set[str]] = {}
    for name in there:
        if name.startswith("friends-"):
            parts.setdefault(name[:-1], {"b"}).add(name[-1])
        else:
            stem = name.rstrip("0123456789")
            parts.setdefault(stem, set()).add(name[len(stem) :])
    expected: set[str] = set()
    for stem, found in parts.items():
        if stem.startswith("friends-"):
            expected |= {f"{stem}{chr(c)}" for c in range(ord("a"), ord(max(found)) + 1)}
        else:
            width, last = len(max(found)), max(map(int, found))
            expected |= {f"{stem}{number:0{width}d}" for number in range(1, last + 1)}
    return known, sorted(expected - there - set(known))


def published_splits(images: Mapping[str, Sequence[str]]) -> dict[str, Split]:
    """Return the splits by film, see :meth:`neuroattn.data.cneuromod.CNeuroMod.splits`.

    Parameters
    ----------
    images : mapping of str to sequence of str
        Name of the episode to its image ids.
    """

    def of(*kinds: str) -> list[str]:
        return [image for name, ids in images.items() if name.startswith(kinds) for image in ids]

    early = tuple(f"friends-s{season:02d}e" for season in range(1, 6))
    twice = tuple(f"movie10-{film}" for film in SEEN_TWICE)
    once = ("movie10-bourne", "movie10-wolf")
    plans = {
        "algonauts2025": {"train": of(*early, "movie10-"), "test": of("friends-s06e")},
        "friends6": {
            "train": of(*early[:-1]),
            "validation": of(early[-1]),
            "test": of("friends-s06e"),
        },
        "movie10-twice": {"train": of("friends-", *once), "test": of(*twice)},
    }
    return {name: Split.from_lists(**parts) for name, parts in plans.items() if all(parts.values())}
