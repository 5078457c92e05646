"""The meta-training: first weights, loss, a resumed and a diverging run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from neuroattn.encoders.embedding import EmbeddingConfig, fit_embedding
from neuroattn.encoders.incontext.episode_data import EpisodeData
from neuroattn.encoders.incontext.episodes import EpisodeConfig, EpisodeOrder, Episodes
from neuroattn.encoders.incontext.module import InContextModule, input_statistics
from neuroattn.encoders.incontext.network import SetTransformerConfig
from neuroattn.errors import InputError
from neuroattn.training.checkpoints import read_checkpoint, training_callbacks
from neuroattn.training.loop import quiet_lightning, train_on, trainer_settings
from neuroattn.training.optimisation import Optimisation
from tests.encoders.incontext import taught

FEATURES = taught.features()
SETS = [
    taught.as_set(FEATURES, taught.responses(FEATURES, range(40), 7, 0)),
    taught.as_set(FEATURES, taught.responses(FEATURES, range(30), 5, 1)),
]
HELD = [
    taught.as_set(FEATURES, taught.responses(FEATURES, range(40, 60), 7, 0)),
    taught.as_set(FEATURES, taught.responses(FEATURES, range(40, 50), 5, 1)),
]


def data(seed: int = 3) -> EpisodeData:
    embedding = fit_embedding(EmbeddingConfig(**taught.RAW), FEATURES, FEATURES["image"].values)
    return EpisodeData(embedding, SETS, HELD, EpisodeConfig(**taught.EPISODES), seed)


def module(network: dict | None = None, **options) -> InContextModule:
    return InContextModule(
        SetTransformerConfig(**{**taught.NETWORK, **(network or {})}),
        Optimisation(**{**taught.TRAINING, **options}),
    )


def trained(seed: int = 3, network: dict | None = None, **options) -> InContextModule:
    made, episodes = module(network, **options), data(seed)
    made.prepare_from(episodes)
    train_on(made, episodes, seed)
    return made


def assert_same(one, other) -> None:
    assert sorted(one) == sorted(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_an_untrained_network_writes_zero():
    # Catches first predictions that are noise; but nothing else may stand still.
    made, episodes = module(), data()
    made.prepare_from(episodes)
    episode = next(iter(episodes.train_dataloader()))
    assert (made(episode.context, episode.response) == 0).all()
    made.training_loss(episode).backward()
    assert made.network.write.contract.weight.grad.abs().max() > 0


def test_the_loss_is_the_mean_squared_error_of_the_queries():
    # Catches weights over the context instead of the queries, a lost intercept, a sum.
    made = trained()
    episode = next(iter(data().val_dataloader()))
    written = made(episode.context, episode.response).detach()
    weights, intercept = written.split([taught.CHANNELS, 1], dim=1)
    total, count = 0.0, 0
    for voxel, target in enumerate(episode.target):
        for image, query in enumerate(episode.query):
            predicted = float((weights[voxel].double() * query.double()).sum() + intercept[voxel])
            total, count = total + (predicted - float(target[image])) ** 2, count + 1
    assert made.training_loss(episode).item() == pytest.approx(total / count, rel=1e-5)


def test_what_is_watched_is_the_mean_over_the_validation_episodes():
    # Catches episodes of many voxels that count more, and explained variance over voxels.
    made, episodes = trained(), data()
    with quiet_lightning():
        settings = {**trainer_settings(made), "accelerator": "cpu", "enable_progress_bar": False}
        trainer = pl.Trainer(**settings, enable_checkpointing=False)
        found = trainer.validate(made, datamodule=episodes, verbose=False)[0]
    losses, explained = [], []
    drawn = Episodes(SETS, episodes.episodes, 3, 3 + 1_000_003, HELD)
    for key in EpisodeOrder(6, fixed=True):
        episode = drawn[key]
        written = made(episode.context, episode.response).detach()
        error = written[:, :-1] @ episode.query.T + written[:, -1:] - episode.target
        losses.append(float(error.square().mean()))
        ratio = error.var(1, correction=0) / episode.target.var(1, correction=0)
        explained.append(float((1 - ratio).mean()))
    assert found["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["validation_explained_variance"] == pytest.approx(np.mean(explained), rel=1e-4)


def test_one_query_gives_a_loss_and_no_explained_variance():
    # Catches a warning, or an error, where the variance over one image is asked for.
    made, episodes = module(), data()
    episodes.episodes = EpisodeConfig(**{**taught.EPISODES, "queries": 1})
    made.prepare_from(episodes)
    train_on(made, episodes, 0)
    assert all(torch.isfinite(each).all() for each in made.parameters())


def test_training_learns_and_moves_every_weight():
    start = module()
    start.prepare_from(data())
    found = trained(epochs=12, learning_rate=0.01)
    fresh = dict(start.network.named_parameters())
    still = [n for n, p in found.network.named_parameters() if torch.equal(p, fresh[n])]
    # Softmax is blind to the bias of its keys.
    assert [name for name in still if not name.endswith("attention.key.bias")] == []
    losses = [
        sum(made.training_loss(each).item() for each in data().val_dataloader())
        for made in (start, found)
    ]
    assert losses[1] < 0.9 * losses[0]


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    # Catches first weights, episodes or dropout from a generator that something else has moved.
    before = torch.random.get_rng_state()
    first = trained(4, {"dropout": 0.3}).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert_same(trained(4, {"dropout": 0.3}).state_dict(), first)
    other = trained(5, {"dropout": 0.3}).state_dict()
    assert not torch.equal(other["network.registers"], first["network.registers"])


class Killed(Callback):
    """Stops a training in the middle of an epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == (2, 2):
            raise KeyboardInterrupt


def run(folder: Path, callbacks=(), last: Path | None = None) -> dict[str, torch.Tensor]:
    made = module({"dropout": 0.2}, epochs=4)
    episodes = data()
    settings = {**trainer_settings(made), "accelerator": "cpu", "enable_progress_bar": False}
    own = [*training_callbacks(folder, made.optimisation, 3), *callbacks]
    with quiet_lightning(), torch.random.fork_rng():
        trainer = pl.Trainer(**settings, callbacks=own, default_root_dir=folder)
        try:
            trainer.fit(made, datamodule=episodes, ckpt_path=last, weights_only=True)
        except (SystemExit, KeyboardInterrupt):
            return {}
    assert trainer.current_epoch == 4
    return read_checkpoint(folder / "last.ckpt")


def test_a_resumed_training_ends_as_one_that_was_never_killed(tmp_path):
    # Catches episodes, dropout, optimiser, schedule or best epoch that start anew.
    whole = run(tmp_path / "whole")
    assert run(tmp_path / "part", [Killed()]) == {}
    assert read_checkpoint(tmp_path / "part" / "last.ckpt")["epoch"] == 1
    resumed = run(tmp_path / "part", last=tmp_path / "part" / "last.ckpt")
    assert_same(resumed["state_dict"], whole["state_dict"])
    best = [read_checkpoint(tmp_path / each / "best.ckpt") for each in ("whole", "part")]
    assert_same(best[0]["state_dict"], best[1]["state_dict"])
    assert best[0]["epoch"] == best[1]["epoch"]


@pytest.mark.parametrize("options", [{"learning_rate": 1e30, "gradient_clip": 0.0}])
def test_a_diverging_training_ends_with_one_sentence(options):
    with pytest.raises(InputError, match=r"the training diverged: validation_loss is .* in epoch"):
        trained(warmup=0.0, schedule="constant", **options)


def test_embeddings_are_brought_to_order_one_by_one_scale():
    # Catches columns scaled one by one, and statistics over sets that count a set once.
    values = torch.cat([each.embedded for each in SETS]).double()
    mean, scale = input_statistics(data().embedded)
    torch.testing.assert_close(mean.double(), values.mean(0), rtol=1e-5, atol=1e-6)
    root = values.var(0, correction=0).mean().sqrt()
    torch.testing.assert_close(scale.double(), root.expand(5), rtol=1e-5, atol=0)
    flat, one = input_statistics(torch.full((4, 3), 2.0))
    assert (flat.tolist(), one.tolist()) == ([2.0] * 3, [1.0] * 3)
    made = module()
    made.prepare_from(data())
    assert torch.equal(made.network.mean, mean)
    assert torch.equal(made.network.scale, scale)
    assert torch.equal(trained().network.mean, mean)


def test_a_network_is_built_once():
    made, episodes = module(), data()
    made.prepare_from(episodes)
    network = made.network
    made.prepare_from(data(9))
    assert made.network is network


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(precision):
    # Catches an episode that keeps the dtype of its set.
    found = trained(precision=precision).state_dict()
    assert all(torch.isfinite(each).all() for each in found.values())
    assert not torch.equal(found["network.registers"], trained().network.registers)
