"""Choices of context images against brute force: refitted posteriors, searched distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.encoders.context_choice import CHOICES, choose_context
from neuroattn.encoders.embedding import EmbeddingConfig, fit_embedding
from neuroattn.encoders.inputs import rows_of
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from tests.encoders.small import small_features, small_responses

FEATURES = small_features(images=60)
IDS = [f"im{i}" for i in range(60)]
LABELS = {image: ("face", "house", "word")[i % 3] for i, image in enumerate(IDS[:54])}


def embedded(view: str):
    embedding = fit_embedding(EmbeddingConfig(view, normalise=view == "flatten"), FEATURES, IDS)
    return embedding, embedding.transform(FEATURES, np.arange(60)).double().numpy()


MEAN, MEAN_VECTORS = embedded("mean")  # 5 columns: fewer than images
FLAT, FLAT_VECTORS = embedded("flatten")  # 30 columns: more than the small pools


def a_prior(width: int, seed: int = 0, noise: float = 0.7) -> WeightPrior:
    """Two types with means of their own, three amplitudes, two noises."""
    draw = torch.Generator().manual_seed(seed)
    size = width + 1
    shares = torch.rand(2, 3, 2, generator=draw, dtype=torch.float64)
    return WeightPrior(
        means=torch.randn(2, size, generator=draw, dtype=torch.float64),
        factors=torch.randn(2, size, size, generator=draw, dtype=torch.float64) / size,
        amplitudes=torch.tensor([0.3, 1.0, 1.6]),
        noise=torch.tensor([noise, 3 * noise]),
        shares=shares / shares.sum(),
    )


def mean_variance(vectors: np.ndarray, chosen: list[int], prior: WeightPrior, noise: float):
    """Mean posterior variance of the predictions of all vectors, by one direct solve."""
    design = np.column_stack([vectors, np.ones(len(vectors))])
    covariance = prior.covariance().numpy()
    shown = design[chosen]
    gram = shown @ covariance @ shown.T + noise * np.eye(len(chosen))
    left = covariance - covariance @ shown.T @ np.linalg.solve(gram, shown @ covariance)
    return np.einsum("id,de,ie->", design, left, design) / len(design)


def rows(chosen: tuple[str, ...], pool: list[str]) -> list[int]:
    return [sorted(pool).index(image) for image in chosen]


@pytest.mark.parametrize("noise", [0.5, 1e-6])
@pytest.mark.parametrize(("view", "size"), [("mean", 60), ("flatten", 20), ("flatten", 60)])
def test_each_greedy_step_is_the_best_by_a_refit_of_every_candidate(view, size, noise):
    # Catches a wrong downdate, a score that forgets the noise, and rounding that adds up.
    embedding, vectors = (MEAN, MEAN_VECTORS) if view == "mean" else (FLAT, FLAT_VECTORS)
    pool = IDS[:size]
    prior = a_prior(vectors.shape[1])
    found = choose_context(
        FEATURES, pool, 19, "greedy", embedding=embedding, prior=prior, noise=noise
    )
    own = vectors[rows_of(FEATURES, sorted(pool))]
    shown: list[int] = []
    for step in rows(found, pool):
        refits = {
            j: mean_variance(own, [*shown, j], prior, noise) for j in range(size) if j not in shown
        }
        least = min(refits.values())
        scale = mean_variance(own, shown, prior, noise)
        assert refits[step] <= least + 1e-7 * scale
        shown.append(step)


def test_greedy_leaves_less_variance_than_random_diverse_and_category():
    # Catches a score whose sign is turned: the least informative images first.
    prior = a_prior(30)
    more = {"embedding": FLAT, "prior": prior, "noise": 0.5, "labels": LABELS, "category": "face"}
    left = {
        (how, seed): mean_variance(
            FLAT_VECTORS[rows_of(FEATURES, sorted(IDS))],
            rows(choose_context(FEATURES, IDS, 12, how, seed=seed, **more), IDS),
            prior,
            0.5,
        )
        for how in CHOICES
        for seed in range(5)
    }
    others = [value for (how, _), value in left.items() if how != "greedy"]
    assert left["greedy", 0] < 0.97 * min(others)


def test_without_a_noise_the_priors_mean_noise_counts():
    # Catches the first level, or a mean that forgets the shares.
    prior = a_prior(5, noise=0.02)
    mean = sum(
        float(prior.shares[k, a, g] * prior.noise[g])
        for k in range(2)
        for a in range(3)
        for g in range(2)
    )
    more = {"embedding": MEAN, "prior": prior}
    by_default = choose_context(FEATURES, IDS, 30, "greedy", **more)
    assert by_default == choose_context(FEATURES, IDS, 30, "greedy", noise=mean, **more)
    assert by_default != choose_context(FEATURES, IDS, 30, "greedy", noise=50.0, **more)


def test_diverse_takes_the_farthest_point_each_time():
    # Catches nearest instead of farthest, and distances to the last chosen image alone.
    found = rows(choose_context(FEATURES, IDS, 25, "diverse", embedding=MEAN), IDS)
    vectors = MEAN_VECTORS[rows_of(FEATURES, sorted(IDS))]
    centre = np.linalg.norm(vectors - vectors.mean(0), axis=1)
    assert found[0] == centre.argmin()
    for step in range(1, 25):
        apart = np.linalg.norm(vectors[:, None] - vectors[found[:step]], axis=2).min(1)
        assert found[step] == apart.argmax()


def test_copies_of_an_image_are_diverse_last_and_once():
    # Catches an image that is chosen twice where nothing else is left.
    copies = FEATURES.isel(image=[0, 1, 0, 1, 0]).assign_coords(image=list("abcde"))
    found = choose_context(copies, list("abcde"), 5, "diverse", embedding=MEAN)
    assert sorted(found) == list("abcde")
    assert {found[0] in "ace", found[1] in "ace"} == {True, False}
    prior = a_prior(5)
    found = choose_context(copies, list("abcde"), 5, "greedy", embedding=MEAN, prior=prior)
    assert sorted(found) == list("abcde")


@pytest.mark.parametrize("how", CHOICES)
def test_choices_are_nested_never_repeat_and_ignore_the_order_of_the_pool(how):
    # Catches contexts of 10 that are not part of those of 30, on which scaling curves rest.
    more = {"embedding": FLAT, "prior": a_prior(30), "labels": LABELS, "category": "house"}
    most = 18 if how == "category" else 60
    longest = choose_context(FEATURES, IDS, most, how, **more)
    assert len(set(longest)) == most
    for count in (1, 7, 17):
        assert choose_context(FEATURES, IDS[::-1], count, how, **more) == longest[:count]
    assert len(longest[0]) > 0
    assert all(type(image) is str for image in longest)


@pytest.mark.parametrize("how", ["random", "category"])
def test_a_seed_repeats_a_draw_and_another_draws_anew(how):
    # Catches a global generator, and a seed that is ignored.
    more = {"labels": LABELS, "category": "face"}
    draws = [choose_context(FEATURES, IDS, 10, how, seed=seed, **more) for seed in (3, 3, 4)]
    assert draws[0] == draws[1]
    assert set(draws[0]) != set(draws[2])


def test_random_takes_every_image_alike():
    # Catches a draw that favours the beginning of the pool.
    counts = dict.fromkeys(IDS, 0)
    for seed in range(600):
        for image in choose_context(FEATURES, IDS, 6, seed=seed):
            counts[image] += 1
    assert min(counts.values()) > 30
    assert max(counts.values()) < 95


def test_a_category_holds_only_images_with_its_label():
    # Catches unlabelled images, and labels matched by position.
    found = choose_context(FEATURES, IDS, 18, "category", labels=LABELS, category="word")
    assert {LABELS[image] for image in found} == {"word"}
    with pytest.raises(InputError, match=r"count=19.*1 to 18.*'word'"):
        choose_context(FEATURES, IDS, 19, "category", labels=LABELS, category="word")
    with pytest.raises(UnknownNameError, match=r"category='hous'.*'house'"):
        choose_context(FEATURES, IDS, 2, "category", labels=LABELS, category="hous")
    with pytest.raises(InputError, match="needs labels"):
        choose_context(FEATURES, IDS, 2, "category", category="word")


def test_a_pool_may_be_responses():
    # Catches presentations that are taken for images.
    responses = small_responses(FEATURES, [5, 6, 7, 8, 9, 5, 6])
    found = choose_context(FEATURES, responses, 5)
    assert set(found) == {"im5", "im6", "im7", "im8", "im9"}
    with pytest.raises(InputError, match="count=6 must be a whole number, 1 to 5"):
        choose_context(FEATURES, responses, 6)


def test_what_is_missing_or_does_not_fit_is_named():
    # Catches a typo that runs with a default, and a prior over another embedding.
    with pytest.raises(UnknownNameError, match=r"how='gready'.*did you mean 'greedy'"):
        choose_context(FEATURES, IDS, 3, "gready")
    for count in (0, 2.5):
        with pytest.raises(InputError, match=f"count={count} must be a whole number"):
            choose_context(FEATURES, IDS, count)
    for how in ("diverse", "greedy"):
        with pytest.raises(InputError, match=f"how='{how}' needs an embedding"):
            choose_context(FEATURES, IDS, 3, how)
    with pytest.raises(InputError, match="needs a prior"):
        choose_context(FEATURES, IDS, 3, "greedy", embedding=MEAN)
    for noise in (0.0, np.inf, np.nan):
        with pytest.raises(InputError, match=f"noise={noise} must be positive and finite"):
            choose_context(
                FEATURES, IDS, 3, "greedy", embedding=MEAN, prior=a_prior(5), noise=noise
            )
    with pytest.raises(MismatchError, match=r"over 30 weights.*5 columns"):
        choose_context(FEATURES, IDS, 3, "greedy", embedding=MEAN, prior=a_prior(30))
    with pytest.raises(MismatchError, match="no features"):
        choose_context(FEATURES, [*IDS, "im99"], 3, "diverse", embedding=MEAN)


@pytest.mark.parametrize("how", ["diverse", "greedy"])
def test_features_that_are_nan_choose_nothing(how):
    # Catches one image that is chosen twice: NaN is nearest, farthest and most informative.
    broken = FEATURES.copy(deep=True)
    broken["tokens"][3, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"1 of \d+ images of the pool hold NaN .*'im3'"):
        choose_context(broken, IDS, 4, how, embedding=MEAN, prior=a_prior(5))
