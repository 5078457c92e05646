"""Linear attention: softmax's exponential replaced by a product of features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from neuroattn.attention import fla
from neuroattn.attention.linear.accumulate import feature_weights, read_features
from neuroattn.attention.linear.features import (
    FEATURE_MAPS,
    features,
    never_negative,
    scale_of,
)
from neuroattn.attention.masks import allowed, written
from neuroattn.attention.parameters import Parameter, choice, integer, switch
from neuroattn.attention.registry import Mechanism, Request, Run, State, register

#: Keys up to which the explicit matrix is as fast as blocks and their sums.
FEW = 256


def many_keys(request: Request) -> str:
    """Pass on where the explicit matrix costs more than the memory."""
    return f"more than {FEW} keys, the matrix is quadratic" if request.keys > FEW else ""


def linear_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    feature_map: str = "elu",
    order: int = 2,
    normalize: bool = True,
    center: bool = False,
    chunk_size: int = 64,
) -> Tensor:
    """Return the explicit weights, φ(q) · φ(k) over their sum; parameters as in the registry."""
    scale = scale_of(feature_map, query.shape[-1], scale)
    return feature_weights(
        features(query * scale, feature_map, order),
        features(key, feature_map, order),
        allowed(query.shape[-2], key.shape[-2], causal, mask, query.device),
        normalize=normalize,
        positive=never_negative(feature_map, order),
        center=center,
    )


def linear_matrix(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
    """Read the values with :func:`linear_weights`."""
    return linear_weights(query, key, **given) @ value


def linear_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    initial_state: State | None = None,
    feature_map: str = "elu",
    order: int = 2,
    normalize: bool = True,
    center: bool = False,
    chunk_size: int | None = 64,
) -> tuple[Tensor, State]:
    """Read the memory block by block, or token by token where ``chunk_size`` is None.

    References
    ----------
    Katharopoulos et al. (2020), equations 16 to 20, for the recurrent form; Hua et al. (2022),
    Transformer quality in linear time, for the blocks; arXiv 2202.10447.
    """
    scale = scale_of(feature_map, query.shape[-1], scale)
    return read_features(
        features(query * scale, feature_map, order),
        features(key, feature_map, order),
        value,
        written(mask, key),
        initial_state,
        causal=causal,
        chunk_size=chunk_size,
        normalize=normalize,
        positive=never_negative(feature_map, order),
        center=center,
    )


def linear_tokens(
    query: Tensor, key: Tensor, value: Tensor, *, chunk_size: int, **given: Any
) -> tuple[Tensor, State]:
    """Do what :func:`linear_blocks` does, token by token."""
    return linear_blocks(query, key, value, chunk_size=None, **given)


def features_from(default: str) -> dict[str, Parameter]:
    """Return the parameters that choose the features, ``default`` being the map by default."""
    others = (name for name in FEATURE_MAPS if name != default)
    return {
        "feature_map": choice(
            "φ, from keys and scaled queries to features; identity, and taylor of an odd order, "
            "have products of either sign",
            default,
            *others,
        ),
        "order": integer("degree of the feature map taylor; others have none", 2, 1, 8),
    }


#: Tokens that are read as one product.
CHUNK_SIZE = integer("tokens in a block of the chunked form", 64, 1)

register(
    Mechanism(
        name="linear",
        family="linear",
        paper="Katharopoulos et al. (2020), Transformers are RNNs: fast autoregressive "
        "transformers with linear attention, equations 5, 7 and 16 to 20; arXiv 2006.16236. "
        "Centred: Sejnowski (1977), Storing covariance with nonlinearly interacting neurons",
        summary="Attention whose weights are products of features, so that a memory of fixed size "
        "stands for all tokens.",
        formula=r"y_i = \frac{\phi(s\,q_i)^\top \sum_j \phi(k_j) v_j^\top}"
        r"{\phi(s\,q_i)^\top \sum_l \phi(k_l)}",
        runs=(
            Run(
                "chunked",
                "fla",
                fla.linear,
                stateful=True,
                half=True,
                refuses=fla.refuses_linear,
                avoids=fla.coarse,
            ),
            Run("parallel", "reference", linear_matrix, avoids=many_keys),
            Run("chunked", "reference", linear_blocks, stateful=True),
            Run("recurrent", "reference", linear_tokens, stateful=True),
        ),
        weights=linear_weights,
        parameters={
            **features_from("elu"),
            "normalize": switch(
                "divide by the sum of the products. It is exact where products are not negative; "
                "one of either sign is kept at least 1e-6 away from 0, with its own sign",
                True,
            ),
            "center": switch(
                "subtract from each key's features their mean over the keys that the query sees; "
                "the normaliser is of those not centred, so that a normalised read is less by the "
                "mean value",
                False,
            ),
            "chunk_size": CHUNK_SIZE,
        },
        mask="keys",
        scale="1 (1/sqrt(dim) for the feature map taylor), on the query before its map",
        cost="f features (dim; (dim + order choose order) for taylor): time O(m f v + n f v), "
        "state f v; chunked O(n C (f + v) + n f v); parallel O(m n)",
        laws={
            "test_all_forms_equal_loops_over_keys": (
                "The definition, key by key; broken by a scale after the map."
            ),
            "test_weights_of_positive_maps_sum_to_one": (
                "A normalised read is a mixture; broken by an epsilon added to the normaliser."
            ),
            "test_one_gradient_step_from_nothing_is_the_read": (
                "Un-normalised, it is a step of gradient descent on ½Σ‖v - Wk‖² from W = 0; "
                "broken by a factor 2."
            ),
            "test_the_normalised_read_is_a_recurrence_that_decays": (
                "y = h with h decayed by η_(i-1)/η_i; broken by a normaliser of one step before."
            ),
            "test_taylor_reads_tend_to_softmax_within_the_bound_of_the_remainder": (
                "The error falls with the order; broken by a missing 1/m! or a wrong multiplicity."
            ),
            "test_an_odd_taylor_order_has_negative_weights": (
                "Order 1 is no mixture; broken by a clamp of the weights."
            ),
            "test_reads_split_into_target_and_crosstalk": (
                "Its error grows as (N - 1)/d; broken by keys that are read twice."
            ),
            "test_a_positive_map_destroys_the_capacity_and_centring_restores_it": (
                "elu + 1 costs .469 an item at any dim; broken by a mean that is not subtracted."
            ),
            "test_a_centred_normalised_read_is_less_by_the_mean_value": (
                "Σ (w_j - 1/n) v_j; broken by a normaliser of centred features, which is 0."
            ),
        },
        symbols={"φ": "feature_map", "S_i, Z_i": "state memory, normalizer", "η_i": "normaliser"},
    )
)
