"""A user's own data in every form, and each way in which it does not fit."""

from __future__ import annotations

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from neuroattn.data.own import TableData
from neuroattn.data.rules import validate
from neuroattn.data.schema import describe
from neuroattn.data.sources import ArraySource, ImageSource, ResponseSource, VoxelSource
from neuroattn.data.storage import save
from neuroattn.errors import FileError, InputError, MismatchError, UnknownNameError
from neuroattn.metrics import bootstrap_ceiling
from tests.data.layouts import small_set

IMAGES, VOXELS = 6, 4
IDS = [f"img-{n}" for n in range(IMAGES)]
VALUES = np.random.default_rng(0).standard_normal((IMAGES, VOXELS)).astype(np.float32)
NAMES = ["FFA_1", "FFA_2", "V1_1", "V1_2"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "stimuli").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (IMAGES, 5, 7, 3), dtype=np.uint8)
    for name, image in zip(IDS, pixels, strict=True):
        Image.fromarray(image).save(tmp_path / "stimuli" / f"{name}.png")
    with h5py.File(tmp_path / "all.mat", "w") as file:
        file["stimuli"] = pixels.transpose(0, 3, 2, 1)
        file["betas"] = VALUES[:, :, None]
        file["boot"] = VALUES + np.random.default_rng(2).normal(0, 0.3, (50, IMAGES, VOXELS))
    np.save(tmp_path / "betas.npy", VALUES.T)
    np.savez(tmp_path / "betas.npz", betas=VALUES)
    return tmp_path


def _lines(path, header: str, rows) -> str:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path.name


def _data(folder, responses="betas.npz", **changes) -> TableData:
    arguments = {
        "images": ImageSource("stimuli"),
        "responses": responses
        if isinstance(responses, ResponseSource)
        else ResponseSource(responses),
        "folder": str(folder),
    }
    return TableData(**{**arguments, **changes})


@pytest.mark.parametrize(
    "source",
    [
        ResponseSource("betas.npz"),
        ResponseSource("betas.npy", axes="voxel presentation"),
        ResponseSource("all.mat", "betas", "image voxel ."),
    ],
)
def test_arrays_without_names_belong_to_the_sorted_images(folder, source) -> None:
    # Catches axes the wrong way round, and rows in another order than the images.
    data = _data(folder, source).responses()
    assert data["image"].values.tolist() == IDS
    np.testing.assert_array_equal(data["response"].values, VALUES)
    assert data.attrs["space"] == "none"
    assert data["subject"].values.tolist() == ["subject-1"] * VOXELS
    validate(data)


def test_a_table_names_its_images_in_any_order_and_repeats_them(folder) -> None:
    # Catches rows that are taken in order though they are named; file names count as ids.
    shown = ["img-3.png", "img-0", "img-3", "img-5"]
    rows = [(n, image, 1, *VALUES[n]) for n, image in enumerate(shown)]
    _lines(folder / "r.csv", "session,image,run," + ",".join(NAMES), rows)
    data = _data(folder, "r.csv").responses()
    assert data["image"].values.tolist() == ["img-3", "img-0", "img-3", "img-5"]
    assert data["repetition"].values.tolist() == [0, 0, 1, 0]
    assert data["session"].values.tolist() == [0, 1, 2, 3]
    assert data["run"].values.tolist() == [1] * 4
    assert data["name"].values.tolist() == NAMES
    np.testing.assert_allclose(data["response"], VALUES[:4], rtol=1e-6)


def test_a_presentation_table_labels_an_array(folder) -> None:
    # Catches labels that do not reach the rows.
    rows = [(image, 2, n) for n, image in enumerate(reversed(IDS))]
    table = _lines(folder / "p.csv", "image,session,repetition", rows)
    data = _data(folder, presentations=table).responses()
    assert data["image"].values.tolist() == IDS[::-1]
    assert data["repetition"].values.tolist() == list(range(IMAGES))
    assert set(data["session"].values.tolist()) == {2}


def test_images_come_from_a_folder_or_a_matlab_file(folder) -> None:
    # Catches the axes of MATLAB, which come reversed.
    one = _data(folder).images()
    source = ImageSource("all.mat", dataset="stimuli", axes="image channel column row")
    two = _data(folder, images=source).images()
    for index in range(IMAGES):
        np.testing.assert_array_equal(one.read(index), two.read(index))


def test_a_voxel_table_places_voxels_in_a_volume(folder) -> None:
    # Catches places without affine, and columns that are read as text.
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([2.0, 2, 2, 1]))
    nibabel.save(image, folder / "ref.nii.gz")
    rows = [(f"v{n}", "left", n, n, 5) for n in range(VOXELS)]
    table = _lines(folder / "v.csv", "name,hemisphere,i,j,k", rows)
    source = VoxelSource(table, subject="s7", reference="ref.nii.gz")
    data = _data(folder, voxels=source, attrs={"space": "MNI", "tr": 1.5}).responses()
    assert data["k"].values.tolist() == [5] * VOXELS
    assert data["subject"].values.tolist() == ["s7"] * VOXELS
    assert data.attrs["shape"] == [4, 5, 6]
    assert data.attrs["affine"] == np.diag([2.0, 2, 2, 1]).ravel().tolist()
    assert (data.attrs["space"], data.attrs["tr"]) == ("MNI", 1.5)


def test_names_and_a_table_both_make_rois(folder) -> None:
    # Catches equal names that become two ROIs, and a table that replaces the names.
    table = _lines(folder / "roi.csv", "voxel,roi", [("FFA", "face"), ("V1", "early")])
    source = VoxelSource(names=["FFA", "FFA", "V1", "PPA"], as_rois=True)
    data = _data(folder, voxels=source, rois=table).responses()
    masks = {str(r): data["roi_mask"].sel(roi=r).values.tolist() for r in data["roi"].values}
    assert masks["FFA"] == masks["face"] == [True, True, False, False]
    assert masks["V1"] == masks["early"] == [False, False, True, False]
    assert list(masks) == ["FFA", "V1", "PPA", "face", "early"]


def test_the_ceiling_comes_from_bootstraps_or_as_given(folder) -> None:
    # Catches bootstraps with mixed-up axes.
    with h5py.File(folder / "all.mat") as file:
        samples = file["boot"][()]
    data = _data(folder, bootstraps=ArraySource("all.mat", "boot")).responses()
    np.testing.assert_allclose(data["ceiling"], bootstrap_ceiling(VALUES, samples))
    assert ((data["ceiling"] > 0.3) & (data["ceiling"] < 1)).all()
    np.save(folder / "c.npy", np.array([[0.1, 0.2, 0.3, np.nan]]))
    source = ArraySource("c.npy", axes=". voxel")
    data = _data(folder, ceiling=source, ncsnr=source).responses()
    np.testing.assert_array_equal(data["ceiling"], [0.1, 0.2, 0.3, np.nan])
    np.testing.assert_array_equal(data["ncsnr"], data["ceiling"])
    with pytest.raises(InputError, match="one ceiling"):
        _data(folder, ceiling=source, bootstraps=source).responses()


@pytest.mark.parametrize("ending", ["zarr", "nc"])
def test_a_saved_response_set_gets_in_as_it_is(folder, ending) -> None:
    # Catches labels that are made anew, and images that are not there.
    shown = {"image": [IDS[n % 4] for n in range(9)]}
    save(small_set(presentation=shown), folder / f"set.{ending}")
    assert _data(folder, f"set.{ending}").responses().identical(small_set(presentation=shown))
    with pytest.raises(InputError, match=r"rois, attrs cannot be given with .*set"):
        _data(folder, f"set.{ending}", rois="x.csv", attrs={}).responses()
    save(small_set(), folder / f"set.{ending}")
    with pytest.raises(MismatchError, match=r"4 of 4 image ids.*img-a"):
        _data(folder, f"set.{ending}").responses()


def test_nan_and_constant_voxels_are_read_and_counted(folder) -> None:
    # Catches empty cells as zeros.
    rows = [(value, "" if n == 2 else n, 0.1) for n, value in enumerate(VALUES[:, 0])]
    _lines(folder / "r.csv", "a,b,c", rows)
    counts = describe(_data(folder, "r.csv").responses())
    assert (counts["nan_voxels"], counts["constant_voxels"], counts["voxels"]) == (1, 1, 3)


def test_jsonargparse_fills_the_sources_from_yaml(folder) -> None:
    # Catches a signature that YAML cannot fill, and keys that it would not check.
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TableData, "data")
    text = f"""
    class_path: neuroattn.data.TableData
    init_args:
      folder: {folder}
      images: {{path: stimuli}}
      responses: {{path: all.mat, dataset: betas, axes: "image voxel ."}}
      bootstraps: {{path: all.mat, dataset: boot}}
      voxels: {{names: [A, B, C, D], as_rois: true}}
      attrs: {{licence: CC0}}
    """
    (folder / "data.yaml").write_text(text)
    reader = parser.instantiate(parser.parse_args([f"--data={folder / 'data.yaml'}"])).data
    data = reader.responses()
    assert data["roi"].values.tolist() == ["A", "B", "C", "D"]
    assert data.attrs["licence"] == "CC0"
    assert "ceiling" in data
    (folder / "data.yaml").write_text(text.replace("as_rois", "as_roi"))
    with pytest.raises(ArgumentError, match="as_roi"):
        parser.parse_args([f"--data={folder / 'data.yaml'}"])


def _csv(folder, header="a,b", rows=((1, 2),) * IMAGES):
    return _lines(folder / "r.csv", header, rows)


BAD = {
    "different counts": (
        lambda f: {"responses": _csv(f, rows=((1, 2),) * 5)},
        MismatchError,
        ["r.csv has 5 rows", "stimuli has 6 images"],
    ),
    "an unknown image": (
        lambda f: {"responses": _csv(f, "image,a", [("img-7", 1), ("img-1", 1)])},
        MismatchError,
        ["1 of 2 image ids", "'img-7'"],
    ),
    "a text among numbers": (
        lambda f: {"responses": _csv(f, rows=[(1, 2)] * 5 + [(1, "x")])},
        FileError,
        ["r.csv", "data row 6", "'b'", "'x'"],
    ),
    "infinity": (
        lambda f: {"responses": _csv(f, rows=[(1, 2)] * 5 + [(1, "inf")])},
        InputError,
        ["r.csv", "response[5, 1]", "img-5"],
    ),
    "only labels": (
        lambda f: {"responses": _csv(f, "image,run", [("img-1", 1)])},
        InputError,
        ["r.csv", "no response"],
    ),
    "missing images": (
        lambda f: {"images": ImageSource("stimulii")},
        FileError,
        ["stimulii", "does not exist"],
    ),
    "missing responses": (
        lambda f: {"responses": "none.npz"},
        FileError,
        ["none.npz", "does not exist"],
    ),
    "wrong axes": (
        lambda f: {"responses": ResponseSource("betas.npy", axes="voxel image .")},
        InputError,
        ["betas.npy", "(4, 6)"],
    ),
    "axes the wrong way round": (
        lambda f: {"responses": ResponseSource("betas.npy")},
        MismatchError,
        ["betas.npy has 4 rows", "6 images"],
    ),
    "an unknown dataset": (
        lambda f: {"responses": ResponseSource("all.mat", "beta", "image voxel .")},
        FileError,
        ["no dataset 'beta'", "did you mean 'betas'", "boot, stimuli"],
    ),
    "a presentation table of another length": (
        lambda f: {"presentations": _lines(f / "p.csv", "run", [(1,)] * 3)},
        MismatchError,
        ["p.csv has 3 presentations", "betas.npz has 6"],
    ),
    "a misspelt column": (
        lambda f: {"presentations": _lines(f / "p.csv", "sesion", [(1,)] * 6)},
        UnknownNameError,
        ["p.csv", "'sesion'", "did you mean 'session'"],
    ),
    "a misspelt voxel column": (
        lambda f: {"voxels": VoxelSource(_lines(f / "v.csv", "vertexx", [(1,)] * 4))},
        UnknownNameError,
        ["v.csv", "did you mean 'vertex'"],
    ),
    "too few names": (
        lambda f: {"voxels": VoxelSource(names=["a"])},
        MismatchError,
        ["1 values of 'name'", "4 voxels"],
    ),
    "ROIs of voxels without names": (
        lambda f: {"voxels": VoxelSource(as_rois=True)},
        InputError,
        ["as_rois", "no names"],
    ),
    "one ROI twice": (
        lambda f: {
            "voxels": VoxelSource(names=NAMES, as_rois=True),
            "rois": _lines(f / "roi.csv", "voxel,roi", [("V1_1", "V1_1")]),
        },
        InputError,
        ["'V1_1'", "roi.csv"],
    ),
    "bootstraps of other images": (
        lambda f: {"bootstraps": ArraySource("all.mat", "boot", "bootstrap voxel image")},
        MismatchError,
        ["4 images and 6 voxels", "of 6 and 4"],
    ),
    "a ceiling of other voxels": (
        lambda f: {"ceiling": ArraySource("all.mat", "betas", "voxel . .")},
        InputError,
        ["all.mat:betas", "'.' drops axis 1"],
    ),
    "a reference that is no image": (
        lambda f: {"voxels": VoxelSource(reference="r.csv")},
        FileError,
        ["volume", "r.csv", "no volume"],
    ),
    "a place without affine": (
        lambda f: {
            "voxels": VoxelSource(_lines(f / "v.csv", "i,j,k", [(n, 1, 1) for n in range(4)]))
        },
        InputError,
        ["attribute affine", "betas.npz"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_with_file_value_and_what_is_allowed(folder, name) -> None:
    # Catches an error of a library, or one that names neither file nor count.
    change, error, words = BAD[name]
    _csv(folder)
    with pytest.raises(error) as caught:
        _data(folder, **change(folder)).responses()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.realdata
def test_kay_and_yeatman_2017_gets_in_without_code(realdata) -> None:
    # Catches what miniatures do not have: MATLAB's axes, 115 sorted names, a real ceiling.
    data = TableData(
        images=ImageSource("experiment2stimuli"),
        responses=ResponseSource("experiment2.mat", "subjectbeta", "image voxel ."),
        bootstraps=ArraySource("experiment2.mat", "subjectbetaboot", "bootstrap image voxel ."),
        voxels=VoxelSource(names=["VWFA", "FFA"], as_rois=True),
        attrs={"source": "Kay & Yeatman (2017)", "licence": "CC BY 3.0", "units": "% change"},
        folder=str(realdata / "kay_yeatman2017_vtcips"),
    )
    responses, images = data.responses(), data.images()
    assert len(images) == responses.sizes["presentation"] == 115
    assert responses["image"].values.tolist() == list(images.ids)
    ceiling = dict(zip(responses["name"].values, np.sqrt(responses["ceiling"].values), strict=True))
    assert ceiling["FFA"] == pytest.approx(0.97, abs=0.01)
    assert ceiling["VWFA"] == pytest.approx(0.60, abs=0.01)
    # The PNG are gamma coded, the .mat is linear: 255 sqrt(mat / 255), in the same order.
    source = ImageSource("experiment2.mat", dataset="stimuli", axes="image . column row")
    folder = str(realdata / "kay_yeatman2017_vtcips")
    linear = TableData(source, data.response_source, folder=folder).images()
    for index in (1, 57, 114):
        expected = 255 * np.sqrt(linear.read(index) / 255.0)
        assert np.abs(images.read(index) - expected).max() <= 1


def test_a_source_may_be_its_path_or_a_mapping_and_nothing_else():
    # Catches an AttributeError long after the constructor took what a recipe would say.
    given = TableData("pictures", {"path": "r.csv", "axes": "image voxel"}, voxels="v.csv")
    assert given.image_source == ImageSource("pictures")
    assert given.response_source == ResponseSource("r.csv", axes="image voxel")
    assert given.voxels == VoxelSource("v.csv")
    assert given.ceiling is None
    for wrong in (3, {"pth": "r.csv"}, ["r.csv"], {}):
        with pytest.raises(InputError, match="responses="):
            TableData("pictures", wrong)
