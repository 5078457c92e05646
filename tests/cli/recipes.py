"""Tiny recipes, and the command run inside this process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuroattn.cli.main import main

SOURCE = {
    "class_path": "neuroattn.data.SimulatedCortex",
    "init_args": {"scenes": 41, "size": 56, "repeats": 2, "voxels": [2, 2], "seed": 0},
}
BASIS = {
    "class_path": "neuroattn.features.GaborPyramid",
    "init_args": {"size": 42, "grid": 7, "scales": 2},
}
SPLIT = {"train": 0.6, "validation": 0.2, "test": 0.2, "seed": 0}
FIT: dict[str, Any] = {
    "data": {"source": SOURCE, "basis": BASIS, "split": SPLIT, "store": "store", "seed": 0},
    "model": {
        "class_path": "neuroattn.encoders.TransformerModule",
        "init_args": {
            "network": {"dim": 8, "heads": 2, "feedforward": 8, "static_branch": True},
            "optimisation": {"epochs": 4, "batch_size": 8, "learning_rate": 0.01},
        },
    },
    "trainer": {"accelerator": "cpu"},
}
#: Two subjects teach, a third is held out.
IN_CONTEXT: dict[str, Any] = {
    "data": {
        "sources": [
            {
                "class_path": "neuroattn.data.SimulatedCortex",
                "init_args": {
                    "scenes": 90,
                    "size": 56,
                    "subjects": 3,
                    "voxels": [2, 2],
                    "repeats": 2,
                    "seed": 0,
                },
            }
        ],
        "basis": BASIS,
        "held_out": ["sub-03"],
        "split": SPLIT,
        "embedding": {"view": "pca", "components": 6, "normalise": False},
        "episodes": {"least": 5, "most": 30, "queries": 8, "steps": 4, "validation": 2},
        "evaluation": {"context": 20, "lengths": [10, 30, 1000], "draws": 2},
        "store": "store",
        "seed": 0,
    },
    "model": {
        "class_path": "neuroattn.encoders.InContextModule",
        "init_args": {
            "network": {"width": 8, "heads": 2, "layers": 2, "feedforward": 8, "dropout": 0.1},
            "optimisation": {"epochs": 3, "batch_size": 8, "learning_rate": 0.01},
        },
    },
    "trainer": {"accelerator": "cpu"},
}
COMPARE: dict[str, Any] = {
    "source": SOURCE,
    "basis": BASIS,
    "split": SPLIT,
    "store": "store",
    "encoders": {
        "ridge": {"class_path": "neuroattn.encoders.RidgeEncoder"},
        "transformer": {
            "class_path": "neuroattn.encoders.TransformerEncoder",
            "init_args": {
                "network": {"dim": 8, "heads": 2, "feedforward": 8},
                "optimisation": {"epochs": 1, "batch_size": 8},
            },
        },
    },
}


def changed(recipe: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A recipe with other values: ``a__b=1`` sets ``a: {b: 1}``, None removes the key."""
    found = copy.deepcopy(recipe)
    for path, value in values.items():
        *parents, last = path.split("__")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return found


def write(folder: Path, recipe: dict[str, Any], name: str = "recipe.yaml") -> str:
    """Write a recipe and return its path."""
    (folder / name).write_text(yaml.safe_dump(recipe))
    return str(folder / name)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must end with one message and exit code 2; return the message."""
    capsys.readouterr()
    code = main(list(arguments))
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("neuroattn: error: ")
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1, error
    return error.removeprefix("neuroattn: error: ")
