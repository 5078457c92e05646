"""The delta rule: DeltaNet, its gated form in both published orders, and Longhorn."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention import fla
from neuroattn.attention.learned import Learned
from neuroattn.attention.linear.accumulate import started
from neuroattn.attention.linear.delta_engine import (
    CHUNK_SIZE,
    Gates,
    chunked,
    diagonal,
    explicit,
    few_tokens,
    per_token,
    recurrent,
    scaled,
    strength,
    unit,
)
from neuroattn.attention.parameters import choice, number, switch
from neuroattn.attention.registry import Mechanism, Run, State, register

_AXES = (("batch", "heads", "keys"),)

BETA = number("write strength; above 2 / |key|² the memory grows without bound", 1.0, 0, axes=_AXES)
ALPHA = number("retention: factor on the memory at every token", 1.0, 0, 1, axes=_AXES)
NORMALIZE_KEYS = switch(
    "divide every key by its length, which bounds the memory for beta up to 2; without it the "
    "keys are used as they come",
    True,
)


#: From keys, mask of keys and parameters to the keys that are used and their gates.
Rule = Callable[..., tuple[Tensor, Gates]]


def delta_rule(
    key: Tensor, mask: Tensor | None, *, beta: float | Tensor, normalize_keys: bool
) -> tuple[Tensor, Gates]:
    """Return the keys and gates of W ← W + β k (v - Wᵀk)ᵀ."""
    used = unit(key, normalize_keys)
    step = strength(beta, key, mask)
    return used, Gates(per_token(1.0, key), step, step)


def gated_delta_rule(
    key: Tensor,
    mask: Tensor | None,
    *,
    beta: float | Tensor,
    alpha: float | Tensor,
    order: str,
    normalize_keys: bool,
) -> tuple[Tensor, Gates]:
    """Return the keys and gates of W ← α W + β k (v - αWᵀk)ᵀ, or with Wᵀk for αWᵀk."""
    used = unit(key, normalize_keys)
    step, retain = strength(beta, key, mask), per_token(alpha, key)
    return used, Gates(retain, step * retain if order == "decay first" else step, step)


def longhorn_rule(
    key: Tensor, mask: Tensor | None, *, beta: float | Tensor
) -> tuple[Tensor, Gates]:
    """Return the keys and gates of the delta rule with the step β / (1 + β |k|²)."""
    step = strength(beta, key, mask)
    step = step / (1 + step * key.square().sum(dim=-1))
    return key, Gates(per_token(1.0, key), step, step)


def runs_of(rule: Rule) -> tuple[Run, ...]:
    """Return the runs of a mechanism without momentum.

    Parameters
    ----------
    rule : callable
        ``rule(key, mask, **parameters)`` to the keys that are used, and their gates.
    """

    def prepared(
        key: Tensor, value: Tensor, mask: Tensor | None, state: State | None, given: dict[str, Any]
    ) -> tuple[Tensor, Gates, Tensor]:
        used, gates = rule(key, mask, **given)
        (memory,) = started(state, value, {"memory": (key.shape[-1], value.shape[-1])})
        return used, gates, memory

    def by_token(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        mask: Tensor | None,
        scale: float | None,
        initial_state: State | None,
        chunk_size: int,
        **given: Any,
    ) -> tuple[Tensor, State]:
        key, gates, memory = prepared(key, value, mask, initial_state, given)
        output, memory = recurrent(scaled(query, scale), key, value, gates, memory, causal=causal)
        return output, {"memory": memory}

    def by_block(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        mask: Tensor | None,
        scale: float | None,
        initial_state: State | None,
        chunk_size: int,
        **given: Any,
    ) -> tuple[Tensor, State]:
        key, gates, memory = prepared(key, value, mask, initial_state, given)
        found = chunked(
            scaled(query, scale), key, value, gates, (memory,), causal=causal, chunk_size=chunk_size
        )
        return found.output, {"memory": found.states[0]}

    kernel = fla.ruled(rule)
    return (
        Run("chunked", "fla", kernel, stateful=True, half=True, refuses=fla.refuses_delta),
        Run("recurrent", "reference", by_token, stateful=True, avoids=few_tokens),
        Run("chunked", "reference", by_block, stateful=True),
        Run("parallel", "reference", _explicit_read(rule), order=nan),
    )


def _explicit_read(rule: Rule) -> Callable[..., Tensor]:
    def whole(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        mask: Tensor | None,
        scale: float | None,
        chunk_size: int,
        **given: Any,
    ) -> Tensor:
        key, gates = rule(key, mask, **given)
        right = gates.write[..., None] * value
        return explicit(scaled(query, scale), key, right, gates, causal=causal)

    return whole


def weights_of(rule: Rule) -> Callable[..., Tensor]:
    """Return the function of a mechanism's explicit weights, from what :func:`runs_of` takes."""

    def explicit_weights(
        query: Tensor,
        key: Tensor,
        *,
        causal: bool,
        mask: Tensor | None,
        scale: float | None,
        chunk_size: int,
        **given: Any,
    ) -> Tensor:
        key, gates = rule(key, mask, **given)
        right = diagonal(gates.write, key)
        return explicit(scaled(query, scale), key, right, gates, causal=causal)

    return explicit_weights


class WriteStrength(Learned):
    """A write strength between 0 and 1 from every token and head.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    """

    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__()
        self.beta = nn.Linear(token_dim, heads)

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``beta`` (batch, heads, tokens)."""
        return {"beta": self.beta(tokens).sigmoid().transpose(1, 2)}


class GatedWriteStrength(WriteStrength):
    """A write strength and a retention from every token and head.

    The retention is exp(-a · softplus(w · token + b)), as in Mamba: a from 1 to 16 over the
    heads, b such that the softplus starts between 0.1 and 0.001.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.

    References
    ----------
    Gu & Dao (2023), Mamba, section 3.6; arXiv 2312.00752.
    """

    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__(dim, heads, token_dim)
        self.step = nn.Linear(token_dim, heads)
        self.log_rate = nn.Parameter(torch.linspace(1, 16, heads).log())
        first = torch.logspace(math.log10(0.1), math.log10(0.001), heads)
        with torch.no_grad():
            # The inverse of softplus.
            self.step.bias.copy_(first.expm1().log())

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``beta`` and ``alpha``, both (batch, heads, tokens)."""
        alpha = (-self.log_rate.exp() * F.softplus(self.step(tokens))).exp()
        return {**super().of_tokens(tokens), "alpha": alpha.transpose(1, 2)}


_COST = "time O(n d²) and O(n c d) for blocks of c, memory O(d²) a state"

register(
    Mechanism(
        name="delta",
        family="linear",
        paper="Yang et al. (2024), Parallelizing linear transformers with the delta rule over "
        "sequence length, section 2.2, arXiv 2406.06484; Schlag, Irie & Schmidhuber (2021), "
        "Linear transformers are secretly fast weight programmers, arXiv 2102.11174",
        summary="Every token corrects what the memory holds of its key toward its value.",
        formula=r"W_t = W_{t-1} + \beta_t k_t (v_t - W_{t-1}^\top k_t)^\top, \quad "
        r"y_t = s\,W_t^\top q_t",
        runs=runs_of(delta_rule),
        weights=weights_of(delta_rule),
        parameters={"beta": BETA, "normalize_keys": NORMALIZE_KEYS, "chunk_size": CHUNK_SIZE},
        mask="keys",
        scale="1: with a unit key and beta = 1 the newest key reads back its value",
        cost=_COST,
        laws={
            "test_orthonormal_keys_make_it_linear_attention": (
                "Orthonormal keys and beta = 1 give un-normalised linear attention; broken by "
                "erasing with the key of another token."
            ),
            "test_the_newest_association_is_exact": (
                "With a unit key and beta = 1 the newest key reads back its value; broken by a "
                "correction without the erasing term."
            ),
            "test_conditioning_phenomena_have_their_closed_forms": (
                "Acquisition, extinction, blocking, overshadowing, conditioned inhibition and "
                "overexpectation; broken by Hebbian writing, which shows none of the last four."
            ),
            "test_mean_interference_of_random_unit_keys": (
                "Mean error .59577 over 32 items in 32 dimensions; broken by reading before "
                "writing, and by a second pass."
            ),
            "test_two_keys_contract_as_kaczmarz_sweeps": (
                "Two keys of cosine c leave the error -c^(2m-1)(c v1 - v2) after m sweeps; broken "
                "by a state that is not carried over."
            ),
            "test_the_order_of_the_tokens_matters": (
                "A permutation of the tokens changes the read; broken by a sum over all tokens."
            ),
        },
        symbols={"S_t": "memory, transposed", "β_t": "beta", "q, k, v": "query, key, value"},
        module=WriteStrength,
    )
)

register(
    Mechanism(
        name="gated_delta",
        family="linear",
        paper="Yang, Kautz & Hatamizadeh (2024), Gated delta networks, section 3.1, arXiv "
        "2412.06464; for order='error first' Behrouz, Zhong & Mirrokni (2024), Titans, equation "
        "13 without momentum, arXiv 2501.00663",
        summary="The delta rule on a memory that is decayed by a gate at every token.",
        formula=r"W_t = \alpha_t W_{t-1} + \beta_t k_t (v_t - \alpha_t W_{t-1}^\top k_t)^\top, "
        r"\quad y_t = s\,W_t^\top q_t",
        runs=runs_of(gated_delta_rule),
        weights=weights_of(gated_delta_rule),
        parameters={
            "beta": BETA,
            "alpha": ALPHA,
            "order": choice(
                "'decay first': α(I - βkkᵀ)W, the error is measured after the decay (Gated "
                "DeltaNet); 'error first': (αI - βkkᵀ)W, it is measured before (Titans)",
                "decay first",
                "error first",
            ),
            "normalize_keys": NORMALIZE_KEYS,
            "chunk_size": CHUNK_SIZE,
        },
        mask="keys",
        scale="1: with a unit key and beta = 1 the newest key reads back its value",
        cost=_COST,
        laws={
            "test_full_retention_makes_it_the_delta_rule": (
                "alpha = 1 gives delta in both orders; broken by a gate on the value."
            ),
            "test_the_two_orders_coincide_under_a_change_of_variables": (
                "(alpha, beta, v) of 'error first' to (alpha, beta / alpha, alpha v) of 'decay "
                "first'; broken by either order taken for the other."
            ),
            "test_retention_of_zero_forgets_and_keeps_its_gradient": (
                "alpha = 0 forgets all before it, without NaN and with the true gradient; broken "
                "by differences of logarithms or quotients of products."
            ),
        },
        symbols={
            "S_t": "memory, transposed",
            "α_t": "alpha (Titans: 1 - alpha)",
            "β_t": "beta",
            "q, k, v": "query, key, value",
        },
        module=GatedWriteStrength,
    )
)

register(
    Mechanism(
        name="longhorn",
        family="linear",
        paper="Liu, Wang, Wu, Feng, Stone & Liu (2024), Longhorn: state space models are "
        "amortized online learners, the implicit update of section 3 before its diagonal "
        "approximation, arXiv 2407.14207",
        summary="The delta rule with an implicit step, which is stable for every key and beta.",
        formula=r"W_t = W_{t-1} + \frac{\beta_t}{1 + \beta_t \lVert k_t \rVert^2} "
        r"k_t (v_t - W_{t-1}^\top k_t)^\top, \quad y_t = s\,W_t^\top q_t",
        runs=runs_of(longhorn_rule),
        weights=weights_of(longhorn_rule),
        parameters={
            "beta": number("weight of the new association", 1.0, 0, axes=_AXES),
            "chunk_size": CHUNK_SIZE,
        },
        mask="keys",
        scale="1",
        cost=_COST,
        laws={
            "test_the_residual_shrinks_by_the_implicit_step": (
                "Writing a key shrinks its residual by exactly 1 / (1 + beta |k|²); broken by an "
                "explicit step."
            ),
            "test_the_implicit_step_minimises_its_objective": (
                "The new memory minimises ½|W - W'|² + ½ beta |v - W'k|²; broken by a factor 2 "
                "in the step."
            ),
        },
        symbols={"S_t": "memory, transposed", "β_t": "beta", "x_t": "value", "q, k": "query, key"},
        module=WriteStrength,
    )
)
