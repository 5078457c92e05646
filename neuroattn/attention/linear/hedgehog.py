"""Hedgehog: linear attention with a feature map that learns to spike as softmax does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuroattn.attention.learned import Learned
from neuroattn.attention.linear.accumulate import feature_weights, read_features
from neuroattn.attention.linear.features import exp_pair, softmax_pair
from neuroattn.attention.linear.linear import CHUNK_SIZE, many_keys
from neuroattn.attention.masks import allowed, written
from neuroattn.attention.parameters import choice, switch, tensor
from neuroattn.attention.registry import Mechanism, Run, State, register
from neuroattn.attention.softmax.softmax import softmax_weights

_PAIRS = {"softmax": softmax_pair, "exp": exp_pair}


def _features(
    query: Tensor, key: Tensor, scale: float | None, feature_weight: Tensor, feature_map: str
) -> tuple[Tensor, Tensor]:
    """Return the features (batch, heads, queries or keys, 2 · features)."""
    # One map for both, or two of them: the query's and the key's.
    two = feature_weight.unbind() if feature_weight.ndim == 4 else (feature_weight, feature_weight)
    pair = _PAIRS[feature_map]
    return pair((query if scale is None else query * scale) @ two[0]), pair(key @ two[1])


def hedgehog_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    feature_weight: Tensor,
    feature_map: str = "softmax",
    chunk_size: int = 64,
) -> Tensor:
    """Return the explicit weights; parameters as in the registry."""
    mapped = _features(query, key, scale, feature_weight, feature_map)
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    return feature_weights(*mapped, seen, normalize=True, positive=True)


def hedgehog_matrix(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
    """Read the values with :func:`hedgehog_weights`."""
    return hedgehog_weights(query, key, **given) @ value


def hedgehog_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    initial_state: State | None = None,
    feature_weight: Tensor,
    feature_map: str = "softmax",
    chunk_size: int | None = 64,
) -> tuple[Tensor, State]:
    """Read the memory block by block, or token by token where ``chunk_size`` is None."""
    mapped = _features(query, key, scale, feature_weight, feature_map)
    return read_features(
        *mapped,
        value,
        written(mask, key),
        initial_state,
        causal=causal,
        chunk_size=chunk_size,
        normalize=True,
        positive=True,
    )


def hedgehog_tokens(
    query: Tensor, key: Tensor, value: Tensor, *, chunk_size: int, **given: Any
) -> tuple[Tensor, State]:
    """Do what :func:`hedgehog_blocks` does, token by token."""
    return hedgehog_blocks(query, key, value, chunk_size=None, **given)


def distillation_loss(
    query: Tensor,
    key: Tensor,
    feature_weight: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    feature_map: str = "softmax",
) -> Tensor:
    """Return the cross-entropy of the linear weights under those of softmax attention.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    feature_weight : Tensor
        As the mechanism's parameter.
    causal, mask
        As in :func:`neuroattn.attention.attend`.
    scale : float, optional
        Of softmax attention, 1/sqrt(dim) by default.
    feature_map : {"softmax", "exp"}
        As the mechanism's parameter.

    Returns
    -------
    Tensor
        In nats, the mean over batch, heads and the queries that see a key; never below the mean
        entropy of softmax attention. No gradient goes through the softmax weights.

    References
    ----------
    Zhang et al. (2024), the attention weight distillation loss; arXiv 2402.04347.
    """
    with torch.no_grad():
        wanted = softmax_weights(query, key, causal=causal, mask=mask, scale=scale)
    found = hedgehog_weights(
        query,
        key,
        causal=causal,
        mask=mask,
        feature_weight=feature_weight,
        feature_map=feature_map,
    )
    # Hidden pairs have no weight on either side: 0 log 1.
    surprise = -wanted * found.masked_fill(found == 0, 1.0).log()
    return surprise.sum() / wanted.sum().clamp(min=1)


class HedgehogFeatures(Learned):
    """The maps of all heads, identities at first.

    Parameters
    ----------
    dim, heads, token_dim : int
        As of :class:`Learned`.
    shared : bool
        Whether queries and keys have one map, or one each.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, shared: bool = True) -> None:
        super().__init__()
        start = torch.eye(dim // heads).repeat(heads, 1, 1)
        self.feature_weight = nn.Parameter(start if shared else start.repeat(2, 1, 1, 1))

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``feature_weight``."""
        return {"feature_weight": self.feature_weight}


register(
    Mechanism(
        name="hedgehog",
        family="linear",
        paper="Zhang et al. (2024), The Hedgehog & the Porcupine: expressive linear attentions "
        "with softmax mimicry, learnable feature maps and their distillation; arXiv 2402.04347. "
        "The maps are those of the code of its successor LoLCATs",
        summary="Linear attention whose learned features spike as softmax does.",
        formula=r"y_i = \frac{\phi(s\,q_i)^\top \sum_j \phi(k_j) v_j^\top}"
        r"{\phi(s\,q_i)^\top \sum_l \phi(k_l)},\quad "
        r"\phi(x) = [\mathrm{softmax}(W^\top x), \mathrm{softmax}(-W^\top x)]",
        runs=(
            Run("parallel", "reference", hedgehog_matrix, avoids=many_keys),
            Run("chunked", "reference", hedgehog_blocks, stateful=True),
            Run("recurrent", "reference", hedgehog_tokens, stateful=True),
        ),
        weights=hedgehog_weights,
        parameters={
            "feature_weight": tensor(
                "W of each head; two stand for the query's and the key's",
                ("heads", "dim", "features"),
                (2, "heads", "dim", "features"),
            ),
            "feature_map": choice(
                "softmax over features, or exp of features less the token's largest one, by which "
                "keys lose their loudness; both at least 1e-12",
                *_PAIRS,
            ),
            "chunk_size": CHUNK_SIZE,
        },
        mask="keys",
        scale="1, on the query before its map",
        cost="f = 2 dim features: time O(m f v + n f v), state f v + f; chunked "
        "O(n C (f + v) + n f v); parallel O(m n)",
        laws={
            "test_all_forms_equal_loops_over_keys": (
                "The definition; broken by a map that is transposed."
            ),
            "test_weights_are_positive_and_rows_sum_to_one": (
                "A mixture of all keys, loud ones too; broken by features that underflow."
            ),
            "test_the_distillation_loss_falls_and_stays_above_the_entropy_of_softmax": (
                "A cross-entropy; broken by its arguments exchanged, or a mean over pairs."
            ),
            "test_the_sign_of_the_features_does_not_matter": (
                "φ_W and φ_(-W) read the same; broken by one half without the other."
            ),
        },
        symbols={"φ_mlp": "the feature map", "W": "feature_weight"},
        module=HedgehogFeatures,
        options={"shared": switch("one map for queries and keys, or one each", True)},
    )
)
