"""The run directory: everything of a run in one folder, never overwritten by another run."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import xarray as xr
import yaml
from pytorch_lightning.callbacks import Callback

from neuroattn.data.split import Split
from neuroattn.data.storage import save
from neuroattn.errors import FileError, MismatchError, RunExistsError
from neuroattn.io import atomic_path, read_yaml, write_json
from neuroattn.training.checkpoints import BEST, LAST


class RunDirectory:
    """The places of a run.

    Parameters
    ----------
    path : str or Path
        ``config.yaml``, ``manifest.json``, ``split.json``, ``checkpoints/``,
        ``weights.safetensors`` with ``config.json`` and ``voxels.nc``, ``scores.nc``,
        ``predictions.zarr``, ``maps/``, ``report.html``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.manifest = self.path / "manifest.json"
        self.split = self.path / "split.json"
        self.checkpoints = self.path / "checkpoints"
        self.scores = self.path / "scores.nc"
        self.predictions = self.path / "predictions.zarr"
        self.maps = self.path / "maps"
        self.report = self.path / "report.html"

    def require_new(self, resumable: bool = True) -> None:
        """Refuse a folder that holds anything.

        Parameters
        ----------
        resumable : bool
            Whether the message may advise to continue the run.

        Raises
        ------
        RunExistsError
            If it does.
        """
        if self.path.is_dir() and not any(self.path.iterdir()):
            return
        if self.path.exists():
            way_on = ", continue it with --ckpt_path last" if resumable else ""
            raise RunExistsError(
                f"run directory {self.path} exists already and is never overwritten. "
                f"Choose another folder{way_on}, or remove it."
            )

    def require_finished(self) -> None:
        """Refuse a folder that is no run, and a run that was cut short.

        Raises
        ------
        FileError
            If ``config.yaml`` or ``manifest.json``, which comes last, is not there.
        """
        if not self.config.is_file():
            raise FileError(
                f"{self.path} is not a run directory of `neuroattn fit` (no config.yaml in it)."
            )
        if not self.manifest.is_file():
            raise FileError(
                f"{self.path} is not finished (no manifest.json in it); go on with "
                f"`neuroattn fit --run {self.path} --ckpt_path last`."
            )

    def checkpoint(self, name: str) -> Path:
        """Return the path of checkpoint ``"last"`` or ``"best"``, or of a file.

        Raises
        ------
        FileError
            If it is not there: a resume without a checkpoint is never a fresh start.
        """
        path = {"last": self.checkpoints / LAST, "best": self.checkpoints / BEST}.get(name)
        path = Path(name) if path is None else path
        if not path.is_file():
            raise FileError(
                f"ckpt_path={name!r}: there is no checkpoint {path}. "
                "To start afresh, leave ckpt_path out and choose a new --run."
            )
        return path

    def write_start(self, config: str, split: Split) -> None:
        """Write ``config.yaml`` and ``split.json``."""
        with atomic_path(self.config) as beside:
            beside.write_text(config, encoding="utf-8")
        split.save(self.split)

    def require_same(self, config: str) -> None:
        """Refuse to go on with another model or other data than the run was started with.

        Parameters
        ----------
        config : str
            The resolved configuration, YAML.

        Raises
        ------
        MismatchError
            If ``model`` or ``data`` differ (the feature store may lie elsewhere); names the first
            key that does.
        """
        before, now = _flat(read_yaml(self.config)), _flat(yaml.safe_load(config))
        for key in sorted({*before, *now}):
            ours = key.startswith(("model.", "data.")) and key != "data.store"
            if ours and before.get(key) != now.get(key):
                raise MismatchError(
                    f"{self.config} has {key}={before.get(key)!r}, but {now.get(key)!r} was "
                    "given: a run goes on as it was started. Leave --config out to go on with "
                    "this one, or choose a new --run."
                )

    def write_predictions(
        self, prediction: xr.DataArray, responses: xr.Dataset, encoder: str
    ) -> None:
        """Write predictions of images as a response set of its own, ``predictions.zarr``.

        Parameters
        ----------
        prediction : xarray.DataArray
            (image, voxel)
        responses : xarray.Dataset
            The voxels' coordinates, ROIs and attributes are taken from it.
        encoder : str
            Named as the source.
        """
        save(predicted_responses(prediction, responses, encoder), self.predictions)

    def write_manifest(self, facts: dict[str, Any]) -> None:
        """Write ``manifest.json``."""
        write_json(self.manifest, facts)


def predicted_responses(
    prediction: xr.DataArray, responses: xr.Dataset, encoder: str
) -> xr.Dataset:
    """Return predictions (image, voxel) as a response set with the voxels of ``responses``."""
    count = prediction.sizes["image"]
    voxels = responses.drop_dims("presentation", errors="ignore")
    unknown = ("presentation", [-1] * count)
    return (
        voxels.assign(response=(("presentation", "voxel"), prediction.values.astype("float32")))
        .assign_coords(
            image=("presentation", prediction["image"].values.astype(str)),
            session=unknown,
            run=unknown,
            repetition=unknown,
            repeats=("presentation", [1] * count),
        )
        .assign_attrs(source=f"predictions of {encoder}")
    )


class RunStart(Callback):
    """Make the run directory when the first step is about to run, with ``last.ckpt`` in it.

    Directory, configuration, split and the untrained state appear together: before this moment a
    kill or an error leaves nothing, after it the run can go on.

    Parameters
    ----------
    run : RunDirectory
        Left as it is if it holds a configuration: then the training goes on.
    config : str
        The resolved configuration, YAML.
    split : Split
        Of the images.
    """

    def __init__(self, run: RunDirectory, config: str, split: Split) -> None:
        self.run, self.config, self.split = run, config, split

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the directory; all processes come here, one of them writes."""
        if self.run.config.is_file():
            return
        writes = trainer.is_global_zero
        place = atomic_path(self.run.path) if writes else nullcontext(self.run.path)
        with place as beside:
            started = RunDirectory(beside)
            trainer.save_checkpoint(started.checkpoints / LAST)
            if writes:
                started.write_start(self.config, self.split)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    pairs = [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in tree.items()]
    return {name: leaf for key, value in pairs for name, leaf in _flat(value, key).items()}
