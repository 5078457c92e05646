"""State spaces of the mechanisms that sum features times values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuroattn.attention.linear.accumulate import FLOOR
from neuroattn.attention.linear.features import (
    exp_pair,
    features,
    never_negative,
    scale_of,
    softmax_pair,
)
from neuroattn.attention.linear.flow import CLAMPS
from neuroattn.attention.memory.sdm import CUBE, neuron_addresses, within
from neuroattn.errors import InputError
from neuroattn.theory.dynamics.space import StateSpace


def plain(
    mechanism: str,
    value: Tensor,
    Lambda: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    note: str,
    **more: Any,
) -> StateSpace:
    """Return a system without skip that begins at zero, its matrices shared by the channels.

    Parameters
    ----------
    mechanism, value, note
        As in :class:`StateSpace`.
    Lambda, B, C : Tensor
        Without the axis of channels: (batch, heads, tokens, N), Λ also with one more N.
    **more
        Other attributes of :class:`StateSpace`, such as ``D`` or ``initial``.
    """
    zeros = value.new_zeros(*value.shape[:2], value.shape[-1], B.shape[-1])
    given = {"D": value.new_zeros(1, 1, value.shape[2], 1), "initial": zeros, **more}
    matrices = (Lambda[:, :, :, None], B[:, :, :, None], C[:, :, :, None])
    return StateSpace(mechanism, value, *matrices, note=note, **given)


def sound(eta: Tensor, positive: bool) -> Tensor:
    """Return the normaliser that is divided by: kept away from 0 as the mechanisms do."""
    if positive:
        return torch.where(eta < torch.finfo(eta.dtype).tiny, 1.0, eta)
    return torch.where(eta.abs() < FLOOR, torch.where(eta < 0, -FLOOR, FLOOR), eta)


def summing(
    mechanism: str, asked: Tensor, keyed: Tensor, value: Tensor, eta: Tensor | None
) -> StateSpace:
    """Return the paper's row for attention with features: Λ = η_(i-1)/η_i, B = ψ_i/η_i, C = φ_i.

    Parameters
    ----------
    mechanism, value
        As in :class:`StateSpace`.
    asked, keyed : Tensor
        φ(q) and ψ(k), (batch, heads, tokens, N).
    eta : Tensor or None
        The normaliser (batch, heads, tokens, 1), nowhere 0; None for none.
    """
    if eta is None:
        return plain(
            mechanism,
            value,
            torch.ones_like(keyed),
            keyed,
            asked,
            note="Σ ψ(k_j) v_j, each channel",
        )
    before = torch.cat([eta[:, :, :1], eta[:, :, :-1]], dim=2)
    note = "Σ ψ(k_j) v_j / η_i: the normaliser is in the state, and changes with the query"
    return plain(mechanism, value, (before / eta).expand_as(keyed), keyed / eta, asked, note=note)


def centred(
    mechanism: str,
    asked: Tensor,
    keyed: Tensor,
    value: Tensor,
    *,
    around: bool,
    mean: bool,
    count: bool,
    eta: Tensor | None,
) -> StateSpace:
    """Return the system of a memory of Σ (ψ - mean ψ)(v - mean v).

    The state holds Σ ψ v and Σ v; C subtracts the product of the means.

    Parameters
    ----------
    mechanism, value
        As in :class:`StateSpace`.
    asked, keyed : Tensor
        φ(q) and ψ(k), (batch, heads, tokens, N).
    around : bool
        Whether the mean of the keys is subtracted from the query.
    mean : bool
        Whether the mean value is added.
    count : bool
        Whether the read is divided by the number of tokens.
    eta : Tensor or None
        Another divisor.
    """
    number = torch.arange(1, value.shape[2] + 1, dtype=value.dtype)[:, None]
    average = keyed.cumsum(2) / number
    asked = asked - average if around else asked
    own = torch.cat([asked, -(asked * average).sum(-1, keepdim=True)], dim=-1)
    own = own / number if count else own if eta is None else own / eta
    if mean:
        own = torch.cat([own[..., :-1], own[..., -1:] + 1 / number], dim=-1)
    written = torch.cat([keyed, torch.ones_like(keyed[..., :1])], dim=-1)
    note = "Σ ψ(k_j) v_j and Σ v_j; the means of the keys are in C"
    return plain(mechanism, value, torch.ones_like(written), written, own, note=note)


def linear(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    feature_map: str,
    order: int,
    normalize: bool,
    center: bool,
    **_: Any,
) -> StateSpace:
    """Linear attention with any feature map."""
    asked = features(query * scale_of(feature_map, query.shape[-1], scale), feature_map, order)
    keyed = features(key, feature_map, order)
    eta = None
    if normalize:
        total = (asked * keyed.cumsum(2)).sum(-1, keepdim=True)
        eta = sound(total, never_negative(feature_map, order))
    if center:
        ways = {"around": False, "mean": False, "count": False}
        return centred("linear", asked, keyed, value, eta=eta, **ways)
    return summing("linear", asked, keyed, value, eta)


def covariance(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    feature_map: str,
    order: int,
    normalize: bool,
    add_mean: bool,
    **_: Any,
) -> StateSpace:
    """Read the covariance of keys and values."""
    asked = features(query * scale_of(feature_map, query.shape[-1], scale), feature_map, order)
    keyed = features(key, feature_map, order)
    return centred(
        "covariance", asked, keyed, value, around=True, mean=add_mean, count=normalize, eta=None
    )


def hedgehog(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    feature_weight: Tensor,
    feature_map: str,
    **_: Any,
) -> StateSpace:
    """Linear attention with learned features."""
    pair = {"softmax": softmax_pair, "exp": exp_pair}[feature_map]
    two = feature_weight.unbind() if feature_weight.ndim == 4 else (feature_weight,) * 2
    asked = pair((query if scale is None else query * scale) @ two[0])
    keyed = pair(key @ two[1])
    eta = sound((asked * keyed.cumsum(2)).sum(-1, keepdim=True), True)
    return summing("hedgehog", asked, keyed, value, eta)


def sdm(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    radius: int | None,
    neurons: int | None,
    seed: int,
    addresses: Tensor | None,
    normalize: bool,
    **_: Any,
) -> StateSpace:
    """Sparse distributed memory: the features say which neurons are near."""
    dim = query.shape[-1]
    if neurons is None and addresses is None and dim > CUBE:
        raise InputError(
            f"sdm on the whole cube of dim={dim} bits has 2**{dim} states; at most 2**{CUBE} are "
            "allowed: give neurons or addresses."
        )
    places = neuron_addresses(query, neurons, seed, addresses)
    near = dim // 4 if radius is None else radius
    asked, keyed = within(query, places, near), within(key, places, near)
    if normalize:
        eta = sound((asked * keyed.cumsum(2)).sum(-1, keepdim=True), True)
        return summing("sdm", asked, keyed, value, eta)
    return summing("sdm", asked / places.shape[-2], keyed, value, None)


def flow(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, *, clamp: str, **_: Any
) -> StateSpace:
    """Flow attention: competition is in B, allocation in C."""
    sinks, sources = (query if scale is None else query * scale).sigmoid(), key.sigmoid()
    number = torch.arange(1, value.shape[2] + 1, dtype=value.dtype)[:, None]
    incoming = (sinks * sources.cumsum(2)).sum(-1, keepdim=True)
    outgoing = (sources * sinks.cumsum(2)).sum(-1, keepdim=True)
    source = (sources * (sinks * number / incoming).cumsum(2)).sum(-1, keepdim=True) / number
    sink = (sinks * (sources * number / outgoing).cumsum(2)).sum(-1, keepdim=True) / number
    logits = source.clamp(max=CLAMPS[clamp])
    share = (logits - logits.logcumsumexp(2)).exp() * number
    asked = sinks * sink.sigmoid() / incoming
    note = "Σ σ(k_j) v_j, each weighed by what its source won when it was written"
    return plain("flow", value, torch.ones_like(sources), sources * share, asked, note=note)
