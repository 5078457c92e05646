"""THINGS-fMRI in miniature, as tables and as volumes, whole and with each part wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from neuroattn.data.conversion import convert
from neuroattn.data.converted import Converted
from neuroattn.data.preparation import prepare
from neuroattn.data.rules import validate
from neuroattn.data.things import THINGS, compare_ceilings
from neuroattn.data.things_volumes import is_catch
from neuroattn.errors import FileError, InputError, MismatchError, UnknownNameError
from tests.data.things_mini import (
    AFFINE,
    DIMS,
    ROIS,
    Mini,
    save,
    things_mini,
    write_csv,
    write_images,
    write_metadata,
    write_run,
    write_table,
)
from tests.tolerances import TOLERANCE


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Mini:
    return things_mini(tmp_path_factory.mktemp("things"))


@pytest.fixture
def mini(whole, tmp_path) -> Mini:
    copy = shutil.copytree(whole.root, tmp_path / "things")
    return Mini(**{**whole.__dict__, "root": Path(copy)})


def reader(mini: Mini, **options) -> THINGS:
    return THINGS(str(mini.root), "01", **options)


def stimulus_table(mini: Mini) -> Path:
    return mini.root / "betas_csv/sub-01_StimulusMetadata.csv"


@pytest.mark.parametrize("labels", ["text", "pickled4", "pickled5", "pickled2", "numbers"])
def test_the_table_has_voxels_as_rows_and_is_turned(mini, labels) -> None:
    # Catches a transposed table, voxel_id read as a trial, labels that only pandas could read.
    write_table(mini, labels=labels)
    data = reader(mini).responses()
    np.testing.assert_array_equal(data["response"], mini.values.astype(np.float32))
    assert data["image"].values.tolist() == mini.images
    np.testing.assert_array_equal(data["session"], mini.session)
    np.testing.assert_array_equal(data["run"], mini.run)
    np.testing.assert_array_equal(np.stack([data[axis] for axis in "ijk"], axis=1), mini.places)
    assert data.attrs["tr"] == 1.5
    assert data.attrs["space"] == "native"
    assert data.attrs["affine"] == AFFINE.ravel().tolist()
    validate(data)


def test_columns_are_found_by_their_number(mini) -> None:
    # Catches trials taken in the order of the file where the columns were shuffled.
    order = np.random.default_rng(1).permutation(len(mini.images))
    write_table(mini, values=mini.values[order], trials=[int(n) for n in order])
    data = reader(mini, sessions=[3, 7]).responses()
    rows = np.isin(mini.session, (3, 7))
    np.testing.assert_array_equal(data["response"], mini.values[rows].astype(np.float32))


def test_volumes_leave_catch_trials_out_and_shift_nothing(whole) -> None:
    # Catches rows counted with catch trials, values in the order of the table, C-order voxels.
    table, volumes = reader(whole).responses(), reader(whole, layout="volumes").responses()
    assert volumes.sizes == {**volumes.sizes, "presentation": len(whole.images)}
    assert not any("catch" in name for name in volumes["image"].values)
    assert float(volumes["response"].max()) < 97
    columns = ("session", "run", "image")
    key = [
        list(zip(*(one[name].values.tolist() for name in columns), strict=True))
        for one in (table, volumes)
    ]
    assert sorted(key[0]) == sorted(key[1])
    # The volumes of a run come in the order of the names of their images.
    assert key[1] == sorted(key[1]) != key[0]
    rows = [key[0].index(one) for one in key[1]]
    places = np.stack([volumes[axis].values for axis in "ijk"], axis=1)
    np.testing.assert_array_equal(places, np.argwhere(whole.brain.T)[:, ::-1])
    columns = [whole.places.tolist().index(place) for place in places.tolist()]
    expected = table["response"].values[rows][:, columns]
    np.testing.assert_array_equal(volumes["response"], expected)
    assert volumes.sizes["roi"] == 0
    validate(volumes)


@pytest.mark.parametrize(
    ("name", "catch"),
    [
        ("images_catch_db/catch03.jpg", True),
        ("images/zz_catch_01.jpg", True),
        ("images/Catch4.jpg", True),
        ("images/dog_12s.jpg", False),
        ("images/dreamcatcher_01b.jpg", False),
        ("images/catcher_01b.jpg", False),
    ],
)
def test_catch_trials_are_told_by_their_name(name, catch) -> None:
    # Catches objects that only have the word in theirs.
    assert is_catch(name) == catch


def test_sessions_stream_with_the_rows_of_each(whole) -> None:
    # Catches a session that is a run, and one that holds another's rows.
    for layout in ("table", "volumes"):
        parts = reader(whole, layout=layout).sessions()
        assert [part.name for part in parts] == [f"session {n}" for n in range(1, 13)]
        assert [part.rows for part in parts] == [50] * 12
        some = reader(whole, layout=layout, sessions=[2, 12])
        data = some.responses()
        every = reader(whole, layout=layout).responses()
        rows = np.isin(every["session"], (2, 12))
        np.testing.assert_array_equal(data["response"], every["response"][rows])
        assert data["image"].values.tolist() == every["image"].values[rows].tolist()


def test_the_table_is_read_in_blocks_of_voxels(whole, monkeypatch) -> None:
    # Catches the whole table in memory, and blocks that overlap or miss voxels.
    monkeypatch.setattr("neuroattn.data.things_tables._PIECE_BYTES", 50 * 8 * 7)
    monkeypatch.setattr("neuroattn.data.things_tables._LINES", 5)
    pieces = list(reader(whole).read(4))
    assert max(piece.shape[1] for piece in pieces) == 7
    expected = whole.values[whole.session == 5].astype(np.float32)
    np.testing.assert_array_equal(np.hstack(pieces), expected)
    some = reader(whole, roi=["lFFA"], sessions=[5]).responses()
    np.testing.assert_array_equal(some["response"], expected[:, whole.rois["lFFA"]])


def test_rois_are_the_columns_that_say_nothing_else(whole) -> None:
    # Catches prf and ceiling columns taken for ROIs, an empty ROI dropped.
    known = reader(whole).labels()
    assert known["roi"].values.tolist() == list(ROIS)
    for name, mask in whole.rois.items():
        np.testing.assert_array_equal(known["roi_mask"].sel(roi=name), mask)
    both = reader(whole, roi=["lFFA", "V1"]).labels()
    assert both.sizes["voxel"] == (whole.rois["lFFA"] | whole.rois["V1"]).sum()
    assert both["roi_mask"].sel(roi=["lFFA", "V1"]).values.any(axis=0).all()
    assert both.sizes["voxel"] == both["ncsnr"].size


def test_the_shipped_ceilings_are_those_of_the_responses(whole) -> None:
    # Catches percent taken for a fraction, the ceiling of 12 repeats taken for that of one.
    data = reader(whole).responses()
    ratio = data["ncsnr"].values ** 2
    expected = TOLERANCE["float64"]
    np.testing.assert_allclose(100 * ratio / (ratio + 1), whole.ceiling, **expected)
    both = compare_ceilings(data)
    np.testing.assert_allclose(both["shipped"], whole.ceiling, **expected)
    # The authors z-score with ddof 0 over their 100 (here 20) test images, this project with 1.
    clear = whole.ceiling > 0
    noise = [1 - both[name].values[clear] / 100 for name in ("shipped", "recomputed")]
    np.testing.assert_allclose(noise[0], noise[1] * 20 / 19, rtol=1e-5)
    assert np.corrcoef(data["ncsnr"], whole.snr)[0, 1] > 0.9


def test_ceilings_are_compared_only_where_there_are_any(whole) -> None:
    # Catches a comparison with nothing.
    with pytest.raises(InputError, match="layout='table'"):
        compare_ceilings(reader(whole, layout="volumes", sessions=[1]).responses())
    with pytest.raises(InputError, match="none of them more than once"):
        compare_ceilings(reader(whole, sessions=[1]).responses())


def test_scales_of_sessions_are_taken_out_before_repeats_are_averaged(whole) -> None:
    # Catches averages over sessions of different mean and spread.
    ready = prepare(reader(whole).responses())
    tests = ready["image"].isin([i for i, t in zip(whole.images, whole.test, strict=True) if t])
    assert set(ready["repeats"].values[tests]) == {12}
    assert set(ready["repeats"].values[~tests]) == {1}
    scaled = np.empty_like(whole.values)
    for n in range(1, 13):
        own = whole.values[whole.session == n]
        scaled[whole.session == n] = (own - own.mean(axis=0)) / own.std(axis=0, ddof=1)
    name = whole.images[int(np.flatnonzero(whole.test)[0])]
    rows = [n for n, image in enumerate(whole.images) if image == name]
    got = ready["response"].values[ready["image"].values == name][0]
    np.testing.assert_allclose(got, scaled[rows].mean(axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["table", "volumes", "volumes alone"])
def test_the_published_split_tests_on_the_repeated_images(mini, layout) -> None:
    # Catches test images among the training images.
    if layout == "volumes alone":
        shutil.rmtree(mini.root / "betas_csv")
    source = reader(mini, layout=layout.split()[0])
    split = source.splits()["published"]
    tests = {image for image, test in zip(mini.images, mini.test, strict=True) if test}
    assert set(split["test"]) == tests
    assert set(split["train"]) == set(mini.images) - tests
    index = source.stimuli()
    assert {
        image for image, test in zip(index["image"], index["test"], strict=True) if test
    } == tests
    assert sorted(set(index["shown"])) == [1, 12]
    assert index["concept"][0] == index["image"][0].split("_")[0]


def test_without_a_brain_mask_voxels_have_numbers_and_no_places(mini) -> None:
    # Catches made-up places.
    shutil.rmtree(mini.root / "brainmasks")
    known = reader(mini).labels()
    assert known.attrs["space"] == "none"
    assert "i" not in known.coords
    assert str(known["name"].values[3]) == "voxel-000003"
    with pytest.raises(FileError, match="brain mask"):
        reader(mini, layout="volumes").labels()


def test_places_that_count_from_one_are_refused(mini) -> None:
    # Catches maps shifted by a voxel.
    write_metadata(
        mini,
        voxel_x=mini.places[:, 0] + 1,
        voxel_y=mini.places[:, 1] + 1,
        voxel_z=mini.places[:, 2] + 1,
    )
    with pytest.raises(MismatchError, match=r"count from 1 \(100% of the voxels"):
        reader(mini).labels()
    write_metadata(mini, voxel_x=mini.places[::-1, 0])
    with pytest.raises(MismatchError, match=r"voxels of .* are in|count from 1"):
        reader(mini).labels()


def test_files_of_another_subject_are_named_as_such(mini) -> None:
    # Catches files of sub-02 renamed to sub-01, and voxels sorted by something.
    folder = mini.root / "betas_csv"
    write_metadata(mini, "02")
    for ending in ("StimulusMetadata", "VoxelMetadata"):
        (folder / f"sub-02_{ending}.csv").replace(folder / f"sub-01_{ending}.csv")
        with pytest.raises(MismatchError, match=r"is of subject \[2"):
            reader(mini).labels()
        write_metadata(mini)
    write_table(mini, numbers=np.arange(len(mini.places))[::-1])
    with pytest.raises(MismatchError, match="row 0: voxel_id"):
        reader(mini).labels()
    write_table(mini, values=mini.values[:, :-1], numbers=np.arange(len(mini.places) - 1))
    with pytest.raises(MismatchError, match=f"{len(mini.places) - 1} voxels"):
        reader(mini).labels()


def test_another_form_of_the_table_is_told(mini) -> None:
    # Catches a transposed table, one in the other format of pandas, other labels, too few trials.
    trials, voxels = mini.values.shape
    write_table(mini, values=mini.values.T, trials=list(range(voxels)), numbers=np.arange(trials))
    with pytest.raises(MismatchError, match="transposed"):
        reader(mini).labels()
    write_table(mini, format="frame_table")
    with pytest.raises(FileError, match=r"frame_table.*format='fixed'"):
        reader(mini).labels()
    write_table(mini, trials=[*range(trials - 1), trials])
    with pytest.raises(MismatchError, match=f"needed are 0 to {trials - 1}"):
        reader(mini).labels()
    write_table(mini, trials=[f"t{n}" for n in range(trials)])
    with pytest.raises(FileError, match="labelled 't0'"):
        reader(mini).labels()
    write_table(mini, values=mini.values[:-5])
    with pytest.raises(MismatchError, match=f"{trials - 5} columns"):
        reader(mini).labels()


def test_truncated_files_are_named(mini) -> None:
    # Catches half a download.
    path = write_table(mini)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FileError, match=r"ResponseData\.h5.*truncated"):
        reader(mini).labels()
    for name in ("VoxelMetadata", "StimulusMetadata"):
        write_table(mini)
        table = mini.root / f"betas_csv/sub-01_{name}.csv"
        table.write_text(table.read_text()[:-30] + "\n")
        with pytest.raises(FileError, match=name):
            reader(mini).labels()
        write_metadata(mini)
    betas = mini.root / "betas_vol/sub-01/ses-things01/sub-01_ses-things01_run-02_betas.nii.gz"
    betas.write_bytes(betas.read_bytes()[:400])
    with pytest.raises(FileError, match="run-02_betas"):
        list(reader(mini, layout="volumes").read(0))
    betas.unlink()
    with pytest.raises(FileError, match="session 1, run 2"):
        reader(mini, layout="volumes").labels()


@pytest.mark.parametrize("name", ["VoxelMetadata.csv", "StimulusMetadata.csv"])
@pytest.mark.parametrize("folder", [True, False])
def test_tables_that_are_no_text_are_told(mini, name, folder) -> None:
    """Catches a UnicodeDecodeError or IsADirectoryError without a word on the file."""
    path = mini.root / f"betas_csv/sub-01_{name}"
    content = path.read_bytes()
    path.unlink()
    path.mkdir() if folder else path.write_bytes(b"\xff\xfe" + content)
    with pytest.raises(FileError, match=f"sub-01_{name}"):
        THINGS(str(mini.root), "01").labels()


def test_trials_of_another_kind_or_order_are_refused(mini) -> None:
    # Catches catch trials in the table, and a table that was sorted.
    path = stimulus_table(mini)
    text = path.read_text()
    path.write_text(text.replace("train", "catch", 1))
    with pytest.raises(FileError, match=r"trial_type is 'catch'"):
        reader(mini).sessions()
    lines = text.splitlines()
    path.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(FileError, match="trial_id does not rise"):
        reader(mini).sessions()
    path.write_text("\n".join([lines[0], *lines[51:], *lines[1:51], lines[60]]))
    with pytest.raises(FileError, match="do not stand together"):
        reader(mini).sessions()
    path.write_text(text.replace("stimulus", "file", 1))
    with pytest.raises(FileError, match="no column 'stimulus'"):
        reader(mini).sessions()


def test_ceilings_as_fractions_and_rois_of_other_values_are_refused(mini) -> None:
    # Catches a ceiling a hundred times too low, and labels taken for masks.
    write_metadata(mini, nc_singletrial=mini.ceiling / 100)
    with pytest.raises(FileError, match="nc_singletrial goes from"):
        reader(mini).labels()
    write_metadata(mini, V1=np.full(len(mini.places), 2))
    with pytest.raises(FileError, match=r"column 'V1' holds 2"):
        reader(mini).labels()


def test_a_run_of_another_grid_or_count_or_a_copy_is_refused(mini) -> None:
    # Catches volumes of another space, tables without catch lines, one run saved twice.
    write_run(mini, "01", 1, 1, affine=np.eye(4))
    with pytest.raises(MismatchError, match="run-01_betas"):
        reader(mini, layout="volumes", sessions=[1]).labels()
    lines = [[n, f"images/thing{n}.jpg"] for n in range(5)]
    write_run(mini, "01", 1, 1, lines=lines)
    with pytest.raises(MismatchError, match="lists 5 conditions"):
        reader(mini, layout="volumes", sessions=[1]).labels()
    paths = write_run(mini, "01", 1, 1)
    other = [str(path).replace("run-01", "run-04") for path in paths]
    for source, target in zip(paths, other, strict=True):
        shutil.copy(source, target)
    with pytest.raises(MismatchError, match=r"run-01.*run-04.*copy"):
        reader(mini, layout="volumes", sessions=[1]).labels()
    write_csv(paths[1], ["", "name"], lines, "\t")
    with pytest.raises(FileError, match="image_filename"):
        reader(mini, layout="volumes", sessions=[1]).sessions()


def test_undefined_voxels_and_trials_without_values(mini) -> None:
    # Catches zeros that pass for responses, and a failed run.
    values = mini.values.copy()
    values[mini.session == 2, 4] = 0
    write_table(mini, values=values)
    data = reader(mini, sessions=[1, 2]).responses()
    assert np.isnan(data["response"][50:, 4]).all()
    assert not np.isnan(data["response"][:50]).any()
    values[53] = np.nan
    write_table(mini, values=values)
    with pytest.raises(FileError, match=r"session 2 .*trial 3,"):
        reader(mini).responses()
    save(mini.root / "brainmasks/sub-01_space-T1w_brainmask.nii.gz", np.ones(DIMS, np.uint8))
    outside = reader(mini, layout="volumes", sessions=[1]).responses()
    lost = np.isnan(outside["response"]).all("presentation").sum()
    assert lost == np.prod(DIMS) - len(mini.places)


def test_images_are_those_of_the_folder_given(mini, tmp_path) -> None:
    # Catches another image under the id, and images needed for reading responses.
    with pytest.raises(FileError, match=r"osf\.io"):
        reader(mini).images().read(0)
    folder = mini.root / "object_images"
    names = list(dict.fromkeys(mini.images))
    write_images(folder, [*names[:60], "never_01s"])
    source = reader(mini, sessions=[1], stimuli_folder=str(folder))
    images = source.images()
    assert list(images.ids) == list(dict.fromkeys(mini.images[:50]))
    assert (images.read(7) == names.index(images.ids[7])).all()
    assert images.digest(0) != images.digest(1)
    assert source.stimuli()["file"][0] == f"object_images/{names[0].split('_')[0]}/{names[0]}.jpg"
    with pytest.raises(FileError, match="has 0 files"):
        reader(mini, stimuli_folder=str(folder)).images()
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    outside = reader(mini, sessions=[1], stimuli_folder=str(elsewhere))
    assert outside.images().ids == images.ids
    with pytest.raises(InputError, match="is not below"):
        outside.stimuli()


def test_files_lists_what_is_needed_without_any_of_it_being_there(tmp_path, whole) -> None:
    # Catches a dry run that fails on the first missing file.
    assert len([file for file in THINGS(str(tmp_path), "02").files() if file.required]) == 3
    volumes = THINGS(str(tmp_path), "2", layout="volumes", preparation="scalematched").files()
    assert len(volumes) == 1 + 2 * 120
    assert "betas_vol/scalematched/sub-02/ses-things12" in volumes[-1].path.as_posix()
    for layout in ("table", "volumes"):
        assert all(file.path.exists() for file in reader(whole, layout=layout).files())
    with pytest.raises(FileError, match="StimulusMetadata"):
        THINGS(str(tmp_path), "02").labels()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"subject": "04"}, UnknownNameError, "01, 02, 03"),
        ({"layout": "csv"}, UnknownNameError, "table, volumes"),
        ({"sessions": [13], "layout": "volumes"}, InputError, "from 1 to 12"),
        ({"sessions": [0]}, InputError, "from 1 to 12"),
        ({"roi": ["FFA"]}, UnknownNameError, "lFFA"),
        ({"roi": ["lRSC"]}, InputError, "no voxel"),
        ({"roi": []}, InputError, "roi is empty"),
        ({"roi": ["V1"], "layout": "volumes"}, InputError, "without ROIs"),
    ],
)
def test_wrong_arguments_are_told_what_is_allowed(whole, options, error, words) -> None:
    # Catches a message without the allowed values.
    with pytest.raises(error, match=words):
        THINGS(**{"path": str(whole.root), "subject": "sub-01", **options}).labels()


def test_what_is_converted_is_what_is_read(mini, tmp_path) -> None:
    # Catches labels that zarr loses, an index that finds other images, a split left out.
    names = list(dict.fromkeys(mini.images[:100]))
    write_images(mini.root / "object_images", names)
    folder = str(mini.root / "object_images")
    source = reader(mini, sessions=[1, 2], roi=["V1"], stimuli_folder=folder)
    convert(source, tmp_path / "out")
    again, read = Converted(str(tmp_path / "out")), source.responses()
    np.testing.assert_array_equal(again.responses()["response"], read["response"])
    np.testing.assert_array_equal(again.responses()["ncsnr"], read["ncsnr"])
    assert again.splits()["published"] == source.splits()["published"]
    assert again.images().ids == source.images().ids
    np.testing.assert_array_equal(again.images().read(5), source.images().read(5))
