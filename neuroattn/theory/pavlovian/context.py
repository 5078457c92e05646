"""What all stimuli share: the covariance rule beside Hebb's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.delta import PAPER

COVARIANCE = "Sejnowski (1977), Journal of Mathematical Biology 4, 303-321; " + PAPER


def centred_error(pairs: int, dim: int) -> float:
    """Return the squared error of the covariance rule's recall."""
    return (pairs - 1) / dim * ((1 - 1 / pairs) ** 2 + 1 / pairs**2)


def hebbian_error(pairs: int, dim: int, context: float) -> float:
    """Return that of Hebbian recall, where all keys share a context of a length."""
    squared = context**2
    each = (1 + 2 * squared) / dim + squared**2
    return (pairs - 1) * each + 4 * squared / dim + squared**2


def _recall(lab: Lab, mechanism: str, lengths: tuple[float, ...]) -> list[Array]:
    pairs, dim, width, draws = 12, 16, 8, 1500
    keys = lab.keys("sphere", (draws, 1, pairs, dim), "keys")
    values = lab.normal((draws, 1, pairs, width), "values") / width**0.5
    context = lab.keys("sphere", (1, 1, 1, dim), "context")
    given = {"normalize": False, "feature_map": "identity", "scale": 1.0}
    found = []
    for each in lengths:
        shown = keys + each * context
        read = lab.attend(mechanism, shown, shown, values, **given)
        found.append((read - values).square().sum(-1)[:, 0].mean(-1).numpy())
    return found


def measure_covariance(
    lab: Lab,
    mechanism: str = "covariance",
    law: Callable[[int, int], float] = centred_error,
    hebbian: Callable[[int, int, float], float] = hebbian_error,
) -> Iterator[Comparison]:
    """Recall pairs whose keys share a context, by the covariance rule and by Hebb's."""
    lengths = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    axes = {"length of the shared context": lengths}
    errors = lab.once(_recall, mechanism, lengths)
    yield lab.mean("covariance rule, no context", errors[0], law(12, 16))
    yield lab.equal(
        "covariance rule: mean error, relative to that without context",
        [each.mean() / errors[0].mean() for each in errors],
        1.0,
        growth=4096,
        reason="keys that are rounded with their context, whose square is up to 4",
        axes=axes,
    )
    yield lab.mean(
        "Hebbian writing",
        np.stack(lab.once(_recall, "linear", lengths), axis=1),
        [hebbian(12, 16, each) for each in lengths],
        axes=axes,
    )


register(
    Claim(
        id="pavlovian.rules.covariance",
        title="The covariance rule does not see what all stimuli share; Hebb's rule drowns in it",
        paper=COVARIANCE,
        place="plausible learning rules for a head; derived here",
        statement=r"E\|\hat y_i-v_i\|^2 = \frac{N-1}{d}\left[(1-\frac{1}{N})^2+\frac{1}{N^2}\right]"
        r"\ \mathrm{for\ any}\ \mu;\quad (N-1)\left(\frac{1+2\mu^2}{d}+\mu^4\right)"
        r"+\frac{4\mu^2}{d}+\mu^4\ (\mathrm{Hebb})",
        hypotheses=(
            "Unit keys, uniform on the sphere, plus one context of length mu that all share.",
            "Values are independent, with mean 0; the mean value is added to the read.",
        ),
        finding="sharpened",
        found="A context shared by all conditional stimuli costs Hebbian attention an error of "
        "order mu^4 for each association, at any d; the covariance rule's read does not depend on "
        "it at all, and centring takes a little of the crosstalk besides: the factor (1-1/N)^2 + "
        "1/N^2.",
        mechanisms=("covariance", "linear"),
        measure=measure_covariance,
        half=True,
        mutants={
            "Hebbian writing": {"mechanism": "linear"},
            "crosstalk (N-1)/d, as without centring": {"law": lambda n, d: (n - 1) / d},
            "the context counts in one of the two factors": {
                "hebbian": lambda n, d, mu: hebbian_error(n, d, 0) * (1 + mu**2)
            },
        },
    )
)
