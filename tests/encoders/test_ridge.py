"""The ridge encoder: the right design matrix, folds that do not leak, the same on both solvers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from sklearn.base import clone
from sklearn.linear_model import Ridge

from neuroattn.encoders import RidgeEncoder, load
from neuroattn.encoders import ridge as module
from neuroattn.encoders.embedding import EmbeddingConfig, fit_embedding
from neuroattn.errors import InputError, UnknownNameError
from tests.encoders.small import VOXELS, small_features, small_responses

FEATURES = small_features(images=80)
TRAIN = list(range(10, 70))
RESPONSES = small_responses(FEATURES, TRAIN)
VIEWS = [("flatten", None), ("mean", None), ("class", None), ("pca", 7)]


def design(rows: list[int]) -> np.ndarray:
    flat = FEATURES["tokens"].values.reshape(80, -1).astype(float)
    return (flat[rows] - flat[TRAIN].mean(0)) / flat[TRAIN].std(0)


@pytest.mark.parametrize("solver", ["gram", "himalaya"])
def test_predictions_equal_scikit_learns_ridge_with_the_chosen_alphas(solver):
    # Catches a wrong alignment, standardisation, intercept, or penalties given to other voxels.
    encoder = RidgeEncoder(solver=solver).fit(FEATURES, RESPONSES)
    oracle = Ridge(alpha=encoder.alphas_, solver="svd")
    oracle.fit(design(TRAIN), RESPONSES["response"].values)
    everything = design(list(range(80)))
    np.testing.assert_allclose(
        encoder.predict(FEATURES), oracle.predict(everything), rtol=1e-4, atol=1e-4
    )
    assert encoder.weights_.shape == (30, VOXELS)
    assert encoder.weights_.dtype == np.float32


def stretched() -> xr.Dataset:
    """Features whose channels differ in variance."""
    factors = np.array([0.2, 0.5, 1, 2, 5], np.float32)
    return FEATURES.assign(tokens=FEATURES["tokens"] * factors)


def turned(features: xr.Dataset) -> xr.Dataset:
    """The same images with the channels rotated."""
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(5, 5)))[0]
    return features.assign(
        tokens=(features["tokens"] @ xr.DataArray(rotation, dims=("channel", "to")))
        .rename(to="channel")
        .astype(np.float32)
    )


@pytest.mark.parametrize("images", [60, 10])
@pytest.mark.parametrize("solver", ["gram", "himalaya"])
def test_one_scale_for_all_columns_equals_scikit_learns_ridge_on_raw_columns(solver, images):
    # Catches columns that are standardised after all, a penalty in other units, and a context of
    # ten images that does not work or is not refitted whole.
    features = stretched()
    encoder = RidgeEncoder(solver=solver, standardise=False)
    shown = TRAIN[:images]
    responses = small_responses(FEATURES, shown)
    encoder.fit(features, responses)
    raw = features["tokens"].values.reshape(80, -1).astype(float)
    unit = raw[shown].var(0).mean()
    oracle = Ridge(alpha=encoder.alphas_ * unit, solver="svd")
    oracle.fit(raw[shown], responses["response"].values)
    np.testing.assert_allclose(encoder.predict(features), oracle.predict(raw), rtol=1e-4, atol=1e-4)


def test_one_scale_makes_ridge_blind_to_rotations_of_the_channels():
    # Catches an option that is stored and not used: standardised columns depend on the axes.
    for standardise, same in ((False, True), (True, False)):
        encoder = RidgeEncoder(view="mean", alphas=[30.0], standardise=standardise)
        one = encoder.fit(stretched(), RESPONSES).predict(stretched()).values
        other = encoder.fit(turned(stretched()), RESPONSES).predict(turned(stretched())).values
        assert np.allclose(one, other, atol=1e-4) == same


def test_one_scale_does_not_depend_on_the_unit_of_the_features():
    # Catches default penalties that mean something else for vectors of length 1.
    small = stretched().assign(tokens=stretched()["tokens"] * 0.01)
    first = RidgeEncoder(standardise=False).fit(stretched(), RESPONSES)
    second = RidgeEncoder(standardise=False).fit(small, RESPONSES)
    np.testing.assert_array_equal(first.alphas_, second.alphas_)
    np.testing.assert_allclose(second.predict(small), first.predict(stretched()), atol=1e-4)


def test_an_encoder_saved_before_the_option_existed_still_loads(tmp_path):
    # Catches a constructor that asks for what old configurations do not have.
    encoder = RidgeEncoder().fit(FEATURES, RESPONSES)
    encoder.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["parameters"].pop("standardise") is True
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(tmp_path)
    assert loaded.standardise is True
    xr.testing.assert_identical(loaded.predict(FEATURES), encoder.predict(FEATURES))


def test_ten_images_of_an_embedding_are_enough(tmp_path):
    # Catches the in-context table's ridge failing, or warning, at its shortest context.
    embedding = fit_embedding(EmbeddingConfig("flatten"), FEATURES, TRAIN)
    vectors = embedding.features(FEATURES)
    encoder = RidgeEncoder(view="flatten", standardise=False)
    encoder.fit(vectors, small_responses(FEATURES, TRAIN[:10], noise=0.1))
    encoder.save(tmp_path)
    assert load(tmp_path).standardise is False
    test = small_responses(FEATURES, [*range(10), *range(70, 80)], noise=0.0, seed=2)
    assert load(tmp_path).score(vectors, test).dataset["raw"].mean() > 0.05


def test_linear_responses_are_recovered_on_new_images():
    # Catches an encoder that fits the training images only.
    encoder = RidgeEncoder().fit(FEATURES, small_responses(FEATURES, TRAIN, noise=0.05))
    test = small_responses(FEATURES, [*range(10), *range(70, 80)], noise=0.0, seed=2)
    score = encoder.score(FEATURES, test)
    assert score.dataset["raw"].min() > 0.97


def test_both_solvers_choose_the_same():
    # Catches solvers that differ in folds, score or ties.
    gram = RidgeEncoder(solver="gram").fit(FEATURES, RESPONSES)
    dual = RidgeEncoder(solver="himalaya").fit(FEATURES, RESPONSES)
    np.testing.assert_array_equal(gram.alphas_, dual.alphas_)
    np.testing.assert_allclose(gram.cv_scores_, dual.cv_scores_, rtol=1e-6)
    np.testing.assert_allclose(gram.weights_, dual.weights_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("images", "solver"), [(35, "gram"), (30, "gram"), (29, "himalaya")])
def test_auto_takes_himalaya_where_columns_outnumber_presentations(images, solver, monkeypatch):
    # Catches a rule that is turned round: slow, yet right.
    called = []
    for name, function in (("gram", "ridge_cv"), ("himalaya", "kernel_ridge_cv")):
        original = getattr(module, function)

        def spy(*arguments, _name=name, _original=original):
            called.append(_name)
            return _original(*arguments)

        monkeypatch.setattr(module, function, spy)
    RidgeEncoder().fit(FEATURES, small_responses(FEATURES, list(range(images))))
    assert called == [solver]


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_presentations_of_an_image_stay_in_one_fold(seed, monkeypatch):
    # Catches folds over presentations, in which a repeat gives the answer away.
    seen = {}

    def spy(design, responses, alphas, folds):
        seen["folds"] = folds.numpy()
        return original(design, responses, alphas, folds)

    original = module.ridge_cv
    monkeypatch.setattr(module, "ridge_cv", spy)
    shown = [*TRAIN, *TRAIN[::-1], *TRAIN[:20]]
    RidgeEncoder(folds=4, seed=seed).fit(FEATURES, small_responses(FEATURES, shown))
    fold_of = {}
    for image, fold in zip(shown, seen["folds"], strict=True):
        assert fold_of.setdefault(image, fold) == fold
    sizes = np.bincount(list(fold_of.values()))
    assert sizes.tolist() == [15, 15, 15, 15]
    assert (np.diff([fold_of[image] for image in TRAIN]) != 0).sum() > 10


def test_images_of_a_group_stay_in_one_fold():
    # Catches penalties chosen on the neighbours in time of what was fitted.
    ids = [f"film{film}-{sample:05d}" for film in range(10) for sample in range(6)]
    folds = module.deal_folds(ids, 5, 0, "-").numpy().reshape(10, 6)
    assert (folds == folds[:, :1]).all()
    assert len(set(folds[:, 0].tolist())) == 5
    with pytest.raises(InputError, match="is not in the image id"):
        RidgeEncoder(group_by="%").fit(FEATURES, RESPONSES)


def test_a_group_mark_reaches_the_folds(monkeypatch):
    # Catches an option that is stored and never used.
    seen = []
    dealt = module.deal_folds
    monkeypatch.setattr(module, "deal_folds", lambda *a: seen.append(a[3]) or dealt(*a[:3]))
    RidgeEncoder(group_by="-").fit(FEATURES, RESPONSES)
    assert seen == ["-"]


def test_pure_noise_with_repeats_is_shrunk_away():
    # Catches leaks between folds from the outside: with one, small penalties would win.
    draw = np.random.default_rng(3)
    responses = small_responses(FEATURES, [*TRAIN, *TRAIN])
    pattern = draw.normal(size=(60, VOXELS))
    noise = np.concatenate([pattern, pattern]).astype(np.float32)
    responses = responses.assign(response=(("presentation", "voxel"), noise))
    assert np.median(RidgeEncoder().fit(FEATURES, responses).alphas_) > 100


def test_repeated_presentations_count_as_often_as_they_are():
    # Catches repeats that are dropped or averaged without their weight.
    shown = [*TRAIN, *TRAIN[:20], *TRAIN[:20]]
    responses = small_responses(FEATURES, shown)
    encoder = RidgeEncoder().fit(FEATURES, responses)
    oracle = Ridge(alpha=encoder.alphas_, solver="svd")
    oracle.fit(design(shown), responses["response"].values)
    np.testing.assert_allclose(
        encoder.predict(FEATURES), oracle.predict(design(list(range(80)))), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("view", "components"), VIEWS)
def test_every_view_fits_saves_and_loads_exactly(view, components, tmp_path):
    # Catches a view whose statistics are not saved.
    encoder = RidgeEncoder(view=view, components=components, alphas=[1.0, 100.0], folds=3)
    encoder.fit(FEATURES, RESPONSES).save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.get_params() == encoder.get_params()
    xr.testing.assert_identical(loaded.predict(FEATURES), encoder.predict(FEATURES))
    for name in ("alphas_", "cv_scores_", "weights_", "intercept_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(encoder, name))
        assert getattr(loaded, name).dtype == getattr(encoder, name).dtype
    assert set(encoder.alphas_) <= {1.0, 100.0}


def test_chosen_penalties_are_members_of_the_list_to_the_last_bit():
    # Catches penalties that pass through float32 or a logarithm.
    for solver in ("gram", "himalaya"):
        encoder = RidgeEncoder(alphas=[0.1, 0.3, 0.7, 1e3 / 7], solver=solver)
        assert set(encoder.fit(FEATURES, RESPONSES).alphas_) <= {0.1, 0.3, 0.7, 1e3 / 7}


def test_alphas_may_be_an_array(tmp_path):
    # Catches numpy parameters that cannot be saved or cloned.
    encoder = clone(RidgeEncoder(alphas=np.array([2.0, 50.0]))).fit(FEATURES, RESPONSES)
    encoder.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["parameters"]["alphas"] == [2.0, 50.0]


def test_the_order_of_images_in_the_store_does_not_matter():
    # Catches folds or rows that follow the store instead of the ids.
    turned = FEATURES.isel(image=slice(None, None, -1))
    first = RidgeEncoder(seed=4).fit(FEATURES, RESPONSES)
    second = RidgeEncoder(seed=4).fit(turned, RESPONSES)
    np.testing.assert_array_equal(first.alphas_, second.alphas_)
    np.testing.assert_allclose(first.weights_, second.weights_, rtol=1e-5, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_deals_anew():
    # Catches a global random state, and a seed that is ignored.
    fits = [RidgeEncoder(seed=seed).fit(FEATURES, RESPONSES) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0].weights_, fits[1].weights_)
    np.testing.assert_array_equal(fits[0].cv_scores_, fits[1].cv_scores_)
    assert (fits[0].cv_scores_ != fits[2].cv_scores_).all()


def test_scores_of_the_chosen_penalty_are_kept():
    # Catches the score of another penalty, or one that is summed over folds.
    encoder = RidgeEncoder().fit(FEATURES, small_responses(FEATURES, TRAIN, noise=0.0))
    variance = RESPONSES["response"].values.var(0)
    assert (encoder.cv_scores_ < 0).all()
    assert (-encoder.cv_scores_ < 0.01 * variance).all()


def test_prediction_in_blocks_equals_prediction_at_once(monkeypatch):
    # Catches a last block that is left uninitialised.
    encoder = RidgeEncoder().fit(FEATURES, RESPONSES)
    whole = encoder.predict(FEATURES)
    monkeypatch.setattr(module, "_PREDICT_BLOCK", 7)
    np.testing.assert_allclose(encoder.predict(FEATURES), whole, rtol=1e-5, atol=1e-6)


def test_wrong_arguments_are_named():
    # Catches a typo that runs with a default.
    with pytest.raises(UnknownNameError, match=r"view='flat'.*did you mean 'flatten'"):
        RidgeEncoder(view="flat").fit(FEATURES, RESPONSES)
    with pytest.raises(UnknownNameError, match="solver='svd'"):
        RidgeEncoder(solver="svd").fit(FEATURES, RESPONSES)
    with pytest.raises(InputError, match="folds=61"):
        RidgeEncoder(folds=61).fit(FEATURES, RESPONSES)
    for solver in ("gram", "himalaya"):
        with pytest.raises(InputError, match="positive"):
            RidgeEncoder(solver=solver, alphas=[0.0]).fit(FEATURES, RESPONSES)


def test_a_design_beyond_the_machines_memory_is_refused_before_work():
    # Catches a killed process after an hour.
    with pytest.raises(InputError, match=r"738048 columns.*GiB.*view='pca'"):
        module._check_memory(8000, 738048, 40000, "flatten")
    module._check_memory(1000, 768, 20000, "mean")
