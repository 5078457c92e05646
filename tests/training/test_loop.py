"""Training against a plain loop, precision, clipping, divergence, and two processes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from neuroattn.encoders import DecoderConfig, TransformerModule
from neuroattn.errors import InputError
from neuroattn.training.batches import EpochBatches
from neuroattn.training.checkpoints import EpochSeed, training_callbacks
from neuroattn.training.datamodule import ResponseData
from neuroattn.training.dataset import ImageResponses
from neuroattn.training.loop import quiet_lightning, train, trainer_settings
from neuroattn.training.optimisation import Optimisation
from tests.tolerances import TOLERANCE
from tests.training.small import VOXELS, LinearModule, small_features, small_responses

FEATURES = small_features(31)
TRAINING = small_responses(FEATURES, range(17))
VALIDATION = small_responses(FEATURES, range(17, 26))
TEST = small_responses(FEATURES, range(26, 31))
PARTS = {"train": TRAINING, "validation": VALIDATION, "test": TEST}


def linear(**options) -> LinearModule:
    return LinearModule(Optimisation(**{"epochs": 3, "batch_size": 4, **options}))


def transformer(**options) -> TransformerModule:
    network = DecoderConfig(dim=8, heads=2, feedforward=8, dropout=0.0, static_branch=True)
    return TransformerModule(network, Optimisation(**{"epochs": 2, "batch_size": 4, **options}))


def fitted(make, validation=VALIDATION, seed=0, **options):
    module = make(**options)
    train(module, FEATURES, TRAINING, validation, seed=seed)
    return module


def plain_epochs(network: nn.Module, options: Optimisation, seed: int, clip: float) -> nn.Module:
    """The same training without Lightning."""
    network = copy.deepcopy(network).train()
    data = ImageResponses(FEATURES, TRAINING["image"].values, TRAINING["response"].values)
    batches = EpochBatches(len(data), options.batch_size, True, seed)
    optimizer = options.optimizer(network)
    scheduler = options.scheduler(optimizer, len(batches) * options.epochs)
    for epoch in range(options.epochs):
        batches.set_epoch(epoch)
        for index in batches:
            batch = data.__getitems__(index)
            optimizer.zero_grad()
            network.loss(batch["tokens"], batch["response"]).backward()
            if clip:
                # In the optimiser's order: the norm's rounding reaches key biases, whose true
                # gradient is zero and whose noise AdamW magnifies.
                ordered = [each for group in optimizer.param_groups for each in group["params"]]
                nn.utils.clip_grad_norm_(ordered, clip)
            optimizer.step()
            scheduler.step()
    return network


@pytest.mark.parametrize("make", [linear, transformer])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_one_epoch_equals_a_plain_torch_loop(make, clip):
    # Catches a second shuffle, a lost or doubled step, a clip or schedule that is not applied.
    module = make(epochs=1, gradient_clip=clip, weight_decay=0.3, learning_rate=0.01)
    module.prepare(FEATURES, TRAINING, 7)
    expected = plain_epochs(module.network, module.optimisation, 7, clip)
    start = copy.deepcopy(dict(module.network.named_parameters()))
    train(module, FEATURES, TRAINING, VALIDATION, seed=7)
    for name, parameter in expected.named_parameters():
        found = module.network.get_parameter(name)
        torch.testing.assert_close(found, parameter, **TOLERANCE["float32"])
    assert any(not torch.equal(start[n], p) for n, p in module.network.named_parameters())


def test_gradients_are_clipped():
    # Catches a clip value that never reaches the trainer.
    free, clipped = fitted(linear, gradient_clip=0.0), fitted(linear, gradient_clip=0.01)
    assert not torch.allclose(free.network.linear.weight, clipped.network.linear.weight)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    # Catches first weights or dropout from a generator that something else has moved.
    make = type("Dropped", (LinearModule,), {"dropout": 0.5})

    def weights(seed):
        module = make(Optimisation(epochs=2, batch_size=4))
        train(module, FEATURES, TRAINING, VALIDATION, seed=seed)
        return module.network.linear.weight

    before = torch.random.get_rng_state()
    first = weights(4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(weights(4), first)
    assert not torch.equal(weights(5), first)


def test_mixed_precision_reaches_the_network():
    # Catches a precision that is accepted and ignored.
    assert fitted(linear, precision="bf16-mixed").network.dtypes >= {torch.bfloat16}
    assert fitted(linear).network.dtypes == {torch.float32}


def test_the_weights_of_the_best_epoch_are_kept():
    # Catches the last epoch's weights after an overshoot.
    class Recorded(LinearModule):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            loss = float(self.trainer.callback_metrics["validation_loss"])
            seen.append((loss, self.network.linear.weight.detach().clone()))

    seen = []
    # On responses turned upside down, learning makes the predictions worse.
    opposite = VALIDATION.assign(response=-VALIDATION["response"])
    module = Recorded(Optimisation(epochs=8, batch_size=4, learning_rate=0.1))
    train(module, FEATURES, TRAINING, opposite)
    best = min(range(8), key=lambda epoch: seen[epoch][0])
    assert best < 7
    assert torch.equal(module.network.linear.weight, seen[best][1])


def test_training_stops_when_the_validation_loss_no_longer_falls():
    # Catches a patience that is ignored.
    class Counted(LinearModule):
        epochs = 0

        def on_train_epoch_end(self):
            Counted.epochs += 1

    options = {"epochs": 30, "batch_size": 4, "schedule": "constant", "warmup": 0.0}
    train(
        Counted(Optimisation(**options, learning_rate=0.0, patience=3)),
        FEATURES,
        TRAINING,
        VALIDATION,
    )
    assert Counted.epochs == 4


def test_calibration_sees_all_validation_images_once():
    # Catches statistics of one batch, of training images, or added up over epochs.
    module = fitted(linear)
    expected = [float(VALIDATION["response"].sum()), 9.0]
    np.testing.assert_allclose(module.network.calibrated, expected, rtol=1e-5)


def test_images_are_held_out_where_no_validation_set_is_given():
    # Catches a validation loss of training images.
    options = {"validation_fraction": 0.25}
    module = fitted(linear, validation=None, **options)
    assert float(module.network.calibrated[1]) == 4.0
    with pytest.raises(InputError, match="validation_fraction=0"):
        fitted(linear, validation=None, validation_fraction=0.0)


@pytest.mark.parametrize("make", [linear, transformer])
def test_a_training_that_diverges_says_so(make):
    # Catches weights of NaN that are saved as the best ones.
    with pytest.raises(InputError, match=r"diverged: validation_loss is (nan|inf).*learning_rate"):
        fitted(make, learning_rate=1e30, schedule="constant", warmup=0.0)


def test_the_streamed_validation_loss_is_the_mean_squared_error():
    # Catches a mean of batch means, in which the last small batch weighs too much.
    module = fitted(linear)
    data = ResponseData(FEATURES, PARTS)
    with quiet_lightning():
        trainer = pl.Trainer(enable_progress_bar=False, **trainer_settings(module))
        found = trainer.validate(module, datamodule=data, verbose=False)[0]
        trainer.test(module, datamodule=data, verbose=False)
    truth = VALIDATION["response"].values
    tokens = ImageResponses(FEATURES, VALIDATION["image"].values).__getitems__(range(9))["tokens"]
    with torch.inference_mode():
        predicted = module.network(tokens).numpy()
    assert found["validation_loss"] == pytest.approx(((predicted - truth) ** 2).mean(), rel=1e-5)
    explained = 1 - (truth - predicted).var(axis=0) / truth.var(axis=0)
    assert found["validation_explained_variance"] == pytest.approx(explained.mean(), rel=1e-4)
    assert module.test_prediction.shape == (5, VOXELS)


def test_one_validation_image_gives_a_loss_and_no_explained_variance():
    # Catches a warning or an error where the variance over one image is asked for.
    module = fitted(linear, validation=VALIDATION.isel(presentation=[0]))
    assert torch.isfinite(module.network.linear.weight).all()


def test_the_seed_of_an_epoch_depends_on_seed_epoch_and_rank():
    # Catches two epochs, two runs or two processes that drop out the same units.
    class Module:
        device = torch.device("cpu")

    def draw(seed, epoch, rank):
        trainer = type("T", (), {"current_epoch": epoch, "global_rank": rank})
        EpochSeed(seed).on_train_epoch_start(trainer, Module)
        return float(torch.rand(1))

    with torch.random.fork_rng():
        draws = {draw(*case) for case in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}
        assert len(draws) == 4
        assert draw(0, 1, 0) in draws
        draw(2**31 - 1, 10**6, 100)


class Kept(Callback):
    """Writes the test predictions from inside the process that has them."""

    def __init__(self, path) -> None:
        self.path = path

    def on_test_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            np.save(self.path, pl_module.test_prediction)


def scores_of(make, folder, **strategy):
    module = make(batch_size=4, epochs=3)
    data = ResponseData(FEATURES, PARTS, seed=2)
    module.prepare(FEATURES, TRAINING, 2)
    settings = {**trainer_settings(module), "accelerator": "cpu", **strategy}
    callbacks = [*training_callbacks(folder, module.optimisation, 2), Kept(folder / "t.npy")]
    folder.mkdir()
    with quiet_lightning():
        trainer = pl.Trainer(
            callbacks=callbacks,
            default_root_dir=folder,
            enable_progress_bar=False,
            **settings,
        )
        with torch.random.fork_rng():
            trainer.fit(module, datamodule=data)
        loss = float(trainer.callback_metrics["validation_loss"])
        trainer.test(module, datamodule=data, verbose=False)
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    return loss, weights, np.load(folder / "t.npy")


@pytest.mark.parametrize("make", [linear, transformer])
def test_two_processes_score_as_one(make, tmp_path):
    # Catches images padded, lost or doubled, unreduced statistics, and gradients of half a batch.
    # 17, 9 and 5 images in batches of 4: the last batch of each part cannot be shared.
    one = scores_of(make, tmp_path / "one")
    two = scores_of(make, tmp_path / "two", strategy="ddp_fork", devices=2)
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    for name, value in one[1].items():
        if name.endswith("attention.key.bias"):
            continue  # softmax is blind to it: its gradient is rounding, which Adam scales up
        np.testing.assert_allclose(two[1][name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(two[2], one[2], rtol=1e-4, atol=1e-5)
    assert np.abs(one[2]).max() > 0.01
