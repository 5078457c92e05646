"""Metrics of past challenges, under their own names, with their artefacts left in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from neuroattn.errors import MismatchError
from neuroattn.metrics.moments import Float64, pearson


def algonauts2023_vertex_accuracy(
    prediction: Any, response: Any, noise_ceiling: npt.ArrayLike
) -> Float64:
    """Return the Algonauts 2023 noise-normalised accuracy of each vertex.

    r is clipped below at 0, squared, divided by the noise ceiling (a ceiling of exactly 0 is
    replaced by 1e-14), and clipped above at 1. Use it to compare with published numbers only:

    * a vertex without any signal (ceiling 0) scores 1 as soon as r > 0;
    * clipping r at 0 makes chance level positive;
    * clipping at 1 hides predictions that beat a ceiling that was estimated too low.

    Parameters
    ----------
    prediction, response : array or tensor (image, vertex)
        Predicted and measured responses.
    noise_ceiling : array (vertex,)
        Share of variance that is signal, a fraction in [0, 1].

    Returns
    -------
    float64 array (vertex,)
        In [0, 1]; NaN where r or the ceiling is.

    Raises
    ------
    MismatchError
        If the ceiling has not one value a vertex.

    References
    ----------
    Gifford et al. (2023), The Algonauts Project 2023 challenge, section on evaluation.
    """
    correlation = pearson(prediction, response)
    ceiling = np.asarray(noise_ceiling, dtype=np.float64)
    if ceiling.shape != correlation.shape:
        raise MismatchError(
            f"noise_ceiling has shape {ceiling.shape}; allowed is one value a vertex, "
            f"{correlation.shape}."
        )
    share = np.maximum(correlation, 0.0) ** 2 / np.where(ceiling == 0, 1e-14, ceiling)
    return np.minimum(share, 1.0)


def algonauts2023_accuracy(prediction: Any, response: Any, noise_ceiling: npt.ArrayLike) -> float:
    """Return the Algonauts 2023 challenge score: the mean of the vertices' accuracies.

    It has the artefacts of :func:`algonauts2023_vertex_accuracy`; :class:`neuroattn.metrics.Score`
    has none of them. Parameters, errors and reference as there.

    Returns
    -------
    float
        In [0, 1]; NaN if any vertex is NaN or there is none.
    """
    accuracy = algonauts2023_vertex_accuracy(prediction, response, noise_ceiling)
    return float(accuracy.mean()) if accuracy.size else float("nan")
