"""``neuroattn demo``: the whole story on a simulated cortex, from images to a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuroattn.cli.compare import run_comparison
from neuroattn.cli.finish import Pictures, write_presentation
from neuroattn.cli.results import PlainParser
from neuroattn.data.scenes import CATEGORIES
from neuroattn.data.simulated_cortex import CATEGORY_AREAS, SimulatedCortex
from neuroattn.encoders.comparison import Comparison
from neuroattn.encoders.decoder import DecoderConfig
from neuroattn.encoders.factorized import FactorizedEncoder
from neuroattn.encoders.ridge import RidgeEncoder
from neuroattn.encoders.transformer import TransformerEncoder
from neuroattn.report import attention_figure, attention_mass, best_heads, query_masks
from neuroattn.training.datamodule import SplitPlan
from neuroattn.training.manifest import Manifest
from neuroattn.training.run_directory import RunDirectory

#: Shown in the report: pictures of attention.
_PICTURES = 6


def comparison(seed: int, store: str | Path, scenes: int = 2000) -> Comparison:
    """Return the demo's comparison: ridge, factorised and transformer encoders on one split.

    Parameters
    ----------
    seed : int
        Seed of cortex, split and encoders.
    store : str or Path
        Folder of the feature store.
    scenes : int
        Number of images.
    """
    cortex = SimulatedCortex(scenes=scenes, seed=seed)
    network = DecoderConfig(dim=128, heads=8, feedforward=256, static_branch=True)
    return Comparison(
        source=cortex,
        basis=cortex.basis,
        encoders={
            "ridge": RidgeEncoder(seed=seed),
            "factorized": FactorizedEncoder(seed=seed, progress=False),
            "transformer": TransformerEncoder(network, seed=seed, progress=False),
        },
        split=SplitPlan(train=0.7, validation=0.1, test=0.2, seed=seed),
        seed=seed,
        store=str(store),
    )


def main(command: str, arguments: Sequence[str]) -> None:
    """Run the demo."""
    parser = PlainParser(prog="neuroattn demo", description=__doc__)
    parser.add_argument("--out", default="runs/demo", help="run directory (default: runs/demo)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")
    parser.add_argument("--scenes", type=int, default=2000, help="images (default: 2000)")
    given = parser.parse_args(list(arguments))
    run = RunDirectory(given.out)
    run.require_new()
    print(f"simulating a cortex that looks at {given.scenes} scenes (seed {given.seed})")
    experiment = comparison(given.seed, Path(given.out) / "features", given.scenes)
    config = f"# neuroattn demo --seed {given.seed} --scenes {given.scenes}\n"
    run_comparison(run, experiment, Manifest(config[2:].strip(), given.seed), config)
    print("writing maps, figures and report")
    pictures, notes = attention_pictures(run, experiment)
    write_presentation(run, "Encoders of a simulated visual cortex", pictures, notes)
    print("\n".join(notes))
    print(f"report: {run.report}")


def attention_pictures(
    run: RunDirectory, experiment: Comparison
) -> tuple[Pictures, tuple[str, ...]]:
    """Draw where category queries look, with the true objects outlined, and say how sharply.

    The best head of each query is chosen on validation images and judged on test images.
    """
    from neuroattn.encoders.loading import load

    encoder, cortex = load(run.path), experiment.source
    if not isinstance(encoder, TransformerEncoder) or not isinstance(cortex, SimulatedCortex):
        return {}, ()
    masks, ids = cortex.scenes.masks(), list(cortex.images().ids)
    heads: dict[str, int] = {}
    split = experiment.splits[0]
    for part in ("validation", "test"):
        shown = [ids.index(image) for image in split[part]]
        maps = encoder.attention_maps(experiment.features, split[part])
        areas = {
            area: masks[shown, CATEGORIES.index(category)]
            for area, (category, _) in CATEGORY_AREAS.items()
        }
        inside = query_masks(maps["query"].values, areas)
        mass = attention_mass(maps, inside)
        if part == "validation":
            heads = best_heads(mass)
    ratios = {q: float(mass["ratio"].sel(query=q)[head]) for q, head in heads.items()}
    sharp = ", ".join(f"{query} {ratio:.1f}" for query, ratio in ratios.items())
    note = (
        "Attention inside the true object, relative to a uniform map (best head by validation "
        f"images, test images): {sharp}; mean {np.mean(list(ratios.values())):.1f}."
    )
    first = [query for query in heads if query.startswith("left")]
    several = np.flatnonzero((cortex.scenes.category[shown] >= 0).sum(axis=1) > 1)[:_PICTURES]
    figure = attention_figure(
        [cortex.scenes.images[shown[index]] for index in several],
        maps.isel(image=several).sel(query=first),
        {query: inside[query][several] for query in first},
        heads,
    )
    caption = (
        "Test images and the attention of each category query (left hemisphere, the head chosen "
        "on validation images). Blue: the object of the query's category, where there is one."
    )
    return {"Where the queries look": (figure, caption)}, (note,)
