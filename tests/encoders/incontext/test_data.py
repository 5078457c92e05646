"""The data of a recipe: one split, held-out subjects that nothing learns from, clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn.data.reader import Reader
from neuroattn.data.schema import response_set
from neuroattn.encoders.embedding import EmbeddingConfig, fit_embedding
from neuroattn.encoders.incontext.data import Evaluation, InContextData, SyntheticPlan
from neuroattn.encoders.incontext.encoder import InContextEncoder
from neuroattn.encoders.incontext.episode_data import EpisodeData
from neuroattn.encoders.incontext.episodes import FIXED, EpisodeConfig, Episodes, SyntheticVoxels
from neuroattn.encoders.incontext.module import InContextModule
from neuroattn.encoders.incontext.network import SetTransformerConfig
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError, MismatchError
from neuroattn.features.base import FeatureBasis
from neuroattn.images import ImageArray
from neuroattn.training.datamodule import SplitPlan
from neuroattn.training.loop import train_on
from neuroattn.training.optimisation import Optimisation
from tests.encoders.incontext import taught

PICTURES = np.random.default_rng(0).integers(0, 256, (80, 4, 4, 3), dtype=np.uint8)


class Quadrants(FeatureBasis):
    """Four tokens: the mean colours of the quarters."""

    name, grid, channels = "quadrants", (2, 2), 3

    def extract(self, images):
        parts = np.stack(images).reshape(len(images), 2, 2, 2, 2, 3).mean((2, 4)) / 255
        return parts.reshape(len(images), 4, 3).astype(np.float32)

    def spec(self):
        return {"version": 1}


class Measured(Reader):
    """Subjects who saw some of the pictures, twice; ``turned`` ones answer upside down."""

    def __init__(self, subjects, pictures, turned=(), zscored="none") -> None:
        self.subjects, self.pictures = list(subjects), list(pictures)
        self.turned, self.zscored = turned, zscored

    def images(self):
        return ImageArray(PICTURES[self.pictures], [f"p{n:02d}" for n in self.pictures])

    def responses(self):
        shown = np.concatenate([self.pictures, self.pictures[::-1]])
        values = PICTURES[shown].reshape(len(shown), 16, 3).mean(1) / 100
        columns, names = [], []
        for subject in self.subjects:
            draw = np.random.default_rng(int(subject[1:]))
            signal = values @ draw.normal(size=(3, 6)) + draw.normal(size=(len(shown), 6)) * 0.5
            columns.append(-3 * signal if subject in self.turned else signal)
            names += [subject] * 6
        return response_set(
            np.concatenate(columns, axis=1),
            presentation={"image": [f"p{n:02d}" for n in shown], "session": 1},
            voxel={"subject": names, "hemisphere": "left"},
            attrs={"zscored": self.zscored},
        )


PLAN = SplitPlan(0.5, 0.25, 0.25)
EMBEDDING = EmbeddingConfig("pca", 3, normalise=False)
EPISODES = EpisodeConfig(least=3, most=8, queries=4, steps=5, validation=2)


@pytest.fixture
def data(tmp_path):
    def make(sources: list[Reader] | None = None, **more: Any) -> InContextData:
        sources = [Measured(["s1", "s2", "s3"], range(60))] if sources is None else sources
        options = {"held_out": ["s3"], "embedding": EMBEDDING, "episodes": EPISODES, "split": PLAN}
        options |= {"store": str(tmp_path), "evaluation": Evaluation(10, (5, 10), 2), **more}
        return InContextData(sources, Quadrants(), **options)

    return make


def two_sources() -> list[Reader]:
    """Pictures 40 to 59 are shared."""
    return [Measured(["s1", "s3"], range(60)), Measured(["s4"], range(40, 80))]


def trained(data: InContextData) -> InContextModule:
    module = InContextModule(
        SetTransformerConfig(**taught.NETWORK), Optimisation(epochs=2, batch_size=4)
    )
    module.prepare_from(data)
    train_on(module, data, data.seed)
    return module


def same_weights(one: InContextModule, other: InContextModule) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_an_image_of_two_sources_is_on_one_side_for_all(data):
    # Catches a split for each source: a test image of one that trains in the other.
    found = data(two_sources())
    parts = {part: set(found.split[part]) for part in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 80
    for number, pictures in enumerate((range(60), range(40, 80))):
        own = {f"p{n:02d}" for n in pictures}
        assert set(found.training_sets[number].images) == own & parts["train"]
        assert set(found.validation[number].images) == own & parts["validation"]
    shared = {f"p{n:02d}" for n in range(40, 60)}
    assert all(shared & part for part in parts.values())
    assert (
        set(found.part("test")["image"].values) == {f"p{n:02d}" for n in range(60)} & parts["test"]
    )
    assert found.features.sizes["image"] == 80


def test_sets_hold_the_averaged_responses_of_the_training_subjects(data):
    # Catches rows of other images and columns of held-out subjects.
    found = data()
    (training,) = found.training_sets
    assert training.voxels["subject"].values.tolist() == ["s1"] * 6 + ["s2"] * 6
    prepared = found.prepared[0]
    names = prepared["image"].values.tolist()
    rows = [names.index(image) for image in training.images]
    np.testing.assert_array_equal(training.response, prepared["response"].values[rows, :12])
    at = found.features["image"].values.tolist()
    expected = found.embedding.transform(
        found.features, np.array([at.index(image) for image in training.images])
    )
    assert torch.equal(training.embedded, expected)
    assert found.responses["subject"].values.tolist() == ["s3"] * 6
    assert [each.sizes["voxel"] for each in found.training] == [12]


def test_a_held_out_subject_reaches_no_set_and_no_weight(data):
    # Catches its responses in training, validation, statistics or the choice of the best epoch.
    usual = data([Measured(["s1", "s2", "s3"], range(60))])
    turned = data([Measured(["s1", "s2", "s3"], range(60), turned=["s3"])])
    assert not np.allclose(usual.responses["response"], turned.responses["response"])
    assert same_weights(trained(usual), trained(turned))
    taught_one = data([Measured(["s1", "s2", "s3"], range(60), turned=["s2"])])
    assert not same_weights(trained(usual), trained(taught_one))


def test_the_embedding_is_learned_from_training_images_only(data):
    found = data(two_sources())
    expected = fit_embedding(EMBEDDING, found.features, found.split["train"]).tensors()
    for name, value in found.embedding.tensors().items():
        assert torch.equal(value, expected[name])
    every = fit_embedding(EMBEDDING, found.features, found.features["image"].values).tensors()
    assert not torch.allclose(every["embedding_view_mean"], expected["embedding_view_mean"])


def test_validation_repeats_and_training_does_not(data):
    found = data()
    found.prepare_data()
    validation = [list(found.val_dataloader()) for _ in range(2)]
    training = list(found.train_dataloader())
    assert len(training) == 5
    assert [len(each.context) for each in validation[0]] == [3, 8]
    for one, other in zip(*validation, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    asked = found.validation[0].embedded
    for episode in validation[0]:
        assert all((asked == query).all(1).any() for query in episode.query)
    for episode in training:
        assert not any((asked == query).all(1).any() for query in episode.query)


def test_synthetic_voxels_look_at_training_images_and_no_response_is_read(data):
    # Catches held-out images, responses of training subjects, and validation voxels that train.
    plan = SyntheticPlan(1.5, (0.3, 0.7))
    found = data(synthetic=plan)
    assert found.validation == []
    (voxels,) = found.sets
    assert isinstance(voxels, SyntheticVoxels)
    expected = found.training_sets[0].embedded
    order = [found.split["train"].index(image) for image in found.training_sets[0].images]
    assert torch.equal(voxels.embedded[order], expected)
    prior = WeightPrior.spectral(voxels.embedded, 1.5, (0.3, 0.7))
    assert torch.equal(voxels.prior.factors, prior.factors)
    assert torch.equal(voxels.prior.noise, prior.noise)
    turned = data([Measured(["s1", "s2", "s3"], range(60), turned=["s1"])], synthetic=plan)
    assert same_weights(trained(found), trained(turned))
    assert not same_weights(trained(found), trained(data(synthetic=SyntheticPlan(0.0))))


def test_draws_for_validation_do_not_repeat_those_for_training(data):
    # Catches one seed for both: synthetic voxels would be validated on what they trained.
    found = data(synthetic=SyntheticPlan())
    validation = [each.response for each in found.val_dataloader()]
    training = [
        Episodes(found.sets, EPISODES, 32, seed)[epoch, step].response
        for seed in (0, 1_000_003)
        for epoch in range(3)
        for step in range(5)
    ]
    plain = [Episodes(found.sets, EPISODES, 32, 0)[FIXED, step].response for step in range(2)]
    for each in validation:
        for other in (*training, *plain):
            few = min(each.shape[1], other.shape[1])
            assert not torch.equal(each[:, :few], other[:, :few])


def test_processes_draw_episodes_of_their_own(data):
    # Catches two processes that compute the same gradient, and validation that differs.
    found = data()
    found.prepare_data()
    ranks = []
    for rank in range(2):
        strategy = type("S", (), {"root_device": torch.device("cpu")})
        module = type("M", (), {"optimisation": Optimisation(batch_size=4)})
        found.trainer = type(
            "T", (), {"global_rank": rank, "strategy": strategy, "lightning_module": module}
        )()
        ranks.append((next(iter(found.train_dataloader())), next(iter(found.val_dataloader()))))
    (first, watched), (second, again) = ranks
    assert first.response.shape[0] == second.response.shape[0] == 4
    assert not torch.equal(first.query, second.query)
    assert torch.equal(watched.target, again.target)


def test_the_encoder_of_a_training_knows_how_it_was_made(data):
    # Catches parameters of another network, which saving and block sizes would then be of.
    found = data(seed=3)
    module = trained(found)
    encoder = InContextEncoder.from_training(module, found, found.features)
    assert encoder.network == module.config
    assert (encoder.seed, encoder.zscored_, encoder.embedding) == (3, "session", EMBEDDING)
    assert encoder.episodes == EPISODES
    encoder.adapt(found.features, found.part("train"))
    assert encoder.score(found.features, found.part("test")).dataset.sizes["voxel"] == 6


def test_responses_that_are_not_standardised_stay_so(data):
    found = data(zscore=False)
    assert found.zscored == "none"
    assert found.sets[0].voxels.attrs["zscored"] == "none"
    assert EpisodeData(found.embedding, found.sets, [], EPISODES).zscored == "none"
    assert data(synthetic=SyntheticPlan()).zscored == "session"


def mixed() -> list[Reader]:
    return [Measured(["s1", "s3"], range(60), zscored="session"), Measured(["s4"], range(60))]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"held_out": ["s9"]}, MismatchError, r"names 's9', but the sources have s1, s2, s3"),
        ({"held_out": ["s1", "s2", "s3"]}, InputError, "leaves no subject to train on"),
        (
            {"held_out": ["s1", "s2", "s3"], "synthetic": SyntheticPlan()},
            InputError,
            "leaves no subject to train on",
        ),
        (
            {"sources": two_sources(), "held_out": ["s3", "s4"]},
            InputError,
            "are of 2 sources; hold out subjects",
        ),
        ({"split": SplitPlan(0.8, 0.0, 0.2)}, InputError, "no part 'validation'"),
        ({"split": SplitPlan(0.5, 0.5, 0.0)}, InputError, "no part 'test'"),
        ({"evaluation": Evaluation(31)}, InputError, "context=31.* saw 30 training images"),
        ({"episodes": EpisodeConfig(queries=29)}, InputError, "30 images.* at least 31"),
        ({"zscore": False, "synthetic": SyntheticPlan()}, MismatchError, "'none' and 'session'"),
        ({"zscore": False, "sources": mixed()}, MismatchError, "zscored='none' and 'session'"),
    ],
)
def test_what_could_not_be_evaluated_is_refused_before_the_training(data, options, error, message):
    # Catches errors that come after hours, when the held-out subject is scored.
    found = data(**options)
    with pytest.raises(error, match=message):
        _ = found.embedding, found.responses, found.sets, found.train_dataloader()


def test_a_source_without_validation_images_is_refused(data):
    few = [Measured(["s1", "s3"], range(60)), Measured(["s4"], [60])]
    found = data(few)
    with pytest.raises(InputError, match=r"source 1 has no image in part '(validation|train)'"):
        _ = found.training_sets, found.validation


@pytest.mark.parametrize(("sources", "held_out"), [([], ["s3"]), (None, [])])
def test_a_recipe_without_source_or_held_out_subject_is_refused(data, sources, held_out):
    with pytest.raises(InputError, match="at least one source and one subject"):
        data(sources, held_out=held_out)


@pytest.mark.parametrize(
    "wrong", [{"context": 1}, {"lengths": ()}, {"lengths": (10, 1)}, {"draws": 0}]
)
def test_an_evaluation_of_nothing_is_refused(wrong):
    with pytest.raises(InputError, match="needed are 2 images or more"):
        Evaluation(**wrong)


def test_selecting_a_part_copies_nothing_else(data):
    # Catches a copy of all training voxels beside that of their training images.
    found = data()
    held = found.training_parts("train")[0]["response"].values
    assert held.base is None or held.base.size == held.size
    assert not {"training", "training_sets"} & set(vars(found))
    assert isinstance(found.prepared[0], xr.Dataset)
