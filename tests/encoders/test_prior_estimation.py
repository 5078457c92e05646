"""Estimated priors against the priors that the voxels were drawn from, and the dense objective."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from neuroattn.encoders.prior_estimation import AMPLITUDES, NOISE, PriorEstimate, estimate_prior
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.encoders.weight_prior import Drawn, WeightPrior
from neuroattn.errors import InputError, MismatchError
from tests.encoders.drawn_voxels import normal, subject, with_intercept, with_rois

WIDTH = 4
D = WIDTH + 1


def truth(types: int = 1, noise: tuple[float, ...] = (0.5,)) -> WeightPrior:
    """Correlated weights with a mean; types of equal share."""
    return WeightPrior(
        normal(types, D, seed=1) * (1.5 if types > 1 else 0.7),
        normal(types, D, D, seed=2) / D**0.5,
        [1.0],
        list(noise),
        torch.full((types, 1, len(noise)), 1 / (types * len(noise))),
    )


def subjects(prior: WeightPrior, images: tuple[int, ...], voxels: int) -> list[VoxelSet]:
    """Each subject sees images of its own."""
    return [
        subject(prior, normal(count, WIDTH, seed=30 + s) + 1, voxels, s)[0]
        for s, count in enumerate(images)
    ]


def never_falls(found: PriorEstimate) -> bool:
    return all(after >= before - 1e-9 for before, after in pairwise(found.objective))


@pytest.mark.parametrize("types", [1, 3, "roi"])
@pytest.mark.parametrize(("images", "voxels"), [((3, 4), 40), ((20, 3), 60), ((9,), 3)])
def test_the_objective_never_falls(types, images, voxels):
    # Catches any wrong sum or step, also where there are fewer voxels than weights: EM climbs.
    sets = subjects(truth(3), images, voxels)
    first = np.arange(voxels) < voxels // 3
    sets = [with_rois(one, A=first, B=~first) for one in sets]
    found = estimate_prior(sets, types, iterations=25, tolerance=-1.0)
    assert len(found.objective) == 25
    assert never_falls(found)
    assert found.objective[-1] - found.objective[0] > 1e-3


def in_standard_units(sets: list[VoxelSet]) -> list[VoxelSet]:
    """Embeddings of mean 0 and summed variance 1: those in which the pseudo-voxels are stated."""
    images = torch.cat([one.embedded for one in sets])
    scale = (images - images.mean(0)).square().mean(0).sum().sqrt()
    return [
        VoxelSet(s.images, (s.embedded - images.mean(0)) / scale, s.response, s.voxels)
        for s in sets
    ]


def pseudo_variances(sets: list[VoxelSet]) -> torch.Tensor:
    """Half the variance of the responses for the weights, their mean square for the intercept."""
    variance = float(torch.cat([s.response.var(0, correction=0) for s in sets]).mean())
    offset = float(torch.cat([s.response.mean(0) for s in sets]).square().mean())
    return torch.tensor([variance / 2] * WIDTH + [offset]).double()


def test_one_step_takes_mean_and_covariance_of_voxels_and_pseudo_voxels():
    # Catches a covariance about the old mean instead of the new one: it converges, but astray.
    sets = in_standard_units(subjects(truth(), (3, 8), 12))
    target, count, noise = pseudo_variances(sets), 0.6 * D, 0.4
    found = estimate_prior(
        sets, iterations=1, amplitudes=[1.0], noise=[noise], shrinkage=0.6
    ).prior  # fmt: skip
    posterior_means, covariance = [], (count * target).diag()
    for one in sets:
        P = with_intercept(one.embedded)
        own = torch.linalg.inv(P.T @ P / noise + (1 / target).diag())
        posterior_means.append(one.response.T @ P @ own / noise)
        covariance = covariance + 12 * own
    every = torch.cat([*posterior_means, torch.zeros(1, D)])
    mean = every.mean(0)
    expected = (covariance + (every - mean).T @ (every - mean)) / (24 + count + 1)
    near = {"rtol": 1e-8, "atol": 1e-10}
    torch.testing.assert_close(found.means[0], mean, **near)
    torch.testing.assert_close(found.covariance(), expected, **near)


def dense_objective(
    sets: list[VoxelSet], prior: WeightPrior, target: torch.Tensor, count: float
) -> float:
    """Log evidence by the posterior (tested densely) and the pseudo-voxels, per response."""
    total = sum(float(prior.posterior(s.embedded, s.response).log_evidence.sum()) for s in sets)
    covariance, mean = (prior.factors[0] @ prior.factors[0].T).numpy(), prior.means[0].numpy()
    inverse = np.linalg.inv(covariance)
    total -= 0.5 * (count + 1) * np.linalg.slogdet(covariance)[1]
    total -= 0.5 * (count * np.trace(inverse @ np.diag(target)) + mean @ inverse @ mean)
    total += float(prior.shares.log().mean())
    return total / sum(one.response.numel() for one in sets)


def test_the_estimate_is_a_maximum_of_voxels_and_pseudo_voxels_together():
    # Catches pseudo-voxels that the step counts otherwise than the objective, and a step that
    # climbs to somewhere else than the top.
    sets = in_standard_units(subjects(truth(), (6, 8), 12))
    found = estimate_prior(
        sets, iterations=3000, amplitudes=[0.8, 1.1], noise=[0.3, 0.6], shrinkage=0.6,
        tolerance=1e-14,
    )  # fmt: skip
    target = pseudo_variances(sets)
    best = dense_objective(sets, found.prior, target, 0.6 * D)
    assert best == pytest.approx(found.objective[-1], rel=1e-9)
    for number in range(12):
        for size in (0.02, -0.02):
            moved = found.prior.tensors()
            name = ("means", "factors", "shares")[number % 3]
            move = size * normal(*moved[name].shape, seed=number)
            moved[name] = moved[name] * move.exp() if name == "shares" else moved[name] + move
            moved["shares"] = moved["shares"] / moved["shares"].sum()
            assert dense_objective(sets, WeightPrior(**moved), target, 0.6 * D) < best


def test_the_log_evidence_told_is_that_of_the_voxels_under_the_estimate():
    # Catches an evidence that belongs to another step than its prior.
    sets = subjects(truth(), (6, 30), 50)
    found = estimate_prior(sets, 2, iterations=200, tolerance=1e-4)
    assert len(found.objective) < 200
    total = sum(found.prior.posterior(s.embedded, s.response).log_evidence.sum() for s in sets)
    count = sum(one.response.numel() for one in sets)
    assert float(total) / count == pytest.approx(found.log_evidence[-1], rel=1e-9)
    assert found.objective[-1] - found.objective[-2] < 1e-4


@pytest.mark.parametrize(("images", "voxels"), [((3, 4) * 8, 1500), ((20, 30, 25), 3000)])
def test_mean_and_covariance_are_recovered_from_subjects_with_images_of_their_own(images, voxels):
    # Catches moments carried back with another subject's design. With 3 or 4 images no voxel tells
    # all its 5 weights; only subjects together do.
    prior = truth()
    found = estimate_prior(
        subjects(prior, images, voxels), iterations=100, amplitudes=[1.0], noise=[0.5],
        tolerance=1e-6,
    ).prior  # fmt: skip
    query = with_intercept(normal(50, WIDTH, seed=77) + 1)
    true, estimated = (query @ one.covariance() @ query.T for one in (prior, found))
    assert (estimated - true).norm() < 0.03 * true.norm()
    # A sampling error alone is about the root of 1 / voxels.
    difference = query @ (found.means - prior.means)[0] / true.diagonal().sqrt()
    assert difference.abs().max() < 0.06


def test_noise_that_differs_between_voxels_is_found_for_each():
    # Catches shares of noise mixed up with shares of amplitude, in either direction.
    prior = truth(noise=(0.1, 1.6))
    sets = [subject(prior, normal(60, WIDTH, seed=s), 400, s) for s in range(2)]
    levels = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    found = estimate_prior([one for one, _ in sets], amplitudes=[0.5, 1, 2], noise=levels).prior
    share = found.shares.sum((0, 1))
    assert share[[1, 5]].sum() > 0.8
    assert float(share[1]) == pytest.approx(0.5, abs=0.1)
    new, drawn = subject(prior, normal(60, WIDTH, seed=9), 300, 9)
    estimated = found.posterior(new.embedded, new.response).noise
    ratio = (estimated / drawn.noise_sd**2).log()
    assert ratio.abs().median() < 0.15
    assert ratio.abs().max() < 1.0


def excess(prior: WeightPrior, context: VoxelSet, weights: torch.Tensor) -> float:
    query = with_intercept(normal(200, WIDTH, seed=77) + 1)
    found = prior.posterior(context.embedded, context.response).weights
    return float(((found - weights) @ query.T).square().mean())


@pytest.mark.parametrize("types", [1, 2])
def test_a_new_subject_is_predicted_nearly_as_well_as_with_the_true_prior(types):
    # Catches an estimate that fits its voxels and no others; two types must help where there are.
    prior = truth(types, noise=(0.4, 1.2))
    found = estimate_prior(subjects(prior, (12, 15), 600), types).prior
    context, drawn = subject(prior, normal(4, WIDTH, seed=70) + 1, 2000, 71)
    oracle = excess(prior, context, drawn.weights)
    assert oracle <= excess(found, context, drawn.weights) < 1.06 * oracle
    if types == 2:
        single = estimate_prior(subjects(prior, (12, 15), 600), 1).prior
        assert excess(single, context, drawn.weights) > 1.1 * oracle


@pytest.mark.parametrize("types", [1, 2])
def test_units_of_embedding_and_responses_change_nothing_but_units(types):
    # Catches regularisation that is stronger for a small embedding or far from its origin.
    sets = subjects(truth(2), (6, 9), 40)
    moved = [VoxelSet(s.images, 300 * s.embedded - 50, 7 * s.response, s.voxels) for s in sets]
    first, second = (estimate_prior(each, types, iterations=5).prior for each in (sets, moved))
    context, query = sets[0], normal(20, WIDTH, seed=4)
    one = first.posterior(context.embedded, context.response).weights
    other = second.posterior(moved[0].embedded, moved[0].response).weights
    expected = with_intercept(query) @ one.T
    predicted = with_intercept(300 * query - 50) @ other.T
    torch.testing.assert_close(predicted, 7 * expected, rtol=1e-6, atol=1e-6)


def test_fewer_voxels_than_weights_give_a_prior_that_helps():
    # Catches a covariance without rank where no voxel went.
    width, few = 40, 15
    factor = torch.zeros(1, width + 1, width + 1).double()
    factor[0, :3, :3] = 2 * torch.eye(3)
    prior = WeightPrior(torch.zeros(1, width + 1), factor, [1.0], [0.5], torch.ones(1, 1, 1))
    sets = [subject(prior, normal(60, width, seed=s), few, s)[0] for s in range(2)]
    found = estimate_prior(sets).prior
    assert torch.linalg.eigvalsh(found.covariance()).min() > 0
    context, drawn = subject(prior, normal(20, width, seed=8), 300, 8)
    flat = WeightPrior(
        torch.zeros(1, width + 1), torch.eye(width + 1)[None] * 0.55, [1.0], [0.5],
        torch.ones(1, 1, 1),
    )  # fmt: skip
    query = with_intercept(normal(100, width, seed=9))

    def error(one: WeightPrior) -> float:
        weights = one.posterior(context.embedded, context.response).weights
        return float(((weights - drawn.weights) @ query.T).square().mean())

    assert error(found) < 0.5 * error(flat)


def test_rois_name_the_types_and_the_steps_go_on_from_them():
    # Catches an assignment that is never let go: two voxels stand in the wrong ROI.
    prior = truth(2)
    context, drawn = subject(prior, normal(40, WIDTH, seed=3), 200, 5)
    is_first = drawn.type.numpy() == 0
    wrong = is_first.copy()
    wrong[:20] = ~wrong[:20]
    found = estimate_prior([with_rois(context, FFA=wrong, PPA=~wrong)], "roi")
    assert found.types == ("FFA", "PPA")
    posterior = found.prior.posterior(context.embedded, context.response)
    assert ((posterior.type_probability[:, 0] > 0.5).numpy() == is_first).mean() > 0.98


def test_levels_default_to_ladders_in_units_of_the_responses_and_lines_are_told():
    told: list[str] = []
    sets = subjects(truth(), (6,), 30)
    found = estimate_prior(sets, iterations=3, tolerance=-1.0, report=told.append)
    variance = sets[0].response.var(0, correction=0).mean()
    torch.testing.assert_close(found.prior.noise, variance * torch.tensor(NOISE).double())
    torch.testing.assert_close(found.prior.amplitudes, torch.tensor(AMPLITUDES).double())
    assert len(told) == 3
    assert f"step 2 of at most 3: mean log evidence {found.log_evidence[1]:.5f}" in told[1]


def test_the_same_seed_gives_the_same_prior():
    sets = subjects(truth(2), (6, 9), 40)
    one, other = (estimate_prior(sets, 3, iterations=3, seed=5).prior for _ in range(2))
    assert all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "iterations=0"),
        ({"shrinkage": 0.0}, "shrinkage=0.0"),
        ({"amplitudes": [0.0, 1.0]}, "amplitudes"),
        ({"amplitudes": []}, "at least one step and one amplitude"),
        ({"noise": []}, "noise is empty"),
        ({"noise": [0.0]}, "noise above 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        estimate_prior(subjects(truth(), (6,), 9), **arguments)


def test_sets_that_teach_nothing_are_refused():
    one = subjects(truth(), (6,), 9)[0]
    flat = VoxelSet(one.images, torch.ones(6, WIDTH), one.response, one.voxels)
    silent = VoxelSet(one.images, one.embedded, torch.ones(6, 9), one.voxels)
    wide = VoxelSet(one.images, normal(6, WIDTH + 2), one.response, one.voxels)
    with pytest.raises(InputError, match="the same for all 6 images"):
        estimate_prior([flat])
    with pytest.raises(InputError, match="mean variance of 0"):
        estimate_prior([silent])
    with pytest.raises(MismatchError, match=r"have \[4, 6\] columns"):
        estimate_prior([one, wide])
    with pytest.raises(MismatchError, match="at least one set"):
        estimate_prior([])


def repeated(one: VoxelSet, drawn: Drawn, repeats: torch.Tensor, seed: int) -> VoxelSet:
    """The same voxels, each response averaged over some presentations."""
    noise = drawn.noise_sd * normal(*one.response.shape, seed=seed) / repeats[:, None].sqrt()
    response = with_intercept(one.embedded) @ drawn.weights.T + noise
    return VoxelSet(one.images, one.embedded, response, one.voxels, repeats)


def test_noise_is_that_of_a_response_of_as_many_presentations_as_usual():
    # Catches repetitions that are not read: one subject saw images once, the other eight times.
    prior = truth(noise=(0.8,))
    often = [torch.ones(40), torch.full((40,), 8.0)]
    sets = [
        repeated(*subject(prior, normal(40, WIDTH, seed=s), 400, s), often[s].double(), 50 + s)
        for s in range(2)
    ]
    levels = [0.8 / 4.5 * 2.0**step for step in range(-4, 5)]
    found = estimate_prior(sets, amplitudes=[1.0], noise=levels)
    assert found.repeats == 4.5
    assert float(found.prior.shares[0, 0, 4]) > 0.9
    assert never_falls(found)
    # Without the counts there seem to be two kinds of voxels.
    bare = [VoxelSet(one.images, one.embedded, one.response, one.voxels) for one in sets]
    assert float(estimate_prior(bare, amplitudes=[1.0], noise=levels).prior.shares[0, 0, 4]) < 0.5


def test_the_evidence_of_unequal_repetitions_is_that_of_the_responses_given():
    # Catches a sum over voxels that forgets how the rows were scaled.
    sets = [
        repeated(*subject(truth(), normal(count, WIDTH, seed=s), 30, s), each.double(), s)
        for s, (count, each) in enumerate([(3, torch.tensor([1, 2, 5])), (9, torch.arange(1, 10))])
    ]
    found = estimate_prior(sets, iterations=3, tolerance=-1.0)
    before = estimate_prior(sets, iterations=2, tolerance=-1.0).prior
    total = sum(
        float(
            before.posterior(
                one.embedded, one.response, precision=one.repeats / found.repeats
            ).log_evidence.sum()
        )
        for one in sets
    )
    count = sum(one.response.numel() for one in sets)
    assert total / count == pytest.approx(found.log_evidence[2], rel=1e-9)


def test_an_embedding_too_wide_for_the_memory_is_refused_before_it_is_tried():
    # Catches a bare out-of-memory error: all tokens side by side are some 200,000 columns.
    one = subjects(truth(), (6,), 9)[0]
    wide = VoxelSet(one.images, normal(6, 200_000), one.response, one.voxels)
    with pytest.raises(InputError, match=r"200000 columns: .* GiB.*view='pca'"):
        estimate_prior([wide])
