"""The Algonauts 2023 layout in miniature, whole and with each part missing or wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from neuroattn.data.algonauts2023 import ROI_FILES, Algonauts2023
from neuroattn.data.rules import validate
from neuroattn.data.schema import describe
from neuroattn.data.surface import to_fsaverage
from neuroattn.errors import FileError, InputError, MismatchError, UnknownNameError
from tests.data.layouts import MESH, NAMES, TRAIN, add_test_responses, algonauts23_mini

SIDES = {"left": "lh", "right": "rh"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return algonauts23_mini(tmp_path_factory.mktemp("algonauts"))


@pytest.fixture
def layout(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "a23"))


def _mask(root: Path, subject: str, side: str, kind: str) -> np.ndarray:
    return np.load(root / subject / f"roi_masks/{SIDES[side]}.{kind}.npy")


@pytest.mark.parametrize(("subject", "sizes"), [(1, (40, 44)), ("subj06", (37, 41))])
def test_responses_are_the_files_side_by_side(whole, subject, sizes) -> None:
    # Catches hard-coded vertex counts, a swapped hemisphere, a change of type.
    data = Algonauts2023(str(whole), subject).responses()
    name = data["subject"].values[0]
    folder = whole / name / "training_split/training_fmri"
    left, right = (np.load(folder / f"{side}_training_fmri.npy") for side in ("lh", "rh"))
    assert data["response"].dtype == np.float32
    np.testing.assert_array_equal(data["response"], np.hstack([left, right]))
    assert data["hemisphere"].values.tolist() == ["left"] * sizes[0] + ["right"] * sizes[1]
    assert data.attrs["space"] == "challenge"
    assert (data.attrs["vertices_left"], data.attrs["vertices_right"]) == (MESH, MESH)
    assert data.attrs["zscored"] == "session"
    assert "ceiling" not in data
    validate(data)


def test_image_ids_are_the_nsd_ids_in_the_order_of_the_rows(whole) -> None:
    # Catches ids sorted by NSD number, and presentation order that is not the file order.
    reader = Algonauts2023(str(whole), "subj01")
    files = sorted((whole / "subj01/training_split/training_images").iterdir())
    expected = [file.stem.split("_")[1] for file in files]
    assert expected != sorted(expected)
    assert list(reader.images().ids) == expected
    assert reader.responses()["image"].values.tolist() == expected
    assert len(reader.images()) == TRAIN
    assert reader.images().read(3).shape == (28, 28, 3)
    assert reader.images().digest(3) != reader.images().digest(4)


def test_every_roi_holds_the_vertices_of_its_label_in_both_hemispheres(whole) -> None:
    # Catches a ROI file left out, labels off by one, and masks that stop at one hemisphere.
    data = Algonauts2023(str(whole), 1).responses()
    assert data["roi"].values.tolist() == [n for k in ROI_FILES for n in NAMES[k][1:]]
    for kind in ROI_FILES:
        for label, name in enumerate(NAMES[kind][1:], start=1):
            for side in SIDES:
                expected = _mask(whole, "subj01", side, f"{kind}_challenge_space") == label
                here = data["hemisphere"].values == side
                mask = data["roi_mask"].sel(roi=name).values[here]
                np.testing.assert_array_equal(mask, expected)


def test_empty_and_overlapping_rois_are_kept(whole) -> None:
    # Catches an empty ROI that is dropped, and a vertex that may be in one ROI only.
    data = Algonauts2023(str(whole), 6).responses()
    masks = data["roi_mask"]
    assert not masks.sel(roi="aTL-faces").values.any()
    assert describe(data)["empty_rois"] == 1
    assert bool(masks.sel(roi="FFA-1")[0])
    assert bool(masks.sel(roi="ventral")[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_scattered_labels_equal_the_fsaverage_masks(whole, side) -> None:
    # Catches a vertex coordinate that is off: the published masks of both spaces must agree.
    data = Algonauts2023(str(whole), 6).responses()
    for label, name in enumerate(NAMES["streams"][1:], start=1):
        mesh = to_fsaverage(data["roi_mask"].sel(roi=name).values, data, side)
        expected = _mask(whole, "subj06", side, "streams_fsaverage_space") == label
        np.testing.assert_array_equal(mesh == 1, expected)
        inside = _mask(whole, "subj06", side, "all-vertices_fsaverage_space") == 1
        np.testing.assert_array_equal(np.isfinite(mesh), inside)


@pytest.mark.parametrize("hemispheres", [["right"], "left", ["right", "left"]])
def test_hemispheres_come_alone_and_in_the_order_asked(whole, hemispheres) -> None:
    # Catches masks and responses in different orders.
    both = Algonauts2023(str(whole), 1).responses()
    data = Algonauts2023(str(whole), 1, hemispheres).responses()
    sides = [hemispheres] if isinstance(hemispheres, str) else hemispheres
    order = np.concatenate([np.flatnonzero(both["hemisphere"].values == s) for s in sides])
    for name in ("response", "roi_mask", "vertex"):
        expected = both[name].isel(voxel=order)
        np.testing.assert_array_equal(data[name], expected)
    if len(sides) == 1:
        missing = ({"left", "right"} - set(sides)).pop()
        assert f"vertices_{missing}" not in data.attrs


def test_the_test_split_has_images_and_where_obtained_responses(layout) -> None:
    # Catches the training responses served for the test images.
    reader = Algonauts2023(str(layout), 1, split="test")
    assert len(reader.images()) == 6
    with pytest.raises(FileError, match="challenge did not publish"):
        reader.responses()
    add_test_responses(layout, "subj01", (40, 44))
    data = reader.responses()
    folder = layout / "subj01/test_split"
    for name, variable in (("test_fmri", "response"), ("noise_ceiling", "ceiling")):
        parts = [np.load(folder / name / f"{side}_{name}.npy") for side in ("lh", "rh")]
        np.testing.assert_array_equal(data[variable], np.concatenate(parts, axis=-1))
    assert not set(data["image"].values) & set(Algonauts2023(str(layout), 1).images().ids)
    (folder / "noise_ceiling/rh_noise_ceiling.npy").unlink()
    with pytest.raises(FileError, match="rh_noise_ceiling"):
        reader.responses()
    np.save(folder / "noise_ceiling/rh_noise_ceiling.npy", np.ones(43))
    with pytest.raises(MismatchError, match=r"rh_noise_ceiling.*\(43,\).*44 vertices"):
        reader.responses()


def test_json_and_npz_stand_in_for_the_pickles(layout) -> None:
    # Catches a reader that insists on the pickle.
    expected = Algonauts2023(str(layout), 1).responses()
    masks = layout / "subj01/roi_masks"
    for kind in ROI_FILES:
        (masks / f"mapping_{kind}.npy").unlink()
        names = NAMES[kind]
        if kind == "streams":
            np.savez(masks / f"mapping_{kind}.npz", label=range(len(names)), name=names)
        else:
            content = json.dumps({str(n): name for n, name in enumerate(names)})
            (masks / f"mapping_{kind}.json").write_text(content)
    assert Algonauts2023(str(layout), 1).responses().identical(expected)


def _resave(path: Path, change) -> None:
    array = np.load(path)
    np.save(path, change(array))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


BETAS = "training_split/training_fmri/rh_training_fmri.npy"
MASKS = "roi_masks/lh.floc-words_challenge_space.npy"
MESHES = "roi_masks/lh.all-vertices_fsaverage_space.npy"
IMAGES = "training_split/training_images"
WRONG = {
    "missing hemisphere": (
        lambda f: (f / BETAS).unlink(),
        FileError,
        ["right hemisphere", "rh_training_fmri.npy", "does not exist"],
    ),
    "fewer rows than images": (
        lambda f: _resave(f / BETAS, lambda a: a[:-1]),
        MismatchError,
        ["rh_training_fmri.npy has 23 rows", "24 images"],
    ),
    "truncated responses": (
        lambda f: _truncate(f / BETAS),
        FileError,
        ["rh_training_fmri.npy", "bytes", "truncated"],
    ),
    "responses of another type": (
        lambda f: _resave(f / BETAS, lambda a: a.astype(np.float64)),
        FileError,
        ["rh_training_fmri.npy is float64", "(24, 44)"],
    ),
    "a mesh with other vertices": (
        lambda f: _resave(f / MESHES, lambda a: np.minimum(a, np.arange(MESH) > 10)),
        MismatchError,
        ["lh.all-vertices", "40"],
    ),
    "a mesh with other values": (
        lambda f: _resave(f / MESHES, lambda a: a * 2),
        FileError,
        ["lh.all-vertices", "0.0 to 2.0"],
    ),
    "a missing mesh": (lambda f: (f / MESHES).unlink(), FileError, ["lh.all-vertices"]),
    "a missing ROI file": (
        lambda f: (f / MASKS).unlink(),
        FileError,
        ["left hemisphere", "lh.floc-words"],
    ),
    "a mask of another length": (
        lambda f: _resave(f / MASKS, lambda a: a[:39]),
        MismatchError,
        ["lh.floc-words", "(39,)", "40 vertices"],
    ),
    "a truncated mask": (lambda f: _truncate(f / MASKS), FileError, ["lh.floc-words", "truncated"]),
    "a label without name": (
        lambda f: _resave(f / MASKS, lambda a: np.where(np.arange(40) == 3, 9, a)),
        FileError,
        ["lh.floc-words", "label 9", "[0, 1, 2, 3, 4, 5]"],
    ),
    "a missing mapping": (
        lambda f: (f / "roi_masks/mapping_floc-words.npy").unlink(),
        FileError,
        ["mapping_floc-words.npy", ".json or .npz"],
    ),
    "a name of two ROIs": (
        lambda f: np.save(
            f / "roi_masks/mapping_streams.npy", dict(enumerate([*NAMES["streams"][:-1], "EBA"]))
        ),
        FileError,
        ["'EBA'", "mapping_streams"],
    ),
    "a missing image": (
        lambda f: next((f / IMAGES).glob("train-0005*")).unlink(),
        FileError,
        ["image 5 is missing", "train-0006"],
    ),
    "a foreign image": (
        lambda f: next((f / IMAGES).glob("train-0024*")).rename(f / IMAGES / "zebra.png"),
        FileError,
        ["zebra.png", "train-0001_nsd-00013.png"],
    ),
    "an image twice": (
        lambda f: next((f / IMAGES).glob("train-0002*")).rename(
            f / IMAGES / f"train-0002_{next((f / IMAGES).glob('train-0001*')).stem[-9:]}.png"
        ),
        FileError,
        ["stands in two files"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_broken_part_is_one_clear_error(layout, name) -> None:
    # Catches an error of numpy, or responses that are served although a part is wrong.
    change, error, words = WRONG[name]
    change(layout / "subj01")
    with pytest.raises(error) as caught:
        Algonauts2023(str(layout), "subj01").responses()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert Algonauts2023(str(layout), "subj06").responses().sizes["voxel"] == 78


def test_a_malicious_mapping_is_not_executed(layout) -> None:
    # Catches numpy's own loading of the mapping.
    class Runs:
        def __reduce__(self):
            return Path.mkdir, (layout / "marker",)

    np.save(layout / "subj01/roi_masks/mapping_streams.npy", {0: Runs()}, allow_pickle=True)
    with pytest.raises(FileError, match=r"mapping_streams\.npy asks for pathlib"):
        Algonauts2023(str(layout), 1).responses()
    assert not (layout / "marker").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"subject": 2}, FileError, r"no folder subj02; it holds \['subj01', 'subj06'\]"),
        ({"subject": "s1"}, InputError, "subject='s1'"),
        ({"split": "train"}, UnknownNameError, "'train' is unknown; did you mean 'training'"),
        ({"hemispheres": ["lh"]}, UnknownNameError, "'lh'"),
        ({"hemispheres": ["left", "left"]}, InputError, "once each"),
        ({"hemispheres": []}, InputError, "once each"),
    ],
)
def test_arguments_that_name_nothing_are_refused(whole, arguments, error, words) -> None:
    # Catches a path that is built from a wrong name and reported as missing.
    with pytest.raises(error, match=words):
        Algonauts2023(**{"path": str(whole), "subject": 1, **arguments}).responses()


def test_a_missing_folder_is_named() -> None:
    # Catches an error about the first file in it.
    with pytest.raises(FileError, match="Algonauts 2023 folder /none/such does not exist"):
        Algonauts2023("/none/such", 1).images()
