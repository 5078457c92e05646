"""The feature store: what comes out is what the basis said, whatever happened in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.features import FeatureBasis, FeatureStore, Pixels
from neuroattn.images import ImageArray

ROOT = Path(__file__).parents[2]


class Counting(FeatureBasis):
    """Mean colour and a class token; counts the images that it was asked for."""

    name = "counting"
    grid = (2, 3)
    channels = 4

    def __init__(self, pause: float = 0.0, factor: float = 1.0) -> None:
        self.pause, self.factor, self.asked = pause, factor, 0

    def extract(self, images):
        self.asked += len(images)
        time.sleep(self.pause)
        means = np.array([image.mean() for image in images], np.float32)
        steps = np.arange(24, dtype=np.float32).reshape(6, 4)
        return (means[:, None, None] + steps) * np.float32(self.factor)

    def extract_all(self, images):
        tokens = self.extract(images)
        return {"tokens": tokens, "class_token": tokens.sum(axis=1)}

    def spec(self):
        return {"factor": self.factor}


def scenes(count: int = 11, seed: int = 0) -> ImageArray:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return ImageArray(pixels, ids=[f"scene-{index}" for index in range(count)])


def entries(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))


def test_store_gives_back_what_the_basis_said(tmp_path):
    """Catches rows written to the wrong place: eleven images in batches of four, in any order."""
    basis, images = Counting(), scenes()
    store = FeatureStore(tmp_path / "new" / "store")
    features = store.fill(basis, images, dtype="float32", batch_size=4)
    expected = basis.extract_all([images.read(index) for index in range(len(images))])
    picked = np.random.default_rng(1).permutation(len(images))[:7]
    for name in ("tokens", "class_token"):
        assert np.array_equal(features[name].values[picked], expected[name][picked])
    assert features.image.values.tolist() == list(images.ids)
    assert features.attrs == {"rows": 2, "columns": 3, "key": basis.key(), "basis": "counting"}
    half = store.fill(basis, images)
    assert half.tokens.dtype == np.float16
    assert np.array_equal(half.tokens.values, expected["tokens"].astype(np.float16))


def test_features_are_memory_mapped_read_only(tmp_path):
    """Catches an open that reads the whole file."""
    store, images = FeatureStore(tmp_path), scenes()
    store.fill(Counting(), images)
    data = store.open(Counting(), images).tokens.data
    base = data
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.filename is not None
    assert not data.flags.writeable


def test_filled_entry_is_not_computed_again(tmp_path):
    """Catches a store that is no store."""
    basis, images = Counting(), scenes()
    FeatureStore(tmp_path).fill(basis, images)
    FeatureStore(tmp_path).fill(basis, scenes())
    assert basis.asked == len(images)


def test_every_part_of_the_key_leads_to_another_entry(tmp_path):
    """Catches a stale entry served after a pixel, an id, an order, the basis or dtype changed."""
    store, images = FeatureStore(tmp_path), scenes()
    changed = images._array.copy()
    changed[10, 5, 7, 2] ^= 1
    renamed = ImageArray(images._array, ids=[f"other-{index}" for index in range(11)])
    variants = [
        (Counting(), images, "float32"),
        (Counting(), ImageArray(changed, ids=images.ids), "float32"),
        (Counting(), renamed, "float32"),
        (Counting(), images.subset(range(10, -1, -1)), "float32"),
        (Counting(), images.subset(range(10)), "float32"),
        (Counting(factor=2.0), images, "float32"),
        (Counting(), images, "float16"),
    ]
    for basis, chosen, dtype in variants:
        with pytest.raises(FileError if basis is variants[0][0] else MismatchError):
            store.open(basis, chosen, dtype)
        features = store.fill(basis, chosen, dtype)
        expected = basis.extract([chosen.read(index) for index in range(len(chosen))])
        assert np.array_equal(features.tokens.values, expected.astype(dtype))
    assert len(entries(tmp_path)) == len(variants)


def test_missing_entry_says_what_differs(tmp_path):
    """Catches an error that does not tell a changed image from a changed basis."""
    store = FeatureStore(tmp_path)
    with pytest.raises(FileError, match=r"has no 'counting' features.*fill"):
        store.open(Counting(), scenes())
    store.fill(Counting(), scenes())
    with pytest.raises(MismatchError, match="not these: other content"):
        store.open(Counting(), scenes(seed=1))
    with pytest.raises(MismatchError, match="not these: other key"):
        store.open(Counting(factor=3.0), scenes())
    with pytest.raises(MismatchError, match="not these: other dtype"):
        store.open(Counting(), scenes(), "float32")


CHILD = """
import sys
from tests.features.test_store import Counting, scenes
from neuroattn.features import FeatureStore
FeatureStore(sys.argv[1]).fill(Counting(pause=0.05), scenes(40), batch_size=3)
"""


def start_fill(path: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(path)], env=environment, cwd=ROOT)


def wait_for_progress(path: Path, at_least: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for sidecar in path.glob("counting-*/entry.json"):
            if json.loads(sidecar.read_text())["done"] >= at_least:
                return
        time.sleep(0.005)
    raise AssertionError("the child made no progress")


def test_killed_fill_resumes_and_computes_only_what_is_missing(tmp_path):
    """Catches lost or half-written rows after SIGKILL: resumed equals uninterrupted."""
    broken, whole, images = tmp_path / "broken", tmp_path / "whole", scenes(40)
    child = start_fill(broken)
    wait_for_progress(broken, at_least=9)
    child.send_signal(signal.SIGKILL)
    child.wait()
    store, basis = FeatureStore(broken), Counting()
    done = json.loads(next(broken.glob("counting-*/entry.json")).read_text())["done"]
    assert 9 <= done < 40
    with pytest.raises(FileError, match=f"holds {done} of 40 images"):
        store.open(basis, images)
    resumed = store.fill(basis, images, batch_size=3)
    assert basis.asked == 40 - done
    uninterrupted = FeatureStore(whole).fill(Counting(), images, batch_size=3)
    assert resumed.identical(uninterrupted)
    assert [entry.name for entry in entries(broken)] == [entry.name for entry in entries(whole)]
    for name in ("tokens", "class_token"):
        files = [next(path.glob(f"counting-*/{name}.npy")) for path in (broken, whole)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_two_processes_fill_one_entry_without_harm(tmp_path):
    """Catches two writers in one file: the second waits and finds the work done."""
    child = start_fill(tmp_path)
    wait_for_progress(tmp_path, at_least=3)
    basis, images = Counting(), scenes(40)
    features = FeatureStore(tmp_path).fill(basis, images, batch_size=3)
    assert child.wait() == 0
    assert basis.asked == 0
    expected = basis.extract([images.read(index) for index in range(40)]).astype(np.float16)
    assert np.array_equal(features.tokens.values, expected)


def test_error_in_the_middle_keeps_what_was_done(tmp_path):
    """Catches a failed batch counted as done."""

    class Failing(Counting):
        def extract(self, images):
            if self.asked >= 6:
                raise KeyboardInterrupt
            return super().extract(images)

    images = scenes()
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path).fill(Failing(), images, batch_size=3)
    basis = Counting()
    FeatureStore(tmp_path).fill(basis, images, batch_size=3)
    assert basis.asked == 5


@pytest.mark.parametrize("name", ["tokens", "class_token"])
@pytest.mark.parametrize("kept", [0, 50, 200])
def test_truncated_array_is_never_served(tmp_path, name, kept):
    """Catches zeros read past the end of a file that was cut."""
    store, images = FeatureStore(tmp_path), scenes()
    store.fill(Counting(), images)
    file = entries(tmp_path)[0] / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:kept])
    for call in (store.open, store.fill):
        with pytest.raises(FileError, match=rf"{name}\.npy \({kept} bytes\).*fill it again"):
            call(Counting(), images)


def test_array_of_another_entry_is_never_served(tmp_path):
    """Catches files swapped between entries: same shape, other content; other shape; gone."""
    store, images = FeatureStore(tmp_path), scenes()
    store.fill(Counting(), images)
    mine = entries(tmp_path)[0] / "tokens.npy"
    store.fill(Counting(factor=2.0), images)
    other = next(entry for entry in entries(tmp_path) if entry != mine.parent)
    mine.write_bytes((other / "tokens.npy").read_bytes())
    with pytest.raises(FileError, match="another hash"):
        store.open(Counting(), images)
    np.save(mine, np.zeros((11, 6, 5), np.float16))
    with pytest.raises(FileError, match=r"shape \(11, 6, 5\) where the sidecar says"):
        store.open(Counting(), images)
    mine.unlink()
    with pytest.raises(FileError, match="missing or truncated"):
        store.open(Counting(), images)


def test_sidecar_that_does_not_belong_is_refused(tmp_path):
    """Catches an entry folder that was renamed or copied over another, and a broken sidecar."""
    store, images = FeatureStore(tmp_path), scenes()
    store.fill(Counting(), images)
    sidecar = entries(tmp_path)[0] / "entry.json"
    state = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**state, "key": "0" * 64}))
    with pytest.raises(MismatchError, match="belongs to another entry"):
        store.open(Counting(), images)
    sidecar.write_text(json.dumps(state)[:100])
    with pytest.raises(FileError, match="not valid JSON"):
        store.open(Counting(), images)
    sidecar.write_text("[]")
    with pytest.raises(FileError, match="no sidecar"):
        store.open(Counting(), images)
    sidecar.unlink()
    with pytest.raises(FileError, match="does not exist"):
        store.open(Counting(), images)


def test_overflow_of_float16_is_refused_with_advice(tmp_path):
    """Catches infinities in the store; float32 holds the same values."""
    basis, images = Counting(factor=1e4), scenes()
    with pytest.raises(InputError, match=r"image 'scene-0' .* as float16 .*float32"):
        FeatureStore(tmp_path).fill(basis, images)
    assert entries(tmp_path) == []
    assert FeatureStore(tmp_path).fill(basis, images, "float32").tokens.values.max() > 65504


def test_nan_feature_is_refused_and_names_the_image(tmp_path):
    """Catches NaN that would turn up as a NaN loss an hour later."""

    class Broken(Counting):
        def extract(self, images):
            tokens = super().extract(images)
            if self.asked > 4:
                tokens[1, 2, 3] = np.nan
            return tokens

    with pytest.raises(InputError, match=r"image 'scene-5' are not finite as given by the basis"):
        FeatureStore(tmp_path).fill(Broken(), scenes(), batch_size=4)


def test_basis_that_breaks_its_word_is_refused(tmp_path):
    """Catches a grid that does not fit the tokens, and outputs that change between batches."""

    class Wide(Counting):
        grid = (3, 3)

    class Fickle(Counting):
        def extract_all(self, images):
            outputs = super().extract_all(images)
            return outputs if self.asked <= 4 else {"tokens": outputs["tokens"]}

    with pytest.raises(MismatchError, match=r"shape \(11, 6, 4\); \(11, 9, 4\) was expected"):
        FeatureStore(tmp_path).fill(Wide(), scenes())
    with pytest.raises(MismatchError, match="every batch must have the same outputs"):
        FeatureStore(tmp_path).fill(Fickle(), scenes(), batch_size=4)


def test_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    """Catches a fill that runs for hours towards a disk that cannot hold it."""
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(FileError, match=r"needs .* GB and .* free"):
        FeatureStore(tmp_path).fill(Counting(), scenes())
    assert entries(tmp_path) == []


def test_disk_that_fills_up_on_the_way_loses_nothing(tmp_path, monkeypatch):
    """Catches rows counted although the write failed."""
    images, written = scenes(), []

    def refuse(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 6:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("neuroattn.features.arrays.os.fsync", refuse)
        with pytest.raises(FileError, match="No space left on device"):
            FeatureStore(tmp_path).fill(Counting(), images, batch_size=2)
    basis = Counting()
    features = FeatureStore(tmp_path).fill(basis, images, batch_size=2)
    assert 0 < basis.asked < 11
    expected = basis.extract([images.read(index) for index in range(11)]).astype(np.float16)
    assert np.array_equal(features.tokens.values, expected)


def test_bad_arguments_are_refused(tmp_path):
    """Catches float64 stores, empty batches, no images, and a file in the store's place."""
    store = FeatureStore(tmp_path)
    with pytest.raises(InputError, match="dtype='float64' is unknown"):
        store.fill(Counting(), scenes(), dtype="float64")
    with pytest.raises(InputError, match="batch_size=0"):
        store.fill(Counting(), scenes(), batch_size=0)
    with pytest.raises(InputError, match="images is empty"):
        store.fill(Counting(), scenes(2).subset([]))
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot be written"):
        FeatureStore(tmp_path / "file").fill(Counting(), scenes())


def test_progress_goes_to_stderr_only_when_asked_or_at_a_terminal(tmp_path, capsys):
    """Catches a bar in a log file or in the output of a command."""
    FeatureStore(tmp_path / "a").fill(Pixels(size=6, grid=2), scenes())
    assert capsys.readouterr() == ("", "")
    FeatureStore(tmp_path / "b").fill(Pixels(size=6, grid=2), scenes(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "features pixels" in err
    assert "11/11" in err
