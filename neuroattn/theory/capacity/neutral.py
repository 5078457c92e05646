"""What is given to mechanisms that need more than keys and values, and who cannot be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention.registry import Mechanism

#: What stands in a mechanism that was not told anything else.
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Neutral:
    """How a mechanism is asked.

    Attributes
    ----------
    given : callable
        ``given(dim, value_dim, pairs)`` to parameters, of a mechanism with one head.
    words : str
        What was taken, for the table.
    reason : str
        Why it cannot be asked at all, or "".
    form : str
        The form that runs; "" for the fastest as a rule.
    weight : float
        Numbers that it holds for one draw, in memories of dim x value_dim: fewer draws are taken
        of what is slow.
    asked : {"", "one", "some", "all"}
        One query a call, some items at once, or all stored items; "" for some where a query's
        read depends on no other, and one at a time where it does.
    most : int or None
        Largest number of associations, where memory grows with its square.
    """

    given: Callable[[int, int, int], Mapping[str, Any]] = field(default=lambda *sizes: NOTHING)
    words: str = ""
    reason: str = ""
    form: str = ""
    weight: float = 0.0
    asked: str = ""
    most: int | None = None


def _random_directions(dim: int, clusters: int = 8) -> Tensor:
    drawn = torch.randn(1, clusters, dim, generator=torch.Generator().manual_seed(0))
    return F.normalize(drawn, dim=-1)


def _empty_perceptron(dim: int, value_dim: int, pairs: int) -> dict[str, Any]:
    hidden = 4 * dim
    drawn = torch.randn(1, dim, hidden, generator=torch.Generator().manual_seed(0))
    return {
        "first": drawn / dim**0.5,
        "second": torch.zeros(1, hidden, value_dim),
        "scale": dim**-0.5,
    }


def _mega(dim: int, value_dim: int, pairs: int) -> dict[str, Any]:
    one, flat = torch.ones(1, dim, 1), torch.ones(1, dim)
    return {
        "gain": one,
        "damping": one,
        "spread": one,
        "readout": torch.zeros(1, dim, 1),
        "skip": flat,
        "shared_weight": torch.eye(dim)[None],
        "shared_bias": torch.zeros(1, dim),
        "query_scale": flat,
        "query_shift": torch.zeros(1, dim),
        "key_scale": flat,
        "key_shift": torch.zeros(1, dim),
        "smooth_queries": False,
    }


_OWN_TOKENS = (
    "takes as many queries as keys, each at the place of its own item: a query would be told where "
    "its item is"
)
_NEUTRAL: dict[str, Neutral] = {
    "adaptive_filter": Neutral(
        lambda dim, value_dim, pairs: {"query_times": torch.tensor([pairs - 1.0])},
        "asked at the time of the last item",
        asked="some",
    ),
    "affine_scaled": Neutral(
        lambda *sizes: {"gain": torch.ones(1, 1, 1), "gain_average": torch.ones(1)},
        "gain and average gain 1: the softmax",
    ),
    "flow": Neutral(words="all items asked together: queries compete", asked="all", most=2048),
    "gated": Neutral(lambda *sizes: {"gate": torch.zeros(1, 1, 1, 1)}, "gate 1/2"),
    "hedgehog": Neutral(
        lambda dim, *sizes: {"feature_weight": torch.eye(dim)[None]},
        "W the identity, as before training",
        form="parallel",
    ),
    "hierarchical": Neutral(reason=_OWN_TOKENS),
    "landmark": Neutral(
        lambda *sizes: {"landmarks": "mean"},
        "landmarks are the mean keys of the blocks; asked one at a time, from the last block",
    ),
    "mega": Neutral(
        _mega,
        "no moving average, projection and scales the identity: softmax of SiLU features",
        asked="some",
    ),
    "mixture_of_heads": Neutral(
        lambda *sizes: {"router": torch.zeros(1, 1, 1)}, "one head, which is always on"
    ),
    "neighborhood": Neutral(reason=_OWN_TOKENS),
    "parallax": Neutral(
        lambda dim, *sizes: {"direction": torch.zeros(1, 1, 1, dim)}, "direction 0: the softmax"
    ),
    "routing": Neutral(
        lambda dim, *sizes: {"centroids": _random_directions(dim)},
        "8 random centroids, as before training; all items asked together: queries compete",
        asked="all",
        most=1024,
    ),
    "covariance": Neutral(form="parallel"),
    "lightning": Neutral(form="parallel"),
    "linear": Neutral(form="parallel"),
    "local_linear": Neutral(weight=256, most=1024),
    "mesa": Neutral(weight=32),
    "retention": Neutral(form="parallel"),
    "s6": Neutral(form="recurrent", weight=16),
    "sdm": Neutral(form="auto"),
    "ssd": Neutral(form="parallel"),
    "set_inducing": Neutral(
        reason="adds the query to what it reads, so that the read is no recalled value"
    ),
    "super": Neutral(
        lambda dim, value_dim, pairs: {"alignment": torch.eye(pairs)},
        "alignment the identity: the softmax",
        most=2048,
    ),
    "titans_mlp": Neutral(
        _empty_perceptron,
        "first layer random, second 0: an empty memory; queries as long as its normalised keys",
    ),
}


def neutral(spec: Mechanism) -> Neutral:
    """Return how a mechanism is asked; one of the user's own has its defaults, if it has them."""
    if spec.name in _NEUTRAL:
        return _NEUTRAL[spec.name]
    if not spec.cross:
        return Neutral(reason=_OWN_TOKENS)
    return Neutral()


def chosen_form(spec: Mechanism, known: Neutral) -> str:
    """Return the form that runs."""
    if known.form:
        return known.form
    return "chunked" if spec.recurrent and "chunked" in spec.forms else "auto"


def chosen_asking(spec: Mechanism, known: Neutral) -> str:
    """Return whether one, some or all items are asked for in a call."""
    return known.asked or ("some" if spec.queries_apart else "one")


def weight(spec: Mechanism, known: Neutral) -> float:
    """Return how many memories of dim x value_dim numbers stand for the time of one draw."""
    # A loop over tokens costs what its state does.
    of_form = {"chunked": 4.0}.get(chosen_form(spec, known), 0.0)
    return max(known.weight, 128.0 if spec.forms == ("recurrent",) else of_form)
