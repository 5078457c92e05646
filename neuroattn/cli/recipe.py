"""``neuroattn fit|validate|test|predict``: LightningCLI over recipes and run directories."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
import xarray as xr
from jsonargparse._deprecated import JsonargparseDeprecationWarning
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from neuroattn.cli.arguments import data_class, with_own_recipe
from neuroattn.cli.epoch_lines import EpochLines
from neuroattn.cli.finish import (
    read_encoder,
    tell_dropped,
    write_encoders,
    write_predictions,
    write_presentation,
)
from neuroattn.cli.finished import encoder_name, finished
from neuroattn.cli.in_context import check_evaluation
from neuroattn.cli.messages import (
    RECIPE_MODE,
    check_recipes,
    constructor_errors,
    explain,
    recipe_errors,
)
from neuroattn.cli.plan import print_plan
from neuroattn.encoders.incontext.data import InContextData
from neuroattn.encoders.incontext.module import InContextModule
from neuroattn.errors import InputError
from neuroattn.training.checkpoints import load_weights, training_callbacks
from neuroattn.training.datamodule import EncodingData
from neuroattn.training.loop import quiet_lightning, trainer_settings
from neuroattn.training.manifest import Manifest
from neuroattn.training.module import EncoderModule, NetworkModule
from neuroattn.training.run_directory import RunDirectory, RunStart

_HELP = {
    "fit": "usage: neuroattn fit --config RECIPE.yaml --run DIR [--ckpt_path last] [--KEY VALUE]",
    "validate": "usage: neuroattn validate RUN",
    "test": "usage: neuroattn test RUN",
    "predict": "usage: neuroattn predict RUN",
}


class RecipeParser(LightningArgumentParser):
    """LightningCLI's parser with errors of one sentence instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as an :class:`InputError` with the closest match to a wrong key."""
        raise InputError(explain(message, self._known_keys(ex))) from ex

    def _known_keys(self, ex: Exception | None) -> list[str]:
        parsers = [getattr(ex, "subcommand_parser", None) or self]
        found: list[str] = []
        while parsers:
            parser = parsers.pop()
            for action in parser._actions:
                found.append(str(action.dest))
                choices = getattr(action, "choices", None)
                if isinstance(choices, dict):
                    parsers += [
                        choice for choice in choices.values() if hasattr(choice, "_actions")
                    ]
        return found


class RecipeCLI(LightningCLI):
    """One recipe, one run directory."""

    model: NetworkModule
    datamodule: EncodingData | InContextData

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return the parser with short errors."""
        self.parser_class = RecipeParser
        return super().init_parser(**kwargs)

    def _parse_ckpt_path(self) -> None:
        """Take no settings from a checkpoint: Lightning would read it here without our checks."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a run needs beside model, data and trainer."""
        parser.add_argument("--run", type=str, help="The run directory; never overwritten.")
        parser.add_argument(
            "--base",
            type=str,
            help="Relative paths of the recipe start here; by default in the current folder.",
        )
        parser.add_argument("--dry_run", type=bool, default=False, help="Print the plan only.")

    @property
    def settings(self) -> Any:
        """The parsed configuration of the subcommand."""
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        """Check the run directory before anything expensive starts."""
        if not self.settings.run:
            raise InputError("--run is missing: name the run directory, e.g. --run runs/first.")
        self.settings.run = os.path.abspath(self.settings.run)
        run = self.run_directory = RunDirectory(self.settings.run)
        checkpoint = self.settings.get("ckpt_path")
        if self.subcommand != "fit":
            run.require_finished()
            checkpoint = checkpoint or "best"
        self.resumes = bool(checkpoint) and run.config.is_file()
        if checkpoint:
            self.settings.ckpt_path = os.path.abspath(run.checkpoint(checkpoint))
        if not self.resumes and int(os.environ.get("LOCAL_RANK", "0")) == 0:
            run.require_new()
        self.settings.base = os.path.abspath(self.settings.base or os.curdir)
        if os.path.isdir(self.settings.base):  # else: a run that was moved with its data
            os.chdir(self.settings.base)
        self.resolved = self._parser(self.subcommand).dump(self.settings, skip_unset=False)
        if self.resumes and self.subcommand == "fit":
            run.require_same(self.resolved)

    def instantiate_classes(self) -> None:
        """Instantiate data, model and trainer."""
        self.manifest = Manifest(" ".join(["neuroattn", *sys.argv[1:]]), 0)
        with constructor_errors():
            self.config_init = self.parser.instantiate(self.config)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        self.manifest.seed = self.datamodule.seed
        self._add_configure_optimizers_method_to_model(self.subcommand)
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer: what the recipe's ``trainer:`` leaves open, ours decides."""
        given = dict(self._get(self.config_init, "trainer", default={}))
        ours = trainer_settings(self.model)
        accelerated = {"accelerator", "devices", "precision"}
        for name, value in ours.items():
            default = {"accelerator": "auto", "devices": "auto"}.get(name)
            if (
                name not in given
                or given[name] is None
                or (name in accelerated and given[name] == default)
            ):
                given[name] = value
        directory = self.run_directory
        own = training_callbacks(
            directory.checkpoints, self.model.optimisation, self.datamodule.seed
        )
        bar = RichProgressBar(leave=True) if sys.stderr.isatty() else EpochLines()
        given["callbacks"] = [*own, bar, *(given.get("callbacks") or [])]
        given["default_root_dir"] = str(directory.path)
        # Our batches know their rank, and no batch may be drawn before the first epoch.
        given["use_distributed_sampler"] = False
        given["num_sanity_val_steps"] = 0
        given["enable_model_summary"] = False
        try:
            return Trainer(**given)
        except (MisconfigurationException, ValueError, ModuleNotFoundError) as error:
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error

    def fit(self, **kwargs: Any) -> None:
        """Train, then write weights, scores, predictions, maps and report."""
        run, data = self.run_directory, self.datamodule
        if isinstance(data, InContextData):
            check_evaluation(data)
        if self.settings.dry_run:
            print_plan(self.model, data)
            return
        for responses in data.prepared if isinstance(data, InContextData) else [data.responses]:
            tell_dropped(responses)
        self._prepare_model()
        if self.resumes:
            print(f"going on with {run.path}")
        start = RunStart(run, self.resolved, data.split)
        self.trainer.callbacks.append(start)  # type: ignore[attr-defined]
        try:
            with torch.random.fork_rng():
                self.trainer.fit(self.model, datamodule=data, ckpt_path=self.settings.ckpt_path)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
        if self.trainer.is_global_zero:
            load_weights(run.checkpoint("best"), self.model)
            results = finished(self.model, data, run)
            write_encoders(run, results.encoders, results.scores)
            write_predictions(run, results.main, data.features)
            key = str(data.features.attrs["key"])
            names = list(results.encoders)
            title = f"{self.name} on {data.responses.attrs.get('source', 'data')}"
            facts = self.manifest.facts(data.responses, key, encoders=names, title=title)
            run.write_manifest(facts)
            write_presentation(run, title)
            print(f"report: {run.report}")
        self.trainer.strategy.barrier()

    @property
    def name(self) -> str:
        """The class of the encoder that the module trains."""
        return encoder_name(self.model)

    def _prepare_model(self) -> None:
        """Build the network here, whatever processes train it, and check the checkpoint."""
        checkpoint, model = self.settings.ckpt_path, self.model
        start = getattr(model, "start", None)
        if checkpoint and isinstance(model, InContextModule):
            # What a checkpoint replaces need not be there any more.
            model.start = None
        model.prepare_from(self.datamodule)
        if isinstance(model, InContextModule):
            model.start = start
        if checkpoint:
            load_weights(checkpoint, model)

    def validate(self, **kwargs: Any) -> None:
        """Print the validation loss of the best checkpoint."""
        self._prepare_model()
        found = self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        for name, value in found[0].items():
            print(f"{name}: {value:.6f}")

    def test(self, **kwargs: Any) -> None:
        """Score the test images, write ``scores.nc`` and print the table."""
        self._prepare_model()
        if isinstance(self.model, EncoderModule):
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        if self.trainer.is_global_zero:
            run = self.run_directory
            results = finished(self.model, self.datamodule, run)
            write_encoders(run, results.encoders, results.scores)
            write_presentation(run, f"{self.name} on its test images")

    def predict(self, **kwargs: Any) -> None:
        """Predict every image and write ``predictions.zarr``."""
        data, run = self.datamodule, self.run_directory
        images = data.features["image"].values
        if isinstance(self.model, EncoderModule):
            self._prepare_model()
            blocks = self.trainer.predict(self.model, datamodule=data)
            found = torch.cat([block for block in blocks or [] if isinstance(block, torch.Tensor)])
            coords = {"image": images}
            prediction = xr.DataArray(found.numpy(), dims=("image", "voxel"), coords=coords)
            run.write_predictions(prediction, data.responses, self.name)
        else:  # the encoders were written when the run was finished
            write_predictions(run, read_encoder(run), data.features)
        print(f"{len(images)} predictions in {run.predictions}")


def main(command: str, arguments: Sequence[str]) -> None:
    """Run ``neuroattn fit``, or another subcommand on a run directory.

    Raises
    ------
    NeuroattnError
        For every mistake of the user.
    """
    arguments = ["--dry_run=true" if each == "--dry-run" else each for each in arguments]
    if command != "fit" and arguments and not arguments[0].startswith("-"):
        run = RunDirectory(arguments.pop(0))
        run.require_finished()
        arguments = ["--config", str(run.config), "--run", str(run.path), *arguments]
    if not arguments:
        raise InputError(f"nothing to run. {_HELP[command]}")
    if command == "fit":
        arguments = with_own_recipe(arguments)
    check_recipes(arguments)
    with _quiet(), quiet_lightning(), recipe_errors(), contextlib.chdir(os.curdir):
        RecipeCLI(
            NetworkModule,
            data_class(arguments),
            subclass_mode_model=True,
            subclass_mode_data=False,
            save_config_callback=None,
            seed_everything_default=False,
            auto_configure_optimizers=False,
            # Lightning writes into what it is given.
            parser_kwargs={**RECIPE_MODE, **{name: dict(RECIPE_MODE) for name in _HELP}},
            args=[command, *arguments],
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's start-up lines and its remark on ``args`` off the terminal."""
    import warnings

    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
        # Lightning still calls what jsonargparse has renamed.
        warnings.filterwarnings("ignore", category=JsonargparseDeprecationWarning)
        try:
            yield
        finally:
            logger.setLevel(level)
