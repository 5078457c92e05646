"""CNeuroMod: samples keep their number, films their names, and a known delay is found again."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from neuroattn.data import CNeuroMod, Converted, convert
from neuroattn.data.film_splits import NOT_RECORDED, missing_episodes
from neuroattn.data.parcels import NETWORKS, parcel_volume, read_parcel_names
from neuroattn.data.rules import validate
from neuroattn.encoders import RidgeEncoder
from neuroattn.encoders.comparison import Comparison
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.features import StimulusTable
from neuroattn.metrics import leave_one_subject_out_ceiling, ncsnr
from neuroattn.training.datamodule import SplitPlan
from tests.data import cneuromod_mini as mini


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> mini.Mini:
    return mini.write(tmp_path_factory.mktemp("cneuromod"))


@pytest.fixture
def own(made: mini.Mini, tmp_path: Path) -> mini.Mini:
    """Return a copy that a test may damage."""
    root = shutil.copytree(made.root, tmp_path / made.root.name)
    features = shutil.copytree(made.features, tmp_path / "features")
    return made._replace(root=root, features=features)


def reader(made: mini.Mini, **options) -> CNeuroMod:
    return CNeuroMod(str(made.root), **{"subject": 2, **options})


def h5(made: mini.Mini, task: str) -> Path:
    return next((made.root / "fmri" / mini.SUBJECT / "func").glob(f"*task-{task}_*"))


def stored(made: mini.Mini, name: str) -> np.ndarray:
    task, _, part = name.partition("-")
    with h5py.File(h5(made, task), "r") as file:
        (key,) = [key for key in file if f"task-{part}" in key]
        return file[key][()]


def test_every_sample_is_the_one_that_its_id_names(made: mini.Mini) -> None:
    """Catches samples shifted by the drop, and runs under the names of others."""
    found = validate(reader(made, tasks=["friends"]).responses())
    assert found.sizes["presentation"] == len(mini.FRIENDS) * (mini.SAMPLES - 10)
    for part in mini.FRIENDS:
        values = stored(made, f"friends-{part}")
        images = [f"friends-{part}-{sample:05d}" for sample in range(5, mini.SAMPLES - 5)]
        here = found.isel(presentation=np.isin(found["image"].values, images))
        assert here["image"].values.tolist() == images
        np.testing.assert_array_equal(here["response"].values, values[5:-5])


def test_sessions_and_runs_come_from_the_keys(made: mini.Mini) -> None:
    """Catches sessions of both tasks under one number, which would be z-scored together."""
    found = reader(made).responses()
    with h5py.File(h5(made, "friends")) as friends, h5py.File(h5(made, "movie10")) as movies:
        keys = [*friends, *movies]
    offset = {"s": 0, "b": 1000, "f": 1000, "l": 1000, "w": 1000}
    expected = {
        k[13:].split("_")[0] + k[-6:] * ("run" in k): int(k[4:7]) + offset[k[13]] for k in keys
    }
    sessions = set(found["session"].values.tolist())
    assert sessions == set(expected.values())
    for session in sessions:
        runs = found["run"].values[found["session"].values == session]
        count = sum(number == session for number in expected.values())
        assert sorted(set(runs.tolist())) == list(range(1, count + 1))
        assert (np.bincount(runs)[1:] == mini.SAMPLES - 10).all()


def test_the_second_showing_of_a_film_is_repetition_1(made: mini.Mini) -> None:
    """Catches repeats under other ids, and a ceiling that nobody can compute."""
    found = reader(made, tasks=["movie10"]).responses()
    again = found["repetition"].values == 1
    assert {i[:-6] for i in found["image"].values[again]} == {
        "movie10-figures01",
        "movie10-life01",
    }
    assert found["repetition"].values.max() == 1
    images, films = found["image"].values, found["response"].values
    with h5py.File(h5(made, "movie10"), "r") as file:
        second = file["ses-002_task-life01_run-2"][()]
    life = again & np.char.startswith(images.astype(str), "movie10-life")
    np.testing.assert_array_equal(films[life], second[5:-5])
    ratio = ncsnr(films, images, zscore=False)
    ceiling = np.mean(ratio**2 / (ratio**2 + 1))
    assert ceiling == pytest.approx(made.ceiling, abs=0.05)


def test_samples_after_the_end_of_the_film_are_left_out_and_told(
    made: mini.Mini, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a run that is shifted or stretched to the film instead of cut."""
    with caplog.at_level(logging.WARNING):
        found = reader(made, drop=0, features=str(made.features)).responses()
    (message,) = [r.getMessage() for r in caplog.records]
    assert message.endswith("_task-s01e01a: 2 samples after the end of the film left out")
    (key,) = found.attrs["truncated_samples"]
    assert found.attrs["truncated_samples"][key] == 2
    short = [i for i in found["image"].values if i.startswith(mini.SHORT)]
    assert short == [f"{mini.SHORT}-{sample:05d}" for sample in range(mini.SAMPLES - 2)]
    np.testing.assert_array_equal(
        found["response"].values[np.isin(found["image"].values, short)],
        stored(made, mini.SHORT)[:-2],
    )
    assert reader(made, features=str(made.features)).labels().attrs["truncated_samples"] == {}


def test_an_episode_that_is_missing_takes_only_itself_away(
    own: mini.Mini, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches episodes that move up when one before them was not recorded."""
    whole = reader(own, tasks=["friends"]).responses()
    with h5py.File(h5(own, "friends"), "a") as file:
        (key,) = [key for key in file if key.endswith("s03e02a")]
        del file[key]
    with caplog.at_level(logging.INFO):
        left = reader(own, tasks=["friends"]).responses()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "sub-02: friends-s05e20a was not recorded",
        "sub-02: no responses to friends-s03e02a",
    ]
    assert left.attrs["missing_episodes"] == ["friends-s05e20a"]
    kept = ~np.char.startswith(whole["image"].values.astype(str), "friends-s03e02a")
    assert left["image"].values.tolist() == whole["image"].values[kept].tolist()
    np.testing.assert_array_equal(left["response"].values, whole["response"].values[kept])


def test_the_published_gaps_are_known_and_others_are_found() -> None:
    """Catches the gaps of another subject, and a gap at the end of an episode."""
    friends = [f"friends-s04e{e:02d}{p}" for e in (1, 13) for p in "ab"]
    assert missing_episodes(1, friends) == ([], [])
    there = ["friends-s04e02a", "friends-s04e02b", "friends-s04e13a"]
    assert missing_episodes(5, there) == ([f"friends-{e}" for e in NOT_RECORDED[5]], [])
    assert missing_episodes(1, there) == ([], ["friends-s04e13b"])
    assert missing_episodes(1, ["friends-s06e15a", "friends-s06e15d"])[1] == [
        "friends-s06e15b",
        "friends-s06e15c",
    ]
    assert missing_episodes(5, ["movie10-wolf01", "movie10-wolf03"]) == ([], ["movie10-wolf02"])


def test_the_splits_are_by_film_and_only_where_all_parts_are(made: mini.Mini) -> None:
    """Catches a film on both sides, and a split that names images which are not there."""
    source = reader(made)
    splits, responses = source.splits(), source.responses()
    assert set(splits) == {"algonauts2025", "friends6", "movie10-twice"}
    baseline = splits["algonauts2025"].parts
    assert all(i.startswith("friends-s06e") for i in baseline["test"])
    assert {i[:8] for i in baseline["train"]} == {"friends-", "movie10-"}
    assert not any(i.startswith("friends-s06") for i in baseline["train"])
    assert all(i.startswith("friends-s05e") for i in splits["friends6"]["validation"])
    assert not any(i.startswith("movie10") for i in splits["friends6"]["train"])
    assert {i.split("-")[1] for i in splits["movie10-twice"]["test"]} == {"figures01", "life01"}
    for split in splits.values():
        for part in split.parts:
            assert split.select(responses, part).sizes["presentation"] >= len(split[part])
    assert set(reader(made, tasks="friends").splits()) == {"algonauts2025", "friends6"}


def test_networks_come_from_the_label_file(made: mini.Mini) -> None:
    """Catches parcels under the names of their neighbours, and a choice that keeps others."""
    found = reader(made, parcels=str(made.parcels)).responses()
    assert found["roi"].values.tolist() == list(NETWORKS)
    assert found["name"].values[8] == "7Networks_RH_SomMot_2"
    assert found["hemisphere"].values.tolist() == ["left"] * 7 + ["right"] * 7
    np.testing.assert_array_equal(np.flatnonzero(found["roi_mask"].sel(roi="SomMot")), [1, 8])
    some = reader(made, parcels=str(made.parcels), roi=["Vis", "Default"]).responses()
    assert some["name"].values.tolist() == found["name"].values[[0, 6, 7, 13]].tolist()
    np.testing.assert_array_equal(some["response"], found["response"].values[:, [0, 6, 7, 13]])
    plain = reader(made).responses()
    assert plain["name"].values[-1] == "parcel-0014"
    assert plain.sizes["roi"] == 0


def test_the_label_file_is_read_in_its_own_order_whatever_stands_around(tmp_path: Path) -> None:
    """Catches names with sub-regions cut short, and numbers taken for parcels."""
    path = tmp_path / "info.txt"
    path.write_text(
        "7Networks_LH_Default_pCunPCC_12\n1 120 18 131 255\n"
        "2\t7Networks_RH_SalVentAttn_FrOperIns_3\t0\n"
    )
    names = read_parcel_names(path)
    assert names.name == ["7Networks_LH_Default_pCunPCC_12", "7Networks_RH_SalVentAttn_FrOperIns_3"]
    assert (names.hemisphere, names.network) == (["left", "right"], ["Default", "SalVentAttn"])
    for text, message in {
        "nothing": "no such name",
        "7Networks_LH_Visual_1": "of no known network",
        "7Networks_LH_Vis_1\n7Networks_LH_Vis_1": "more than once",
    }.items():
        path.write_text(text)
        with pytest.raises(FileError, match=message):
            read_parcel_names(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="no text"):
        read_parcel_names(path)


def test_parcel_values_fill_the_voxels_of_their_parcel(tmp_path: Path) -> None:
    """Catches parcels off by one, a zero outside the brain, and a lost affine."""
    labels = np.zeros((4, 5, 3), np.int16)
    labels[1, 2, 0], labels[1:3, 3, 1], labels[3, 0, 2] = 1, 2, 3
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(labels, affine)
    image.set_sform(affine, code=4)
    atlas = tmp_path / "atlas.nii.gz"
    nibabel.save(image, atlas)
    values = np.array([0.5, np.nan, -2.0])
    found = parcel_volume(values, atlas, tmp_path / "map.nii.gz")
    read = nibabel.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(np.asarray(read.dataobj), found)
    for place in np.ndindex(labels.shape):
        expected = np.nan if labels[place] == 0 else values[labels[place] - 1]
        np.testing.assert_equal(float(found[place]), float(expected))
    np.testing.assert_array_equal(read.affine, affine)
    assert int(read.header["sform_code"]) == 4
    again = parcel_volume(values, atlas, tmp_path / "again.nii.gz")
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "map.nii.gz").read_bytes()
    assert again.dtype == np.float32
    with pytest.raises(MismatchError, match=r"labels up to 3, values has 2"):
        parcel_volume(values[:2], atlas, tmp_path / "map.nii.gz")
    with pytest.raises(InputError, match=r"ends in \.nii\.gz"):
        parcel_volume(values, atlas, tmp_path / "map.gz")
    nibabel.save(nibabel.Nifti1Image(labels / np.float32(2), affine), tmp_path / "half.nii.gz")
    with pytest.raises(FileError, match="whole labels"):
        parcel_volume(values, tmp_path / "half.nii.gz", tmp_path / "map.nii.gz")


def test_the_index_of_stimuli_says_which_film_and_how_often(made: mini.Mini) -> None:
    """Catches an index in another order than the images, and films under a wrong path."""
    source = reader(made)
    index, images = source.stimuli(), source.images()
    assert tuple(index["image"]) == images.ids
    assert len(images) == len(set(images.ids)) == len(index["file"])
    by_id = dict(zip(index["image"], index["movie"], strict=True))
    assert by_id["friends-s06e02b-00010"] == "stimuli/movies/friends/s6/friends_s06e02b.mkv"
    assert by_id["movie10-figures01-00010"] == "stimuli/movies/movie10/figures/figures01.mkv"
    shown = dict(zip(index["image"], index["repeats"], strict=True))
    assert (shown["movie10-life01-00010"], shown["movie10-wolf01-00010"]) == (2, 1)
    with pytest.raises(FileError, match=r"a sample is 1\.49 s of one"):
        images.read(0)


def test_a_missing_download_is_told_with_the_command(own: mini.Mini) -> None:
    """Catches a bare 'no such file' where DataLad left a link to what it did not fetch."""
    path = h5(own, "friends")
    kept = path.read_bytes()
    path.unlink()
    path.symlink_to(own.root / ".git" / "annex" / "objects" / "none")
    assert [file.path.name[:21] for file in reader(own).files()][:1] == ["sub-02_task-friends_s"]
    with pytest.raises(FileError, match="datalad get"):
        reader(own).labels()
    path.unlink()
    with pytest.raises(FileError, match=r"desc-s123456_bold\.h5 does not exist"):
        reader(own).labels()
    path.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(FileError, match=r"truncated or not HDF5"):
        reader(own).responses()
    path.write_bytes(kept)
    shutil.copy(path, path.with_name(path.name.replace("s123456", "cropped")))
    with pytest.raises(FileError, match="has 2 files of friends"):
        reader(own).labels()


def test_recordings_that_cannot_be_right_are_refused(own: mini.Mini) -> None:
    """Catches doubled runs, foreign keys, other atlases, empty runs and runs without signal."""
    path = h5(own, "movie10")

    def broken(
        key: str, values: np.ndarray, message: str, kind: type = FileError, **options
    ) -> None:
        with h5py.File(path, "a") as file:
            file[key] = values
        with pytest.raises(kind, match=message):
            reader(own, **options).responses()
        with h5py.File(path, "a") as file:
            del file[key]

    with h5py.File(path, "r") as file:
        wolf = file["ses-001_task-wolf01"][()]
    broken("ses-009_task-wolf02", wolf, r"wolf02 begins with the same values as", MismatchError)
    broken("ses-009_task-s01e01a", wolf + 1, r"key 'ses-009_task-s01e01a'; needed for movie10")
    broken("ses-009_task-wolf02", wolf[:, :9] + 1, "9 parcels.*different atlases", MismatchError)
    broken("ses-009_task-wolf02", wolf[:10] + 1, "drop=5 leaves nothing", InputError)
    broken("ses-009_task-wolf02", np.arange(20), r"shape \(20,\); needed are floats")
    hole = wolf + 1
    hole[12:15] = np.nan
    broken("ses-009_task-wolf02", hole, r"wolf02: sample 12 and 2 others are NaN in every parcel")
    np.save(own.features / "movie10-wolf02.npy", np.zeros((4, mini.CHANNELS), np.float32))
    broken(
        "ses-009_task-wolf02", wolf + 1, "the film has 4", InputError, features=str(own.features)
    )
    (own.features / "movie10-wolf02.npy").unlink()
    broken(
        "ses-009_task-wolf02", wolf + 1, "no table of", MismatchError, features=str(own.features)
    )
    assert reader(own).responses().sizes["voxel"] == mini.PARCELS


def test_the_tables_of_features_are_files_of_the_conversion(own: mini.Mini, tmp_path: Path) -> None:
    """Catches a plan that does not list them, and other lengths of films that pass unseen."""
    source = CNeuroMod(str(own.root), 2, features=str(own.features))
    assert own.features in [file.path for file in source.files()]
    convert(source, tmp_path / "out")
    table = own.features / "friends-s01e02a.npy"
    np.save(table, np.load(table)[:-4])
    with pytest.raises(FileError, match=r"tables of features"):
        convert(CNeuroMod(str(own.root), 2, features=str(own.features)), tmp_path / "out")


@pytest.mark.parametrize("name", ["bourne", "figures"])
def test_links_to_nothing_are_told(own: mini.Mini, name: str) -> None:
    """Catches a KeyError of h5py for a dataset that is not there."""
    path = next((own.root / "fmri/sub-02/func").glob("*movie10*"))
    with h5py.File(path, "r+") as file:
        file[f"ses-009_task-{name}09"] = h5py.SoftLink("/nothing")
    with pytest.raises(FileError, match=r"movie10.*truncated or not HDF5"):
        CNeuroMod(str(own.root), 2).sessions()


def test_a_conversion_keeps_values_labels_and_splits(made: mini.Mini, tmp_path: Path) -> None:
    """Catches runs under the rows of others when they are written one by one."""
    source = reader(made, parcels=str(made.parcels), features=str(made.features), drop=0)
    convert(source, tmp_path / "out")
    again = Converted(str(tmp_path / "out"))
    there, expected = again.responses().load(), source.responses()
    np.testing.assert_array_equal(there["response"].values, expected["response"].values)
    for name in ("image", "session", "run", "repetition", "name"):
        assert there[name].values.tolist() == expected[name].values.tolist()
    assert there.attrs["truncated_samples"] == expected.attrs["truncated_samples"]
    assert {name: dict(s.parts) for name, s in again.splits().items()} == {
        name: dict(s.parts) for name, s in source.splits().items()
    }
    assert again.images().ids == source.images().ids


def test_arguments_that_cannot_be_are_named(made: mini.Mini) -> None:
    """Catches a wrong subject that reads somebody else, and networks without their file."""
    for wrong in (4, "sub-06", "two", 12):
        with pytest.raises(InputError, match=f"subject={wrong!r}"):
            reader(made, subject=wrong).files()
    assert reader(made, subject="sub-02").files() == reader(made).files()
    for wrong, message in (
        ({"tasks": ["friend"]}, "did you mean 'friends'"),
        ({"tasks": []}, "once each"),
        ({"drop": -1}, "drop=-1"),
        ({"roi": ["Vis"]}, "needs parcels"),
        ({"roi": ["V1"], "parcels": str(made.parcels)}, "roi='V1' is unknown"),
    ):
        with pytest.raises(InputError, match=message):
            reader(made, **wrong).labels()


def test_labels_of_another_atlas_are_refused(made: mini.Mini, tmp_path: Path) -> None:
    """Catches a label file of 400 parcels beside responses of 1000."""
    fewer = tmp_path / "order.txt"
    fewer.write_text("\n".join(made.parcels.read_text().splitlines()[:-1]))
    with pytest.raises(MismatchError, match=r"names 13 parcels.*has 14"):
        reader(made, parcels=str(fewer)).labels()


def scored(made: mini.Mini, store: Path, delay: int, window: int) -> tuple[float, Comparison]:
    run = Comparison(
        reader(made, features=str(made.features)),
        StimulusTable(str(made.features), delay=delay, window=window),
        {"ridge": RidgeEncoder(folds=3)},
        split=SplitPlan(published="algonauts2025"),
        store=str(store),
        store_dtype="float32",
        zscore=False,
    )
    scores, encoders = run.run(report=lambda line: None)
    run.fitted = encoders["ridge"]
    return float(scores["ridge"].dataset["raw"].mean()), run


def test_the_true_delay_beats_all_others_and_reaches_the_ceiling(
    made: mini.Mini, tmp_path: Path
) -> None:
    """Catches features and responses that are shifted against each other by a sample."""
    found = {delay: scored(made, tmp_path, delay, 1)[0] for delay in (1, 2, 3, 4, 5)}
    assert max(found, key=found.get) == mini.DELAY
    assert found[3] > 0.95 * made.ceiling
    assert max(score for delay, score in found.items() if delay != 3) < 0.1


def test_the_weights_of_the_whole_window_are_found(tmp_path: Path) -> None:
    """Catches moments of the window in another order than the weights that are read from them."""
    made = mini.write(tmp_path / "data", window=5, noise=0.3)
    score, run = scored(made, tmp_path / "store", mini.DELAY, 5)
    assert score > 0.97 * made.ceiling
    fitted = run.fitted
    scale = fitted.view_.scale.numpy()[:, None]
    weights = (fitted.weights_ * scale).reshape(5, mini.CHANNELS, mini.PARCELS)
    assert np.abs(weights - made.weights).max() < 0.1
    assert np.corrcoef(weights.ravel(), made.weights.ravel())[0, 1] > 0.99


def test_subjects_who_saw_the_same_film_bound_the_ceiling(tmp_path: Path) -> None:
    """Catches samples of two subjects that do not stand side by side: the bounds fall to zero."""
    made = [mini.write(tmp_path / str(person), person=person) for person in range(3)]
    seen = [reader(one, tasks=["friends"]).responses() for one in made]
    assert all((one["image"].values == seen[0]["image"].values).all() for one in seen)
    bounds = leave_one_subject_out_ceiling(np.stack([one["response"].values for one in seen]))
    signal = (made[0].weights ** 2).sum(axis=(0, 1))
    expected = signal / np.sqrt((signal + 1) * (signal + 1 / 2))
    assert np.abs(bounds.lower - expected).max() < 0.06
    upper = (signal + 1 / 3) / np.sqrt((signal + 1) * (signal + 1 / 3))
    assert np.abs(bounds.upper - upper).max() < 0.06
