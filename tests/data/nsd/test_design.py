"""Both design files: counts from 0 and 1, MATLAB versions, disagreements."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from neuroattn.data.nsd import NSD
from neuroattn.data.nsd.design import compare, read_design, read_stimulus_table
from neuroattn.errors import FileError, MismatchError
from tests.data.nsd_mini import SUBJECTS, Mini, write_design


def test_design_and_table_agree_for_every_subject(mini: Mini) -> None:
    """Catches trials of the table taken from 0, or a column of the next subject."""
    design = read_design(mini.experiment / "nsd_expdesign.mat")
    for subject in range(1, SUBJECTS + 1):
        table = read_stimulus_table(mini.experiment / "nsd_stim_info_merged.csv", subject)
        compare(design, table, subject)
        assert np.array_equal(design.shown[subject - 1], mini.table[subject - 1, mini.ordering])
    assert np.array_equal(design.shared, mini.shared)


def test_the_design_of_another_subject_disagrees(mini: Mini) -> None:
    """Catches a comparison that cannot fail."""
    design = read_design(mini.experiment / "nsd_expdesign.mat")
    table = read_stimulus_table(mini.experiment / "nsd_stim_info_merged.csv", 2)
    with pytest.raises(MismatchError, match="of subject 1"):
        compare(design, table, 1)


def test_matlab_73_gives_the_same_design(own: Mini) -> None:
    """Catches the reversed axes of version 7.3: subjects and images swapped."""
    before = NSD(str(own.root), 1).responses()
    path = own.experiment / "nsd_expdesign.mat"
    path.unlink()
    old = read_pattern(own)
    with h5py.File(path, "w") as file:
        file["masterordering"] = (own.ordering[None] + 1.0).T
        file["subjectim"] = (own.table + 1.0).T
        file["sharedix"] = (own.shared[None] + 1.0).T
        file["stimpattern"] = old.T
    assert NSD(str(own.root), 1).responses().identical(before)


def read_pattern(mini: Mini) -> np.ndarray:
    from tests.data.nsd_mini import _pattern

    return _pattern(mini)


@pytest.mark.parametrize("name", ["masterordering", "subjectim", "sharedix"])
def test_numbers_from_zero_are_refused(own: Mini, name: str) -> None:
    """Catches a design that somebody shifted to count from 0: all images would be off by one."""
    arrays = {
        "masterordering": own.ordering[None],
        "subjectim": own.table,
        "sharedix": own.shared[None] - own.shared.min(),
    }
    write_design(own, **{name: arrays[name] - arrays[name].min()})
    with pytest.raises(FileError, match=rf"'{name}' holds the value 0 \(0 where it counts from 1"):
        NSD(str(own.root), 1).responses()


def test_a_position_beyond_the_images_is_refused(own: Mini) -> None:
    """Catches ids where positions belong."""
    write_design(own, masterordering=own.ordering[None] + 3.0)
    with pytest.raises(FileError, match=r"masterordering.*whole numbers from 1 to 9"):
        NSD(str(own.root), 1).responses()


def test_table_and_design_that_disagree_name_the_first_trial(own: Mini) -> None:
    """Catches one of the two changed: the message gives trial and both images."""
    swapped = own.ordering.copy()
    other = next(n for n in range(6, 24) if swapped[n] != swapped[5])
    swapped[5], swapped[other] = swapped[other], swapped[5]
    write_design(own, masterordering=swapped[None] + 1.0)
    theirs, ours = own.shown[5], own.shown[other]
    with pytest.raises(MismatchError, match=rf"nsd-{ours:05d} in trial 6.*says nsd-{theirs:05d}"):
        NSD(str(own.root), 1).responses()


def test_a_trial_that_the_table_lacks_is_found(own: Mini) -> None:
    """Catches a table that was cut to some images, or counts trials from 0."""
    path = own.experiment / "nsd_stim_info_merged.csv"
    lines = path.read_text().splitlines()
    header = lines[0].split(",")
    shift = [place for place, name in enumerate(header) if name.startswith("subject1_rep")]
    changed = [lines[0]]
    for line in lines[1:]:
        before, box, after = line.split('"')
        cells = after.split(",")
        offset = before.count(",") - 0
        for place in shift:
            here = place - offset
            cells[here] = str(max(0, int(cells[here]) - 1))
        changed.append('"'.join([before, box, ",".join(cells)]))
    path.write_text("\n".join(changed) + "\n")
    with pytest.raises(MismatchError, match=r"nsd_expdesign.*nsd_stim_info_merged"):
        NSD(str(own.root), 1).responses()


def test_shared_images_must_agree(own: Mini) -> None:
    """Catches a shared1000 flag that belongs to other images, which would move the test set."""
    path = own.experiment / "nsd_stim_info_merged.csv"
    path.write_text(path.read_text().replace(",True,", ",False,", 1))
    with pytest.raises(MismatchError, match="shared images"):
        NSD(str(own.root), 1).labels()


def test_shared_images_are_those_of_every_subject(own: Mini) -> None:
    """Catches sharedix counted from 0, where it still is in range."""
    write_design(own, sharedix=own.shared[None] + 2.0)
    with pytest.raises(FileError, match="sharedix"):
        NSD(str(own.root), 1).labels()


def test_a_design_without_an_array_is_refused(own: Mini) -> None:
    """Catches the design of another experiment."""
    from scipy.io import savemat

    savemat(own.experiment / "nsd_expdesign.mat", {"masterordering": own.ordering + 1.0})
    with pytest.raises(FileError, match="no array 'subjectim'"):
        NSD(str(own.root), 1).labels()


@pytest.mark.parametrize("name", ["nsd_expdesign.mat", "nsd_stim_info_merged.csv"])
def test_truncated_design_files_are_named(own: Mini, name: str) -> None:
    """Catches an interrupted download of either file."""
    path = own.experiment / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises((FileError, MismatchError), match=name.replace(".", r"\.")):
        NSD(str(own.root), 1).labels()


def test_a_pattern_of_other_shape_is_refused(own: Mini) -> None:
    """Catches runs that would be made up."""
    write_design(own, stimpattern=np.ones((2, 12)))
    with pytest.raises(FileError, match="stimpattern"):
        NSD(str(own.root), 1).labels()


def test_a_table_with_an_image_twice_is_refused(own: Mini) -> None:
    """Catches rows that are taken for ids though they are not."""
    path = own.experiment / "nsd_stim_info_merged.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1]]) + "\n")
    with pytest.raises(FileError, match="each number from 0 once"):
        NSD(str(own.root), 1).labels()


def test_rows_of_the_table_may_come_in_any_order(own: Mini) -> None:
    """Catches ids taken from the number of the row."""
    before = NSD(str(own.root), 1).stimuli()
    path = own.experiment / "nsd_stim_info_merged.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(lines)]) + "\n")
    assert NSD(str(own.root), 1).stimuli() == before
