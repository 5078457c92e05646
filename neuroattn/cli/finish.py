"""What every run ends with: weights, scores, predictions, maps, figures, report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from neuroattn.cli.context_report import context_pages
from neuroattn.encoders.base import Encoder
from neuroattn.errors import FileError
from neuroattn.io import atomic_path, read_json
from neuroattn.metrics import Score
from neuroattn.report import (
    gate_figure,
    png,
    print_table,
    standard_figures,
    summary_table,
    why_no_maps,
    write_maps,
    write_report,
)
from neuroattn.report.brain_maps import DATA_FORMATS
from neuroattn.training.run_directory import RunDirectory

Pictures = dict[str, tuple[Any, str]]


def tell_dropped(responses: xr.Dataset) -> None:
    """Say how many voxels could not be used, where there are some."""
    missing, constant = (
        int(responses.attrs.get(f"dropped_{kind}_voxels", 0)) for kind in ("nan", "constant")
    )
    if missing or constant:
        print(
            f"left out {missing} voxels with NaN and {constant} constant ones; "
            f"{responses.sizes['voxel']} are used"
        )


def write_encoders(
    run: RunDirectory, encoders: Mapping[str, Encoder], scores: Mapping[str, Score]
) -> None:
    """Write weights and scores: the last encoder at the top, the others in ``baselines/NAME``."""
    *others, main = encoders
    for name in others:
        folder = RunDirectory(run.path / "baselines" / name)
        encoders[name].save(folder.path, overwrite=True)
        scores[name].save(folder.scores)
    encoders[main].save(run.path, overwrite=True)
    scores[main].save(run.scores)


def write_predictions(run: RunDirectory, encoder: Encoder, features: xr.Dataset) -> None:
    """Write the predictions of every image of the features."""
    prediction = encoder.predict(features)
    run.write_predictions(prediction, encoder.voxels_, type(encoder).__name__)


def write_presentation(
    run: RunDirectory, title: str, pictures: Pictures | None = None, notes: tuple[str, ...] = ()
) -> None:
    """Write maps, figures and report of a run from what lies in it, and print its table.

    Parameters
    ----------
    run : RunDirectory
        With scores, weights, split and manifest.
    title : str
        Title of the report.
    pictures : dict of str to (Figure, caption), optional
        Further figures.
    notes : tuple of str
        Further remarks.
    """
    scores, encoder = read_scores(run), read_encoder(run)
    pages = context_pages(run, encoder)
    remarks = [*notes, *pages.notes]
    if reason := why_no_maps(encoder.voxels_):
        remarks.append(reason)
    else:
        write_brain_maps(run, encoder, list(scores.values())[-1], DATA_FORMATS)
    table = summary_table(scores)
    print_table(table)
    figures, missing = standard_figures(scores, table, encoder.voxels_)
    found: Pictures = {**dict(figures), **_own_figures(encoder), **(pictures or {})}
    found = {**pages.pictures, **found}
    for name, (figure, _) in found.items():
        with atomic_path(run.path / "figures" / f"{file_name(name)}.png") as beside:
            beside.write_bytes(figure if isinstance(figure, bytes) else png(figure))
    context = {"context": pages.context} if pages.context else {}
    write_report(
        run.report,
        title=title,
        scores=scores,
        manifest=read_json(run.manifest),
        split_sizes={**context, **split_sizes(run)},
        figures=found,
        notes=[*remarks, *missing],
        table=table,
        tables=pages.tables,
    )


def write_brain_maps(
    run: RunDirectory, encoder: Encoder, score: Score, formats: Sequence[str] | None
) -> list[Path]:
    """Write the maps of a score, and return the files.

    Parameters
    ----------
    run : RunDirectory
        They go to its ``maps``.
    encoder : Encoder
        Its voxels say where values belong; gates, where it has some, are one more map.
    score : Score
        Of the encoder.
    formats : sequence of str or None
        As for :func:`neuroattn.report.write_maps`.

    Raises
    ------
    InputError
        If the voxels have no place, or not the one that a format needs.
    """
    values = {
        name: score.dataset[name]
        for name in ("raw", "ceiling", "normalised")
        # Where no ceiling is known there is nothing to map.
        if name in score.dataset and score.dataset[name].notnull().any()
    }
    if hasattr(encoder, "gates") and encoder.gates().notnull().any():
        values["static_share"] = encoder.gates()
    files: list[Path] = write_maps(values, encoder.voxels_, run.maps, formats)
    return files


def _own_figures(encoder: Encoder) -> Pictures:
    if not hasattr(encoder, "gates") or "roi_mask" not in encoder.voxels_:
        return {}
    gates = encoder.gates()
    if not gates.notnull().all():
        return {}
    caption = (
        "Share of the static branch in each voxel's prediction, solved on the validation images: "
        "1 is a receptive field that never moves, 0 is routing by attention."
    )
    return {"Static share": (gate_figure(gates, encoder.voxels_["roi_mask"]), caption)}


def read_scores(run: RunDirectory) -> dict[str, Score]:
    """Return the scores of a run, baselines first.

    Raises
    ------
    FileError
        If there is none.
    """
    if not run.scores.exists():
        raise FileError(
            f"{run.path} holds no scores.nc; finish the run with --ckpt_path last, "
            "or score it with `neuroattn test`."
        )
    order = read_json(run.manifest).get("encoders", []) if run.manifest.exists() else []
    found = {}
    for name in order[:-1]:
        found[str(name)] = Score.load(run.path / "baselines" / str(name) / "scores.nc")
    main = Score.load(run.scores)
    found[str(order[-1]) if order else str(main.dataset.attrs["encoder"])] = main
    return found


def read_encoder(run: RunDirectory) -> Encoder:
    """Return the main encoder of a run."""
    from neuroattn.encoders.loading import load

    return load(run.path)


def split_sizes(run: RunDirectory) -> dict[str, int]:
    """Return the number of images of each part; of a cross-validation the number of folds."""
    parts = read_json(run.split)
    if "folds" in parts:
        tested = sum(len(fold["test"]) for fold in parts["folds"])
        return {"folds": len(parts["folds"]), "images, each tested once": tested}
    return {name: len(images) for name, images in parts.items()}


def file_name(name: str) -> str:
    """Return a name as a safe file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "figure"
