"""Attention whose weights do not compete: relu and sigmoid of each logit alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention.masks import allowed
from neuroattn.attention.parameters import choice, number
from neuroattn.attention.registry import Mechanism, Run, register


def _logits(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return (query * scale) @ key.transpose(-1, -2)


def _count(seen: Tensor | None, logits: Tensor, normalize: str) -> Tensor | float:
    """Return how many keys a row is divided by, at least 1."""
    keys = logits.shape[-1]
    if normalize == "none":
        return 1.0
    if normalize == "keys" or seen is None:
        return float(max(keys, 1))
    return seen.expand(*seen.shape[:-1], keys).sum(-1, keepdim=True).clamp(min=1).to(logits.dtype)


def _shown(weights: Tensor, seen: Tensor | None) -> Tensor:
    return weights if seen is None else weights.masked_fill(~seen, 0.0)


def relu_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    activation: str = "relu",
    normalize: str = "visible",
    exponent: float = 1.0,
) -> Tensor:
    """Return relu(scale · q kᵀ) / n^exponent over the allowed keys.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    activation : {"relu", "relu_squared"}
        Of the logits.
    normalize : {"visible", "keys", "none"}
        What n counts: the keys that the query sees, all keys (the paper's L), or nothing.
    exponent : float
        Of n; the paper's α.

    References
    ----------
    Wortsman et al. (2023), Replacing softmax with ReLU in vision transformers, section 3;
    arXiv 2309.08586.
    """
    logits = _logits(query, key, scale)
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    weights = F.relu(logits)
    if activation == "relu_squared":
        weights = weights.square()
    return _shown(weights / _count(seen, logits, normalize) ** exponent, seen)


def relu_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    activation: str = "relu",
    normalize: str = "visible",
    exponent: float = 1.0,
) -> Tensor:
    """Read the values with :func:`relu_weights`."""
    matrix = relu_weights(
        query,
        key,
        causal=causal,
        mask=mask,
        scale=scale,
        activation=activation,
        normalize=normalize,
        exponent=exponent,
    )
    return matrix @ value


def sigmoid_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: float | Tensor | None = None,
    normalize: str = "visible",
) -> Tensor:
    """Return sigmoid(scale · q kᵀ + bias) over the allowed keys.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    bias : float or Tensor, optional
        Added to the logits, (batch or 1, heads or 1, queries or 1, keys or 1); -log n by default,
        which makes the weights of logits near 0 sum to about 1.
    normalize : {"visible", "keys", "none"}
        What n counts: the keys that the query sees, all keys (the paper's n), or nothing.

    References
    ----------
    Ramapuram et al. (2024), Theory, analysis, and best practices for sigmoid self-attention,
    section 2; arXiv 2409.04431.
    """
    logits = _logits(query, key, scale)
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    if bias is None:
        count = _count(seen, logits, normalize)
        bias = -count.log() if isinstance(count, Tensor) else -math.log(count)
    elif isinstance(bias, Tensor):
        bias = bias.to(logits.dtype)
    return _shown(torch.sigmoid(logits + bias), seen)


def sigmoid_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: float | Tensor | None = None,
    normalize: str = "visible",
) -> Tensor:
    """Read the values with :func:`sigmoid_weights`."""
    matrix = sigmoid_weights(
        query, key, causal=causal, mask=mask, scale=scale, bias=bias, normalize=normalize
    )
    return matrix @ value


_NORMALIZE = choice(
    "what n counts: the keys that the query sees, all keys, or nothing (n = 1)",
    "visible",
    "keys",
    "none",
)
_COST = "time O(m n d), memory O(m n)"

register(
    Mechanism(
        name="relu_attention",
        family="softmax",
        paper="Wortsman et al. (2023), Replacing softmax with ReLU in vision transformers, "
        "section 3; arXiv 2309.08586",
        summary="The relu of every logit by itself, divided by the number of visible keys.",
        formula=r"y_i = \frac{1}{n_i^\alpha} \sum_j \max(0, s\,q_i \cdot k_j)\, v_j",
        runs=(Run("parallel", "reference", relu_attention),),
        weights=relu_weights,
        parameters={
            "activation": choice("of the logits", "relu", "relu_squared"),
            "normalize": _NORMALIZE,
            "exponent": number("power of n that divides", 1.0, 0.0),
        },
        cost=_COST,
        laws={
            "test_relu_weights_equal_a_loop": (
                "Every weight by itself; broken by a count of all keys where some are hidden."
            ),
            "test_the_degree_in_the_logits_is_one_or_two": (
                "Doubling the scale doubles the read (relu) or makes it fourfold (relu squared); "
                "broken by a normaliser over the row's weights."
            ),
            "test_weights_do_not_compete": (
                "One key's weight ignores the others; broken by a softmax or a row sum."
            ),
        },
        symbols={"L": "n", "α": "exponent", "φ": "activation"},
    )
)

register(
    Mechanism(
        name="sigmoid_attention",
        family="softmax",
        paper="Ramapuram et al. (2024), Theory, analysis, and best practices for sigmoid "
        "self-attention, section 2; arXiv 2409.04431",
        summary="The sigmoid of every logit by itself, shifted by the log of the number of keys.",
        formula=r"y_i = \sum_j \sigma(s\,q_i \cdot k_j + b)\, v_j, \quad b = -\log n_i",
        runs=(Run("parallel", "reference", sigmoid_attention),),
        weights=sigmoid_weights,
        parameters={
            "bias": number(
                "added to the logits, -log n by default",
                None,
                axes=(("batch", "heads", "queries", "keys"),),
                optional=True,
            ),
            "normalize": _NORMALIZE,
        },
        cost=_COST,
        laws={
            "test_sigmoid_weights_equal_a_loop": (
                "Every weight by itself; broken by a count of all keys where some are hidden."
            ),
            "test_equal_logits_of_zero_sum_to_nearly_one": (
                "Logits of zero give weights 1/(n + 1); broken by a bias of the wrong sign."
            ),
            "test_rare_sigmoids_are_unnormalised_softmax": (
                "With a very low bias the weights are e^(logit + bias), and the softmax once they "
                "are normalised; broken by a bias that is scaled."
            ),
            "test_weights_do_not_compete": (
                "One key's weight ignores the others; broken by a softmax or a row sum."
            ),
        },
        symbols={"n": "number of visible keys", "b": "bias"},
    )
)
