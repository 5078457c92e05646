"""Label files, their names, and the voxels that are kept."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data.nsd import NSD
from neuroattn.data.nsd.rois import read_ctab
from neuroattn.errors import FileError, InputError, MismatchError, UnknownNameError
from tests.data.nsd_mini import AFFINE, Mini, write_volume


def kept(reader: NSD) -> set[tuple[int, int, int]]:
    data = reader.labels()
    return set(zip(*(data[axis].values.tolist() for axis in "ijk"), strict=True))


def places(mask: np.ndarray) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.argwhere(mask).tolist()))


def test_nsdgeneral_is_one_and_never_all_that_is_not_minus_one(mini: Mini) -> None:
    """Catches the mask != -1, which takes all of cortex and halves the noise ceiling."""
    values = mini.labels["nsdgeneral"]
    assert kept(NSD(str(mini.root), 1)) == places(values == 1)
    assert (values == 1).sum() < (values != -1).sum() < values.size


@pytest.mark.parametrize(
    ("roi", "mask"),
    [
        (["all"], lambda m: np.ones(m.dims, dtype=bool)),
        (["brainmask"], lambda m: m.labels["nsdgeneral"] >= 0),
        (["prf-visualrois"], lambda m: m.labels["prf-visualrois"] > 0),
        (
            ["V1d", "FFA-1"],
            lambda m: (m.labels["prf-visualrois"] == 2) | (m.labels["floc-faces"] == 2),
        ),
        ("hV4", lambda m: m.labels["prf-visualrois"] == 7),
    ],
)
def test_voxels_in_any_wanted_roi_are_kept(mini: Mini, roi, mask) -> None:
    """Catches ROIs that are intersected, labels off by one, and -1 counted as inside."""
    assert kept(NSD(str(mini.root), 1, roi=roi)) == places(mask(mini))


def test_names_come_from_the_table_beside_the_labels_first(own: Mini) -> None:
    """Catches names off by one (0 is Unknown) and a shipped table that is ignored."""
    data = NSD(str(own.root), 1, roi=["all"]).labels()
    flat = own.labels["floc-faces"].ravel(order="F")
    for number, name in enumerate(("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"), start=1):
        assert np.array_equal(data["roi_mask"].sel(roi=name).values, flat == number)
    table = own.root / "nsddata/freesurfer/subj01/label/floc-faces.mgz.ctab"
    table.write_text(table.read_text().replace("FFA-2", "my-face"))
    assert "my-face" in NSD(str(own.root), 1).labels()["roi"].values
    assert "FFA-2" not in NSD(str(own.root), 1).labels()["roi"].values


def test_published_names_serve_without_a_table_and_empty_rois_stay(own: Mini) -> None:
    """Catches an empty ROI that is left out, so that subjects differ in their lists of ROIs."""
    (own.root / "nsddata/freesurfer/subj01/label/floc-faces.mgz.ctab").unlink()
    data = NSD(str(own.root), 1).labels()
    names = data["roi"].values.tolist()
    assert names == [
        *("nsdgeneral", "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
        *("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    ]
    assert not data["roi_mask"].sel(roi="aTL-faces").values.any()


def test_a_name_in_two_files_gets_the_file_before_it_the_second_time(own: Mini) -> None:
    """Catches two ROIs of one name, of which one would hide the other."""
    values = np.zeros(own.dims, np.int16)
    values[0, 1, 0], values[1, 1, 0] = 1, 3
    write_volume(own.anatomy / "roi/Kastner2015.nii.gz", values)
    folder = own.root / "nsddata/freesurfer/subj01/label"
    (folder / "Kastner2015.mgz.ctab").write_text("0 Unknown\n1 V1v\n3 hMT\n")
    data = NSD(str(own.root), 1, roi=["all"]).labels()
    assert data["roi_mask"].sel(roi="Kastner2015-V1v").values.sum() == 1
    assert data["roi_mask"].sel(roi="hMT").values.sum() == 1
    flat = own.labels["prf-visualrois"].ravel(order="F")
    assert np.array_equal(data["roi_mask"].sel(roi="V1v").values, flat == 1)


def test_labels_without_names_are_numbered(own: Mini) -> None:
    """Catches ROI files without a table that are dropped in silence."""
    values = np.zeros(own.dims, np.int16)
    values[1] = 12
    write_volume(own.anatomy / "roi/thalamus.nii.gz", values)
    data = NSD(str(own.root), 1, roi=["thalamus-12"]).labels()
    assert set(data["i"].values) == {1}


def test_hemispheres_come_from_the_halves(mini: Mini) -> None:
    """Catches left and right swapped; voxels outside both cortices belong to neither."""
    data = NSD(str(mini.root), 1, roi=["all"]).labels()
    side = data["hemisphere"].values
    inside = data["j"].values > 0
    left = data["i"].values < mini.dims[0] // 2
    assert set(side[inside & left]) == {"left"}
    assert set(side[inside & ~left]) == {"right"}
    assert set(side[~inside]) == {"both"}


def test_a_half_without_minus_one_tells_the_side_of_its_labels_alone(own: Mini) -> None:
    """Catches 0 taken for "in the left cortex" where a file has no mark of what lies outside."""
    values = np.zeros(own.dims, np.int16)
    values[1, 0, 0] = 2
    for name in ("thalamus", "lh.thalamus"):
        write_volume(own.anatomy / f"roi/{name}.nii.gz", values)
    data = NSD(str(own.root), 1, roi=["all"]).labels()
    outside = data["j"].values == 0
    here = data["roi_mask"].sel(roi="thalamus-2").values
    assert set(data["hemisphere"].values[here]) == {"left"}
    assert set(data["hemisphere"].values[outside & ~here]) == {"both"}


def test_halves_alone_make_the_whole(own: Mini) -> None:
    """Catches a download of lh. and rh. files alone, or the half of a brain."""
    before = NSD(str(own.root), 1).labels()
    for name in own.labels:
        (own.anatomy / f"roi/{name}.nii.gz").unlink()
    assert NSD(str(own.root), 1).labels().identical(before)
    needed = [each.path.name for each in NSD(str(own.root), 1).files() if each.required]
    assert "nsdgeneral.nii.gz" not in needed
    (own.anatomy / "roi/rh.nsdgeneral.nii.gz").unlink()
    with pytest.raises(FileError, match=r"rh\.nsdgeneral\.nii\.gz does not exist"):
        NSD(str(own.root), 1).labels()


def test_the_default_mask_must_be_there(own: Mini) -> None:
    """Catches a missing mask that would keep nothing, or everything."""
    for path in (own.anatomy / "roi").glob("*nsdgeneral*"):
        path.unlink()
    with pytest.raises(FileError, match="nsdgeneral"):
        NSD(str(own.root), 1).labels()
    assert NSD(str(own.root), 1, roi=["V1v"]).labels().sizes["voxel"]


def test_an_unknown_roi_is_answered_with_the_closest(mini: Mini) -> None:
    """Catches a typing error that would select nothing."""
    with pytest.raises(UnknownNameError, match="did you mean 'FFA-1'"):
        NSD(str(mini.root), 1, roi=["FFA1"]).labels()


def test_an_empty_roi_is_an_error_that_says_so(mini: Mini) -> None:
    """Catches a response set without voxels."""
    with pytest.raises(InputError, match=r"aTL-faces.*no voxel"):
        NSD(str(mini.root), 1, roi=["aTL-faces"]).labels()


def test_a_mask_of_other_shape_is_refused(own: Mini) -> None:
    """Catches a mask of another resolution or subject."""
    write_volume(own.anatomy / "roi/streams.nii.gz", np.zeros((5, 4, 6), np.int16))
    with pytest.raises(MismatchError, match=r"streams\.nii\.gz.*5 x 4 x 6"):
        NSD(str(own.root), 1).labels()


def test_a_mask_of_other_affine_is_refused(own: Mini) -> None:
    """Catches a mask of the same size in another place of the head."""
    moved = AFFINE.copy()
    moved[0, 3] += 1
    write_volume(own.anatomy / "roi/floc-faces.nii.gz", own.labels["floc-faces"], moved)
    with pytest.raises(MismatchError, match=r"floc-faces.*affine"):
        NSD(str(own.root), 1).labels()


def test_resampled_labels_are_refused(own: Mini) -> None:
    """Catches a mask that was interpolated, whose labels are no numbers of ROIs."""
    values = own.labels["prf-visualrois"].astype(np.float32)
    values[0, 1, 0] = 1.5
    write_volume(own.anatomy / "roi/prf-visualrois.nii.gz", values)
    with pytest.raises(FileError, match=r"prf-visualrois.*whole numbers"):
        NSD(str(own.root), 1).labels()


def test_a_label_that_nobody_named_is_refused(own: Mini) -> None:
    """Catches the labels of one file under the name of another."""
    values = own.labels["floc-faces"].copy()
    values[0, 1, 0] = 9
    write_volume(own.anatomy / "roi/floc-faces.nii.gz", values)
    with pytest.raises(FileError, match="label 9"):
        NSD(str(own.root), 1).labels()


def test_a_ctab_line_that_is_none_is_refused(tmp_path) -> None:
    """Catches a page of HTML saved as a table."""
    path = tmp_path / "x.ctab"
    path.write_text("# a comment\n0 Unknown\n 1  V1v 1 2 3 0\n")
    assert read_ctab(path) == {1: "V1v"}
    path.write_text("<html>\n")
    with pytest.raises(FileError, match="line 1"):
        read_ctab(path)
    path.write_text("1 a\n1 b\n")
    with pytest.raises(FileError, match="line 2"):
        read_ctab(path)
