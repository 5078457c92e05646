from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data.bids import BIDS, Glm, Trials, fir_response
from neuroattn.errors import InputError
from tests.data.bids.builders import events_text, mini, write_json, write_nifti

TR, FRAMES, BINS = 2.0, 140, 6


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Responses of any shape, on the volumes, with overlaps; voxels from 2 on are noise."""
    root = tmp_path_factory.mktemp("fir")
    draw = np.random.default_rng(0)
    shapes = draw.normal(size=(2, BINS, 40)) * (np.arange(40) < 2)
    write_json(root / "task-look_bold.json", {"RepetitionTime": TR})
    for run in (1, 2, 3):
        # The next trial begins before the last response is over.
        onsets = 4 + np.cumsum(draw.integers(3, 7, 25)) * TR
        kinds = [("cat", "dog")[n] for n in draw.integers(0, 2, 25)]
        change = 0.02 * draw.normal(size=(FRAMES, 40))
        change[:, 2:] += draw.normal(size=(FRAMES, 38))
        for onset, kind in zip(onsets, kinds, strict=True):
            first = round(onset / TR)
            stop = min(first + BINS, FRAMES)
            change[first:stop] += shapes[("cat", "dog").index(kind), : stop - first]
        values = 500 * (1 + change.T[:, None, None] / 100)
        stem = root / "sub-01/func" / f"sub-01_task-look_run-{run}"
        write_nifti(stem.with_name(f"{stem.name}_bold.nii.gz"), values.astype(np.float32), TR)
        stem.with_name(f"{stem.name}_events.tsv").write_text(events_text(onsets, [1] * 25, kinds))
    return root, shapes


def reader(root):
    glm, trials = Glm(high_pass=None), Trials(end_margin=0)
    return BIDS(str(root), 1, mask="all", glm=glm, trials=trials)


def test_the_shape_of_the_response_is_found(known):
    # Catches delays that are one volume off, types that are swapped, and overlaps averaged in.
    root, shapes = known
    found = fir_response(reader(root), BINS * TR)
    assert found["trial_type"].values.tolist() == ["cat", "dog"]
    assert found["delay"].values.tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_allclose(found["response"].values[..., :2], shapes[..., :2], atol=0.03)


def test_prediction_is_of_runs_that_were_not_fitted(known):
    # Catches a held-out run that is in the fit: noise would be predicted well.
    held = fir_response(reader(known[0]), BINS * TR)["held_out_r"].values
    assert (held[:2] > 0.97).all()
    # In the runs of the fit the noise would be predicted with r of about 0.17.
    assert abs(held[2:].mean()) < 0.05


def test_an_onset_between_volumes_belongs_to_the_delay_it_falls_in(tmp_path):
    # Catches rounding to the nearest volume.
    write_json(tmp_path / "task-look_bold.json", {"RepetitionTime": TR})
    draw = np.random.default_rng(0)
    for run in (1, 2):
        values = 500 + draw.normal(size=(1, 1, 1, 60))
        # Onset at 9 s: volume 5 (10 s) is 1 s later, the first of the response.
        values[..., [5, 20, 40]] += 50
        stem = tmp_path / "sub-01/func" / f"sub-01_task-look_run-{run}"
        write_nifti(stem.with_name(f"{stem.name}_bold.nii.gz"), values.astype(np.float32), TR)
        stem.with_name(f"{stem.name}_events.tsv").write_text(
            events_text([9, 38.1, 79.9], [1] * 3, ["a"] * 3)
        )
    found = fir_response(reader(tmp_path), 6)["response"].values[0, :, 0]
    assert found.argmax() == 0
    assert found[0] > 5 > found[1:].max()


def test_two_onsets_between_the_same_volumes_count_twice(tmp_path):
    # Catches a design of 0 and 1: the response to both would be taken for the response to one.
    write_json(tmp_path / "task-look_bold.json", {"RepetitionTime": TR})
    for run in (1, 2):
        values = np.full((1, 1, 1, 60), 500.0) + 1e-3 * np.random.default_rng(run).normal(size=60)
        values[..., [5, 40]] += 10
        values[..., 20] += 20
        stem = tmp_path / "sub-01/func" / f"sub-01_task-look_run-{run}"
        write_nifti(stem.with_name(f"{stem.name}_bold.nii.gz"), values.astype(np.float32), TR)
        stem.with_name(f"{stem.name}_events.tsv").write_text(
            events_text([9, 38.5, 39.5, 79], [0.5] * 4, ["a"] * 4)
        )
    found = fir_response(reader(tmp_path), 6)["response"].values[0, :, 0]
    np.testing.assert_allclose(found, [2, 0, 0], atol=0.02)


def test_runs_of_different_repetition_times_have_no_common_delay(tmp_path):
    # Catches the delays of one run counted in the volumes of another.
    for run, step in ((1, 2.0), (2, 1.5)):
        values = 500 + np.random.default_rng(run).normal(size=(1, 1, 1, 60))
        stem = tmp_path / "sub-01/func" / f"sub-01_task-look_run-{run}"
        write_json(stem.with_name(f"{stem.name}_bold.json"), {"RepetitionTime": step})
        write_nifti(stem.with_name(f"{stem.name}_bold.nii.gz"), values.astype(np.float32), step)
        stem.with_name(f"{stem.name}_events.tsv").write_text(events_text([9, 30], [1] * 2, "ab"))
    with pytest.raises(InputError, match=r"repetition times of 2 s and 1\.5 s"):
        fir_response(reader(tmp_path), 6)


def test_one_run_and_no_delay_are_refused(tmp_path):
    # Catches a correlation with nothing held out.
    mini(tmp_path)
    with pytest.raises(InputError, match=r"from 1 run"):
        fir_response(BIDS(str(tmp_path), 1, entities={"run": "1"}))
    with pytest.raises(InputError, match=r"gives 0 delays"):
        fir_response(BIDS(str(tmp_path), 1), 0)
