from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest

from neuroattn.data.bids.layout import Layout, Query, bold_runs
from neuroattn.data.bids.signals import (
    check_distinct,
    find_voxels,
    frames_of,
    percent_change,
    read_signal,
)
from neuroattn.errors import FileError, InputError, MismatchError
from tests.data.bids.builders import AFFINE, mini, write_gifti, write_json, write_nifti


@pytest.fixture
def raw(tmp_path):
    mini(tmp_path, trials=2, frames=40)
    return tmp_path


def runs_of(root, **query):
    return bold_runs(Layout(root), Query(1, **query))


def image(root, run=1):
    return root / f"sub-01/func/sub-01_task-look_run-{run}_bold.nii.gz"


def test_voxels_are_those_of_the_mask_first_index_fastest(raw):
    # Catches C order, and time series of other voxels.
    runs = runs_of(raw)
    voxels = find_voxels(runs, Layout(raw), None)
    signal = read_signal(runs[0], voxels)
    values = nibabel.load(image(raw)).get_fdata()
    i, j, k = (voxels.columns[axis] for axis in "ijk")
    assert signal.shape == (40, 22)
    assert signal.dtype == np.float32
    np.testing.assert_allclose(signal, values[i, j, k].T, rtol=1e-6)
    assert (np.diff(i + 3 * j + 12 * k) > 0).all()
    assert voxels.attrs["shape"] == [3, 4, 2]
    np.testing.assert_allclose(np.reshape(voxels.attrs["affine"], (4, 4)), AFFINE)
    assert len(find_voxels(runs, Layout(raw), "all").flat) == 24


def test_a_scaled_image_is_read_with_its_slope(raw):
    # Catches integers that are read as stored.
    values = np.arange(24 * 40, dtype=np.int16).reshape(3, 4, 2, 40)
    made = nibabel.Nifti1Image(values, AFFINE)
    made.header.set_slope_inter(0.5, 10)
    made.header.set_zooms((3, 3, 3.5, 1.5))
    made.header.set_xyzt_units("mm", "sec")
    nibabel.save(made, image(raw))
    stored = nibabel.load(image(raw)).get_fdata()
    runs = runs_of(raw)
    voxels = find_voxels(runs, Layout(raw), "all")
    expected = stored.reshape(24, 40, order="F").T
    np.testing.assert_allclose(read_signal(runs[0], voxels), expected, rtol=1e-6)


def test_percent_change_is_of_each_voxels_mean():
    # Catches a mean over voxels, fractions instead of percent, and infinite responses.
    values = np.array([[90.0, 5, 1, -3, np.nan], [110.0, 5, -1, -5, 1], [100, 5, 0, -4, 2]])
    change, usable = percent_change(values)
    np.testing.assert_allclose(change[:, 0], [-10, 10, 0], atol=1e-12)
    assert usable.tolist() == [True, False, False, False, False]
    assert (change[:, 1:] == 0).all()


def test_volume_times_come_from_repetition_time_and_start(raw):
    # Catches a slice-time reference that is ignored, and milliseconds taken for seconds.
    frames = frames_of(runs_of(raw)[0], None)
    np.testing.assert_allclose(frames.times, np.arange(40) * 1.5)
    write_json(raw / "task-look_bold.json", {"RepetitionTime": 1.5, "StartTime": 0.75})
    np.testing.assert_allclose(frames_of(runs_of(raw)[0], None).times, 0.75 + np.arange(40) * 1.5)
    other = nibabel.load(image(raw))
    other.header.set_xyzt_units("mm", "msec")
    other.header.set_zooms((3, 3, 3.5, 1500))
    nibabel.save(nibabel.Nifti1Image(other.get_fdata(), AFFINE, other.header), image(raw))
    assert frames_of(runs_of(raw)[0], None).tr == 1.5


def test_two_repetition_times_are_one_too_many(raw):
    # Catches the choice of one by chance: all onsets would shift.
    write_json(raw / "task-look_bold.json", {"RepetitionTime": 2.0})
    run = runs_of(raw)[0]
    with pytest.raises(MismatchError, match=r"header has a repetition time of 1.5 s.*2 s.*glm.tr"):
        frames_of(run, None)
    assert frames_of(run, 1.6).tr == 1.6


def test_volumes_at_uneven_times_are_refused(raw):
    # Catches sparse sampling that is modelled as if volumes followed one another.
    write_json(raw / "task-look_bold.json", {"VolumeTiming": [0, 1.5, 9, 10.5]})
    with pytest.raises(FileError, match=r"VolumeTiming.*RepetitionTime"):
        frames_of(runs_of(raw)[0], None)


def test_voxels_are_in_the_masks_of_all_runs(raw):
    # Catches the mask of the last run alone: responses of other runs from outside the brain.
    for run, outside in ((1, 0), (2, 2)):
        mask = np.ones((3, 4, 2), np.uint8)
        mask[outside, 3, 1] = 0
        write_nifti(raw / f"sub-01/func/sub-01_task-look_run-{run}_desc-brain_mask.nii.gz", mask)
    voxels = find_voxels(runs_of(raw), Layout(raw), None)
    missing = sorted(set(range(24)) - set(voxels.flat.tolist()))
    assert missing == [0 + 3 * 3 + 12, 2 + 3 * 3 + 12]


def test_a_repetition_time_is_needed(raw):
    # Catches a header's default of 1 without unit that is believed.
    write_json(raw / "task-look_bold.json", {})
    made = nibabel.Nifti1Image(np.ones((3, 4, 2, 40), np.float32), AFFINE)
    made.header.set_xyzt_units("mm", "unknown")
    nibabel.save(made, image(raw))
    with pytest.raises(FileError, match=r"neither its header nor a JSON file"):
        frames_of(runs_of(raw)[0], None)


def test_a_mask_or_run_in_another_space_is_refused(raw):
    # Catches voxels of another place in the head.
    moved = AFFINE.copy()
    moved[0, 3] += 1
    write_nifti(raw / "other.nii.gz", np.ones((3, 4, 2), np.uint8), affine=moved)
    with pytest.raises(MismatchError, match=r"other.nii.gz has the affine"):
        find_voxels(runs_of(raw), Layout(raw), str(raw / "other.nii.gz"))
    write_nifti(image(raw, 2), np.ones((3, 4, 3, 40), np.float32), 1.5)
    with pytest.raises(MismatchError, match=r"3 x 4 x 3 voxels"):
        find_voxels(runs_of(raw), Layout(raw), None)


def test_a_missing_or_empty_mask_is_told(raw):
    # Catches all voxels of the box, air included, without a word.
    write_nifti(raw / "none.nii.gz", np.zeros((3, 4, 2), np.uint8))
    with pytest.raises(InputError, match=r"no voxel is inside .*none.nii.gz"):
        find_voxels(runs_of(raw), Layout(raw), str(raw / "none.nii.gz"))
    shutil.rmtree(raw / "derivatives")
    with pytest.raises(FileError, match=r"no brain mask .*mask='all'"):
        find_voxels(runs_of(raw), Layout(raw), None)


def test_a_run_that_is_a_copy_of_another_is_told(raw):
    # Catches a run that was downloaded over another: repeats would agree perfectly.
    check_distinct(runs_of(raw))
    shutil.copy(image(raw, 1), image(raw, 2))
    with pytest.raises(MismatchError, match=r"run-2_bold.nii.gz has the same content as .*run-1"):
        check_distinct(runs_of(raw))


def test_damaged_images_are_named(raw):
    # Catches an error of zlib or nibabel that names no file.
    content = image(raw).read_bytes()
    image(raw).write_bytes(content[: len(content) // 2])
    runs = runs_of(raw)
    with pytest.raises(FileError, match=r"run-1_bold.nii.gz .*truncated"):
        read_signal(runs[0], find_voxels(runs, Layout(raw), None))
    write_nifti(image(raw), np.ones((3, 4, 2), np.float32))
    with pytest.raises(FileError, match=r"shape \(3, 4, 2\); needed: \(i, j, k, time\)"):
        frames_of(runs_of(raw)[0], None)


def surfaces(root, left, right, run=1):
    for side, values in {"L": left, "R": right}.items():
        name = f"sub-01_task-look_run-{run}_space-fsnative_hemi-{side}_bold.func.gii"
        write_gifti(root / "sub-01/func" / name, values)


def test_surfaces_are_left_then_right_vertices(tmp_path):
    # Catches hemispheres that are swapped, and time points taken for vertices.
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(9, 5)), draw.normal(size=(9, 7))
    surfaces(tmp_path, left, right)
    write_json(tmp_path / "task-look_bold.json", {"RepetitionTime": 2})
    (run,) = runs_of(tmp_path, space="fsnative")
    voxels = find_voxels([run], Layout(tmp_path), None)
    expected = np.concatenate([left, right], axis=1).astype(np.float32)
    np.testing.assert_array_equal(read_signal(run, voxels), expected)
    assert voxels.columns["hemisphere"].tolist() == ["left"] * 5 + ["right"] * 7
    assert voxels.columns["vertex"].tolist() == [*range(5), *range(7)]
    assert voxels.attrs == {"vertices_left": 5, "vertices_right": 7}
    assert len(frames_of(run, None).times) == 9
    with pytest.raises(InputError, match=r"surfaces are read with all vertices"):
        find_voxels([run], Layout(tmp_path), "all")


def test_surfaces_that_do_not_belong_together_are_refused(tmp_path):
    # Catches hemispheres of other lengths, other meshes, and files that are no time series.
    ones = np.ones((9, 5))
    surfaces(tmp_path, ones, ones[:8])
    write_json(tmp_path / "task-look_bold.json", {"RepetitionTime": 2})
    with pytest.raises(MismatchError, match=r"9 time points, .*hemi-R.* has 8"):
        frames_of(runs_of(tmp_path, space="fsnative")[0], None)
    surfaces(tmp_path, ones, ones)
    surfaces(tmp_path, np.ones((9, 6)), ones, run=2)
    with pytest.raises(MismatchError, match=r"run-2.*hemi-L.* has 6 vertices"):
        find_voxels(runs_of(tmp_path, space="fsnative"), Layout(tmp_path), None)
    surfaces(tmp_path, ones[:1], ones[:1])
    with pytest.raises(FileError, match=r"1 arrays"):
        frames_of(runs_of(tmp_path, space="fsnative")[0], None)
    first = runs_of(tmp_path, space="fsnative")[0]
    first.images[0].write_text("<GIFTI>")
    with pytest.raises(FileError, match=r"hemi-L_bold.func.gii"):
        frames_of(first, None)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "query"),
    [
        ("ds114", {"task": "fingerfootlips"}),
        ("ds000001-fmriprep", {"space": "MNI152NLin2009cAsym"}),
        ("ds000001-fmriprep", {"space": "fsaverage5"}),
    ],
)
def test_layouts_without_data_say_so(realdata, folder, query):
    # Catches an error of nibabel for the empty files of a DataLad layout.
    layout = Layout(realdata / "bids_layouts" / folder)
    runs = bold_runs(layout, Query(10, **query))
    for check in (lambda: find_voxels(runs, layout, None), lambda: frames_of(runs[0], None)):
        with pytest.raises(FileError, match=r"sub-10_.*bold.* is empty \(0 bytes\).*datalad get"):
            check()
