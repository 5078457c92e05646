"""The covariance rule: a memory of what keys and values have beyond their means."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from neuroattn.attention.linear.accumulate import centred, divided, visible
from neuroattn.attention.linear.features import features, scale_of
from neuroattn.attention.linear.linear import CHUNK_SIZE, features_from, many_keys
from neuroattn.attention.masks import allowed, written
from neuroattn.attention.parameters import switch
from neuroattn.attention.registry import Mechanism, Run, State, register


def covariance_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    feature_map: str = "identity",
    order: int = 2,
    normalize: bool = True,
    add_mean: bool = True,
    chunk_size: int = 64,
) -> Tensor:
    """Return the explicit weights; parameters as in the registry.

    The mean value needs no subtraction: the weights of centred keys sum to 0 without it.
    """
    query = features(query * scale_of(feature_map, query.shape[-1], scale), feature_map, order)
    key = features(key, feature_map, order)
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    products = query @ key.transpose(-1, -2)
    every = products.new_ones(products.shape)
    share = every if seen is None else every * seen
    counts = visible(seen, products)
    share = share / counts.clamp(min=1)
    products = (products - (share @ key) @ key.transpose(-1, -2)) * (share > 0)
    found = (products - products.sum(-1, keepdim=True) * share) * (share > 0)
    if normalize:
        found = divided(found, counts, positive=True)
    return found + share if add_mean else found


def covariance_matrix(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
    """Read the values with :func:`covariance_weights`."""
    return covariance_weights(query, key, **given) @ value


def covariance_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    initial_state: State | None = None,
    feature_map: str = "identity",
    order: int = 2,
    normalize: bool = True,
    add_mean: bool = True,
    chunk_size: int | None = 64,
) -> tuple[Tensor, State]:
    """Read the covariance block by block, or token by token where ``chunk_size`` is None.

    Returns
    -------
    output : Tensor
        (batch, heads, queries, value_dim)
    state : dict of str to Tensor
        ``memory`` (batch, heads, features, value_dim), the covariance times the number of tokens;
        ``key_mean`` (batch, heads, features); ``value_mean`` (batch, heads, value_dim); ``count``
        (batch, heads, 1).
    """
    query = features(query * scale_of(feature_map, query.shape[-1], scale), feature_map, order)
    key, seen = features(key, feature_map, order), written(mask, key)
    if seen is not None:
        key, value = key.masked_fill(~seen, 0.0), value.masked_fill(~seen, 0.0)
    found, state = centred(
        query, key, value, seen, initial_state, causal=causal, chunk_size=chunk_size, around=True
    )
    read = found.read
    if normalize:
        read = divided(read, found.number, positive=True)
    return (read + found.value_mean if add_mean else read), state


def covariance_tokens(
    query: Tensor, key: Tensor, value: Tensor, *, chunk_size: int, **given: Any
) -> tuple[Tensor, State]:
    """Do what :func:`covariance_blocks` does, token by token."""
    return covariance_blocks(query, key, value, chunk_size=None, **given)


register(
    Mechanism(
        name="covariance",
        family="linear",
        paper="Sejnowski (1977), Storing covariance with nonlinearly interacting neurons, Journal "
        "of Mathematical Biology 4, 303-321; Dayan & Willshaw (1991), Optimising synaptic learning "
        "rules in linear associative memories, Biological Cybernetics 65, 253-265",
        summary="A linear memory that is written with what keys and values have beyond their "
        "running means.",
        formula=r"y_i = \bar v_i + \frac{1}{n_i} \sum_j \big((\phi(s\,q_i) - \bar k_i)\cdot"
        r"(\phi(k_j) - \bar k_i)\big)(v_j - \bar v_i),\quad "
        r"\bar k_i, \bar v_i \text{: means over the } n_i \text{ keys that } i \text{ sees}",
        runs=(
            Run("parallel", "reference", covariance_matrix, avoids=many_keys),
            Run("chunked", "reference", covariance_blocks, stateful=True),
            Run("recurrent", "reference", covariance_tokens, stateful=True),
        ),
        weights=covariance_weights,
        parameters={
            **features_from("identity"),
            "normalize": switch("divide the memory by the number of tokens in it", True),
            "add_mean": switch("add the mean value to what is read", True),
            "chunk_size": CHUNK_SIZE,
        },
        mask="keys",
        scale="1 (1/sqrt(dim) for the feature map taylor), on the query before its map",
        cost="f features: time O(m f v + n f v), state f v + f + v; chunked O(n C (f + v) + n f v);"
        " parallel O(m n f)",
        laws={
            "test_all_forms_equal_the_definition_by_loops": (
                "Means over what the query sees; broken by means at the time of writing."
            ),
            "test_the_state_is_the_covariance_of_numpy": (
                "Welford's update is the covariance; broken by the old mean on both sides."
            ),
            "test_a_positive_map_destroys_the_capacity_and_centring_restores_it": (
                "Crosstalk (N - 1)/d for elu + 1, too; broken by a query that is not centred."
            ),
            "test_a_shift_of_all_keys_queries_or_values_changes_nothing_else": (
                "Only what differs counts; broken by a mean of zero-filled tokens."
            ),
            "test_far_from_zero_the_blocks_keep_their_digits": (
                "Blocks merge centred sums; broken by Σkv minus the product of means."
            ),
            "test_linear_with_center_reads_the_same_memory": (
                "linear's center is this memory, read by a query that is not centred; broken by "
                "either's mean."
            ),
        },
        symbols={"⟨x⟩, ⟨y⟩": "running means of keys and values", "W": "state memory, transposed"},
    )
)
