"""Run directories: new or refused, made at once with a checkpoint, gone on with as begun."""

from __future__ import annotations

import os

import numpy as np
import pytest
import pytorch_lightning as pl
import xarray as xr
import yaml

from neuroattn.data.split import split_by_image
from neuroattn.data.storage import open_responses
from neuroattn.errors import FileError, InputError, MismatchError, RunExistsError
from neuroattn.training.checkpoints import AtomicCheckpointIO, read_checkpoint
from neuroattn.training.datamodule import ResponseData
from neuroattn.training.loop import quiet_lightning, trainer_settings
from neuroattn.training.optimisation import Optimisation
from neuroattn.training.run_directory import RunDirectory, RunStart
from tests.training.small import VOXELS, LinearModule, small_features, small_responses

FEATURES = small_features(20)
RESPONSES = small_responses(FEATURES, range(20))
SPLIT = split_by_image(RESPONSES, {"train": 0.5, "validation": 0.5}, seed=0)
CONFIG = {
    "model": {"class_path": "M", "init_args": {"epochs": 3}},
    "data": {"seed": 0, "store": "a", "split": {"train": 0.5}},
    "trainer": {"devices": 1},
}
TEXT = yaml.safe_dump(CONFIG)


def start(run: RunDirectory, module: LinearModule | None = None, text: str = TEXT) -> None:
    module = module or LinearModule(Optimisation(epochs=1, batch_size=4))
    parts = {name: SPLIT.select(RESPONSES, name) for name in SPLIT.parts}
    with quiet_lightning():
        trainer = pl.Trainer(
            callbacks=[RunStart(run, text, SPLIT)],
            default_root_dir=run.path,
            enable_progress_bar=False,
            enable_checkpointing=False,
            **trainer_settings(module),
        )
        trainer.fit(module, datamodule=ResponseData(FEATURES, parts))


def test_only_an_empty_or_missing_folder_is_new(tmp_path):
    # Catches a second run that mixes its files with the first one's.
    RunDirectory(tmp_path / "missing").require_new()
    (tmp_path / "empty").mkdir()
    RunDirectory(tmp_path / "empty").require_new()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").touch()
    for name in ("used", "used/x"):
        with pytest.raises(RunExistsError, match=rf"{name} exists already and is never overwritt"):
            RunDirectory(tmp_path / name).require_new()


def test_a_finished_run_has_configuration_and_manifest(tmp_path):
    # Catches `neuroattn test` on any folder, or on a run that was killed.
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(FileError, match=r"is not a run directory.*no config\.yaml"):
        run.require_finished()
    run.write_start(TEXT, SPLIT)
    with pytest.raises(FileError, match=r"not finished.*--ckpt_path last"):
        run.require_finished()
    run.write_manifest({"seed": 0})
    run.require_finished()


@pytest.mark.parametrize("before", ["missing", "empty"])
def test_the_directory_appears_whole_before_the_first_step(tmp_path, before):
    # Catches a run that was killed in its first epoch and cannot go on.
    run = RunDirectory(tmp_path / "run")
    if before == "empty":
        run.path.mkdir()

    class Looks(LinearModule):
        def on_train_epoch_start(self):
            seen.extend(sorted(os.listdir(tmp_path)))

        def on_train_batch_start(self, batch, index):
            if index == 0:
                seen.extend(sorted(os.listdir(run.path)))

    seen = []
    start(run, Looks(Optimisation(epochs=1, batch_size=4)))
    assert seen == ["run", "checkpoints", "config.yaml", "split.json"]
    assert run.config.read_text() == TEXT
    assert read_checkpoint(run.checkpoint("last"))["global_step"] == 0


def test_a_start_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    # Catches a half-written run after a full disk.
    def full(self, checkpoint, path, storage_options=None):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
        raise FileError("disk full")

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", full)
    with pytest.raises(FileError, match="disk full"):
        start(RunDirectory(tmp_path / "runs" / "run"))
    assert os.listdir(tmp_path / "runs") == []


def test_a_run_that_goes_on_is_not_started_again(tmp_path):
    # Catches last.ckpt replaced by untrained weights.
    run = RunDirectory(tmp_path / "run")
    run.write_start(TEXT, SPLIT)
    before = run.config.stat().st_ino
    start(run, text="other: 1\n")
    assert run.config.stat().st_ino == before
    assert not run.checkpoints.exists()


def test_a_checkpoint_is_last_best_or_a_file(tmp_path):
    # Catches a resume without a checkpoint that trains from scratch.
    run = RunDirectory(tmp_path)
    for name in ("last", "best", str(tmp_path), str(tmp_path / "x.ckpt")):
        with pytest.raises(FileError, match=r"ckpt_path=.*there is no checkpoint"):
            run.checkpoint(name)
    run.checkpoints.mkdir()
    for file in ("last.ckpt", "best.ckpt", "x.ckpt"):
        (run.checkpoints / file).touch()
    assert run.checkpoint("last") == run.checkpoints / "last.ckpt"
    assert run.checkpoint("best") == run.checkpoints / "best.ckpt"
    assert run.checkpoint(str(run.checkpoints / "x.ckpt")) == run.checkpoints / "x.ckpt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"class_path": "M", "init_args": {"epochs": 5}}}, r"epochs=3, but 5 was given"),
        ({"model": {"class_path": "N"}}, r"model\.class_path='M', but 'N'"),
        ({"data": {**CONFIG["data"], "seed": 1}}, r"data\.seed=0, but 1 was given"),
        ({"data": {**CONFIG["data"], "split": {}}}, r"data\.split=None, but \{\} was given"),
        ({"data": {**CONFIG["data"], "new": [1]}}, r"data\.new=None, but \[1\]"),
        ({"trainer": {"devices": 2}}, ""),
        ({"data": {**CONFIG["data"], "store": "b"}}, ""),
        ({"run": "elsewhere"}, ""),
    ],
)
def test_a_run_goes_on_with_the_model_and_the_data_it_began_with(tmp_path, change, message):
    # Catches weights of one configuration beside the config.yaml of another.
    run = RunDirectory(tmp_path / "run")
    run.write_start(TEXT, SPLIT)
    changed = yaml.safe_dump({**CONFIG, **change})
    if not message:
        run.require_same(changed)
        return
    with pytest.raises(MismatchError, match=message):
        run.require_same(changed)


def test_predictions_are_a_response_set_with_the_voxels_of_the_responses(tmp_path):
    # Catches predictions without labels, which nobody can put on a brain.
    run = RunDirectory(tmp_path)
    values = np.random.default_rng(0).normal(size=(4, VOXELS)).astype(np.float32)
    images = FEATURES["image"].values[[3, 1, 0, 2]]
    prediction = xr.DataArray(values, dims=("image", "voxel"), coords={"image": images})
    run.write_predictions(prediction, RESPONSES, "Encoder")
    found = open_responses(run.predictions)
    np.testing.assert_array_equal(found["response"], values)
    assert found["image"].values.tolist() == images.tolist()
    assert found.attrs["source"] == "predictions of Encoder"
    assert found["repeats"].values.tolist() == [1] * 4
    for name in ("vertex", "hemisphere", "roi", "roi_mask"):
        xr.testing.assert_equal(found[name].variable, RESPONSES[name].variable)


def test_a_manifest_with_nan_is_refused_and_the_old_one_stays(tmp_path):
    # Catches JSON that other programs cannot read.
    run = RunDirectory(tmp_path)
    run.write_manifest({"seed": 1})
    with pytest.raises((InputError, ValueError)):
        run.write_manifest({"seed": float("nan")})
    assert '"seed": 1' in run.manifest.read_text()
