"""Training from scratch: the layer against its circuits, and what it must leave alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from neuroattn.theory.icl.pattern import off_identity
from neuroattn.theory.icl.training import Contexts, Recipe, SoftmaxLayer, trained


def test_the_layer_is_what_its_circuits_say() -> None:
    # Catches a transposed KQ or OV, and a query that attends to itself.
    recipe = Recipe(heads=3, length=6, dim=4, tasks=2)
    generator = torch.Generator().manual_seed(0)
    layer = SoftmaxLayer(recipe, generator)
    tokens, _ = Contexts(recipe, generator).batch(5)
    kq, ov = (each.float() for each in layer.circuits())
    context, asked = tokens[:, :-1], tokens[:, -1]
    logits = torch.einsum("bi,hij,blj->bhl", asked, kq, context)
    wanted = torch.einsum("bhl,bli,hit->bt", logits.softmax(-1), context, ov)
    torch.testing.assert_close(layer(tokens), wanted, rtol=1e-4, atol=1e-5)


def test_each_task_has_covariates_of_its_own() -> None:
    # Catches labels that depend on the other task's covariates, and a query that shows its label.
    recipe = Recipe(heads=1, length=4000, dim=4, tasks=2, noise=0.0)
    tokens, _ = Contexts(recipe, torch.Generator().manual_seed(1)).batch(1)
    x, y = tokens[0, :-1, :4], tokens[0, :-1, 4:]
    slope = torch.linalg.lstsq(x, y).solution
    assert slope[2:, 0].abs().max() < 1e-5
    assert slope[:2, 1].abs().max() < 1e-5
    assert slope[:2, 0].abs().min() > 1e-3
    assert not tokens[0, -1, 4:].any()


def test_training_is_its_seed_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches draws from the global generator, and checkpoints or logs that are written.
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    recipe = Recipe(heads=2, length=5, dim=2, steps=20, batch=8)
    with torch.no_grad():
        one, again, other = (trained(recipe, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(tmp_path.iterdir())
    assert torch.equal(one.query, again.query)
    assert not torch.equal(one.query, other.query)
    start = SoftmaxLayer(recipe, torch.Generator().manual_seed(3))
    assert not torch.equal(one.query, start.query)


def test_off_identity_is_the_share_that_is_left() -> None:
    # Catches a diagonal that is not homogeneous but passes, and a label's column left out.
    assert off_identity(3.0 * np.eye(3)) == pytest.approx(0.0)
    assert off_identity(np.diag([1.0, -1.0])) == pytest.approx(1.0)
    wide = np.concatenate([np.eye(2), [[1.0], [1.0]]], axis=1)
    assert off_identity(wide) == pytest.approx(0.5**0.5)
