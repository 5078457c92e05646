"""Agreement of dissimilarities against scipy and plain loops, ceilings, and the 92 images."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.io import loadmat
from scipy.spatial.distance import squareform

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics import (
    compare_models,
    compare_rdms,
    dissimilarities,
    leave_one_subject_out_ceiling,
    rdm_ceiling,
)
from neuroattn.metrics.rsa import METHODS
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
PAIRS = 36  # of 9 images


def rdms(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((count, PAIRS))


def tau_a(x: np.ndarray, y: np.ndarray) -> float:
    signs = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in combinations(range(len(x)), 2)]
    return float(np.mean(signs))


def rho_a(x: np.ndarray, y: np.ndarray, draws: int = 0) -> float:
    a, b = stats.rankdata(x), stats.rankdata(y)
    return float(12 * np.sum((a - a.mean()) * (b - b.mean())) / (len(x) ** 3 - len(x)))


ORACLES = {
    "spearman": lambda x, y: stats.spearmanr(x, y).statistic,
    "pearson": lambda x, y: stats.pearsonr(x, y).statistic,
    "cosine": lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y),
    "tau-a": tau_a,
    "rho-a": rho_a,
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_its_definition_also_with_ties(method: str, ties: bool) -> None:
    """Catches tau-b for tau-a, ranks without ties, and rdms that are swapped."""
    first, second = rdms(0), rdms(1, 2)
    if ties:
        first, second = np.round(first * 3), np.round(second * 2)
    found = compare_rdms(first, second, method)
    assert found.shape == (3, 2)
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            np.testing.assert_allclose(found[i, j], ORACLES[method](x, y), **EXACT)
    assert compare_rdms(first[0], second, method).shape == (2,)
    assert compare_rdms(first[0], second[0], method).shape == ()


def test_rho_a_is_what_random_ties_give_on_average() -> None:
    """Catches the formula without the tie correction: it is an expectation over broken ties."""
    generator = np.random.default_rng(0)
    x, y = np.round(rdms(2)[0] * 2), rdms(3)[0]
    broken = [stats.spearmanr(x + 1e-6 * generator.random(PAIRS), y).statistic for _ in range(4000)]
    error = np.std(broken) / np.sqrt(4000)
    assert abs(float(compare_rdms(x, y, "rho-a")) - np.mean(broken)) < 4 * error


def test_nothing_undefined_becomes_a_number() -> None:
    """Catches a constant rdm that agrees, and a NaN that is skipped."""
    other = rdms(4)[0]
    for method in METHODS:
        hole = other.copy()
        hole[3] = np.nan
        assert np.isnan(compare_rdms(hole, other, method))
        same = 0.0 if method == "cosine" else 0.1 + 0.2
        assert np.isnan(compare_rdms(np.full(PAIRS, same), other, method))
        assert np.isnan(compare_rdms(other, np.full(PAIRS, same), method))


@pytest.mark.parametrize("method", METHODS)
def test_the_ceiling_is_what_leaving_each_subject_out_gives(method: str) -> None:
    """Catches a subject in its own lower bound, and means of dissimilarities not made alike."""
    known = rdms(5, 4) * np.array([[1.0], [10], [0.1], [3]]) + 0.5 * rdms(6, 1)
    if method == "pearson":
        alike = stats.zscore(known, axis=1)
    elif method == "cosine":
        alike = known / np.linalg.norm(known, axis=1, keepdims=True)
    else:
        alike = stats.rankdata(known, axis=1)
    agree = ORACLES[method]
    lower = [agree(np.delete(alike, s, axis=0).mean(axis=0), known[s]) for s in range(4)]
    upper = [agree(alike.mean(axis=0), known[s]) for s in range(4)]
    found = rdm_ceiling(known, method)
    np.testing.assert_allclose(found, (np.mean(lower), np.mean(upper)), **EXACT)
    if method == "pearson":
        same = leave_one_subject_out_ceiling(alike[:, :, None])
        np.testing.assert_allclose(found, np.ravel(same), **EXACT)


@pytest.mark.parametrize("method", ["spearman", "pearson", "cosine", "rho-a"])
def test_no_model_of_these_subjects_beats_the_upper_bound(method: str) -> None:
    """Catches an upper bound that is no bound."""
    known = rdms(7, 4) + rdms(8, 1)
    upper = rdm_ceiling(known, method).upper
    models = np.concatenate([known, known.mean(axis=0)[None], known[:2].mean(axis=0)[None]])
    assert compare_rdms(models, known, method).mean(axis=1).max() <= upper + 1e-12


def test_a_model_that_is_the_truth_lies_between_the_bounds() -> None:
    """Catches bounds that are swapped or too narrow."""
    generator = np.random.default_rng(9)
    truth = dissimilarities(generator.standard_normal((25, 30)))
    known = truth + 0.1 * generator.standard_normal((8, len(truth)))
    lower, upper = rdm_ceiling(known)
    score = compare_rdms(truth, known).mean()
    assert lower < score < upper < 1


def test_a_bootstrap_sample_leaves_pairs_of_an_image_with_itself_out() -> None:
    """Catches zeros between copies of an image, which every model would predict."""
    from neuroattn.metrics.rsa import _drawn, _pair_table

    square = np.arange(81).reshape(9, 9)
    square = np.triu(square, 1) + np.triu(square, 1).T
    chosen = np.array([4, 4, 2, 7, 2, 0])
    flat = squareform(square)
    found = flat[_drawn(_pair_table(9), chosen)]
    expected = [square[a, b] for a, b in combinations(chosen.tolist(), 2) if a != b]
    assert found.tolist() == expected


def test_models_get_score_interval_p_and_ceiling() -> None:
    """Catches scores under other models' names, and intervals that leave the score out."""
    generator = np.random.default_rng(10)
    shown = generator.standard_normal((20, 12))
    truth = dissimilarities(shown)
    known = truth + 0.2 * generator.standard_normal((3, len(truth)))
    models = {"none": dissimilarities(generator.standard_normal((20, 12))), "true": truth}
    found = compare_models(models, known, resamples=200)
    np.testing.assert_allclose(
        found["score"], compare_rdms(np.array([*models.values()]), known).mean(axis=1), **EXACT
    )
    assert found["model"].values.tolist() == ["none", "true"]
    assert (found["low"] < found["score"]).all()
    assert (found["score"] < found["high"]).all()
    assert float(found["p"].sel(model="true")) == 1 / 201
    assert float(found["p"].sel(model="none")) > 0.05
    assert float(found["low"].sel(model="true")) > float(found["high"].sel(model="none"))
    np.testing.assert_allclose(
        (found["ceiling_low"], found["ceiling_high"]), rdm_ceiling(known), **EXACT
    )
    again = compare_models(models, known, resamples=200)
    assert again.identical(found)
    one = compare_models(models, known[0], resamples=0)
    assert np.isnan(one["ceiling_low"])
    assert np.isnan(one["p"]).all()
    assert np.isnan(one["low"]).all()


def test_p_values_of_models_that_know_nothing_are_uniform() -> None:
    """Catches pairs shuffled instead of images: p is far too small then."""
    generator = np.random.default_rng(11)
    p = []
    for _ in range(150):
        model = dissimilarities(generator.standard_normal((8, 3)))
        known = dissimilarities(generator.standard_normal((8, 3)))
        p.append(float(compare_models({"m": model}, known, resamples=60, seed=1)["p"][0]))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_what_does_not_fit_is_named() -> None:
    """Catches rdms of other images, numbers of pairs that no images have, unknown methods."""
    for call, error, message in (
        (lambda: compare_rdms(np.ones(36), np.ones(28)), MismatchError, r"36 pairs \(9 images\)"),
        (lambda: compare_rdms(np.ones(35), np.ones(35)), InputError, r"first has shape \(35,\)"),
        (lambda: compare_rdms(np.ones(1), np.ones(1)), InputError, "3 or more"),
        (lambda: compare_rdms(np.ones(36), np.ones(36), "kendall"), InputError, "method='kendall'"),
        (lambda: rdm_ceiling(np.ones(36)), InputError, "2 subjects"),
        (lambda: compare_models({}, np.ones(36)), InputError, "0 models"),
        (lambda: compare_models({"m": np.ones(28)}, np.ones(36)), MismatchError, "of 8 images"),
        (lambda: compare_models({"m": np.ones(36)}, np.ones(36), resamples=-1), InputError, "-1"),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.fixture(scope="module")
def human(realdata: Path) -> np.ndarray:
    """Return the dissimilarities (subject, session, pair) of human IT for 92 images."""
    found = loadmat(realdata / "kriegeskorte92" / "92_brainRDMs.mat")["RDMs"]["RDM"][0]
    return np.array([[squareform(found[s, t]) for t in range(2)] for s in range(4)], np.float64)


@pytest.fixture(scope="module")
def published(realdata: Path) -> dict:
    return loadmat(realdata / "kriegeskorte92" / "Kriegeskorte_Neuron2008_supplementalData.mat")


@pytest.mark.realdata
def test_human_it_agrees_with_itself_as_published(human: np.ndarray, published: dict) -> None:
    """Catches pairs in another order, sessions mixed with subjects, and a wrong ceiling."""
    sessions = [float(compare_rdms(*subject)) for subject in human]
    np.testing.assert_allclose(sessions, [0.28, 0.10, 0.38, 0.12], atol=0.006)
    subjects = human.mean(axis=1)
    between = compare_rdms(subjects, subjects)[np.triu_indices(4, 1)]
    assert between.mean() == pytest.approx(0.27, abs=0.006)
    group = published["RDMs_mIT_hIT_fig1"]["RDM"][0, 1].ravel()
    assert compare_rdms(subjects.mean(axis=0), group) == pytest.approx(1, abs=1e-6)
    lower, upper = rdm_ceiling(subjects)
    assert lower == pytest.approx(0.38, abs=0.01)
    assert upper == pytest.approx(0.67, abs=0.01)
    raw = [compare_rdms(np.delete(subjects, s, 0).mean(axis=0), subjects[s]) for s in range(4)]
    assert np.mean(raw) == pytest.approx(0.38, abs=0.005)


@pytest.mark.realdata
def test_models_agree_with_human_it_as_published(human: np.ndarray, published: dict) -> None:
    """Catches images that are out of order: categories and pixels fall to zero."""
    shown = [image.ravel() for image in published["stimuli_92objs"]["image"][0]]
    animate = published["categoryVectors"][:, :1].astype(np.float64)
    models = {
        "animacy": squareform((animate != animate.T).astype(np.float64)),
        "pixels": dissimilarities(np.array(shown)),
        "monkey IT": published["RDMs_mIT_hIT_fig1"]["RDM"][0, 0].ravel(),
    }
    group = human.mean(axis=(0, 1))
    found = compare_models(models, group, resamples=100)
    np.testing.assert_allclose(found["score"], [0.59, 0.11, 0.44], atol=0.006)
    assert (found["p"] == 1 / 101).all()
    subjects = compare_models(models, human.mean(axis=1), resamples=100)
    animacy = subjects.sel(model="animacy")
    # Two categories reach the lower bound of the ceiling, and are far below the upper one.
    assert float(animacy["low"]) < float(animacy["ceiling_low"]) < float(animacy["high"])
    assert float(animacy["high"]) < float(animacy["ceiling_high"])
