"""What the benchmark on new simulated subjects holds: the run's data, fair ridges, other people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.linear_model import Ridge

from benchmarks import incontext as benchmark
from benchmarks import incontext_checks as checks
from benchmarks.common import GateError
from benchmarks.incontext_run import NAME, FinishedRun, read_run, rounded
from benchmarks.strong_ridge import (
    HINDSIGHT,
    RULES,
    Design,
    by_rule,
    normalised,
    ridge_path,
    strongest_ridge,
)
from benchmarks.strong_ridge import (
    Path as RidgePath,
)
from neuroattn.cli.main import main
from neuroattn.data.scenes import CATEGORIES
from neuroattn.data.simulated_cortex import CATEGORY_AREAS
from neuroattn.data.split import Split
from neuroattn.encoders import RidgeEncoder
from neuroattn.encoders.ridge import deal_folds

LENGTHS = (10, 30)
RESAMPLES = 20
RECIPE = {
    "data": {
        "sources": [
            {
                "class_path": "neuroattn.data.SimulatedCortex",
                "init_args": {"scenes": 160, "size": 56, "subjects": 3, "voxels": [3, 3]},
            }
        ],
        "basis": {
            "class_path": "neuroattn.features.GaborPyramid",
            "init_args": {"size": 42, "grid": 7, "scales": 2},
        },
        "held_out": ["sub-03"],
        "split": {"train": 0.5, "validation": 0.2, "test": 0.3, "seed": 0},
        "embedding": {"view": "pca", "components": 8, "normalise": False},
        "episodes": {"least": 5, "most": 30, "queries": 8, "steps": 4, "validation": 2},
        "evaluation": {"context": 20, "lengths": list(LENGTHS), "draws": 2},
        "store": "store",
        "seed": 0,
    },
    "model": {
        "class_path": "neuroattn.encoders.InContextModule",
        "init_args": {
            "network": {"width": 8, "heads": 2, "layers": 1, "feedforward": 8},
            "optimisation": {"epochs": 1, "batch_size": 8},
        },
    },
    "trainer": {"accelerator": "cpu"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of a network that has hardly learned anything."""
    place = tmp_path_factory.mktemp("incontext")
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    run = place / "run"
    given = ["--config", str(place / "recipe.yaml"), "--run", str(run), "--base", str(place)]
    assert main(["fit", *given]) == 0
    return run


@pytest.fixture(scope="module")
def run(folder) -> FinishedRun:
    return read_run(folder)


def test_the_data_of_a_run_are_rebuilt(run, folder):
    # Catches other images, another split or another embedding than the encoders learned with.
    saved = Split.load(folder / "split.json")
    for part in ("train", "validation", "test"):
        assert saved[part] == run.data.split[part]
    assert run.embedded.attrs["key"] == run.bayes.features_["key"]
    vectors = run.data.embedding.features(run.data.features)["tokens"].values
    np.testing.assert_allclose(run.embedded["tokens"].values, vectors, atol=1e-3)
    with pytest.raises(GateError, match="baselines"):
        read_run_without_baselines(folder)


def read_run_without_baselines(folder: Path) -> None:
    hidden = folder.parent / "hidden"
    (folder / "baselines").rename(hidden)
    try:
        read_run(folder)
    finally:
        hidden.rename(folder / "baselines")


def test_a_penalty_a_voxel_is_the_ridge_encoder(run):
    # Catches folds, scales or a choice that make the compared ridges weaker than the usual one.
    pool, test = run.data.part("train"), run.data.part("test")
    contexts = [pool.isel(presentation=slice(start, start + 25)) for start in (0, 30)]
    for design in (Design(run.embedded), Design(run.data.features, "mean", standardise=True)):
        path = ridge_path(design, contexts, test, seed=0)
        found = by_rule(path, test, RULES[0])
        for draw, context in enumerate(contexts):
            usual = RidgeEncoder(design.view, seed=0, standardise=design.standardise)
            usual.fit(design.features, context)
            expected = usual.predict(design.features, test["image"].values).values
            np.testing.assert_allclose(found[draw], expected, atol=1e-5)


def test_one_penalty_is_that_of_the_least_error_over_all_voxels(run):
    # Catches penalties pooled over the wrong voxels, against scikit-learn fold by fold.
    pool, test = run.data.part("train"), run.data.part("test")
    context = pool.isel(presentation=slice(0, 25))
    alphas = (0.3, 10.0, 300.0)
    path = ridge_path(Design(run.embedded), [context], test, seed=0, alphas=alphas)
    X, T = (
        run.embedded["tokens"].sel(image=each["image"].values).values[:, 0].astype(float)
        for each in (context, test)
    )
    X, T = X - X.mean(0), T - X.mean(0)
    unit = np.sqrt((X**2).mean())
    X, T = X / unit, T / unit
    Y = context["response"].values.astype(float)
    folds = deal_folds(context["image"].values, 5, 0).numpy()
    errors = np.zeros((3, Y.shape[1]))
    for row, alpha in enumerate(alphas):
        for fold in range(5):
            fitted = Ridge(alpha=alpha).fit(X[folds != fold], Y[folds != fold])
            left = Y[folds == fold] - fitted.predict(X[folds == fold])
            errors[row] += (left**2).mean(axis=0) / 5
    np.testing.assert_allclose(path.errors[:, 0], errors, rtol=1e-4)
    best = errors.mean(axis=1).argmin()
    expected = Ridge(alpha=alphas[best]).fit(X, Y).predict(T)
    np.testing.assert_allclose(by_rule(path, test, "one penalty")[0], expected, atol=1e-4)
    areas = context["roi_mask"].values
    found = by_rule(path, test, "penalty an ROI")[0]
    chosen = {int(errors[:, area].mean(axis=1).argmin()) for area in areas}
    assert len(chosen) > 1
    for area in areas:
        own = alphas[errors[:, area].mean(axis=1).argmin()]
        expected = Ridge(alpha=own).fit(X, Y).predict(T)
        np.testing.assert_allclose(found[:, area], expected[:, area], atol=1e-4)


def test_no_rule_beats_hindsight(run):
    # Catches a hindsight that is chosen by another score, or for another group.
    pool, test = run.data.part("train"), run.data.part("test")
    contexts = [pool.isel(presentation=slice(start, start + 12)) for start in (0, 20, 40)]
    path = ridge_path(Design(run.data.features), contexts, test, seed=0)
    scores = {rule: normalised(by_rule(path, test, rule), test) for rule in RULES}
    for area in test["roi_mask"].values:
        means = {rule: np.nanmean(each[:, area], axis=1) for rule, each in scores.items()}
        fixed = np.stack([np.nanmean(normalised(p, test)[:, area], 1) for p in path.predictions])
        np.testing.assert_allclose(means[HINDSIGHT], fixed.max(axis=0), atol=1e-6)
        for rule in ("penalty an ROI", "one penalty"):
            assert (means[HINDSIGHT] >= means[rule] - 1e-6).all()
    assert (path.predictions[0] != path.predictions[-1]).any()
    assert isinstance(path, RidgePath)


def test_ridge_meets_the_contexts_of_the_curve(run):
    # Catches a comparison on other contexts than those that the run's figures are of.
    found = strongest_ridge(run, (10,), RESAMPLES)["10"]
    assert len(found) == 20
    usual = found["embedding, penalty a voxel"]
    at = run.curve.sel(length=10, roi="all")
    own, ridge = (float(at["mean"].sel(encoder=name)) for name in (NAME, "ridge"))
    assert usual["score"][0] == pytest.approx(ridge, abs=1e-4)
    for row in found.values():
        assert row["difference"][0] == pytest.approx(own - row["score"][0], abs=2e-4)
        assert row["difference"][1] < row["difference"][0] < row["difference"][2]
    shifted = run.curve.assign(images=run.curve["images"].roll(position=3))
    with pytest.raises(GateError, match="curve's"):
        strongest_ridge(replace(run, curve=shifted), (10,), RESAMPLES)


def test_labels_name_the_largest_object(run):
    # Catches categories of hidden, first or rarest objects.
    found = checks.labels(run.cortex)
    scenes, ids = run.cortex.scenes, run.cortex.images().ids
    assert set(found.values()) == set(CATEGORIES)
    for row in range(40):
        area = dict.fromkeys(CATEGORIES, 0)
        for slot, kind in enumerate(scenes.category[row]):
            if kind >= 0:
                area[CATEGORIES[kind]] += int((scenes.objects[row] == slot + 1).sum())
        assert area[found[ids[row]]] == max(area.values())


def test_choices_are_scored_on_what_was_chosen(run, monkeypatch):
    # Catches one context behind several names, and a mean over draws that is of one draw.
    shown = []
    whole = checks.choose_context

    def told(features, pool, count, how, **given):
        chosen = whole(features, pool, count, how, **given)
        shown.append((how, given.get("category"), chosen))
        return chosen

    monkeypatch.setattr(checks, "choose_context", told)
    found = checks.choices(run, (10,))["10"]
    assert list(found) == ["random", "random, sd", *CATEGORIES, "diverse", "greedy"]
    assert len({chosen for _, _, chosen in shown}) == len(shown) == 12
    kind = checks.labels(run.cortex)
    assert all({kind[i] for i in ids} == {name} for how, name, ids in shown if how == "category")
    pool, test = run.data.part("train"), run.data.part("test")
    means = []
    for _, _, images in shown[: checks.RANDOM_DRAWS]:
        run.bayes.adapt(run.embedded, pool, images)
        table = run.bayes.score(run.embedded, test).by_roi(resamples=0)
        means.append(float(table["mean"].sel(roi="all")))
    assert found["random"]["empirical Bayes"]["all"] == pytest.approx(np.mean(means), abs=2e-4)
    assert found["random, sd"]["empirical Bayes"]["all"] == pytest.approx(np.std(means), abs=2e-4)


def test_the_other_cortex_is_another(run, monkeypatch):
    # Catches a transfer to the training's own scenes or noise, and a context that is scored.
    seen = {}
    whole = checks.scaling_curve

    def told(encoders, features, context, test, *rest, **given):
        seen.update(encoders=encoders, features=features, context=context, test=test)
        return whole(encoders, features, context, test, *rest, **given)

    monkeypatch.setattr(checks, "scaling_curve", told)
    found = checks.transfer(run, LENGTHS, 80, RESAMPLES)
    assert set(found) == {"all", *CATEGORY_AREAS}
    own, other = run.data.features["tokens"].values, seen["features"][NAME]["tokens"].values
    assert not np.allclose(own[: len(other)], other[: len(own)])
    assert seen["test"].sizes["presentation"] == seen["context"].sizes["presentation"] == 80
    assert seen["test"]["ncsnr"].mean() < run.data.responses["ncsnr"].mean()
    assert seen["encoders"]["group average"].by == "roi"
    rows = found["all"]
    assert rows["10"]["group average"]["score"] == rows["30"]["group average"]["score"]
    assert rows["10"]["ridge"]["score"] != rows["30"]["ridge"]["score"]


def test_attention_is_counted_by_category(run, monkeypatch):
    # Catches voxels of another area, or the category of another.
    found = checks.context_attention(run, 40)
    pool, kind = run.data.part("train"), checks.labels(run.cortex)
    images = checks.choose_context(run.data.features, pool, 40, seed=0)
    context = checks.chosen_images(pool, images)
    run.incontext.adapt(run.data.features, context)
    weight = run.incontext.context_attention(run.data.features, context).mean("head")
    share = (weight / weight.sum("image")).values
    of = np.array([kind[image] for image in weight["image"].values])
    for area, (category, _) in CATEGORY_AREAS.items():
        voxels = pool["roi_mask"].sel(roi=area).values
        mass = {
            name: share[voxels][:, of == name].sum(1) / (of == name).mean() for name in CATEGORIES
        }
        own = mass.pop(category)
        others = np.mean(list(mass.values()), axis=0)
        gap = own - others
        assert found[area]["own"] == pytest.approx(own.mean(), abs=2e-4)
        assert found[area]["others"] == pytest.approx(others.mean(), abs=2e-4)
        assert found[area]["larger"] == pytest.approx((gap > 0).mean(), abs=1e-3)
        assert found[area]["low"] < gap.mean() < found[area]["high"]


def test_further_subjects_are_new_people(run, monkeypatch):
    # Catches the training's subjects, or the held-out one, among those said to be new.
    monkeypatch.setattr(checks, "FURTHER", 2)
    found = checks.further_subjects(run, (10,), RESAMPLES)
    assert list(found) == ["all", "sub-04", "sub-05"]
    together, one, other = (found[name]["10"]["ridge"]["score"][0] for name in found)
    assert one != other
    assert min(one, other) < together < max(one, other)


def test_the_benchmark_tells_a_missed_target(folder, tmp_path, monkeypatch, capsys):
    # Catches an exit code of 0, or a file without figures, after targets were missed.
    monkeypatch.setattr(checks, "FURTHER", 1)
    monkeypatch.setattr(benchmark, "COUNTS", (30,))
    arguments = [str(folder), "--out", str(tmp_path), "--resamples", str(RESAMPLES)]
    assert benchmark.main(arguments) == 1
    written = json.loads((tmp_path / "incontext.json").read_text())
    assert len(written["targets"]) == 3
    assert not any(target["met"] for target in written["targets"])
    assert written["curve"]["all"]["30"]["ridge"]["difference"] == [0, 0, 0]
    shown = capsys.readouterr().out
    for part in ("oracle", "all kinds of ridge", "greedy", "another cortex", "attention", "sub-04"):
        assert part in shown
    assert shown.count("MISSED") == 3


def test_a_run_without_any_target_is_refused(folder, monkeypatch, capsys):
    # Catches a benchmark that passes because nothing was judged.
    monkeypatch.setattr(benchmark, "COUNTS", (100,))
    assert benchmark.main([str(folder), "--resamples", "2"]) == 1
    assert "no target is at [10, 30] images" in capsys.readouterr().err


def made(low: float, others: float, further: float) -> dict:
    """Figures with given lower ends."""
    row = {"score": [0.2, 0.1, 0.3]}
    curve = {str(n): {NAME: {**row, "difference": [0.5, low, 0.9]}} for n in (30, 100)}
    ridges = {
        "a, one penalty": {**row, "difference": [0.5, 0.4, 0.9]},
        "b, one penalty": {**row, "difference": [0.5, others, 0.9]},
        f"a, {HINDSIGHT}": {**row, "difference": [0.5, -9.0, 0.9]},
    }
    new = {str(n): {NAME: {**row, "difference": [0.5, further, 0.9]}} for n in (30, 100)}
    return {
        "curve": {"all": curve},
        "strongest ridge": {"30": ridges, "100": ridges},
        "further subjects": {"all": new},
    }


def test_each_lower_end_is_judged():
    # Catches a target that is met whatever was found, and one judged by what none could know.
    assert [t.met for t in benchmark.targets(made(0.1, 0.1, 0.1))] == [True] * 6
    assert [t.met for t in benchmark.targets(made(0.0, 0.1, 0.1))] == [False, True, True] * 2
    found = benchmark.targets(made(0.1, -0.1, 0.1))
    assert [t.met for t in found] == [True, False, True] * 2
    assert "b, one penalty" in found[1].what
    assert [t.met for t in benchmark.targets(made(0.1, 0.1, -0.1))] == [True, True, False] * 2
    assert not benchmark.targets(made(float("nan"), 0.1, 0.1))[0].met


def test_numbers_that_are_none_are_no_nan():
    # Catches a result that JSON refuses.
    assert rounded([1.23456, float("nan")]) == [1.2346, None]
