from __future__ import annotations

import json

import numpy as np
import pytest

from neuroattn.data.bids.confounds import desc_of, read_confounds
from neuroattn.data.bids.layout import Layout, Query, bold_runs
from neuroattn.errors import FileError, UnknownNameError
from tests.data.bids.builders import write_nifti

FRAMES = 30
MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


def write_confounds(path, seed=0, drop=(), spike=None, frames=FRAMES):
    """Write fMRIPrep's table and JSON; the first row of derivatives is n/a, as there."""
    draw = np.random.default_rng(seed)
    names = [*MOTION, "csf", "white_matter"]
    names += [f"{n}{s}" for n in list(names) for s in ("_derivative1", "_power2")]
    names += [f"{n}_derivative1_power2" for n in [*MOTION, "csf", "white_matter"]]
    columns = {name: draw.normal(size=frames) for name in names if name not in drop}
    columns |= {f"cosine{n:02d}": draw.normal(size=frames) for n in range(2)}
    columns |= {f"a_comp_cor_{n:02d}": draw.normal(size=frames) for n in range(3)}
    columns["framewise_displacement"] = np.full(frames, 0.1)
    columns["std_dvars"] = np.full(frames, 1.0)
    if spike is not None:
        columns["framewise_displacement"][spike] = 2.0
    steady = np.zeros(frames)
    steady[0] = 1
    columns["non_steady_state_outlier00"] = steady
    rows = ["\t".join(columns)]
    for row in range(frames):
        cells = [
            "n/a" if row == 0 and "derivative" in name else repr(float(values[row]))
            for name, values in columns.items()
        ]
        rows.append("\t".join(cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    about = {
        f"a_comp_cor_{n:02d}": {"Method": "aCompCor", "Mask": mask, "Retained": True}
        for n, mask in enumerate(["combined", "combined", "CSF"])
    }
    path.with_suffix(".json").write_text(json.dumps(about))
    return columns


@pytest.fixture
def derivative(tmp_path):
    folder = tmp_path / "sub-01/func"
    for number in (1, 2):
        stem = f"sub-01_task-look_run-{number}"
        write_nifti(
            folder / f"{stem}_space-T1w_desc-preproc_bold.nii.gz",
            np.ones((2, 2, 2, FRAMES), np.float32),
            2.0,
        )
        write_confounds(folder / f"{stem}_desc-confounds_timeseries.tsv", number)
    return tmp_path


def run_of(root, number=0, **query):
    return bold_runs(Layout(root), Query(1, space="T1w", **query))[number]


@pytest.mark.parametrize(
    ("strategy", "columns"),
    [("motion", 6), ("motion24", 24), ("simple", 26), ("compcor", 26)],
)
def test_a_strategy_is_its_columns_without_slow_drifts(derivative, strategy, columns):
    # Catches cosines that stand twice in the model, and CompCor of other masks.
    values, kept = read_confounds(run_of(derivative), strategy)
    assert values.shape == (FRAMES, columns)
    assert np.isfinite(values).all()
    # Volume 0 is no steady state: fMRIPrep says so, and it is left out.
    np.testing.assert_array_equal(kept, np.arange(1, FRAMES))
    np.testing.assert_allclose(values[kept].mean(axis=0), 0, atol=1e-12)


def test_each_run_has_its_own_table(derivative):
    # Catches the table of the first run for all runs.
    for number in (0, 1):
        table = derivative / f"sub-01/func/sub-01_task-look_run-{number + 1}"
        written = write_confounds(
            table.with_name(f"{table.name}_desc-confounds_timeseries.tsv"), number + 7
        )
        values, _kept = read_confounds(run_of(derivative, number), "motion")
        expected = np.stack([written[name] for name in MOTION], axis=1)
        expected -= expected[1:].mean(axis=0)
        # nilearn may order the columns otherwise.
        order = [int(np.abs(values.T - column).sum(axis=1).argmin()) for column in expected.T]
        assert sorted(order) == list(range(6))
        np.testing.assert_allclose(values[:, order], expected, atol=1e-12)


def test_scrubbing_leaves_moved_volumes_out(derivative):
    # Catches scrubbing that only regresses, and segments counted in kept volumes.
    name = "sub-01_task-look_run-1_desc-confounds_timeseries.tsv"
    write_confounds(derivative / "sub-01/func" / name, spike=15)
    _, kept = read_confounds(run_of(derivative), "scrubbing")
    np.testing.assert_array_equal(kept, [*range(1, 15), *range(16, FRAMES)])


def test_no_strategy_reads_nothing(derivative):
    # Catches raw data that need a table of confounds.
    (derivative / "sub-01/func/sub-01_task-look_run-1_desc-confounds_timeseries.tsv").unlink()
    assert read_confounds(run_of(derivative), "none") == (None, None)
    with pytest.raises(FileError, match=r"no .*confounds_timeseries.tsv.*glm.confounds='none'"):
        read_confounds(run_of(derivative), "motion")


def test_what_is_missing_is_named(derivative):
    # Catches an error that names no file, and an unknown strategy taken for none.
    table = derivative / "sub-01/func/sub-01_task-look_run-1_desc-confounds_timeseries.tsv"
    write_confounds(table, drop=("rot_z",))
    with pytest.raises(FileError, match=r"run-1_desc-confounds.*cannot serve.*rot_z"):
        read_confounds(run_of(derivative), "motion")
    table.write_text("")
    with pytest.raises(FileError, match=r"is empty \(0 bytes\)"):
        read_confounds(run_of(derivative), "motion")
    with pytest.raises(UnknownNameError, match=r"glm.confounds='motoin'.*motion"):
        read_confounds(run_of(derivative), "motoin")


def test_aroma_wants_the_images_that_it_cleaned():
    # Catches AROMA's confounds with images that still hold its components.
    assert desc_of("aroma") == "smoothAROMAnonaggr"
    assert desc_of("simple") == "preproc"
