"""``neuroattn demo``: the whole story on a simulated cortex, from images to a report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from neuroattn.cli.compare import run_comparison
from neuroattn.cli.finish import write_presentation
from neuroattn.cli.parser import PlainParser
from neuroattn.data.simulated_cortex import SimulatedCortex
from neuroattn.encoders.comparison import Comparison
from neuroattn.encoders.decoder import DecoderConfig
from neuroattn.encoders.factorized import FactorizedEncoder
from neuroattn.encoders.ridge import RidgeEncoder
from neuroattn.encoders.transformer import TransformerEncoder
from neuroattn.errors import InputError
from neuroattn.report import object_attention, object_attention_figure
from neuroattn.training.datamodule import SplitPlan
from neuroattn.training.manifest import Manifest
from neuroattn.training.run_directory import RunDirectory


def comparison(seed: int, store: str | Path, scenes: int = 2000) -> Comparison:
    """Return the demo's comparison: two ridges, factorised and transformer encoders on one split.

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
            "pooled ridge": RidgeEncoder(view="mean", seed=seed),
            "ridge": RidgeEncoder(seed=seed),
            "factorized": FactorizedEncoder(seed=seed),
            "transformer": TransformerEncoder(network, seed=seed),
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
    run.require_new(resumable=False)
    print(f"simulating a cortex that looks at {given.scenes} scenes (seed {given.seed})")
    threads = torch.get_num_threads()
    # Matrices this small gain nothing from a second thread, lose much where other jobs run
    # beside, and give the same digits with one thread everywhere.
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="neuroattn-") as store:
            _tell(run, comparison(given.seed, store, given.scenes), given.seed)
    finally:
        torch.set_num_threads(threads)
    print(f"report: {run.report}")


def _tell(run: RunDirectory, experiment: Comparison, seed: int) -> None:
    command = f"neuroattn demo --seed {seed} --scenes {len(experiment.source.images())}"
    title = "Encoders of a simulated visual cortex"
    encoders = run_comparison(run, experiment, Manifest(command, seed), f"# {command}\n", title)
    print("writing maps, figures and report")
    encoder, cortex = encoders["transformer"], experiment.source
    if not isinstance(encoder, TransformerEncoder) or not isinstance(cortex, SimulatedCortex):
        raise InputError("the demo's comparison needs a transformer and a simulated cortex.")
    found = object_attention(encoder, experiment.features, cortex, experiment.splits[0])
    pictures = {"Where the queries look": object_attention_figure(found, cortex)}
    write_presentation(run, title, pictures, (found.sentence(),))
    print(found.sentence())
