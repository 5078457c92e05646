"""The numbers, trials and images of the volumes, against the arrays they were written from."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from neuroattn.data.nsd import NSD
from neuroattn.data.nsd import betas as betas_module
from neuroattn.errors import FileError, InputError, MismatchError, UnknownNameError
from tests.data.nsd_mini import INVALID, Mini, nsd_mini, write_session

SHARED = "shared515"


def expected(mini: Mini, sessions: tuple[int, ...] = (1, 2), mask: np.ndarray | None = None):
    """(presentation, voxel) of the written numbers, voxels with x fastest, by explicit loops."""
    inside = mini.labels["nsdgeneral"] == 1 if mask is None else mask
    x, y, z = mini.dims
    columns, written = [], [mini.session(number) for number in sessions]
    for k in range(z):
        for j in range(y):
            for i in range(x):
                if inside[i, j, k]:
                    parts = [whole[i, j, k] / 300 for whole in written]
                    columns.append(np.concatenate(parts))
    values = np.stack(columns, axis=1)
    for row in range(len(sessions)):
        rows = slice(row * mini.trials, (row + 1) * mini.trials)
        silent = ~values[rows].any(axis=0)
        values[rows, silent] = np.nan
    return values


@pytest.mark.parametrize("format", ["hdf5", "nifti", "auto"])
def test_both_formats_give_the_written_percent_signal_change(mini: Mini, format: str) -> None:
    """Catches h5py's reversed axes, a forgotten or doubled 300, and trials in another order."""
    data = NSD(str(mini.root), 1, format=format).responses()
    np.testing.assert_allclose(data["response"], expected(mini), rtol=1e-6)
    assert data.attrs["units"] == "percent signal change"


def test_hdf5_and_nifti_are_identical_bit_by_bit(mini: Mini) -> None:
    """Catches a scale that is applied in another precision for one of the formats."""
    one, other = (NSD(str(mini.root), 1, format=name).responses() for name in ("hdf5", "nifti"))
    assert one.identical(other)


def test_voxels_carry_their_own_indices(mini: Mini) -> None:
    """Catches i and k swapped, or masks raveled in another order than the values."""
    data = NSD(str(mini.root), 1).responses()
    volume = mini.session(1)
    i, j, k = (data[name].values for name in "ijk")
    here = np.isfinite(data["response"].values[:12]).all(axis=0)
    np.testing.assert_allclose(
        data["response"].values[:12, here], volume[i, j, k].T[:, here] / 300, rtol=1e-6
    )
    flat = i + mini.dims[0] * (j + mini.dims[1] * k)
    assert (np.diff(flat) > 0).all()


@pytest.mark.parametrize("chunks", [None, (12, 2, 2, 3), (1, 6, 5, 4), (5, 4, 5, 1)])
@pytest.mark.parametrize("budget", [1, 12 * 4 * 7, 2**26])
def test_pieces_of_any_chunks_and_budget_are_the_same_numbers(
    mini: Mini, own: Mini, monkeypatch: pytest.MonkeyPatch, chunks, budget: int
) -> None:
    """Catches a slab that starts or ends off the chunks, or voxels lost between two pieces."""
    write_session(own, 1, ("hdf5",), chunks)
    monkeypatch.setattr(betas_module, "_PIECE_BYTES", budget)
    reader = NSD(str(own.root), 1, sessions=1, roi=["V1v", "V3d"])
    pieces = list(reader.read(0))
    labels = mini.labels["prf-visualrois"]
    np.testing.assert_allclose(
        np.concatenate(pieces, axis=1),
        expected(mini, (1,), (labels == 1) | (labels == 6)),
        rtol=1e-6,
    )
    assert all(piece.nbytes <= max(budget, 12 * 4) for piece in pieces)


def test_a_file_without_chunks_is_read_too(own: Mini) -> None:
    """Catches a reader that takes chunks for granted."""
    path = own.betas_folder / "betas_session01.hdf5"
    values = own.session(1).transpose(3, 2, 1, 0)
    with h5py.File(path, "w") as file:
        file["betas"] = values
    whole = np.concatenate(list(NSD(str(own.root), 1).read(0)), axis=1)
    np.testing.assert_allclose(whole, expected(own, (1,)), rtol=1e-6)


def test_a_voxel_that_is_zero_in_a_session_is_nan_there_alone(mini: Mini) -> None:
    """Catches invalid voxels that stay 0, which a z-score and a fit would take for data."""
    data = NSD(str(mini.root), 1).responses()
    where = np.all(
        [data[axis] == place for axis, place in zip("ijk", INVALID, strict=True)], axis=0
    )
    assert where.sum() == 1
    voxel = data["response"].values[:, where].ravel()
    assert np.isfinite(voxel[:12]).all()
    assert np.isnan(voxel[12:]).all()
    assert np.isnan(data["response"].values).sum() == 12


def test_images_of_trials_count_from_zero(mini: Mini) -> None:
    """Catches the 1-based ids and positions of the design, each off by one on its own."""
    data = NSD(str(mini.root), 1).responses()
    assert data["image"].values.tolist() == [f"nsd-{number:05d}" for number in mini.shown]


def test_another_subject_saw_other_images(mini: Mini, tmp_path: Path) -> None:
    """Catches the row of the design taken from 1, or of subject 1 for all."""
    other = nsd_mini(tmp_path, subject=5, volume=("hdf5",), surfaces=False)
    data = NSD(str(other.root), "subj05").responses()
    assert data["image"].values.tolist() == [f"nsd-{number:05d}" for number in other.shown]
    assert set(other.shown) != set(mini.shown)
    assert set(data["subject"].values) == {"subj05"}


def test_repetitions_count_within_an_image_over_the_sessions_read(mini: Mini) -> None:
    """Catches repetitions counted within a session, or from 1."""
    data = NSD(str(mini.root), 1).responses()
    seen: dict[str, int] = {}
    for image, repetition in zip(data["image"].values, data["repetition"].values, strict=True):
        assert repetition == seen.get(image, 0)
        seen[image] = repetition + 1
    assert max(seen.values()) == 3


def test_session_and_run_are_those_of_the_design(mini: Mini) -> None:
    """Catches sessions from 0 and runs that ignore the blank slots of the pattern."""
    data = NSD(str(mini.root), 1).responses()
    assert data["session"].values.tolist() == [1] * 12 + [2] * 12
    assert data["run"].values.tolist() == ([1] * 6 + [2] * 6) * 2


@pytest.mark.parametrize("sessions", [[2], (2,)])
def test_some_sessions_alone_are_read_with_their_own_trials(mini: Mini, sessions) -> None:
    """Catches the second session joined with the images of the first."""
    data = NSD(str(mini.root), 1, sessions=sessions).responses()
    assert data["image"].values.tolist() == [f"nsd-{number:05d}" for number in mini.shown[12:]]
    assert set(data["session"].values) == {2}
    np.testing.assert_allclose(data["response"], expected(mini, (2,)), rtol=1e-6)
    assert data["repetition"].values[0] == 0


def test_a_number_of_sessions_means_the_first_ones(own: Mini) -> None:
    """Catches a user with some of the sessions who is asked for all."""
    (own.betas_folder / "betas_session02.hdf5").unlink()
    (own.betas_folder / "betas_session02.nii.gz").unlink()
    data = NSD(str(own.root), 1, sessions=1).responses()
    assert data.sizes["presentation"] == 12
    with pytest.raises(FileError, match=r"betas_session02.*does not exist"):
        NSD(str(own.root), 1).responses()


@pytest.mark.parametrize("sessions", [0, 41, [], [1, 1], [0], -1])
def test_impossible_sessions_are_refused(mini: Mini, sessions) -> None:
    """Catches a session that the subject never had."""
    with pytest.raises(InputError, match="sessions 1 to 40"):
        NSD(str(mini.root), 1, sessions=sessions).sessions()


@pytest.mark.parametrize("subject", [0, 9, "subj9x", "1a", "subj10"])
def test_a_subject_that_does_not_exist_is_refused(mini: Mini, subject) -> None:
    """Catches subject 0, which would be the last row of the design."""
    with pytest.raises(InputError, match="1 to 8"):
        NSD(str(mini.root), subject).responses()


@pytest.mark.parametrize(
    "options",
    [
        {"space": "MNI"},
        {"preparation": "betas_b3"},
        {"format": "npy"},
        {"space": "fsaverage", "format": "nifti"},
    ],
)
def test_unknown_choices_are_refused_with_what_is_allowed(mini: Mini, options) -> None:
    """Catches a typing error that would be told as a missing file."""
    with pytest.raises((UnknownNameError, InputError), match=r"llowed|leave"):
        NSD(str(mini.root), 1, **options).files()


def test_files_are_listed_without_any_of_them(tmp_path: Path) -> None:
    """Catches a dry run that needs the data."""
    files = NSD(str(tmp_path / "none"), 3).files()
    betas = [each for each in files if each.what.startswith("betas")]
    assert len(betas) == 32
    assert betas[0].path.name == "betas_session01.hdf5"
    needed = [each.path.name for each in files if each.required and each not in betas]
    assert needed == ["nsd_expdesign.mat", "nsd_stim_info_merged.csv", "nsdgeneral.nii.gz"]


def test_every_file_that_is_read_is_listed(own: Mini) -> None:
    """Catches a file that a dry run does not name: without what is not listed, all is the same."""
    reader = NSD(str(own.root), 1)
    before = reader.responses()
    listed = {each.path for each in reader.files()}
    for path in own.root.rglob("*.*"):
        if path.is_file() and path not in listed:
            path.unlink()
    after = NSD(str(own.root), 1)
    assert after.responses().identical(before)
    assert [each.path for each in after.files()] == [each.path for each in reader.files()]


def test_stimuli_are_the_rows_of_the_brick(mini: Mini) -> None:
    """Catches a brick read from 1, or images that are listed though nobody saw them."""
    reader = NSD(str(mini.root), 1)
    images, index = reader.images(), reader.stimuli()
    assert images.ids == tuple(f"nsd-{number:05d}" for number in np.unique(mini.shown))
    with h5py.File(mini.stimuli) as file:
        for place, number in enumerate(np.unique(mini.shown)):
            assert np.array_equal(images.read(place), file["imgBrick"][number])
    assert index["image"] == list(images.ids)
    assert index["index"] == np.unique(mini.shown).tolist()
    assert (mini.root / index["file"][0]) == mini.stimuli
    assert index["coco_id"] == [500 + 7 * number for number in index["index"]]
    assert index["shown"] == np.unique(mini.shown, return_counts=True)[1].tolist()
    assert index["shared"] == [int(number in mini.shared) for number in index["index"]]


def test_a_stimulus_file_of_other_length_is_refused(own: Mini) -> None:
    """Catches a brick of another experiment, whose rows would pass for these images."""
    with h5py.File(own.stimuli, "a") as file:
        values = file["imgBrick"][:15]
        del file["imgBrick"]
        file["imgBrick"] = values
    with pytest.raises(MismatchError, match="hold 15 images, there should be 20"):
        NSD(str(own.root), 1).images()


def test_responses_need_no_stimulus_file(own: Mini) -> None:
    """Catches a conversion that asks for the 37 GB of stimuli."""
    before = NSD(str(own.root), 1).responses()
    own.stimuli.unlink()
    assert NSD(str(own.root), 1).responses().identical(before)


def test_the_reader_is_plain_data_and_travels_to_another_process(mini: Mini) -> None:
    """Catches an open file that a worker would inherit."""
    reader = NSD(str(mini.root), 1)
    reader.labels()
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.responses().identical(reader.responses())


def test_attributes_say_where_the_grid_is(mini: Mini) -> None:
    """Catches a volume that could not be written back: affine, shape, header, repetition time."""
    attrs = NSD(str(mini.root), 1).responses().attrs
    assert attrs["shape"] == list(mini.dims)
    assert attrs["affine"][3::4] == [-3, -4, -5, 1]
    assert attrs["tr"] == pytest.approx(4 / 3)
    assert attrs["header"]
    assert "subj01, func1pt8mm, betas_fithrf_GLMdenoise_RR" in attrs["source"]
