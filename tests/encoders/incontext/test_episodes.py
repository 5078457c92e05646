"""Episodes: what they are a function of, what is in them, and how long they are."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import xarray as xr
from torch.profiler import ProfilerActivity, profile

from neuroattn.encoders.incontext.episodes import (
    FIXED,
    EpisodeConfig,
    EpisodeOrder,
    Episodes,
    SyntheticVoxels,
)
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError, MismatchError, UnknownNameError

CONFIG = EpisodeConfig(least=3, most=8, queries=5, steps=6, validation=3)


def marked(number: int, images: int = 30, voxels: int = 9, first: int = 0) -> VoxelSet:
    """A set whose every number tells set, image and voxel."""
    rows, columns = torch.arange(first, first + images), torch.arange(voxels)
    return VoxelSet(
        tuple(f"{number}-{int(row)}" for row in rows),
        torch.stack([torch.full((images,), float(number)), rows.float()], dim=1),
        (10_000.0 * number + 100 * columns + rows[:, None]).float(),
        xr.Dataset(coords={"vertex": ("voxel", np.arange(voxels) + 1000 * number)}),
    )


def decoded(response: torch.Tensor, shown: torch.Tensor) -> tuple[set[int], list[int]]:
    """Return the sets of responses (voxel, image) and their voxels, once all agree with images."""
    number, rest = response // 10_000, response % 10_000
    torch.testing.assert_close(number, shown[:, 0].expand_as(number))
    torch.testing.assert_close(rest % 100, shown[:, 1].expand_as(number))
    voxels = rest // 100
    assert (voxels == voxels[:, :1]).all()
    return set(number.flatten().int().tolist()), voxels[:, 0].int().tolist()


def same(one, other) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def episodes(sets=None, config=CONFIG, voxels=4, seed=0, **more) -> Episodes:
    return Episodes([marked(1), marked(2)] if sets is None else sets, config, voxels, seed, **more)


def images_prior() -> tuple[torch.Tensor, WeightPrior]:
    generator = torch.Generator().manual_seed(0)
    embedded = torch.randn(400, 6, generator=generator) * 0.6 ** torch.arange(6) + 1
    return embedded, WeightPrior.spectral(embedded, 1.0, (0.2, 0.6), levels=2)


@pytest.mark.parametrize("synthetic", [False, True])
def test_an_episode_is_a_function_of_seed_epoch_step_and_rank_alone(synthetic):
    # Catches draws from a state that earlier episodes have moved, and an argument left out.
    sets = [SyntheticVoxels(*images_prior())] if synthetic else None
    one, other = episodes(sets), episodes(sets)
    kept = [one[epoch, step] for epoch in range(2) for step in range(3)]
    again = [other[epoch, step] for epoch in (1, 0) for step in (2, 1, 0)][::-1]
    order = [0, 1, 2, 3, 4, 5]
    assert all(same(kept[number], again[number]) for number in order)
    different = [
        one[0, 0],
        one[1, 0],
        one[0, 1],
        episodes(sets, seed=1)[0, 0],
        episodes(sets, rank=1)[0, 0],
        one[FIXED, 0],
    ]
    for number, each in enumerate(different):
        assert not any(same(each, later) for later in different[number + 1 :])


def test_no_generator_but_its_own_is_moved():
    # Catches torch.randn or DataLoader's base seed, which change the dropout that follows.
    before, state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    drawn = episodes([SyntheticVoxels(*images_prior()), marked(1)])
    assert len(list(drawn.loader(EpisodeOrder(4)))) == 4
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_voxels_are_of_one_set_and_see_the_images_that_are_told():
    # Catches responses of other voxels to the queries than to the context, and a voxel twice.
    found, chosen = episodes(), set()
    for step in range(40):
        episode = found[0, step]
        numbers, voxels = decoded(episode.response, episode.context)
        assert (numbers, voxels) == decoded(episode.target, episode.query)
        assert len(numbers) == 1
        assert len(set(voxels)) == 4
        assert len(episode.query) == CONFIG.queries
        chosen.update(voxels)
    assert chosen == set(range(9))


def test_context_and_queries_of_one_set_share_no_image():
    found, seen = episodes([marked(1, images=13)]), set()
    for step in range(60):
        episode = found[0, step]
        context, query = episode.context[:, 1].tolist(), episode.query[:, 1].tolist()
        assert len({*context, *query}) == len(context) + len(query)
        seen.update(query)
    assert seen == set(range(13))


def test_the_context_is_of_training_and_the_queries_of_validation_images():
    # Catches a context of validation images, or the set of another subject.
    sets = [marked(1), marked(2)]
    held = [marked(1, 7, first=50), marked(2, 4, first=50)]
    found = episodes(sets, queries=held)
    for epoch, step in [(0, step) for step in range(20)] + [(FIXED, step) for step in range(6)]:
        episode = found[epoch, step]
        number, voxels = decoded(episode.target, episode.query)
        assert (number, voxels) == decoded(episode.response, episode.context)
        assert episode.query[:, 1].min() >= 50
        assert episode.context[:, 1].max() < 30
        assert len(episode.query) == (5 if number == {1} else 4)
        assert len(set(episode.query[:, 1].tolist())) == len(episode.query)
    # All images of the set may be context: no query is taken from it.
    longest = episodes([marked(1, 8)], queries=held[:1])
    assert max(len(longest[0, step].context) for step in range(40)) == 8


def test_sets_come_in_proportion_to_their_voxels():
    found = episodes([marked(1, voxels=2), marked(2, voxels=18)])
    counts = Counter(int(found[0, step].context[0, 0]) for step in range(1000))
    assert abs(counts[2] / 1000 - 0.9) < 4 * np.sqrt(0.09 / 1000)
    assert len(episodes([marked(1, voxels=2)])[0, 0].response) == 2


@pytest.mark.parametrize("spacing", ["uniform", "log"])
def test_lengths_are_spread_over_their_range(spacing):
    # Catches an end that never comes, and logarithms of the wrong ends.
    config = EpisodeConfig(least=4, most=64, spacing=spacing, queries=5)
    draw = np.random.default_rng(0)
    lengths = np.array([config.length(draw, 1000) for _ in range(20_000)])
    assert (lengths.min(), lengths.max()) == (4, 64)
    edges = np.arange(4, 66)
    share = np.diff(np.log(edges)) if spacing == "log" else np.ones(61)
    expected = 20_000 * share / share.sum()
    counts = np.bincount(lengths, minlength=65)[4:]
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 60 + 5 * np.sqrt(120)


@pytest.mark.parametrize("spacing", ["uniform", "log"])
@pytest.mark.parametrize(("images", "lengths"), [(12, {4, 5, 6, 7}), (9, {4}), (8, {3}), (7, {2})])
def test_lengths_leave_the_queries_over_where_images_are_few(spacing, images, lengths):
    config = EpisodeConfig(least=4, most=64, spacing=spacing, queries=5)
    draw = np.random.default_rng(0)
    assert {config.length(draw, images) for _ in range(300)} == lengths


def test_a_length_never_falls_below_the_range_by_rounding():
    # Catches exp(log(5)) = 4.999..., which comes out as 4.
    class Lowest:
        def uniform(self, low, high):
            return low

    for least in range(2, 400):
        config = EpisodeConfig(least=least, most=500, spacing="log", queries=1)
        assert config.length(Lowest(), 1000) == least  # type: ignore[arg-type]


def test_a_fixed_length_is_always_that():
    for spacing in ("uniform", "log"):
        found = episodes(config=EpisodeConfig(least=7, most=7, spacing=spacing, queries=5))
        assert {len(found[0, step].context) for step in range(50)} == {7}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("validation", [2, 3])
def test_fixed_episodes_are_the_same_in_every_epoch_and_of_both_lengths(count, validation):
    # Catches lengths that go with the sets (even counts), and validation that moves.
    found = episodes([marked(number + 1) for number in range(count)])
    order = EpisodeOrder(validation * count, fixed=True)
    first = [found[key] for key in order]
    order.set_epoch(5)
    assert all(same(found[key], each) for key, each in zip(order, first, strict=True))
    lengths: dict[int, Counter[int]] = {}
    for each in first:
        lengths.setdefault(int(each.context[0, 0]), Counter())[len(each.context)] += 1
    halves = Counter({3: (validation + 1) // 2, 8: validation // 2})
    assert lengths == dict.fromkeys(range(1, count + 1), halves)


def test_fixed_lengths_are_clamped_too():
    found = episodes([marked(1, images=9)])
    assert [len(found[FIXED, step].context) for step in range(4)] == [3, 4, 3, 4]


def test_the_order_of_an_epoch_is_that_of_its_number():
    # Catches a resumed run that starts with the first epoch's episodes.
    order = EpisodeOrder(3)
    begun = iter(order)
    order.set_epoch(4)
    # Lightning makes the iterator of a resumed run before it sets the epoch.
    assert list(begun) == list(order)
    assert list(order) == [(4, 0), (4, 1), (4, 2)] == list(order)
    assert len(order) == 3
    loaded = list(episodes().loader(order))
    assert all(same(each, episodes()[4, step]) for step, each in enumerate(loaded))


def test_synthetic_voxels_have_the_signal_and_noise_of_their_prior():
    # Catches standard deviations for variances, a lost intercept, and noise shared by voxels.
    embedded, prior = images_prior()
    voxels = SyntheticVoxels(embedded, prior)
    rows = np.random.default_rng(1).permutation(400)
    shown, response = voxels.draw(rows, 4000, np.random.default_rng(2))
    assert torch.equal(shown, embedded[rows])
    design = torch.cat([shown, torch.ones(400, 1)], dim=1).double()
    fit = response.double() @ torch.linalg.pinv(design).T
    signal = fit @ design.T
    # Of the noise, 7 of 400 directions fall into the signal.
    noise = (response - signal).square().sum(1) / 393
    quiet = noise < 0.57
    for level, own in ((0.4, quiet), (0.8, ~quiet)):
        assert abs(float(noise[own].mean()) - level) < 0.01
        assert abs(float(own.double().mean()) - 0.5) < 0.04
    assert abs(float(noise.mean()) - 0.6) < 0.02
    explained = signal.var(1, correction=0) - 6 / 400 * noise
    assert abs(float(explained.mean()) - 0.4) < 0.03
    # The prior centres each voxel's signal over the images.
    assert float(signal.mean(1).abs().mean()) < 0.05
    assert abs(float(explained[quiet].mean()) - 0.6) < 0.04
    assert abs(float(explained[~quiet].mean()) - 0.2) < 0.02
    residual = (response - signal).double()
    residual = residual / residual.norm(dim=1, keepdim=True)
    between = (residual[:200] @ residual[:200].T).fill_diagonal_(0)
    assert abs(float(between.mean())) < 0.01


def test_each_synthetic_episode_has_new_voxels():
    embedded, prior = images_prior()
    found = episodes([SyntheticVoxels(embedded, prior)], voxels=3)
    first = [found[0, step].response[:, :3] for step in range(3)]
    assert not any(torch.equal(first[0], each) for each in first[1:])
    assert len(found[0, 0].response) == 3
    # One draw of weights holds for context and queries of an episode.
    quiet = WeightPrior(
        prior.means, prior.factors, torch.ones(1), torch.tensor([1e-12]), torch.ones(1, 1, 1)
    )
    config = EpisodeConfig(least=30, most=30, queries=20)
    episode = episodes([SyntheticVoxels(embedded, quiet)], config)[0, 0]
    design = torch.cat([episode.context, torch.ones(30, 1)], dim=1)
    weights = torch.linalg.lstsq(design, episode.response.T).solution
    asked = torch.cat([episode.query, torch.ones(20, 1)], dim=1) @ weights
    torch.testing.assert_close(asked.T, episode.target, rtol=1e-3, atol=1e-3)


def test_an_episode_of_many_voxels_touches_the_chosen_ones_only():
    # Catches a copy of all voxels of the context: 192 MB a step for 80,000 voxels.
    images, voxels = 200, 300_000
    base = marked(1, images=images)
    wide = torch.zeros(images, 1).expand(images, voxels)
    found = episodes([VoxelSet(base.images, base.embedded, wide, xr.Dataset())])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        assert found[0, 0].response.shape[0] == 4
    taken = [
        event.nbytes()
        for event in seen.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    assert max(taken) < 2**20


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"least": 1}, "least=1"),
        ({"least": 9, "most": 8}, "least=9 and most=8"),
        ({"queries": 0}, "queries=0"),
        ({"steps": 0}, "steps=0"),
        ({"validation": 1}, "validation=1"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        EpisodeConfig(**wrong)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(UnknownNameError, match="log, uniform"):
        EpisodeConfig(spacing="linear")


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match=r"has 6 images.* at least 7"):
        episodes([marked(1), marked(2, images=6)])
    assert len(episodes([marked(1, images=7)])[0, 0].context) == 2


def test_queries_that_do_not_belong_to_the_sets_are_refused():
    # Catches a validation loss of other voxels, or of images that the network was shown.
    sets = [marked(1)]
    with pytest.raises(MismatchError, match="1 training sets and 2 validation"):
        episodes(sets, queries=[marked(1, first=40)] * 2)
    with pytest.raises(MismatchError, match=r"other voxels \(9 and 8\)"):
        episodes(sets, queries=[marked(1, voxels=8, first=40)])
    with pytest.raises(MismatchError, match=r"other voxels \(9 and 9\)"):
        episodes(sets, queries=[marked(2, first=40)])
    with pytest.raises(InputError, match=r"2 images of validation set 0 .*1-28"):
        episodes(sets, queries=[marked(1, first=28)])
    with pytest.raises(InputError, match="validation set 0 has no image"):
        episodes(sets, queries=[marked(1, images=0, first=40)])
