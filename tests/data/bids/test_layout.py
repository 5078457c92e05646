"""Queries are compared with plain globbing of two public layouts, and of small ones made here."""

from __future__ import annotations

import os

import pytest

from neuroattn.data.bids.layout import (
    Layout,
    Query,
    bold_runs,
    check_filled,
    described,
    parsed,
)
from neuroattn.errors import FileError, InputError
from tests.data.bids.builders import mini, write_json


def test_a_name_is_taken_apart():
    # Catches a desc or hemisphere that is lost, and an ending cut at its first dot.
    file = parsed("/a/sub-01_ses-b_task-x_run-2_space-T1w_desc-preproc_bold.nii.gz")
    assert file.entities == {
        "sub": "01", "ses": "b", "task": "x", "run": "2", "space": "T1w", "desc": "preproc",
    }  # fmt: skip
    assert (file.suffix, file.extension) == ("bold", ".nii.gz")
    assert parsed("sub-1_hemi-L_bold.func.gii").extension == ".func.gii"
    assert described({"sub": "1", "run": "2"}) == "sub-1_run-2"


@pytest.mark.parametrize("wanted", [1, "1", "01", "sub-01"])
def test_subjects_are_known_by_number_or_name(tmp_path, wanted):
    # Catches a subject that is found only with its zeros.
    layout = Layout(mini(tmp_path, runs=1).root)
    assert layout.subject(wanted) == "01"
    with pytest.raises(FileError, match=r"no subject 'x9'.*it has 01"):
        layout.subject("x9")


def test_an_empty_folder_is_no_data_set(tmp_path):
    # Catches a wrong folder that is searched in silence.
    with pytest.raises(FileError, match=r"no folder sub-\*"):
        Layout(tmp_path)


def runs_of(root, **query):
    return bold_runs(Layout(root), Query(1, **query))


def test_run_ten_comes_after_run_nine(tmp_path):
    # Catches an order by text, which mixes up the rows of a conversion.
    mini(tmp_path, runs=11, shape=(2, 2, 2), frames=80, trials=2)
    assert [run.name for run in runs_of(tmp_path)] == [f"run-{n}" for n in range(1, 12)]


def test_nearer_metadata_and_events_override_farther_ones(tmp_path):
    # Catches inheritance upside down, and files of another task or run that leak in.
    mini(tmp_path, runs=2, shape=(2, 2, 2))
    write_json(tmp_path / "bold.json", {"RepetitionTime": 9, "Far": 1})
    write_json(tmp_path / "task-other_bold.json", {"Other": 1})
    write_json(tmp_path / "sub-01/func/sub-01_task-look_run-2_bold.json", {"EchoTime": 0.03})
    (tmp_path / "task-look_events.tsv").write_text("onset\tduration\n1\t1\n")
    own = tmp_path / "sub-01/func/sub-01_task-look_run-2_events.tsv"
    own.unlink()
    one, two = runs_of(tmp_path)
    assert one.metadata == {"RepetitionTime": 1.5, "TaskName": "look", "Far": 1}
    assert two.metadata == {**one.metadata, "EchoTime": 0.03}
    assert one.events.name == "sub-01_task-look_run-1_events.tsv"
    assert two.events == tmp_path / "task-look_events.tsv"


def test_two_files_of_one_rank_are_refused(tmp_path):
    # Catches a choice between two events files by the order of the file system.
    mini(tmp_path, runs=1, shape=(2, 2, 2))
    for name in ("sub-01_events.tsv", "task-look_events.tsv"):
        (tmp_path / name).write_text("onset\tduration\n1\t1\n")
    with pytest.raises(FileError, match=r"both apply to the same run"):
        runs_of(tmp_path)


def test_what_does_not_fit_is_told_with_what_there_is(tmp_path):
    # Catches an empty result without a word.
    mini(tmp_path, runs=2, shape=(2, 2, 2))
    with pytest.raises(FileError, match=r"task-lok.*did you mean 'look'.*task: look"):
        runs_of(tmp_path, task="lok")
    with pytest.raises(FileError, match=r"ses-2.*ses: \(none"):
        runs_of(tmp_path, session="2")
    with pytest.raises(FileError, match=r"run-7.*run: 1, 2"):
        runs_of(tmp_path, entities={"run": "7"})
    assert [run.name for run in runs_of(tmp_path, entities={"run": "02"})] == ["run-2"]
    (tmp_path / "sub-02").mkdir()
    with pytest.raises(FileError, match=r"sub-02 has no \*_bold image"):
        bold_runs(Layout(tmp_path), Query(2))


def test_two_images_of_one_run_are_told_apart_by_entities(tmp_path):
    # Catches two echoes of a run that become two runs, or one that is dropped.
    mini(tmp_path, runs=1, shape=(2, 2, 2))
    first = tmp_path / "sub-01/func/sub-01_task-look_run-1_bold.nii.gz"
    for echo in "12":
        other = first.with_name(f"sub-01_task-look_run-1_echo-{echo}_bold.nii.gz")
        other.write_bytes(first.read_bytes())
    first.unlink()
    with pytest.raises(InputError, match=r"has 2 files.*'echo': \['1', '2'\]"):
        runs_of(tmp_path)
    (run,) = runs_of(tmp_path, entities={"echo": "2"})
    assert run.images[0].name.endswith("echo-2_bold.nii.gz")


def test_empty_files_and_links_to_nowhere_are_no_data(tmp_path):
    # Catches a git-annex layout without its content that ends in an error of another library.
    empty = tmp_path / "a.nii.gz"
    empty.touch()
    with pytest.raises(FileError, match=r"a.nii.gz is empty \(0 bytes\).*datalad get"):
        check_filled(empty, "bold image")
    link = tmp_path / "b.nii.gz"
    os.symlink(tmp_path / ".git/annex/objects/x", link)
    with pytest.raises(FileError, match=r"b.nii.gz is a link to a file that is not here.*datalad"):
        check_filled(link, "bold image")
    with pytest.raises(FileError, match=r"c.nii.gz does not exist"):
        check_filled(tmp_path / "c.nii.gz", "bold image")
    empty.write_text("x")
    assert check_filled(empty, "bold image") == empty


TASKS = (
    "covertverbgeneration",
    "fingerfootlips",
    "linebisection",
    "overtverbgeneration",
    "overtwordrepetition",
)


@pytest.mark.realdata
@pytest.mark.parametrize("task", TASKS)
def test_the_test_retest_layout_gives_two_runs_a_subject_and_task(realdata, task):
    # Catches sessions, tasks or root-level events that are missed in a real raw layout.
    root = realdata / "bids_layouts/ds114"
    layout = Layout(root)
    subjects = sorted(p.name[4:] for p in root.glob("sub-*"))
    assert layout.subjects() == subjects
    assert len(subjects) == 10
    for subject in subjects:
        runs = bold_runs(layout, Query(subject, task))
        images = sorted(root.glob(f"sub-{subject}/ses-*/func/*task-{task}_bold.nii.gz"))
        assert [run.images[0] for run in runs] == images
        assert len(images) == 2
        assert [run.name for run in runs] == ["ses-retest", "ses-test"]
        for run in runs:
            own = task == "linebisection"
            near = run.images[0].with_name(run.images[0].name.replace("bold.nii.gz", "events.tsv"))
            assert run.events == (near if own else root / f"task-{task}_events.tsv")
            long = task in ("overtverbgeneration", "overtwordrepetition")
            assert run.metadata["RepetitionTime"] == (5.0 if long else 2.5)
        (test,) = bold_runs(layout, Query(subject, task, session="test"))
        assert test.name == "ses-test"


@pytest.mark.realdata
def test_the_test_retest_layout_asks_for_the_task(realdata):
    # Catches tasks that are mixed in one response set.
    layout = Layout(realdata / "bids_layouts/ds114")
    with pytest.raises(InputError, match=r", ".join(TASKS)):
        bold_runs(layout, Query(1))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("space", "pattern", "files"),
    [
        ("MNI152NLin2009cAsym", "*space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii.gz", 1),
        ("MNI152NLin2009cAsym:res-2", "*cAsym_res-2_desc-preproc_bold.nii.gz", 1),
        ("fsaverage5", "*space-fsaverage5_hemi-?_bold.func.gii", 2),
        ("fsnative", "*space-fsnative_hemi-?_bold.func.gii", 2),
    ],
)
def test_the_fmriprep_layout_gives_three_runs_a_space(realdata, space, pattern, files):
    # Catches hemispheres, resolutions and preparations of a real derivative that are mixed.
    root = realdata / "bids_layouts/ds000001-fmriprep"
    layout = Layout(root)
    for subject in layout.subjects():
        runs = bold_runs(layout, Query(subject, space=space))
        found = [path for run in runs for path in run.images]
        assert found == sorted(root.glob(f"sub-{subject}/func/{pattern}"))
        assert len(runs) == 3
        assert {len(run.images) for run in runs} == {files}
        for number, run in enumerate(runs, 1):
            assert run.name == f"run-{number}"
            assert run.events is None
            stem = f"sub-{subject}_task-balloonanalogrisktask_run-{number}"
            mask = f"{stem}_space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz"
            assert (run.mask and run.mask.name) == (mask if files == 1 else None)
            assert files == 2 or run.metadata["RepetitionTime"] == 2.0


@pytest.mark.realdata
def test_the_fmriprep_layout_lists_its_spaces(realdata):
    # Catches a space that is chosen for the user, and AROMA's images taken for the others.
    layout = Layout(realdata / "bids_layouts/ds000001-fmriprep")
    spaces = "MNI152NLin2009cAsym, fsaverage5, fsnative"
    with pytest.raises(FileError, match=f"there are the spaces {spaces} "):
        bold_runs(layout, Query(10))
    with pytest.raises(FileError, match=f"did you mean 'fsaverage5'.*{spaces} "):
        bold_runs(layout, Query(10, space="fsaverage"))
    with pytest.raises(FileError, match=r"res-1.*res: 2"):
        bold_runs(layout, Query(10, space="MNI152NLin2009cAsym:res-1"))
    aroma = Query(10, space="MNI152NLin6Asym", desc="smoothAROMAnonaggr")
    assert [run.name for run in bold_runs(layout, aroma)] == ["run-1", "run-2", "run-3"]
