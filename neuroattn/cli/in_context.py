"""What a run of an in-context encoder ends with: a new subject's encoder, beside its baselines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from neuroattn.cli.context_report import (
    ATTENTION,
    CONTEXTS,
    EXCESS,
    NAME,
    SCALING,
    context_picture,
)
from neuroattn.encoders.adaptive import chosen_images
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.baselines import few_image_baselines, given_context
from neuroattn.encoders.context_choice import choose_context
from neuroattn.encoders.empirical_bayes import EmpiricalBayesEncoder
from neuroattn.encoders.incontext.data import InContextData
from neuroattn.encoders.incontext.encoder import InContextEncoder
from neuroattn.encoders.incontext.module import InContextModule
from neuroattn.encoders.oracle import excess_risk
from neuroattn.encoders.scaling import scaling_curve
from neuroattn.encoders.voxel_set import voxel_set
from neuroattn.errors import InputError
from neuroattn.io import atomic_path, write_json, write_netcdf
from neuroattn.metrics import Score
from neuroattn.report import context_figure, excess_table, png, print_rows, scaling_table
from neuroattn.training.run_directory import RunDirectory

#: The least context: ridge, one of the baselines, chooses its penalty in so many folds.
FOLDS = 5


@dataclass(frozen=True)
class NewSubject:
    """The held-out subject: its context, the images that it is tested on, and all encoders.

    Attributes
    ----------
    context, test : xarray.Dataset
        Prepared responses to the context, and to the test images.
    pool : xarray.Dataset
        Prepared responses to all images that a context may be drawn from.
    encoders : dict of str to Encoder
        Baselines first; adapted to, or fitted on, the context.
    main : InContextEncoder
        The last of them.
    features : dict of str to xarray.Dataset
        What each encoder reads.
    """

    context: xr.Dataset
    test: xr.Dataset
    pool: xr.Dataset
    encoders: dict[str, Encoder]
    main: InContextEncoder
    features: dict[str, xr.Dataset]

    def scores(self) -> dict[str, Score]:
        """Return the score of each encoder on the test images."""
        return {
            name: encoder.score(self.features[name], self.test)
            for name, encoder in self.encoders.items()
        }


def check_evaluation(data: InContextData) -> None:
    """Refuse contexts that cannot be drawn before anything is trained.

    Raises
    ------
    InputError
        If the held-out subjects saw too few images for the context or all lengths of the curve,
        or no test image.
    """
    plan, pool = data.evaluation, data.part("train").sizes["presentation"]
    if not FOLDS <= plan.context <= pool:
        raise InputError(
            f"data.evaluation.context={plan.context}, but the held-out subjects saw {pool} "
            f"training images. Give {FOLDS} to {pool}."
        )
    least = min(plan.lengths, default=0)
    if not FOLDS <= least <= pool or plan.draws < 1:
        raise InputError(
            f"data.evaluation has lengths={list(plan.lengths)} and draws={plan.draws}: needed "
            f"are lengths of at least {FOLDS}, one of them at most {pool}, the number of training "
            "images that the held-out subjects saw, and at least one draw."
        )
    if not data.part("test").sizes["presentation"]:
        raise InputError("the held-out subjects saw no test image; give data.split another seed.")


def new_subject(model: InContextModule, data: InContextData) -> NewSubject:
    """Adapt the trained encoder and fit its baselines, all on the same context."""
    pool, test = data.part("train"), data.part("test")
    images = choose_context(data.features, pool, data.evaluation.context, "random", seed=data.seed)
    context = chosen_images(pool, images)
    encoder = InContextEncoder.from_training(model, data, data.features)
    embedded = data.embedding.features(data.features)
    baselines = few_image_baselines(
        embedded, data.training_parts("train"), data.responses, data.seed, print
    )
    encoders: dict[str, Encoder] = {**baselines, NAME: encoder}
    features = dict.fromkeys(baselines, embedded) | {NAME: data.features}
    for name in encoders:
        given_context(encoders[name], features[name], context)
    return NewSubject(context, test, pool, encoders, encoder, features)


def write_scaling(run: RunDirectory, subject: NewSubject, data: InContextData) -> None:
    """Write ``scaling.nc`` and ``contexts.json``, the images of every context; print the curve."""
    curve = scaling_curve(
        subject.encoders,
        subject.features,
        subject.pool,
        subject.test,
        data.evaluation.lengths,
        data.evaluation.draws,
        data.seed,
        report=_left_out,
    )
    draws = [list(map(str, row)) for row in curve["images"].values]
    chosen = list(map(str, subject.context["image"].values))
    write_json(run.path / CONTEXTS, {"context": chosen, "scaling draws": draws})
    write_netcdf(run.path / SCALING, curve)
    print_rows(scaling_table(curve))


def write_excess(run: RunDirectory, subject: NewSubject, data: InContextData) -> None:
    """Write ``excess.nc``, the distance from the oracle on voxels of the estimated prior."""
    bayes = subject.encoders["empirical Bayes"]
    if not isinstance(bayes, EmpiricalBayesEncoder):
        raise InputError("the excess needs an empirical-Bayes encoder.")
    pool, test = (
        voxel_set(data.embedding, data.features, each).embedded
        for each in (subject.pool, subject.test)
    )
    excess = excess_risk(
        subject.main, bayes.prior_, pool, test, data.evaluation.lengths, seed=data.seed
    )
    write_netcdf(run.path / EXCESS, excess)
    print_rows(excess_table(excess, NAME))


def write_attention(run: RunDirectory, subject: NewSubject, data: InContextData) -> None:
    """Write ``attention.nc`` and its picture: which context images wrote the best voxel."""
    score = subject.main.score(data.features, subject.test).dataset
    found = score["normalised" if score["normalised"].notnull().any() else "raw"].values
    best = int(np.nan_to_num(found, nan=-np.inf).argmax())
    try:
        attention = subject.main.context_attention(data.features, subject.context, [best])
    except InputError:  # a mechanism without explicit weights; the report says so
        return
    response = xr.DataArray(
        subject.context["response"].values[:, [best]],
        dims=("image", "voxel"),
        coords={"image": subject.context["image"].values.astype(str)},
    )
    figure, caption = context_figure(
        attention, data.images, response, voxel=0, name="the best predicted voxel"
    )
    with atomic_path(context_picture(run)) as beside:
        beside.write_bytes(png(figure))
    write_netcdf(run.path / ATTENTION, attention.to_dataset().assign_attrs(caption=caption))


def _left_out(line: str) -> None:
    """Print what is left out, and not the line of each score, which the table repeats."""
    if "[" not in line:
        print(line)
