"""Stimulus tables: which moments of a film stand before a response, and where they are read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.features import FeatureStore, StimulusTable
from neuroattn.images import ImageArray, NamedStimuli

LENGTH = 11


def table(seed: int = 0, samples: int = LENGTH, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((samples, channels)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "visual"
    place.mkdir()
    np.save(place / "friends-s01e01a.npy", table(0))
    np.save(place / "friends-s01e01b.npy", table(1, 7))
    return place


def tokens(basis: StimulusTable, *ids: str) -> np.ndarray:
    return basis.extract_images(NamedStimuli(ids, "a film"), range(len(ids)))["tokens"]


def test_the_window_ends_at_the_delayed_sample_oldest_first(folder: Path) -> None:
    """Catches a shift by one sample, a window that runs forward, and moments in reverse."""
    found = tokens(StimulusTable(str(folder), delay=2, window=3), "friends-s01e01a-00009")
    assert found.shape == (1, 3, 3)
    np.testing.assert_array_equal(found[0], table(0)[[5, 6, 7]])


def test_every_sample_agrees_with_a_plain_loop(folder: Path) -> None:
    """Catches blocks read across images of different episodes, and a wrong clip at the start."""
    basis = StimulusTable(str(folder))
    names = [("friends-s01e01a", table(0), 8), ("friends-s01e01b", table(1, 7), 7)]
    ids = [(n, t, s) for n, t, length in names for s in range(length)][::-1]
    found = tokens(basis, *(f"{n}-{s:05d}" for n, _, s in ids))
    for got, (_, values, sample) in zip(found, ids, strict=True):
        for moment in range(5):
            source = sample - 3 - (4 - moment)
            np.testing.assert_array_equal(got[moment], values[source if source > 0 else 0])


def test_no_window_reads_over_the_edge_of_its_episode(folder: Path) -> None:
    """Catches a negative index, which numpy answers with the end of the film."""
    early = tokens(StimulusTable(str(folder), delay=3, window=5), "friends-s01e01b-00000")
    np.testing.assert_array_equal(early[0], np.repeat(table(1, 7)[:1], 5, axis=0))
    whole = tokens(StimulusTable(str(folder), delay=3, window=5), "friends-s01e01b-00007")
    np.testing.assert_array_equal(whole[0], table(1, 7)[:5])


def test_a_response_after_the_end_of_the_film_is_refused_with_both_lengths(folder: Path) -> None:
    """Catches a clip at the end, which would show the last scene for as long as one scans."""
    basis = StimulusTable(str(folder), delay=3, window=2)
    assert tokens(basis, "friends-s01e01b-00009").shape == (1, 2, 3)
    with pytest.raises(MismatchError, match=r"00010' needs sample 7 of .*s01e01b.npy, which has 7"):
        tokens(basis, "friends-s01e01b-00010")


def test_several_folders_stand_side_by_side_as_long_as_the_shortest(
    folder: Path, tmp_path: Path
) -> None:
    """Catches modalities in another order and lengths that run apart."""
    sound = tmp_path / "sound"
    sound.mkdir()
    np.save(sound / "s01e01a.npy", table(5, 9, 2))
    np.save(sound / "s01e01b.npy", table(6, 9, 2))
    basis = StimulusTable([str(folder), str(sound)], delay=0, window=1)
    assert (basis.channels, basis.grid) == (5, (1, 1))
    assert (basis.length("friends-s01e01a"), basis.length("friends-s01e01b")) == (9, 7)
    expected = np.r_[table(0)[4], table(5, 9, 2)[4]]
    np.testing.assert_array_equal(tokens(basis, "friends-s01e01a-00004")[0, 0], expected)
    with pytest.raises(MismatchError, match="which has 9"):
        tokens(basis, "friends-s01e01a-00009")


@pytest.mark.parametrize("kind", ["csv", "tsv", "headed.csv", "h5", "one file", "nested file"])
def test_every_kind_of_file_gives_the_same_tokens(kind: str, tmp_path: Path) -> None:
    """Catches a header read as a sample, a swapped separator, and HDF5 names that are lost."""
    values, place = table(3), tmp_path / "tables"
    place.mkdir()
    path = place
    if kind.endswith("sv"):
        sign = "\t" if kind == "tsv" else ","
        head = ["a,b,c"] if kind.startswith("headed") else []
        lines = head + [sign.join(repr(float(x)) for x in row) for row in values]
        (place / f"friends_s01e01a.{kind[-3:]}").write_text("\n".join(lines) + "\n")
    else:
        path = place if kind == "h5" else tmp_path / "all.h5"
        key = {"h5": "features", "one file": "s01e01a", "nested file": "s01e01a/visual"}[kind]
        with h5py.File(place / "friends-s01e01a.h5" if kind == "h5" else path, "w") as file:
            file[key] = values
    found = tokens(StimulusTable(str(path), delay=1, window=2), "friends-s01e01a-00006")
    np.testing.assert_allclose(found[0], values[[4, 5]], rtol=1e-6)


def test_the_key_changes_with_whatever_changes_the_tokens(folder: Path) -> None:
    """Catches a store that serves features of another delay, window or content."""
    keys = {StimulusTable(str(folder)).key()}
    assert StimulusTable(str(folder)).key() in keys
    keys |= {StimulusTable(str(folder), delay=2).key(), StimulusTable(str(folder), window=4).key()}
    changed = table(1, 7)
    changed[3, 1] += 1
    np.save(folder / "friends-s01e01b.npy", changed)
    keys.add(StimulusTable(str(folder)).key())
    (folder / "friends-s01e01b.npy").rename(folder / "friends-s01e01c.npy")
    keys.add(StimulusTable(str(folder)).key())
    assert len(keys) == 5


def test_the_store_keeps_the_tokens_by_id(folder: Path, tmp_path: Path) -> None:
    """Catches tokens under the wrong ids, and a grid that the store does not accept."""
    ids = [f"friends-s01e01a-{s:05d}" for s in (8, 5, 7)]
    store = FeatureStore(tmp_path / "store")
    stored = store.fill(StimulusTable(str(folder)), NamedStimuli(ids, "a film"), dtype="float32")
    assert (stored.attrs["rows"], stored.attrs["columns"]) == (1, 5)
    np.testing.assert_array_equal(stored.sel(image=ids[1])["tokens"][-1], table(0)[2])


def test_pixels_and_other_ids_are_refused(folder: Path) -> None:
    """Catches a lookup that guesses."""
    basis = StimulusTable(str(folder))
    with pytest.raises(InputError, match="extract_images"):
        basis.extract([np.zeros((2, 2, 3), np.uint8)])
    with pytest.raises(InputError, match="'cat' names no sample"):
        basis.extract_images(ImageArray(np.zeros((1, 2, 2), np.uint8), ids=["cat"]), [0])
    with pytest.raises(MismatchError, match=r"no table of the episode 'friends-s01e01c'.*did you"):
        tokens(basis, "friends-s01e01c-00006")
    for wrong in ({"delay": -1}, {"window": 0}):
        with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
            StimulusTable(str(folder), **wrong)
    with pytest.raises(InputError, match="path is empty"):
        StimulusTable([])


def test_what_is_no_table_is_named(folder: Path, tmp_path: Path) -> None:
    """Catches messages without the file, pickles that are executed, and channels that differ."""
    with pytest.raises(FileError, match="does not exist"):
        StimulusTable(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="holds no table"):
        StimulusTable(str(tmp_path / "empty"))
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(FileError, match="neither a folder nor"):
        StimulusTable(str(tmp_path / "x.txt"))
    cases = {
        "a.csv": ("1,2,3\n4,x,6\n", "no number"),
        "b.csv": ("1,2,3\n4,5\n", "different length"),
        "c.npy": ("no array", "truncated or no plain"),
        "d.h5": ("no array", "truncated or not HDF5"),
    }
    for name, (text, message) in cases.items():
        (folder / name).write_text(text)
        with pytest.raises(FileError, match=rf"{name}.*{message}"):
            StimulusTable(str(folder))
        (folder / name).unlink()
    np.save(folder / "pickled.npy", {"s01e01a": table()}, allow_pickle=True)
    with pytest.raises(FileError, match=r"pickled\.npy.*pickle"):
        StimulusTable(str(folder))
    (folder / "pickled.npy").unlink()
    np.save(folder / "cube.npy", np.zeros((2, 3, 3)))
    with pytest.raises(FileError, match=r"cube\.npy holds float64 of shape \(2, 3, 3\)"):
        StimulusTable(str(folder))
    (folder / "cube.npy").unlink()
    np.save(folder / "narrow.npy", table(channels=2))
    with pytest.raises(MismatchError, match=r"narrow\.npy has 2 channels"):
        StimulusTable(str(folder))
    (folder / "narrow.npy").unlink()
    np.save(folder / "friends_s01e01a.npy", table())
    with pytest.raises(FileError, match="two tables of the episode 'friends-s01e01a'"):
        StimulusTable(str(folder))
    (folder / "friends_s01e01a.npy").unlink()
    with h5py.File(folder / "two.h5", "w") as file:
        file["a"], file["b"] = table(), table()
    with pytest.raises(FileError, match=r"two\.h5 holds 2 datasets \(a, b\)"):
        StimulusTable(str(folder))
