"""BOLD5000 in miniature, whole and with each part missing or wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from neuroattn.data.bold5000 import BOLD5000
from neuroattn.data.bold5000_layout import published_rows
from neuroattn.data.conversion import convert
from neuroattn.data.converted import Converted
from neuroattn.data.preparation import prepare
from neuroattn.data.rules import validate
from neuroattn.errors import FileError, InputError, MismatchError, UnknownNameError
from tests.data.bold5000_mini import (
    AFFINE,
    DIMS,
    MISNAMED,
    ROIS,
    RUNS,
    Mini,
    bold5000_mini,
    file_name,
    save,
    write_betas,
    write_lists,
    write_tables,
)

MASKS = "derivatives/spm/sub-CSI4/sub-CSI4_mask-"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Mini:
    return bold5000_mini(tmp_path_factory.mktemp("bold5000"))


@pytest.fixture
def mini(whole, tmp_path) -> Mini:
    copy = shutil.copytree(whole.root, tmp_path / "b5k")
    return Mini(**{**whole.__dict__, "root": Path(copy)})


def reader(mini: Mini, **options) -> BOLD5000:
    return BOLD5000(str(mini.root), mini.subject, **options)


def flat(mini: Mini, mask: np.ndarray) -> np.ndarray:
    return mask.ravel(order="F")[np.flatnonzero(mini.brain.ravel(order="F"))]


def test_the_values_are_those_of_the_files_trial_by_trial(whole) -> None:
    # Catches voxels in C order, transposed trials, a session shifted by another's length.
    data = reader(whole).responses()
    assert data["response"].dtype == np.float32
    np.testing.assert_array_equal(data["response"], whole.values)
    volume = np.asarray(nibabel.load(reader(whole).sessions()[2].files[0]).dataobj)
    row, voxel = 370 + 333 + 5, 7
    i, j, k = (int(data[axis][voxel]) for axis in "ijk")
    assert volume[i, j, k, 5] == float(data["response"][row, voxel])
    assert data.attrs["units"] == "percent signal change"
    assert data.attrs["tr"] == 2.0
    assert data.attrs["zscored"] == "none"
    validate(data)


def test_sessions_and_runs_have_the_published_unequal_lengths(whole) -> None:
    # Catches equal sessions, runs counted through, sessions from 0.
    known = reader(whole).labels()
    sizes = 37 * np.array(RUNS["CSI4"])
    np.testing.assert_array_equal(known["session"], np.repeat(np.arange(1, 10), sizes))
    run = np.concatenate([np.repeat(np.arange(1, n + 1), 37) for n in RUNS["CSI4"]])
    np.testing.assert_array_equal(known["run"], run)
    assert [part.rows for part in reader(whole).sessions()] == sizes.tolist()


@pytest.mark.parametrize(
    ("subject", "trials"), [("CSI1", 5254), ("CSI2", 5254), ("CSI3", 5254), ("CSI4", 3108)]
)
def test_the_published_runs_add_up_to_the_published_trials(subject, trials) -> None:
    # Catches a session with a wrong number of runs in the table of the layout.
    rows = published_rows(subject)
    assert list(rows.values()) == [37 * runs for runs in RUNS[subject]]
    assert sum(rows.values()) == trials


def test_images_are_named_without_prefix_and_ending_and_repetitions_count(whole) -> None:
    # Catches rep_ names taken for other images, which halves the repeats.
    known = reader(whole).labels()
    assert known["image"].values.tolist() == whole.images
    assert any(name.startswith("rep_") for name in whole.names)
    counts = {image: whole.images.count(image) for image in whole.repeated}
    assert sorted(set(counts.values())) == [2, 3, 4]
    for image in whole.repeated[:4]:
        here = known["image"].values == image
        assert known["repetition"].values[here].tolist() == list(range(counts[image]))


def test_some_sessions_take_their_names_from_their_own_place_in_the_list(mini) -> None:
    # Catches names that begin at the top for session 3, also where sessions 1 and 2 are not there.
    expected = mini.images[703 : 703 + 333]
    assert reader(mini, sessions=[3]).labels()["image"].values.tolist() == expected
    for number in (1, 2):
        next(mini.root.glob(f"*ses-0{number}.nii.gz")).unlink()
    data = reader(mini, sessions=[3, 5]).responses()
    assert data["image"].values[:333].tolist() == expected
    np.testing.assert_array_equal(data["response"][:333], mini.values[703 : 703 + 333])
    assert sorted(set(data["session"].values.tolist())) == [3, 5]


def test_the_places_are_the_brain_masks_not_those_of_the_responses(whole) -> None:
    # Catches maps in an empty corner: the responses were published with the affine of no scan.
    known = reader(whole).labels()
    assert known.attrs["affine"] == AFFINE.astype(np.float32).astype(float).ravel().tolist()
    assert known.attrs["shape"] == list(DIMS)
    assert known.attrs["header"]
    assert known.attrs["space"] == "native"
    places = np.stack([known[axis].values for axis in "ijk"])
    np.testing.assert_array_equal(places, np.array(np.nonzero(whole.brain.T))[::-1])


@pytest.mark.parametrize("subject", ["CSI2", "CSI3"])
def test_misnamed_masks_are_read_as_what_they_are_and_told(tmp_path, subject) -> None:
    # Catches LOC and RSC left empty in the subjects whose files are called LO and RRSC.
    mini = bold5000_mini(tmp_path, subject)
    known = reader(mini, sessions=[15]).labels()
    for roi in ROIS:
        expected = flat(mini, mini.masks[f"LH{roi}"] | mini.masks[f"RH{roi}"])
        np.testing.assert_array_equal(known["roi_mask"].sel(roi=roi), expected)
    note = known.attrs["renamed_masks"]
    for right, wrong in MISNAMED[subject].items():
        assert f"sub-{subject}_mask-{wrong}.nii.gz is {right}" in note
    assert note.count(" is ") == len(MISNAMED[subject])


def test_a_mask_under_both_names_is_refused(mini) -> None:
    # Catches a choice between two files that nobody made.
    shutil.copy(mini.root / f"{MASKS}LHLOC.nii.gz", mini.root / f"{MASKS}LHLO.nii.gz")
    with pytest.raises(FileError, match=r"LHLOC.*LHLO\..*both there"):
        reader(mini).labels()


def test_hemispheres_are_those_of_the_masks(whole) -> None:
    # Catches sides swapped, and sides made up for voxels outside every mask.
    known = reader(whole).labels()
    left = np.logical_or.reduce([flat(whole, whole.masks[f"LH{roi}"]) for roi in ROIS])
    right = np.logical_or.reduce([flat(whole, whole.masks[f"RH{roi}"]) for roi in ROIS])
    assert left.any()
    assert right.any()
    expected = np.where(left, "left", np.where(right, "right", "both"))
    np.testing.assert_array_equal(known["hemisphere"], expected)
    assert "renamed_masks" not in known.attrs


def test_rois_keep_their_voxels_only(whole) -> None:
    # Catches voxels of other ROIs, ROI masks that are not cut along, values in another order.
    data = reader(whole, sessions=[1], roi=["LOC", "OPA"]).responses()
    inside = np.logical_or.reduce(
        [
            flat(whole, whole.masks[f"{side}{roi}"])
            for side in ("LH", "RH")
            for roi in ("LOC", "OPA")
        ]
    )
    np.testing.assert_array_equal(data["response"], whole.values[:370, inside])
    assert data["roi_mask"].sel(roi=["LOC", "OPA"]).values.any(axis=0).all()
    assert data["roi"].values.tolist() == list(ROIS)


def test_without_masks_there_are_no_rois_and_a_part_of_them_is_an_error(mini) -> None:
    # Catches a ROI of one hemisphere after a download that broke off.
    assert reader(mini, masks="").labels().sizes["roi"] == 0
    (mini.root / f"{MASKS}RHPPA.nii.gz").unlink()
    with pytest.raises(FileError, match="mask of RHPPA"):
        reader(mini).labels()
    with pytest.raises(InputError, match="leave masks out"):
        reader(mini, masks="", roi=["PPA"]).labels()
    shutil.rmtree(mini.root / "derivatives")
    assert reader(mini).labels().sizes["roi"] == 0
    with pytest.raises(FileError, match="mask of LHEarlyVis"):
        reader(mini, roi=["PPA"]).labels()


def test_zero_voxels_are_undefined_in_that_session_only(mini) -> None:
    # Catches zeros that pass for responses.
    values = mini.values[:370].copy()
    values[:, 3] = 0
    values[4, 5] = 0
    write_betas(mini.root, "CSI4", 1, values, mini.brain)
    data = reader(mini, sessions=[1, 2]).responses()
    assert np.isnan(data["response"][:370, 3]).all()
    assert not np.isnan(data["response"][370:, 3]).any()
    assert data["response"][4, 5] == 0


def test_the_ceiling_comes_from_two_to_four_repeats_and_scales_from_sessions(whole) -> None:
    # Catches means without z-scores within session, and ncsnr of images shown equally often only.
    ready = prepare(reader(whole).responses())
    assert int(ready["repeats"].max()) == 4
    assert ready.sizes["presentation"] == len(set(whole.images))
    # The noise variance has 226 degrees of freedom: an error of 9 % of it, 0.1 of the ratio.
    error = ready["ncsnr"].values - whole.snr
    assert np.abs(error.mean()) < 0.05
    assert np.abs(error).mean() < 0.15
    assert np.corrcoef(ready["ncsnr"].values, whole.snr)[0, 1] > 0.9


@pytest.mark.parametrize("listed", [True, False])
def test_the_split_tests_on_the_repeated_images(mini, listed) -> None:
    # Catches repeated images that train, a list that misses images named otherwise.
    if not listed:
        next(mini.root.rglob("repeated_stimuli_113_list.txt")).unlink()
    split = reader(mini).splits()["repeated"]
    assert set(split["test"]) == set(mini.repeated)
    assert set(split["train"]) | set(split["validation"]) == set(mini.images) - set(mini.repeated)
    assert 0.07 < len(split["validation"]) / (len(split["train"]) + len(split["validation"])) < 0.13


def test_the_split_is_the_same_for_all_subjects_and_follows_the_list(whole, tmp_path) -> None:
    # Catches a rule that depends on the order or number of the images.
    other = bold5000_mini(tmp_path, "CSI1", seed=3)
    first, second = (reader(one).splits()["repeated"] for one in (whole, other))
    shared = set(whole.images) & set(other.images)
    assert shared
    for part in ("train", "validation", "test"):
        assert set(first[part]) & shared == set(second[part]) & shared
    some = reader(whole, sessions=[1]).splits()["repeated"]
    assert set(some["test"]) == set(whole.images[:370]) & set(whole.repeated)


def test_images_are_found_under_every_spelling_and_read_lazily(mini) -> None:
    # Catches rep_ and COCO prefixes that hide a file, and another image under the id.
    folder = mini.root / "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli"
    coco = next(image for image in mini.images[:370] if image.startswith("COCO"))
    bare = coco.removeprefix("COCO_train2014_")
    (folder / "COCO" / f"{coco}.jpg").rename(folder / "COCO" / f"{bare}.jpg")
    images = reader(mini, sessions=[1]).images()
    order = list(dict.fromkeys(mini.images[:370]))
    assert list(images.ids) == order
    for place in (0, order.index(coco), len(order) - 1):
        assert (images.read(place) == place % 256).all()
    assert images.digest(0) != images.digest(1)
    index = reader(mini, sessions=[1]).stimuli()
    assert index["image"] == order
    assert (mini.root / index["file"][order.index(coco)]).name == f"{bare}.jpg"
    assert index["shown"] == [mini.images[:370].count(image) for image in order]
    assert {"COCO", "ImageNet", "Scene"} == set(index["collection"])
    assert sum(index["repeated"]) == len(set(order) & set(mini.repeated))


def test_an_image_with_two_files_or_none_is_refused(mini) -> None:
    # Catches a guess between two files.
    folder = mini.root / "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli"
    scene = next(image for image in mini.images[:370] if image.startswith("abbey"))
    shutil.copy(folder / "Scene" / file_name(scene), folder / "COCO" / f"rep_{scene}.jpg")
    with pytest.raises(FileError, match=rf"'{scene}' has 2 files"):
        reader(mini, sessions=[1]).images()
    (folder / "COCO" / f"rep_{scene}.jpg").unlink()
    (folder / "Scene" / file_name(scene)).unlink()
    with pytest.raises(FileError, match=rf"'{scene}' has 0 files"):
        reader(mini, sessions=[1]).images()


def test_without_the_stimuli_images_have_names_and_say_where_pixels_are(mini) -> None:
    # Catches a reader that needs the images to read responses.
    shutil.rmtree(mini.root / "BOLD5000_Stimuli")
    images = reader(mini).images()
    assert set(images.ids) == set(mini.images)
    with pytest.raises(FileError, match=r"BOLD5000_Stimuli\.zip"):
        images.read(0)
    assert set(reader(mini).stimuli()["file"]) == {""}
    with pytest.raises(FileError, match="folder of the images"):
        reader(mini, stimuli_folder=str(mini.root / "elsewhere")).images()


def test_names_come_from_the_presentation_lists_where_their_file_is_missing(mini) -> None:
    # Catches runs in alphabetical order of another kind, sessions of other subjects.
    write_lists(mini)
    assert reader(mini).labels()["image"].values.tolist() == mini.images
    lists = mini.root / "BOLD5000_Stimuli/Stimuli_Presentation_Lists/CSI4/CSI4_sess03"
    (lists / "CSI_sess03_run04.txt").unlink()
    with pytest.raises(FileError, match="without a gap"):
        reader(mini).sessions()


@pytest.mark.parametrize("subject", ["CSI2", "CSI4"])
def test_tables_of_rois_give_the_numbers_of_the_volumes(tmp_path, subject) -> None:
    # Catches rows of another session, misnamed tables left out, sides swapped.
    mini = bold5000_mini(tmp_path, subject)
    write_tables(mini)
    data = reader(mini, space="roi", sessions=[2, 4]).responses()
    rows = np.cumsum([0, *(37 * np.array(RUNS[subject]))])
    expected = np.concatenate([mini.values[rows[1] : rows[2]], mini.values[rows[3] : rows[4]]])
    for roi in ROIS:
        inside = [flat(mini, mini.masks[f"{side}{roi}"]) for side in ("LH", "RH")]
        here = data.isel(voxel=data["roi_mask"].sel(roi=roi).values)
        wanted = np.hstack([expected[:, mask] for mask in inside])
        np.testing.assert_array_equal(here["response"], wanted)
        assert (here["hemisphere"] == "left").sum() == inside[0].sum()
    assert data.attrs["space"] == "none"
    assert ("renamed_masks" in data.attrs) == (subject == "CSI2")
    one = reader(mini, space="roi", roi=["PPA"], sessions=[1]).responses()
    assert one["roi"].values.tolist() == ["PPA"]
    assert str(one["name"].values[0]) == "LHPPA-0000"


def test_a_transposed_table_is_refused(mini) -> None:
    # Catches voxels taken for trials.
    write_tables(mini)
    path = next(mini.root.rglob("*LHPPA.npy"))
    np.save(path, np.load(path).T)
    with pytest.raises(MismatchError, match=r"LHPPA.*transposed"):
        reader(mini, space="roi").labels()


def test_files_of_another_subject_are_named_as_such(mini) -> None:
    # Catches a betas file of CSI2 under the name of CSI4, and names of CSI1.
    path = mini.root / "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-02.nii.gz"
    save(path, np.zeros((72, 92, 70, 37), dtype=np.int8))
    with pytest.raises(MismatchError, match=r"ses-02.*shape of CSI2"):
        next(reader(mini, sessions=[2]).read(0))
    other = mini.root / "CSI4_imgnames.txt"
    other.write_text("\n".join(f"abbey{n}.jpg" for n in range(5254)))
    with pytest.raises(MismatchError, match="as many as CSI1 or CSI2 or CSI3 has"):
        reader(mini, sessions=[1]).labels()


def test_a_session_with_too_few_trials_is_named(mini) -> None:
    # Catches names that slide by a run.
    write_betas(mini.root, "CSI4", 4, mini.values[:333], mini.brain)
    with pytest.raises(MismatchError, match="session 4 has 333, published 370"):
        reader(mini).sessions()
    write_betas(mini.root, "CSI4", 4, mini.values[:330], mini.brain)
    with pytest.raises(FileError, match="37 trials a run"):
        reader(mini).sessions()


def test_a_session_that_is_a_copy_of_another_is_refused(mini) -> None:
    # Catches a download saved twice: as many trials, another session's values.
    stem = str(mini.root / "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-")
    shutil.copy(f"{stem}02.nii.gz", f"{stem}03.nii.gz")
    with pytest.raises(MismatchError, match=r"ses-02.*ses-03.*copy"):
        reader(mini).labels()


def test_a_mask_turned_round_or_of_another_brain_is_refused(mini) -> None:
    # Catches places mirrored against the values, which no affine would tell.
    path = mini.root / "CSI4_brainmask.nii.gz"
    save(path, mini.brain[::-1].astype(np.uint8))
    with pytest.raises(MismatchError, match="turned round along i 100%"):
        reader(mini, masks="").labels()
    save(path, (~mini.brain).astype(np.uint8))
    with pytest.raises(MismatchError, match=r"turned round|another subject"):
        reader(mini, masks="").labels()
    known = reader(mini, masks="", mask="betas").labels()
    assert known.sizes["voxel"] == mini.brain.sum()


def test_a_mask_of_another_space_is_refused(mini) -> None:
    # Catches ROIs in another place of the same array, and labels in place of a mask.
    path = mini.root / f"{MASKS}LHPPA.nii.gz"
    save(path, mini.masks["LHPPA"].astype(np.float32), affine=AFFINE + np.eye(4))
    with pytest.raises(MismatchError, match="LHPPA"):
        reader(mini).labels()
    save(path, np.arange(np.prod(DIMS), dtype=np.float32).reshape(DIMS))
    with pytest.raises(FileError, match="values besides 0"):
        reader(mini).labels()


def test_truncated_files_and_trials_without_values_are_named(mini) -> None:
    # Catches half a session, and a failed estimate read as data.
    path = reader(mini).sessions()[0].files[0]
    values = mini.values[:370].copy()
    values[11] = np.nan
    write_betas(mini.root, "CSI4", 1, values, mini.brain)
    with pytest.raises(FileError, match=r"session 1 .*1 of 370 trials.*trial 11"):
        list(reader(mini).read(0))
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(FileError, match=r"ses-01.*truncated"):
        list(reader(mini).read(0))
    path.unlink()
    with pytest.raises(FileError, match="betas of session 1"):
        reader(mini).sessions()


def test_files_lists_what_is_needed_without_any_of_it_being_there(tmp_path, whole) -> None:
    # Catches a dry run that fails on the first missing file.
    listed = BOLD5000(str(tmp_path), "CSI1").files()
    needed = [file.path.name for file in listed if file.required]
    assert "CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-15.nii.gz" in needed
    assert {"CSI1_brainmask.nii.gz", "CSI1_imgnames.txt"} <= set(needed)
    assert len(needed) == 17
    assert all(file.path.exists() for file in reader(whole).files())
    with pytest.raises(FileError, match="session 1"):
        BOLD5000(str(tmp_path), "CSI1").labels()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"subject": "CSI5"}, UnknownNameError, "CSI4"),
        ({"preparation": "fithrf"}, InputError, "TYPEA-ASSUMEHRF"),
        ({"space": "MNI"}, UnknownNameError, "native, roi"),
        ({"sessions": [10]}, InputError, "from 1 to 9"),
        ({"sessions": [2, 1]}, InputError, "rising"),
        ({"sessions": []}, InputError, "from 1 to 9"),
        ({"roi": ["V1"]}, UnknownNameError, "EarlyVis"),
        ({"roi": []}, InputError, "roi is empty"),
        ({"mask": "none"}, UnknownNameError, "brainmask"),
    ],
)
def test_wrong_arguments_are_told_what_is_allowed(whole, options, error, words) -> None:
    # Catches a message without the allowed values.
    arguments = {"path": str(whole.root), "subject": "CSI4", **options}
    with pytest.raises(error, match=words):
        BOLD5000(**arguments).labels()


def test_a_folder_in_the_place_of_the_names_is_told(mini) -> None:
    """Catches an IsADirectoryError."""
    path = mini.root / f"{mini.subject}_imgnames.txt"
    path.unlink()
    path.mkdir()
    with pytest.raises(FileError, match="imgnames"):
        BOLD5000(str(mini.root), mini.subject).labels()


def test_empty_lines_among_the_names_are_refused(mini) -> None:
    # Catches names that shift by a line.
    path = mini.root / "CSI4_imgnames.txt"
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    with pytest.raises(FileError, match="line 2 is empty"):
        reader(mini).sessions()


def test_a_session_comes_in_pieces_of_bounded_size(whole, monkeypatch) -> None:
    # Catches one array of a whole session, pieces that overlap or miss voxels.
    monkeypatch.setattr("neuroattn.data.trial_volumes._PIECE_BYTES", 333 * 4 * 5)
    monkeypatch.setattr("neuroattn.data.trial_volumes._BLOCK_BYTES", 4000)
    pieces = list(reader(whole).read(1))
    assert max(piece.shape[1] for piece in pieces) == 5
    np.testing.assert_array_equal(np.hstack(pieces), whole.values[370:703])


def test_what_is_converted_is_what_is_read(whole, tmp_path) -> None:
    # Catches labels that zarr loses, an index that finds other images, a split left out.
    source = reader(whole, sessions=[1], roi=["EarlyVis", "LOC"])
    convert(source, tmp_path / "out")
    again, read = Converted(str(tmp_path / "out")), source.responses()
    np.testing.assert_array_equal(again.responses()["response"], read["response"])
    assert again.responses()["image"].values.tolist() == read["image"].values.tolist()
    assert again.splits()["repeated"] == source.splits()["repeated"]
    assert again.images().ids == source.images().ids
    np.testing.assert_array_equal(again.images().read(5), source.images().read(5))
