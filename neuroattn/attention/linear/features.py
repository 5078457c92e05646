"""Feature maps of linear attention, one definition each."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from neuroattn.errors import InputError

#: Most features that a Taylor map may have: a state of this many rows is kept for every head.
MOST_FEATURES = 65_536

#: The least feature of the paired maps, so that no query is left without a key.
LEAST = 1e-12


def elu(x: Tensor) -> Tensor:
    """Return elu(x) + 1: x + 1 above 0 and e^x below, never rounded to 0 as the sum would be.

    References
    ----------
    Katharopoulos et al. (2020), Transformers are RNNs, equation 7; arXiv 2006.16236.
    """
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def softmax_pair(x: Tensor) -> Tensor:
    """Return the softmax over channels of x beside that of -x, both at least 1e-12.

    References
    ----------
    Zhang et al. (2024), The Hedgehog & the Porcupine; arXiv 2402.04347.
    """
    return torch.cat([x.softmax(-1), (-x).softmax(-1)], dim=-1).clamp(min=LEAST)


def exp_pair(x: Tensor) -> Tensor:
    """Return e^(x - max x) beside e^(min x - x), both at least 1e-12.

    The largest channel is subtracted token by token. It cancels for queries; keys lose their
    loudness by it, which e^x without the subtraction would keep.
    """
    high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    return torch.cat([(x - high).exp(), (low - x).exp()], dim=-1).clamp(min=LEAST)


def taylor(x: Tensor, order: int) -> Tensor:
    """Return features whose product is the Taylor polynomial of the exponential.

    taylor(q) · taylor(k) = sum over m up to ``order`` of (q · k)^m / m!. The features are the
    monomials of x, each once: x_1^n_1 … x_d^n_d / sqrt(n_1! … n_d!), (d + order choose order) of
    them. For an even order the product is positive for all q and k, for an odd one it is not.

    Parameters
    ----------
    x : Tensor
        (..., dim)
    order : int
        Degree of the polynomial.

    Raises
    ------
    InputError
        If there are more than 65,536 features.
    """
    dim = x.shape[-1]
    count = math.comb(dim + order, order)
    if count > MOST_FEATURES:
        raise InputError(
            f"feature_map='taylor' of order={order} has {count} features at dim={dim}; at most "
            f"{MOST_FEATURES} are allowed: take a lower order or more heads."
        )
    parts = [torch.ones_like(x[..., :1])]
    found = [parts[0]]
    for degree in range(1, order + 1):
        prefix, last, factor = _monomials(dim, degree)
        # A monomial is one of the degree below times a channel that is not before its last.
        parts.append(
            parts[-1][..., torch.tensor(prefix, device=x.device)]
            * x[..., torch.tensor(last, device=x.device)]
        )
        found.append(parts[-1] * torch.tensor(factor, dtype=x.dtype, device=x.device))
    return torch.cat(found, dim=-1)


@cache
def _monomials(dim: int, degree: int) -> tuple[list[int], list[int], list[float]]:
    """Return each monomial's place at the degree below, its last channel and its factor."""
    below = {
        each: place
        for place, each in enumerate(combinations_with_replacement(range(dim), degree - 1))
    }
    prefix, last, factor = [], [], []
    for each in combinations_with_replacement(range(dim), degree):
        prefix.append(below[each[:-1]])
        last.append(each[-1])
        powers = math.prod(math.factorial(each.count(channel)) for channel in set(each))
        factor.append(powers**-0.5)
    return prefix, last, factor


_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": elu,
    "identity": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(-1),
}

#: The maps without learned weights, the default first.
FEATURE_MAPS: tuple[str, ...] = (*_MAPS, "taylor")


def features(x: Tensor, name: str, order: int) -> Tensor:
    """Return the features (..., features) of x (..., dim).

    Parameters
    ----------
    x : Tensor
        (..., dim)
    name : str
        One of :data:`FEATURE_MAPS`.
    order : int
        Degree of ``"taylor"``; others have none.
    """
    return taylor(x, order) if name == "taylor" else _MAPS[name](x)


def scale_of(name: str, dim: int, scale: float | None) -> float:
    """Return the factor on the query before the map: 1 by default, 1/sqrt(dim) for ``taylor``.

    A Taylor map stands for softmax attention and has its scale.
    """
    if scale is not None:
        return scale
    return float(dim) ** -0.5 if name == "taylor" else 1.0


def never_negative(name: str, order: int) -> bool:
    """Whether no product of features is negative, so that no normaliser is."""
    return order % 2 == 0 if name == "taylor" else name != "identity"
