"""``neuroattn compare``: several encoders on the same images, with one report."""

from __future__ import annotations

from collections.abc import Sequence

from neuroattn.cli.class_parser import ClassParser
from neuroattn.cli.finish import (
    tell_dropped,
    write_encoders,
    write_predictions,
    write_presentation,
)
from neuroattn.cli.messages import (
    RECIPE_MODE,
    check_recipes,
    constructor_errors,
    recipe_errors,
)
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.comparison import Comparison
from neuroattn.errors import InputError
from neuroattn.io import atomic_path, write_json
from neuroattn.tasks import use_workers
from neuroattn.training.loop import quiet_lightning
from neuroattn.training.manifest import Manifest
from neuroattn.training.run_directory import RunDirectory


def parser() -> ClassParser:
    """Return the parser of ``neuroattn compare``."""
    made = ClassParser(
        prog="neuroattn compare",
        description="Fit and score several encoders on the same images and write one report.",
        **RECIPE_MODE,
    )
    made.add_argument("-c", "--config", action="config", help="A recipe with `encoders:`.")
    made.add_argument("--run", type=str, help="The run directory; never overwritten.")
    made.add_argument("--title", type=str, default="Encoders compared", help="Title of the report.")
    made.add_argument(
        "--jobs", type=int, default=1, help="Processes here that fit what is voxelwise."
    )
    made.add_argument(
        "--scheduler", type=str, help="Address of a Dask scheduler whose workers fit it instead."
    )
    made.add_class_arguments(Comparison)
    return made


def main(command: str, arguments: Sequence[str]) -> None:
    """Run ``neuroattn compare``."""
    made = parser()
    check_recipes(arguments)
    with recipe_errors():
        settings = made.parse_args(list(arguments))
    if not settings.run:
        raise InputError("--run is missing: name the run directory, e.g. --run runs/compared.")
    run = RunDirectory(settings.run)
    run.require_new(resumable=False)
    # A place, not a part of what was compared: it stands in no recipe of a run.
    jobs, scheduler = settings.pop("jobs"), settings.pop("scheduler")
    config = made.dump(settings, skip_unset=False, skip_validation=True)
    with constructor_errors():
        ready = made.instantiate(settings)
    names = [key for key in vars(ready) if key not in ("config", "run", "title")]
    comparison = Comparison(**{name: ready[name] for name in names})
    manifest = Manifest(f"neuroattn {command}", comparison.seed)
    with use_workers(jobs, scheduler):
        run_comparison(run, comparison, manifest, config, settings.title)
    write_presentation(run, settings.title)
    print(f"report: {run.report}")


def run_comparison(
    run: RunDirectory, comparison: Comparison, manifest: Manifest, config: str, title: str
) -> dict[str, Encoder]:
    """Fit and score the encoders, write all numbers of the run, and return the fitted encoders.

    Nothing is written before the last encoder is scored, so a failed comparison leaves no run.
    """
    tell_dropped(comparison.responses)
    with quiet_lightning():
        scores, encoders = comparison.run()
    with atomic_path(run.config) as beside:
        beside.write_text(config, encoding="utf-8")
    splits = [{name: list(ids) for name, ids in s.parts.items()} for s in comparison.splits]
    write_json(run.split, {"folds": splits} if comparison.folds else splits[0])
    write_encoders(run, encoders, scores)
    main, name = list(encoders.values())[-1], list(encoders)[-1]
    if comparison.folds:  # those of the encoders that did not see the image
        held_out = scores[name].dataset["prediction"]
        run.write_predictions(held_out, main.voxels_, f"{type(main).__name__}, held-out folds")
    else:
        write_predictions(run, main, comparison.features)
    key = str(comparison.features.attrs["key"])
    names = list(encoders)
    run.write_manifest(manifest.facts(comparison.responses, key, encoders=names, title=title))
    return encoders
