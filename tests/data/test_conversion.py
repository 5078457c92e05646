"""Conversion: what a reader gives stands on disk to the bit, once, whole, and nothing else does."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from neuroattn.data import Algonauts2023, Converted, convert, open_responses, zscore_within_session
from neuroattn.data.chunk_files import ChunkFiles
from neuroattn.data.conversion import _waves
from neuroattn.data.conversion_plan import needed_files
from neuroattn.data.storage import check_zarr
from neuroattn.errors import FileError, InputError, MismatchError, NeuroattnError
from tests.data.layouts import algonauts23_mini
from tests.data.toy_sessions import Toy, write_toy
from tests.tolerances import TOLERANCE


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "source")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("width", [1, 3, 4, 11, 40])
@pytest.mark.parametrize("lengths", [(5, 5, 5), (4, 1, 7), (600, 500)])
def test_what_a_reader_gives_stands_on_disk_to_the_bit(tmp_path, width, lengths) -> None:
    """Catches a lost, doubled or shifted row or column at the edge of a session or a piece."""
    reader = Toy(str(write_toy(tmp_path / "source", lengths)), width=width)
    record = convert(reader, tmp_path / "out")
    found = open_responses(tmp_path / "out" / "responses.zarr")
    wanted = np.concatenate([np.load(place) for place in reader._places()])
    np.testing.assert_array_equal(found["response"].values, wanted)
    assert found.drop_vars(["response", "ncsnr"]).identical(reader.labels())
    assert not record["verified"]
    assert (record["presentations"], record["voxels"]) == wanted.shape


def test_the_whole_reading_of_a_layout_is_the_same_response_set(tmp_path, source) -> None:
    """Catches the two ways of reading, in memory and by conversion, going apart."""
    reader = Toy(str(source))
    convert(reader, tmp_path / "out")
    found = Converted(str(tmp_path / "out")).responses().drop_vars("ncsnr")
    assert found.load().identical(reader.responses())


def test_the_ceiling_is_that_of_all_repetitions(tmp_path, source) -> None:
    """Catches an ncsnr estimated within one session or before the last one is written."""
    from neuroattn.metrics import ncsnr

    reader = Toy(str(source))
    convert(reader, tmp_path / "out")
    whole = reader.responses()
    wanted = ncsnr(whole["response"].values, whole["image"].values, whole["session"].values)
    found = open_responses(tmp_path / "out" / "responses.zarr")["ncsnr"].values
    np.testing.assert_allclose(found, wanted, **TOLERANCE["float64"])


def test_zscores_are_those_of_the_session(tmp_path, source) -> None:
    """Catches moments over all sessions, and a unit that is told wrongly."""
    reader = Toy(str(source))
    convert(reader, tmp_path / "out", zscore=True)
    found = open_responses(tmp_path / "out" / "responses.zarr")
    wanted = zscore_within_session(reader.responses())
    np.testing.assert_array_equal(found["response"].values, wanted["response"].values)
    assert (found.attrs["zscored"], found.attrs["units"]) == ("session", "z")


def test_what_is_zscored_already_is_left_alone(tmp_path) -> None:
    """Catches z-scores of z-scores: the mean of part of a session would be taken out."""
    reader = Algonauts2023(str(algonauts23_mini(tmp_path / "source")), 1)
    convert(reader, tmp_path / "out", zscore=True)
    found = Converted(str(tmp_path / "out")).responses()
    np.testing.assert_array_equal(found["response"].values, reader.responses()["response"].values)


def test_again_it_verifies_and_writes_nothing(tmp_path, source) -> None:
    """Catches a second call that converts again, or that believes without reading."""
    reader = Toy(str(source))
    convert(reader, tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    assert convert(reader, tmp_path / "out")["verified"]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize(
    "name",
    ["stimuli.csv", "splits/agreed.json", "responses.zarr/ncsnr/c/0", "responses.zarr/zarr.json"],
)
@pytest.mark.parametrize("gone", [True, False])
def test_harm_to_any_other_file_is_found(tmp_path, source, name, gone) -> None:
    """Catches a verification of the responses alone: index, split and ceiling are as needed."""
    reader, out = Toy(str(source)), tmp_path / "out"
    convert(reader, out)
    content = (out / name).read_bytes()
    (out / name).unlink()
    if not gone:
        # A changed digit, that every reader takes.
        (out / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(FileError, match=rf"{name} is {'not there' if gone else 'another'}"):
        convert(reader, out)


def test_a_damaged_record_is_told(tmp_path, source) -> None:
    """Catches a KeyError for a record that somebody emptied."""
    convert(Toy(str(source)), tmp_path / "out")
    for content in ("{}", "[]"):
        (tmp_path / "out/conversion.json").write_text(content)
        with pytest.raises(FileError, match="is not one of a conversion"):
            convert(Toy(str(source)), tmp_path / "out")


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "label"])
def test_harm_to_a_finished_conversion_is_found(tmp_path, source, harm) -> None:
    """Catches a verification that looks at names and dates only."""
    reader = Toy(str(source))
    convert(reader, tmp_path / "out")
    chunk = tmp_path / "out/responses.zarr/response/c/1/0"
    if harm == "flip":
        content = bytearray(chunk.read_bytes())
        content[7] ^= 1
        chunk.write_bytes(content)
    elif harm == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-9])
    elif harm == "remove":
        chunk.unlink()
    else:
        text = (source / "design.txt").read_text().split()
        (source / "design.txt").write_text("\n".join(reversed(text)))
    with pytest.raises(FileError, match=r"damaged|not whole|another content"):
        convert(reader, tmp_path / "out")


def test_other_options_or_sources_are_refused(tmp_path, source) -> None:
    """Catches a verification of something else than was converted."""
    out = tmp_path / "out"
    convert(Toy(str(source)), out)
    with pytest.raises(FileError, match=r"subject='s1', now it is 's2'"):
        convert(Toy(str(source), subject="s2"), out)
    with pytest.raises(FileError, match="zscore=False, now it is True"):
        convert(Toy(str(source)), out, zscore=True)
    values = np.load(source / "session-1.npy")
    np.save(source / "session-1.npy", values + 1)
    with pytest.raises(FileError, match=r"session-1\.npy .*another content since"):
        convert(Toy(str(source)), out)


def test_a_source_may_be_moved(tmp_path, source) -> None:
    """Catches a record that ties a conversion to the place of its source or to dates."""
    convert(Toy(str(source)), tmp_path / "out")
    moved = shutil.copytree(source, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    shutil.rmtree(source)
    assert convert(Toy(str(moved)), tmp_path / "out")["verified"]
    images = Converted(str(tmp_path / "out"), source=str(moved)).images()
    assert images.read(2).max() == 20


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("lengths", [(5, 5, 5), (9, 2, 7, 600, 3)])
def test_a_killed_conversion_goes_on_where_it_was(tmp_path, jobs, lengths) -> None:
    """Catches a resume that starts afresh, trusts a half-written session, or leaves rubbish."""
    source = write_toy(tmp_path / "source", lengths)
    convert(Toy(str(source)), tmp_path / "whole")
    reader = Toy(str(source), deadly=str(tmp_path / "mark"))
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=convert, args=(reader, tmp_path / "out"))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    done = sorted(path.name for path in (tmp_path / "out/.unfinished/done").iterdir())
    assert done == [f"{number:04d}.json" for number in range(len(lengths) - 1)]
    with pytest.raises(FileError, match="not finished"):
        Converted(str(tmp_path / "out")).responses()
    convert(reader, tmp_path / "out", jobs=jobs)
    same = _bytes(tmp_path / "out/responses.zarr")
    assert same == _bytes(tmp_path / "whole/responses.zarr")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "responses.zarr",
        "stimuli.csv",
        "splits",
        "conversion.json",
    }


@pytest.mark.parametrize(
    ("step", "after"),
    [
        ("create_response", True),
        ("_require_all_chunks", True),
        ("add_ncsnr", True),
        ("finish_zarr", False),
        ("finish_zarr", True),
        ("os.replace", True),
        ("write_stimuli", False),
        ("write_stimuli", True),
        ("Split.save", True),
        ("_written", True),
        ("shutil.rmtree", False),
        ("shutil.rmtree", True),
    ],
)
def test_a_kill_at_any_step_of_the_end_costs_nothing(
    tmp_path, source, monkeypatch, step, after
) -> None:
    """Catches a step that cannot be done twice, and half-written files that stay or bar the way."""
    import neuroattn.data.conversion as module

    whole, out = tmp_path / "whole", tmp_path / "out"
    convert(Toy(str(source)), whole)
    owner = module if "." not in step else getattr(module, step.split(".")[0])
    step_done = getattr(owner, step.split(".")[-1])

    last = {"os.replace": "responses.zarr", "shutil.rmtree": ".unfinished"}

    def killed(*args, **options):
        if step in last and Path(args[-1]).name != last[step]:
            return step_done(*args, **options)
        if after:
            step_done(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, step.split(".")[-1], killed)
        with pytest.raises(KeyboardInterrupt):
            convert(Toy(str(source)), out)
    # What a kill leaves that an exception cleans up.
    for name in (".unfinished", "stimuli.csv", "conversion.json"):
        (out / f".{name}.0123abcd.part").touch()
    if (out / ".unfinished").exists():
        (out / "splits").mkdir(exist_ok=True)
        (out / "splits/.agreed.json.0123abcd.part").touch()
    for group in (out / ".unfinished/responses.zarr", out / "responses.zarr"):
        if group.exists() and not (out / "conversion.json").exists():
            (group / "zarr.0123abcd.partial").touch()
    if not (out / "conversion.json").exists():
        assert not convert(Toy(str(source)), out)["verified"]
        assert _bytes(out / "responses.zarr") == _bytes(whole / "responses.zarr")
        assert set(_bytes(out)) == set(_bytes(whole))
    assert convert(Toy(str(source)), out)["verified"]


def test_what_comes_last_is_checked_first(tmp_path, source, monkeypatch) -> None:
    """Catches hours of reading before an image that is not there, or a wrong --jobs, is told."""

    def refuse(self):
        raise FileError("image 'image3' has 0 files")

    for method in ("stimuli", "splits"):
        with monkeypatch.context() as patch:
            patch.setattr(Toy, method, refuse)
            with pytest.raises(FileError, match="0 files"):
                convert(Toy(str(source)), tmp_path / "out")
    with pytest.raises(InputError, match="jobs=0"):
        convert(Toy(str(source)), tmp_path / "out", jobs=0)
    Path(source / "images/image4.png").write_bytes((source / "images/image3.png").read_bytes())
    with pytest.raises(MismatchError, match="lists 5 images, 4 were shown"):
        convert(Toy(str(source)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_images_are_found_from_another_folder(tmp_path, source, monkeypatch) -> None:
    """Catches a relative SOURCE that is written down as it was given."""
    monkeypatch.chdir(tmp_path)
    convert(Toy("source"), tmp_path / "out")
    monkeypatch.chdir("/")
    assert Converted(str(tmp_path / "out")).images().read(2).max() == 20


@pytest.mark.parametrize("line", ["image1,images/image1.png,,one", "image1,images/image1.png"])
def test_a_damaged_index_is_told(tmp_path, source, line) -> None:
    """Catches a ValueError or TypeError from a line that was cut or changed."""
    convert(Toy(str(source)), tmp_path / "out")
    index = tmp_path / "out" / "stimuli.csv"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(FileError, match=r"stimuli\.csv, line 3 is damaged"):
        Converted(str(tmp_path / "out")).images()


def test_several_processes_write_the_same_bytes(tmp_path) -> None:
    """Catches two sessions writing to one chunk at once: rows of one of them are lost."""
    source = write_toy(tmp_path / "source", (300, 200, 150, 260, 130), voxels=7)
    convert(Toy(str(source)), tmp_path / "one")
    convert(Toy(str(source)), tmp_path / "two", jobs=2)
    assert _bytes(tmp_path / "one/responses.zarr") == _bytes(tmp_path / "two/responses.zarr")


@pytest.mark.parametrize("height", [1, 3, 5, 8, 50])
def test_no_two_sessions_of_a_wave_share_a_chunk(height) -> None:
    """Catches waves that lose a session or let two of them meet; by brute force."""
    rng = np.random.default_rng(height)
    ends = np.cumsum(rng.integers(1, 9, 20))
    rows = [slice(int(a), int(b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    waves = _waves(rows, height)
    assert sorted(index for wave in waves for index in wave) == list(range(20))
    for wave in waves:
        chunks = [{row // height for row in range(rows[i].start, rows[i].stop)} for i in wave]
        assert sum(map(len, chunks)) == len(set().union(*chunks))


def test_only_the_folder_is_written(tmp_path, source) -> None:
    """Catches a file beside OUT, in SOURCE, or in the folder of the user."""
    before = _bytes(tmp_path)
    convert(Toy(str(source)), tmp_path / "deep" / "out")
    after = _bytes(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("deep/out/") for name in set(after) - set(before))


def test_places_that_are_something_else_are_left_alone(tmp_path, source) -> None:
    """Catches a conversion into the source, into somebody's folder, or through a link."""
    with pytest.raises(InputError, match="is the source itself"):
        convert(Toy(str(source)), source)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(FileError, match=r"holds 'thesis\.txt' and is no conversion"):
        convert(Toy(str(source)), tmp_path / "mine")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="is a file"):
        convert(Toy(str(source)), tmp_path / "file")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / ".unfinished").symlink_to(tmp_path / "mine")
    with pytest.raises(FileError, match="is a link"):
        convert(Toy(str(source)), tmp_path / "linked")


def test_missing_files_are_named_before_anything_is_made(tmp_path, source) -> None:
    """Catches a conversion that finds out after hours, or leaves an empty folder."""
    (source / "design.txt").unlink()
    with pytest.raises(FileError, match=r"1 of 6 files are missing: .*design\.txt \(design\)"):
        convert(Toy(str(source)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    listed = {file.path.name: size for file, size in needed_files(Toy(str(source)))}
    assert listed["design.txt"] is None
    assert listed["session-0.npy"] == (source / "session-0.npy").stat().st_size


@pytest.mark.parametrize("wrong", ["rows", "voxels", "more", "type", "infinite"])
def test_a_session_that_does_not_fit_is_named(tmp_path, source, wrong) -> None:
    """Catches values that are broadcast, cut or cast on their way."""
    values = np.load(source / "session-2.npy")
    changed = {
        "rows": values[:, :],
        "voxels": values[:, :-1],
        "more": np.c_[values, values],
        "type": values.astype(np.float64),
        "infinite": np.where(np.arange(11) == 4, np.float32(np.inf), values),
    }[wrong]
    np.save(source / "session-2.npy", changed)
    if wrong == "rows":
        text = (source / "design.txt").read_text().split()
        (source / "design.txt").write_text("\n".join(text[:-1]))
    with pytest.raises(NeuroattnError, match=r"session-2|14 presentations|14 values|has shape"):
        convert(Toy(str(source)), tmp_path / "out")
    with pytest.raises((FileError, MismatchError)):
        Converted(str(tmp_path / "out")).responses()


def test_images_and_splits_are_found_again(tmp_path, source) -> None:
    """Catches an index that names other pixels, or a split that is not the published one."""
    reader = Toy(str(source))
    convert(reader, tmp_path / "out")
    found, wanted = Converted(str(tmp_path / "out")), reader.images()
    assert found.images().ids == wanted.ids
    for index in range(len(wanted)):
        np.testing.assert_array_equal(found.images().read(index), wanted.read(index))
    assert dict(found.splits()["agreed"].parts) == dict(reader.splits()["agreed"].parts)


def test_an_index_that_leads_out_of_the_source_is_refused(tmp_path, source) -> None:
    """Catches a file name from a table that opens any file of the machine."""
    convert(Toy(str(source)), tmp_path / "out")
    index = tmp_path / "out" / "stimuli.csv"
    index.write_text(index.read_text().replace("images/image1.png", "../../secret.png"))
    with pytest.raises(FileError, match="leads out of"):
        Converted(str(tmp_path / "out")).images()


def test_a_lost_block_of_an_unfinished_conversion_is_told(tmp_path, source) -> None:
    """Catches rows of nothing where a file was lost between two calls."""
    out = tmp_path / "out"
    reader = Toy(str(source), deadly=str(tmp_path / "mark"))
    process = multiprocessing.get_context("spawn").Process(target=convert, args=(reader, out))
    process.start()
    process.join(60)
    (out / ".unfinished/responses.zarr/response/c/0/0").unlink()
    with pytest.raises(FileError, match="2 of 3 blocks"):
        convert(reader, out)


def test_the_record_is_plain(tmp_path, source) -> None:
    """Catches a record that another program cannot read."""
    convert(Toy(str(source)), tmp_path / "out")
    record = json.loads((tmp_path / "out/conversion.json").read_text())
    assert record["options"] == {"path": str(source), "width": 3, "subject": "s1", "deadly": ""}
    assert [session["rows"] for session in record["sessions"]] == [5, 5, 5]
    total = sum(check_zarr(tmp_path / "out/responses.zarr", Toy(str(source)).labels()))
    assert total == 15 * 11


def test_two_conversions_never_write_to_one_folder(tmp_path, source) -> None:
    """Catches two processes that take each other's half-written files for rubbish."""
    reader = Toy(str(source), deadly=str(tmp_path / "mark"))
    process = multiprocessing.get_context("spawn").Process(
        target=convert, args=(reader, tmp_path / "out")
    )
    process.start()
    process.join(60)
    with (
        FileLock(tmp_path / "out/.unfinished/lock"),
        pytest.raises(FileError, match="another conversion is writing"),
    ):
        convert(reader, tmp_path / "out")
    assert not convert(reader, tmp_path / "out")["verified"]


def test_a_source_that_is_not_there_is_one_message(tmp_path) -> None:
    """Catches a list of forty missing files where a path was misspelt."""
    with pytest.raises(FileError, match=r"source .*sourc does not exist"):
        convert(Toy(str(tmp_path / "sourc")), tmp_path / "out")


class Shipping(Toy):
    """A toy whose ceiling is published, estimated from the images shown exactly so often."""

    shipped_repeats = 3

    def shipped_ncsnr(self) -> np.ndarray:
        from neuroattn.metrics import ncsnr

        whole = self.responses()
        sessions = whole["session"].values
        return ncsnr(whole["response"].values, whole["image"].values, sessions, repeats=3)


def test_the_agreement_with_a_shipped_ceiling_is_estimated_as_that_was(tmp_path) -> None:
    """Catches a disagreement that is only one of which images count."""
    source = write_toy(tmp_path / "source", (6, 6, 6), images=8)
    design = ["image0"] * 2 + ["image1"] * 3 + ["image2"] * 3 + ["image3"] * 3
    design += ["image4"] * 2 + ["image5"] * 2 + ["image6"] * 2 + ["image7"]
    order = np.random.default_rng(0).permutation(18)
    (source / "design.txt").write_text("\n".join(np.array(design)[order]))
    found = convert(Shipping(str(source)), tmp_path / "out")["ncsnr"]
    assert found["median_absolute_difference"] == pytest.approx(0, abs=1e-12)
    assert found["correlation"] == pytest.approx(1)
    whole = Shipping(str(source)).responses()
    ours = open_responses(tmp_path / "out/responses.zarr")["ncsnr"].values
    assert not np.allclose(ours, Shipping(str(source)).shipped_ncsnr(), equal_nan=True)
    assert whole.sizes["voxel"] == found["voxels"] == len(ours)


def test_a_large_set_is_saved_again_without_holding_it(tmp_path, source, monkeypatch) -> None:
    """Catches a copy of a lazily opened set that is read whole."""
    from neuroattn.data import save, storage

    convert(Toy(str(source)), tmp_path / "out")
    monkeypatch.setattr(storage, "_CHUNK_ROWS", 4)
    monkeypatch.setattr(storage, "_CHUNK_VOXELS", 3)
    largest = []
    fill = ChunkFiles.__getitem__

    def counted(self, key):
        read = fill(self, key)
        largest.append(np.asarray(read).size)
        return read

    monkeypatch.setattr(ChunkFiles, "__getitem__", counted)
    lazy = open_responses(tmp_path / "out/responses.zarr")
    monkeypatch.setattr("neuroattn.data.storage.validate", lambda dataset, **_: dataset)
    save(lazy, tmp_path / "copy.zarr")
    assert max(largest) <= 4 * 3
    assert open_responses(tmp_path / "copy.zarr").identical(lazy)
