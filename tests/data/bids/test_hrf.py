from __future__ import annotations

import numpy as np
import pytest
from nilearn.glm.first_level import glover_hrf, spm_hrf

from neuroattn.data.bids.hrf import LibraryResponse, kernels, read_library, response_peak
from neuroattn.errors import FileError, InputError
from tests.data.bids.builders import spm


@pytest.fixture
def library(tmp_path):
    times = np.arange(0, 40, 0.1)
    path = tmp_path / "library:of two.tsv"
    np.savetxt(path, np.stack([spm(times), spm(times / 1.6)], axis=1), delimiter="\t")
    return path


def test_names_are_those_of_nilearn(library):
    # Catches a name that is taken for another, and a library that gives one choice only.
    assert kernels("glover + derivative") == ["glover + derivative"]
    assert len(kernels(f"library:{library}")) == 2
    assert len(kernels(f"library:{library}:1")) == 1


def test_a_column_of_the_library_is_the_one_asked_for(library):
    # Catches columns counted from 1: the second response is the slow one, its peak at 8 s.
    (slow,) = kernels(f"library:{library}:1")
    (fast,) = kernels(f"library:{library}:0")
    peaks = [0.05 * np.argmax(kernel(2.5, 50)) for kernel in (fast, slow)]
    np.testing.assert_allclose(peaks, [5.0, 8.0], atol=0.05)


@pytest.mark.parametrize("step", [0.02, 0.07])
def test_a_library_response_keeps_its_time_whatever_the_sampling(step):
    # Catches samples that are taken as if they were a repetition time apart.
    times = np.arange(0, 40, 0.1)
    kernel = LibraryResponse(spm(times))
    found = kernel(step * 50, 50)
    expected = np.interp(np.arange(len(found)) * step, times, spm(times))
    np.testing.assert_allclose(found, expected / np.abs(expected).sum(), rtol=1e-12)


@pytest.mark.parametrize(("name", "function"), [("spm", spm_hrf), ("glover", glover_hrf)])
@pytest.mark.parametrize("samples", [1, 10, 40, 450])
def test_the_peak_is_that_of_the_response_convolved_with_the_event(name, function, samples):
    # Catches a beta in units of an endless stimulus: a peak of half a second is a tenth of it.
    step = 0.05
    expected = np.convolve(function(step, 1), np.ones(samples)).max()
    for kernel in (name, f"{name} + derivative"):
        assert response_peak(kernel, samples, step) == pytest.approx(expected, rel=1e-9)


def test_unknown_names_and_columns_are_told(library):
    # Catches FIR in a place that has one number a trial, and a silent default.
    with pytest.raises(InputError, match=r"hrf='smp'.*did you mean 'spm'"):
        kernels("smp")
    with pytest.raises(InputError, match=r"fir_response"):
        kernels("fir")
    with pytest.raises(InputError, match=r"columns 0 to 1"):
        kernels(f"library:{library}:2")
    with pytest.raises(FileError, match=r"HRF library .*nowhere.tsv does not exist"):
        kernels("library:nowhere.tsv")


@pytest.mark.parametrize("text", ["a\tb\n1\t2\n", "1 2\n", "0 0\n0 0\n", "1 nan\n2 1\n"])
def test_a_library_is_a_table_of_responses(tmp_path, text):
    # Catches a header, one row, zeros and NaN that would give empty regressors.
    path = tmp_path / "l.tsv"
    path.write_text(text)
    with pytest.raises(FileError, match=r"HRF library .*l.tsv"):
        read_library(path)


@pytest.mark.realdata
def test_the_published_library_has_twenty_responses_from_early_to_late(realdata):
    # Catches a transposed table or other time steps: NSD's responses peak between 2.5 and 6 s.
    table = read_library(realdata / "hrf_library_glmsingle/getcanonicalhrflibrary.tsv")
    assert table.shape == (501, 20)
    peaks = table.argmax(axis=0) * 0.1
    assert (np.diff(peaks) >= -1e-9).all()
    assert 2.5 < peaks[0] < peaks[-1] < 6
