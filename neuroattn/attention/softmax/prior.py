"""Softmax attention as the posterior over which key is read, with a prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuroattn.attention.learned import Learned
from neuroattn.attention.parameters import integer, tensor
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import (
    flex_softmax,
    fused_softmax,
    softmax_attention,
    softmax_weights,
)


def posterior(query: Tensor, key: Tensor, *, log_prior: Tensor | None, **given: Any) -> Tensor:
    """Return the posterior over edges from every query to a key, π e^s / Σ π e^s.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    log_prior : Tensor or None
        Logarithm of the prior of every edge up to a constant a row, (batch or 1, heads or 1,
        queries or 1, keys or 1); -inf for an impossible one. None is the uniform prior.
    **given
        ``causal``, ``mask`` and ``scale`` as in :func:`neuroattn.attention.attend`.

    References
    ----------
    Singh & Buckley (2023), Attention: marginal probability is all you need?; arXiv 2304.04556.
    """
    return softmax_weights(query, key, bias=log_prior, **given)


def expected_value(*tensors: Tensor, log_prior: Tensor | None, **given: Any) -> Tensor:
    """Return the expectation of the value under :func:`posterior`."""
    return softmax_attention(*tensors, bias=log_prior, **given)


def fused_expected_value(*tensors: Tensor, log_prior: Tensor | None, **given: Any) -> Tensor:
    """Do what :func:`expected_value` does through ``scaled_dot_product_attention``."""
    return fused_softmax(*tensors, bias=log_prior, **given)


def flex_expected_value(
    query: Tensor, key: Tensor, value: Tensor, *, log_prior: Tensor | None, **given: Any
) -> Tensor:
    """Do what :func:`expected_value` does through FlexAttention."""
    return flex_softmax(query, key, value, bias=log_prior, **given)


class TokenPrior(Learned):
    """A log-prior for each head and token, the same for all queries, uniform at first.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`~neuroattn.attention.learned.Learned`.
    prior_tokens : int, optional
        Number of tokens of every input; without it nothing is learned.
    """

    def __init__(
        self, dim: int, heads: int, token_dim: int, *, prior_tokens: int | None = None
    ) -> None:
        super().__init__()
        self.log_prior: nn.Parameter | None = None
        if prior_tokens is not None:
            self.log_prior = nn.Parameter(torch.zeros(1, heads, 1, prior_tokens))

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the log-prior (1, heads, 1, tokens), or nothing."""
        return {} if self.log_prior is None else {"log_prior": self.log_prior}


register(
    Mechanism(
        name="prior",
        family="softmax",
        paper="Singh & Buckley (2023), Attention: marginal probability is all you need?; "
        "arXiv 2304.04556",
        summary="The expected value of the key that a query is joined to, under a prior over keys.",
        formula=r"y_i = \sum_j p(j \mid i) v_j, \quad "
        r"p(j \mid i) = \frac{\pi_{ij} e^{s\,q_i \cdot k_j}}{\sum_l \pi_{il} e^{s\,q_i \cdot k_l}}",
        runs=(
            Run("parallel", "sdpa", fused_expected_value, half=True),
            Run("parallel", "reference", expected_value),
            Run("parallel", "flex", flex_expected_value, half=True),
        ),
        weights=posterior,
        parameters={
            "log_prior": tensor(
                "log of the prior over edges, up to a constant a row; -inf for an impossible one",
                ("batch", "heads", "queries", "keys"),
                optional=True,
            )
        },
        cost="time O(m n d), memory O(m + n) fused beside the prior's own",
        laws={
            "test_the_matrix_is_the_posterior_over_edges": (
                "Equals the posterior of a small discrete model, enumerated; broken by a prior "
                "that is not taken as a logarithm, or is scaled with the logits."
            ),
            "test_a_uniform_prior_is_softmax_and_a_zero_one_a_mask": (
                "Uniform is softmax, zero is a mask; broken by -inf that gives NaN."
            ),
            "test_a_prior_need_not_be_normalised": (
                "A constant added to a row changes nothing; broken by weights that are multiplied "
                "by the prior after the softmax."
            ),
        },
        symbols={"φ": "the key that is read", "p(φ)": "exp(log_prior)", "p(x|φ)": "exp(s q·k)"},
        module=TokenPrior,
        options={
            "prior_tokens": integer(
                "number of tokens of every input, each with a learned log-prior a head",
                None,
                1,
                optional=True,
            )
        },
    )
)
