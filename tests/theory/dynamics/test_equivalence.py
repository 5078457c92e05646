"""The table of equivalences, the brute-force products and the factored ones that claims rest on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.attention import list_mechanisms
from neuroattn.theory import list_claims
from neuroattn.theory.dynamics import equivalences
from neuroattn.theory.dynamics.forms import products_of, wy
from neuroattn.theory.dynamics.recurrence import paper_row, segment


def test_every_row_names_mechanisms_that_exist_and_a_claim_that_runs_it() -> None:
    # A row that nothing runs, or a mechanism that was renamed, would show.
    rows = equivalences()
    assert len(rows) >= 15
    known, claims = set(list_mechanisms()), list_claims("dynamics")
    for row in rows:
        assert {row.left, row.right} <= known
        assert row.claim in claims
        assert row.condition
        assert row.mapping
        # A row that holds for anything cannot have its condition broken: it names a mistake.
        assert bool(row.mistake) or not row.condition.startswith("any ")
    assert len({(row.left, row.right, row.condition) for row in rows}) == len(rows)


def test_segments_multiply_what_comes_after_the_first() -> None:
    # Golden numbers: the first factor must not be in the product, the last must.
    alpha = np.array([0.5, 2.0, 3.0, 5.0])
    assert segment(alpha, 0, 0) == 1.0
    assert segment(alpha, 0, 3) == 30.0
    assert segment(alpha, 2, 3) == 5.0


def test_products_are_those_of_numpy() -> None:
    # Transitions multiplied in the other order would show: they do not commute.
    rng = np.random.default_rng(0)
    steps, writes = rng.normal(size=(4, 3, 3)), rng.normal(size=(4, 3))
    query, value = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    state, rows = np.zeros((3, 2)), []
    for token in range(4):
        state = steps[token] @ state + np.outer(writes[token], value[token])
        rows.append(query[token] @ state)
    np.testing.assert_allclose(products_of(steps, writes, query, value), rows, rtol=1e-12)


@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_the_factored_transition_is_the_product(tokens: int) -> None:
    # A solve with the upper triangle, or the transpose, would show.
    rng = np.random.default_rng(tokens)
    key, step = rng.normal(size=(tokens, 4)), rng.uniform(0, 1, tokens)
    product = np.eye(4)
    for k, b in zip(key, step, strict=True):
        product = (np.eye(4) - b * np.outer(k, k)) @ product
    np.testing.assert_allclose(wy(key, step), product, rtol=1e-9, atol=1e-12)
    if tokens > 1:
        assert np.abs(wy(key, step, solve=False) - product).max() > 1e-3


def test_the_papers_row_is_a_weighted_mean() -> None:
    # A normaliser that is one token late would show.
    draw = np.random.default_rng(1)
    asked, keyed, value = (torch.as_tensor(draw.uniform(0.1, 1, (1, 1, 6, n))) for n in (2, 2, 3))
    eta = (asked * keyed.cumsum(2)).sum(-1, keepdim=True)
    scores = (asked @ keyed.mT).tril()
    wanted = scores / scores.sum(-1, keepdim=True) @ value
    torch.testing.assert_close(paper_row(asked, keyed, value, eta), wanted)
    assert (paper_row(asked, keyed, value, eta, late=1) - wanted).abs().max() > 0.01
