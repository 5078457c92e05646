from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import MismatchError
from neuroattn.metrics import algonauts2023_accuracy, algonauts2023_vertex_accuracy


def correlated(r: list[float], images: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions that correlate with the response by exactly r."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(np.c_[np.ones(images), rng.standard_normal((images, 2))])[0]
    response = np.repeat(basis[:, 1:2], len(r), axis=1)
    values = np.array(r)
    return values * response + np.sqrt(1 - values**2) * basis[:, 2:], response


def test_the_formula_and_its_artefacts_are_those_of_the_challenge():
    # Catches a repaired metric under the old name: published numbers could not be compared.
    prediction, response = correlated([0.5, 0.01, -0.5, 0.9, -0.1])
    ceiling = np.array([0.5, 0.0, 0.5, 0.4, 0.0])
    found = algonauts2023_vertex_accuracy(prediction, response, ceiling)
    # In turn: r²/NC; no ceiling but full marks; negative r at 0; clipped at 1; no ceiling, r < 0.
    np.testing.assert_allclose(found, [0.5, 1.0, 0.0, 1.0, 0.0], atol=1e-12)
    score = algonauts2023_accuracy(prediction, response, ceiling)
    np.testing.assert_allclose(score, 0.5, atol=1e-12)


def test_chance_predictions_score_above_zero():
    # Catches a version without the clipping at 0, whose chance level would be 0.
    rng = np.random.default_rng(1)
    prediction, response = rng.standard_normal((2, 150, 4000))
    score = algonauts2023_accuracy(prediction, response, np.full(4000, 0.3))
    # E[max(r, 0)²] = 1 / (2 (n - 1)).
    np.testing.assert_allclose(score, 1 / (2 * 149) / 0.3, rtol=0.1)


def test_nothing_to_average_is_nan_and_a_wrong_ceiling_is_refused():
    # Catches a mean of nothing that warns, and a ceiling that is broadcast over the vertices.
    assert np.isnan(algonauts2023_accuracy(np.ones((3, 0)), np.ones((3, 0)), np.ones(0)))
    with pytest.raises(MismatchError, match=r"\(1,\).*\(2,\)"):
        algonauts2023_accuracy(np.ones((3, 2)), np.ones((3, 2)), np.ones(1))
