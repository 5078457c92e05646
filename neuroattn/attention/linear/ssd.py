"""The scalar selective state space of Mamba-2: linear attention with a decay a token."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention import fla
from neuroattn.attention.learned import Learned
from neuroattn.attention.linear import decayed
from neuroattn.attention.linear.decayed import Engine
from neuroattn.attention.masks import written
from neuroattn.attention.parameters import integer, number
from neuroattn.attention.registry import Mechanism, Run, State, register

#: Bounds of the steps and the rates with which heads begin (Dao & Gu, appendix of the code).
STEPS, RATES = (1e-3, 1e-1), (1.0, 16.0)


def _gates(query: Tensor, alpha: Any, beta: Any) -> tuple[Tensor, Tensor]:
    return decayed.per_token(alpha, query), decayed.per_token(beta, query)


def _ssd_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    alpha: Any,
    beta: Any,
    chunk_size: int = 64,
) -> Tensor:
    retained, strength = _gates(query, alpha, beta)
    left = decayed.decay_matrix(retained, query.shape[2], key.shape[2], causal)
    left = left * strength[:, :, None]
    seen = written(mask, key)
    if seen is not None:
        left = left.masked_fill(~seen.mT, 0.0)
    return (query if scale is None else query * scale) @ key.mT * left


def _parallel(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, **given: Any
) -> Tensor:
    (kept,) = decayed.hidden(written(mask, value), value)
    return _ssd_weights(query, key, mask=mask, **given) @ kept


def _stateful(
    engine: Engine,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    initial_state: State | None,
    alpha: Any,
    beta: Any,
    chunk_size: int,
) -> tuple[Tensor, State]:
    retained, strength = _gates(query, alpha, beta)
    key, value = decayed.hidden(written(mask, key), key, value)
    state = decayed.held(initial_state, key, {"memory": (key.shape[-1], value.shape[-1])})
    output, memory = engine(
        query,
        key,
        (value * strength[..., None]).to(value.dtype),
        retained,
        scale=1.0 if scale is None else scale,
        causal=causal,
        memory=state["memory"],
        chunk_size=chunk_size,
    )
    return output, {"memory": memory}


def spread(low: float, high: float, count: int) -> Tensor:
    """Return ``count`` numbers from ``low`` to ``high`` in equal ratios; one is their mean."""
    ends = torch.tensor([low, high]).log()
    if count == 1:
        return ends.mean(0, keepdim=True).exp()
    return torch.linspace(float(ends[0]), float(ends[1]), count).exp()


def softplus_inverse(value: Tensor) -> Tensor:
    """Return x with softplus(x) = ``value``, which is positive."""
    return value + (-torch.expm1(-value)).log()


class SelectiveDecay(Learned):
    """Steps Δ_t = softplus(linear(token)) and rates A a head: α = e^(−ΔA) and β = Δ.

    Parameters
    ----------
    dim : int
        Width of queries and output.
    heads : int
        Number of heads; they begin with steps and rates in equal ratios over the published
        ranges.
    token_dim : int
        Channels of the tokens.

    References
    ----------
    Dao & Gu (2024), Transformers are SSMs, section 7; arXiv 2405.21060.
    """

    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__()
        self.step = nn.Linear(token_dim, heads)
        self.log_rate = nn.Parameter(spread(*RATES, heads).log())
        nn.init.zeros_(self.step.weight)
        with torch.no_grad():
            self.step.bias.copy_(softplus_inverse(spread(*STEPS, heads)))

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``alpha`` and ``beta`` (batch, heads, tokens)."""
        step = F.softplus(self.step(tokens)).transpose(1, 2)
        return {"alpha": (-step * self.log_rate.exp()[:, None]).exp(), "beta": step}


def _run(form: str, backend: str, engine: Engine, **more: Any) -> Run:
    function: Callable[..., Any] = partial(_stateful, engine)
    return Run(form, backend, function, stateful=True, **more)


register(
    Mechanism(
        name="ssd",
        family="linear",
        paper="Dao & Gu (2024), Transformers are SSMs: generalized models and efficient algorithms "
        "through structured state space duality, equations 6 and 7; arXiv 2405.21060",
        summary="A state space with one retention and one input gate a token: a sum of values "
        "weighted by q·k, the gate, and what later retentions leave of it; without the skip D u.",
        formula=r"y_i = s \sum_{j \le i} \Big(\prod_{t=j+1}^{i} \alpha_t\Big) "
        r"(q_i \cdot k_j)\, \beta_j v_j",
        runs=(
            _run(
                "chunked",
                "fla",
                fla.decayed,
                half=True,
                refuses=fla.refuses,
                avoids=fla.coarse,
            ),
            _run(
                "chunked",
                "triton",
                decayed.by_triton,
                half=True,
                refuses=decayed.refuses_triton,
                avoids=decayed.trained,
            ),
            _run("recurrent", "reference", decayed.recurrent, avoids=decayed.several),
            Run("parallel", "reference", _parallel, avoids=decayed.long),
            _run("chunked", "reference", decayed.chunked),
        ),
        weights=_ssd_weights,
        parameters={
            "alpha": number(
                "retention: what each token leaves of the memory",
                1.0,
                0,
                1,
                axes=(("batch", "heads", "keys"),),
            ),
            "beta": number(
                "input gate: how strongly each token is written",
                1.0,
                axes=(("batch", "heads", "keys"),),
            ),
            "chunk_size": integer("tokens a block of the chunked form", 64, 1),
        },
        mask="keys",
        scale="1",
        cost="time O(n d²), memory O(n d) in blocks; O(n²) all pairs at once; state O(d²)",
        laws={
            "test_the_recurrence_equals_the_masked_matrix": (
                "y = (L ∘ C Bᵀ)(Δu) with L_ij = a_(j+1)…a_i; broken by a product from j."
            ),
            "test_a_retention_of_one_is_linear_attention": (
                "α = 1 sums all pairs; broken by a gate that also decays."
            ),
            "test_a_constant_retention_is_retention": (
                "α = γ is `retention`; broken by a retention that is applied before the read only."
            ),
            "test_it_is_normalised_attention_with_a_growing_normaliser": (
                "η_i = ∏ 1/a_j, ψ = Δηb: broken by η of the token before."
            ),
            "test_a_retention_of_zero_forgets_with_the_right_gradient": (
                "dy/dα at 0 is what the memory would have kept; broken by logarithms of decays."
            ),
        },
        symbols={
            "C, B, u": "query, key, value",
            "Δ": "beta",
            "e^(−ΔA)": "alpha",
            "L": "the products of alpha",
            "h": "memory (dim, value_dim)",
        },
        module=SelectiveDecay,
    )
)
