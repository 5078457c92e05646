"""Checkpoints: whole or not there, plain data only, of this model only, moved with their run."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from neuroattn.errors import FileError, MismatchError
from neuroattn.training.checkpoints import (
    BEST,
    LAST,
    AtomicCheckpointIO,
    RunCheckpoints,
    load_weights,
    read_checkpoint,
    training_callbacks,
)
from neuroattn.training.datamodule import ResponseData
from neuroattn.training.loop import quiet_lightning, trainer_settings
from neuroattn.training.optimisation import Optimisation
from tests.training.small import CHANNELS, VOXELS, LinearModule, small_features, small_responses

FEATURES = small_features(20)
PARTS = {
    "train": small_responses(FEATURES, range(12)),
    "validation": small_responses(FEATURES, range(12, 20)),
}


class KilledError(RuntimeError):
    pass


class Mortal(LinearModule):
    """Dies in the middle of an epoch."""

    dropout = 0.3
    last = 99

    def on_train_batch_start(self, batch, batch_index):
        if self.trainer.current_epoch == self.last and batch_index == 1:
            raise KilledError


def fit(folder, epochs=2, ckpt_path=None, parts=PARTS, dies_in=99):
    """Train for four epochs, or until it dies, with checkpoints in ``folder``."""
    module = Mortal(Optimisation(epochs=epochs, batch_size=4, learning_rate=0.1))
    module.last = dies_in
    settings = trainer_settings(module)
    with quiet_lightning(), torch.random.fork_rng(), contextlib.suppress(KilledError):
        trainer = pl.Trainer(
            callbacks=training_callbacks(folder, module.optimisation, 0),
            default_root_dir=folder,
            enable_progress_bar=False,
            **settings,
        )
        data = ResponseData(FEATURES, parts)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer, module


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return folder, *fit(folder)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_checkpoint_is_read_back_and_loaded(made):
    # Catches weights that are loaded partly or into a copy.
    folder, _, module = made
    assert sorted(os.listdir(folder)) == ["best.ckpt", "last.ckpt"]
    found = read_checkpoint(folder / "last.ckpt")
    assert found["epoch"] == 1
    other = LinearModule(Optimisation())
    other.prepare(FEATURES, PARTS["train"], seed=9)
    assert not torch.equal(other.network.linear.weight, module.network.linear.weight)
    load_weights(folder / "last.ckpt", other)
    for name, value in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_a_write_that_breaks_off_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    # Catches torch.save straight onto last.ckpt.
    path, door = tmp_path / "last.ckpt", AtomicCheckpointIO()
    door.save_checkpoint({"state_dict": {"a": torch.ones(2)}}, path)
    before = path.read_bytes()

    def full(beside, content):
        beside.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match=r"last\.ckpt could not be written \(No space left"):
        door.save_checkpoint({"state_dict": {}}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("read", [read_checkpoint, AtomicCheckpointIO().load_checkpoint])
def test_a_pickled_object_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch, read):
    # Catches weights_only=False, also where Lightning asks for it.
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "x": Bomb()}, tmp_path / "zip.ckpt")
    (tmp_path / "raw.ckpt").write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol=2))
    for name in ("zip.ckpt", "raw.ckpt"):
        with pytest.raises(FileError, match=rf"{name} is not a whole checkpoint of t") as refused:
            read(tmp_path / name)
        # Torch's own message advises to run the file.
        assert "False" not in str(refused.value)
    (tmp_path / "text.ckpt").write_bytes(b"hi")  # a KeyError in torch
    with pytest.raises(FileError, match=r"text\.ckpt is not a whole checkpoint"):
        read(tmp_path / "text.ckpt")
    with pytest.raises(FileError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "zip.ckpt", weights_only=False)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.95, 0.999])
def test_a_truncated_checkpoint_is_named(made, tmp_path, keep):
    # Catches a library's own error, which names no file.
    content = (made[0] / "last.ckpt").read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(FileError, match=r"cut\.ckpt is not a whole checkpoint"):
        read_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    # Catches a start from scratch where a resume was wanted.
    with pytest.raises(FileError, match=r"checkpoint .*nope\.ckpt does not exist"):
        read_checkpoint(tmp_path / "nope.ckpt")


@pytest.mark.parametrize("content", [[1], {"weights": 1}, {"state_dict": {}}])
def test_tensors_that_are_no_training_are_refused(tmp_path, content):
    # Catches a KeyError deep inside Lightning.
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(FileError, match=r"other\.ckpt is not a checkpoint of a training: it lacks"):
        read_checkpoint(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"network.linear.bias": torch.zeros(VOXELS + 1)},
            rf"network\.linear\.bias is \[{VOXELS + 1}\] in it and \[{VOXELS}\] in this Mortal",
        ),
        (
            {"network.extra": torch.zeros(2), "network.linear.weight": torch.zeros(2, CHANNELS)},
            r"network\.extra is \[2\] in it and missing",
        ),
        ({"network.linear.weight": None}, r"weight is missing in it and \[5, 3\] in this"),
    ],
)
def test_a_checkpoint_of_another_model_names_the_first_weight_that_differs(
    made, tmp_path, change, message
):
    # Catches PyTorch's page of size mismatches, and weights that are silently left out.
    found = read_checkpoint(made[0] / "last.ckpt")
    state = {**found["state_dict"], **change}
    found["state_dict"] = {name: value for name, value in state.items() if value is not None}
    torch.save(found, tmp_path / "other.ckpt")
    own = made[2].network.linear.weight.clone()
    with pytest.raises(MismatchError, match=r"other\.ckpt is a checkpoint of another model"):
        load_weights(tmp_path / "other.ckpt", made[2])
    with pytest.raises(MismatchError, match=message):
        load_weights(tmp_path / "other.ckpt", made[2])
    assert torch.equal(made[2].network.linear.weight, own)


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    # Catches an optimiser, a schedule or an order that starts anew.
    _, whole = fit(tmp_path / "whole", epochs=4)
    fit(tmp_path / "cut", epochs=4, dies_in=2)
    last = tmp_path / "cut" / "last.ckpt"
    assert read_checkpoint(last)["epoch"] == 1
    _, resumed = fit(tmp_path / "cut", epochs=4, ckpt_path=last)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_moved_run_still_knows_its_best_checkpoint(tmp_path):
    # Catches a best.ckpt that is replaced by a worse epoch after the folder was renamed.
    opposite = {
        **PARTS,
        "validation": PARTS["validation"].assign(response=-PARTS["validation"]["response"]),
    }
    fit(tmp_path / "old", epochs=4, parts=opposite, dies_in=2)
    best = read_checkpoint(tmp_path / "old" / "best.ckpt")
    (tmp_path / "old").rename(tmp_path / "new")
    trainer, _ = fit(
        tmp_path / "new", epochs=4, ckpt_path=tmp_path / "new" / "last.ckpt", parts=opposite
    )
    callback = next(c for c in trainer.callbacks if isinstance(c, RunCheckpoints))
    assert callback.best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert read_checkpoint(tmp_path / "new" / "best.ckpt")["epoch"] == best["epoch"] == 0
    assert not (tmp_path / "old").exists()


def test_the_last_checkpoint_is_the_last_epoch_while_validation_worsens(tmp_path):
    # Catches a `last` that is only written when the monitored loss improves: a kill would lose
    # every epoch since the best.
    held = PARTS["validation"]
    opposite = held.assign(response=-held["response"])
    module = LinearModule(Optimisation(epochs=5, batch_size=4, learning_rate=0.1))
    data = ResponseData(FEATURES, {**PARTS, "validation": opposite})
    module.prepare(FEATURES, PARTS["train"], 0)
    trainer = pl.Trainer(
        callbacks=training_callbacks(tmp_path, module.optimisation, 0),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        **trainer_settings(module),
    )
    with quiet_lightning():
        trainer.fit(module, datamodule=data)
    best, last = (read_checkpoint(tmp_path / name)["epoch"] for name in (BEST, LAST))
    assert best < 4
    assert last == 4
