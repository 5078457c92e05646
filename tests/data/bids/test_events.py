from __future__ import annotations

import pytest

from neuroattn.data.bids.events import Trials, image_ids, read_trials
from neuroattn.errors import FileError, InputError, MismatchError
from tests.data.bids.builders import events_text


@pytest.fixture
def write(tmp_path):
    def made(*rows, **columns):
        path = tmp_path / "sub-1_events.tsv"
        onsets, durations, types = zip(*rows, strict=True)
        path.write_text(events_text(onsets, durations, types, **columns))
        return path

    return made


def spans(trials):
    return [(trial.onset, trial.duration, trial.kind, trial.events) for trial in trials]


def test_each_row_is_a_trial_in_the_order_of_onsets(write):
    # Catches rows in the order of the file, and durations that stay with the wrong onset.
    path = write((9, 2, "b"), (3, 1, "a"), (5, "n/a", "a"))
    trials, others = read_trials(path, Trials(), 20)
    assert spans(trials) == [(3, 1, "a", 1), (5, 0, "a", 1), (9, 2, "b", 1)]
    assert others == []


def test_neighbours_of_one_type_merge_below_the_gap_only(write):
    # Catches gaps from onset to onset, blocks of two types joined, and an onset of the last row.
    path = write((2, 0.5, "a"), (4, 0.5, "a"), (6, 0.5, "b"), (8, 0.5, "a"), (11.5, 0.5, "a"))
    joined = [(2, 2.5, "a", 2), (6, 0.5, "b", 1), (8, 0.5, "a", 1), (11.5, 0.5, "a", 1)]
    assert spans(read_trials(path, Trials(merge=2.5), 20)[0]) == joined
    # 3 s from the end of the one to the onset of the next: the limit itself does not join.
    assert spans(read_trials(path, Trials(merge=3.0), 20)[0]) == joined
    wider = read_trials(path, Trials(merge=3.01), 20)[0]
    assert spans(wider)[-1] == (8, 4.0, "a", 2)


def test_a_row_that_is_no_trial_parts_two_blocks(write):
    # Catches a block that runs through a response or a rest between two of its rows.
    path = write((2, 1, "a"), (3, 0, "press"), (4, 1, "a"), (5, 1, "a"))
    trials, others = read_trials(path, Trials(merge=9, types=["a"]), 20)
    assert spans(trials) == [(2, 1, "a", 1), (4, 2, "a", 2)]
    assert spans(others) == [(3, 0, "press", 1)]
    assert read_trials(path, Trials(types=["a"], others="ignore"), 20)[1] == []


def test_events_beyond_the_run_are_told_or_left_out(write):
    # Catches events of a longer run that vanish, or a margin that counts from the start.
    path = write((2, 1, "a"), (16, 1, "a"), (20, 1, "a"))
    with pytest.raises(MismatchError, match=r"1 of 3 begin after the end of the run, 20 s.*at 20"):
        read_trials(path, Trials(), 20)
    assert len(read_trials(path, Trials(end_margin=0), 20)[0]) == 2
    assert len(read_trials(path, Trials(end_margin=4), 20)[0]) == 1
    with pytest.raises(InputError, match=r"no trial is left of 3 rows"):
        read_trials(path, Trials(end_margin=19), 20)


def test_the_image_of_a_trial_is_what_was_asked_for(write):
    # Catches ids that two runs share, and a missing stimulus that becomes an image "n/a".
    path = write((1, 1, "a"), (3, 1, "b"), stim_file=["x.png", "n/a"])
    trials, _ = read_trials(path, Trials(), 9)
    assert image_ids(trials, Trials(), "sub-1_run-2", path) == [
        "sub-1_run-2_trial-001",
        "sub-1_run-2_trial-002",
    ]
    assert image_ids(trials, Trials(image="trial_type"), "s", path) == ["a", "b"]
    with pytest.raises(FileError, match=r"the trial at 3 s has no stim_file"):
        image_ids(trials, Trials(image="stim_file"), "s", path)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("x", 1, "a")], {}, "column 'onset': 'x' is no number"),
        ([(1, -1, "a")], {}, r"data row 1: onset '1', duration '-1'"),
        ([("", 1, "a")], {}, "data row 1: onset ''"),
        ([(1, 1, "a")], {"image": "concept"}, "trials.image needs the column 'concept'.*onset"),
        ([(1, 1, "a")], {"repeats": "kind"}, "trials.repeats needs the column 'kind'"),
        ([(1, 1, "a")], {"types": ["z"]}, r"trials.types=\['z'\].*none of them, but \['a'\]"),
        ([(1, 1, "a")], {"others": "drop"}, "trials.others='drop'.*ignore, model"),
    ],
)
def test_what_is_wrong_is_named(write, rows, options, message):
    # Catches a message that does not say which file, row or option is meant.
    with pytest.raises((FileError, InputError), match=message):
        read_trials(write(*rows), Trials(**options), 99)


def test_a_file_without_durations_is_refused(tmp_path):
    # Catches durations that are made up.
    path = tmp_path / "e.tsv"
    path.write_text("onset\ttrial_type\n1\ta\n")
    with pytest.raises(FileError, match=r"\['onset', 'trial_type'\]; duration is missing"):
        read_trials(path, Trials(), 9)
