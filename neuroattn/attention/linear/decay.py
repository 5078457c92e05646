"""Linear attention with a fixed decay a head: retention and Lightning Attention-2."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuroattn.attention import fla
from neuroattn.attention.linear import decayed
from neuroattn.attention.linear.decayed import Engine
from neuroattn.attention.masks import written
from neuroattn.attention.parameters import Parameter, integer, number, switch
from neuroattn.attention.registry import Mechanism, Run, State, register
from neuroattn.errors import InputError

#: The published schedules of decays over heads.
SCHEDULES = ("retnet", "alibi", "lightning")


def schedule(name: str, heads: int, layer: int = 0, layers: int = 1) -> Tensor:
    """Return a published schedule of decays (heads,), float64.

    Parameters
    ----------
    name : {"retnet", "alibi", "lightning"}
        1 − 2^(−5−h) of RetNet; e^(−s_h) with the slopes s_h of ALiBi, as in the code of
        Lightning Attention-2; or e^(−(8/H)(1 − l/L) h), as in MiniMax and flash-linear-attention.
    heads : int
        H; h counts from 0.
    layer, layers : int
        l, from 0, and L: ``"lightning"`` decays less in later layers, the others do not ask.

    Raises
    ------
    InputError
        If ``layer`` is not below ``layers``.
    """
    _check_layer(layer, layers)
    head = torch.arange(heads, dtype=torch.float64)
    if name == "retnet":
        return 1 - 2.0 ** (-5 - head)
    if name == "alibi":
        return torch.tensor(_slopes(heads), dtype=torch.float64).neg().exp()
    return (-(8 / heads) * (1 - layer / layers) * head).exp()


def _check_layer(layer: int, layers: int) -> None:
    if layer >= layers:
        raise InputError(f"layer={layer} must be below layers={layers}; layers count from 0.")


def _slopes(heads: int) -> list[float]:
    """Return ALiBi's slopes; for other than powers of two every second one of the next power."""
    power = 2 ** math.floor(math.log2(heads))
    first = 2.0 ** (-8 / power)
    slopes = [first ** (head + 1) for head in range(power)]
    return slopes + _slopes(2 * power)[::2][: heads - power] if power < heads else slopes


def _alpha(decay: Any, layer: int, layers: int, query: Tensor) -> Tensor:
    """Return the decay as a retention (1, heads or 1, 1)."""
    _check_layer(layer, layers)
    if isinstance(decay, str):
        decay = schedule(decay, query.shape[1], layer, layers).to(query.device)
    if isinstance(decay, Tensor):
        decay = decay[None, :, None]
    return decayed.per_token(decay, query)


def _decay_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float,
    decay: Any,
    layer: int,
    layers: int,
    normalize: bool = False,
    chunk_size: int = 64,
) -> Tensor:
    alpha = _alpha(decay, layer, layers, query)
    left = decayed.decay_matrix(alpha, query.shape[2], key.shape[2], causal)
    seen = written(mask, key)
    if seen is not None:
        left = left.masked_fill(~seen.mT, 0.0)
    found = (query * scale) @ key.mT * left
    if not normalize:
        return found
    extent = left.sum(-1, keepdim=True)
    found = found / extent.masked_fill(extent == 0, 1.0).sqrt()
    return found / found.sum(-1, keepdim=True).abs().clamp(min=1.0)


def _parallel(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, **given: Any
) -> Tensor:
    key, value = decayed.hidden(written(mask, key), key, value)
    return _decay_weights(query, key, mask=mask, **given) @ value


def _stateful(
    engine: Engine,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float,
    initial_state: State | None,
    decay: Any,
    layer: int,
    layers: int,
    chunk_size: int,
    normalize: bool = False,
) -> tuple[Tensor, State]:
    alpha, dim = _alpha(decay, layer, layers, query), key.shape[-1]
    shapes: dict[str, tuple[int, ...]] = {"memory": (dim, value.shape[-1])}
    if normalize:
        shapes |= {"key_sum": (dim, 1), "extent": (1, 1)}
    state = decayed.held(initial_state, key, shapes)
    seen = written(mask, key)
    key, value = decayed.hidden(seen, key, value)
    read = partial(engine, alpha=alpha, causal=causal, chunk_size=chunk_size)
    output, memory = read(query, key, value, scale=scale, memory=state["memory"])
    if not normalize:
        return output, {"memory": memory}
    ones = torch.ones_like(value[..., :1])
    total, key_sum = read(query, key, ones, scale=scale, memory=state["key_sum"])
    # What is left of every written token: a read of ones with ones.
    (present,) = decayed.hidden(seen, ones)
    asked = torch.ones_like(query[..., :1])
    extent, size = read(asked, present, ones, scale=1.0, memory=state["extent"])
    root = extent.masked_fill(extent == 0, 1.0).sqrt()
    output = output / root / (total / root).abs().clamp(min=1.0)
    return output, {"memory": memory, "key_sum": key_sum, "extent": size}


def _with_scale(function: Callable[..., Any], default: float | None) -> Callable[..., Any]:
    """Fill in the scale: ``default``, or 1/√dim where that is None."""

    def run(query: Tensor, *tensors: Tensor, scale: float | None = None, **given: Any) -> Any:
        if scale is None:
            scale = query.shape[-1] ** -0.5 if default is None else default
        return function(query, *tensors, scale=scale, **given)

    return run


def _runs(default: float | None) -> tuple[Run, ...]:
    def stateful(form: str, backend: str, engine: Engine, **more: Any) -> Run:
        function = _with_scale(partial(_stateful, engine), default)
        return Run(form, backend, function, stateful=True, **more)

    return (
        stateful("chunked", "fla", fla.decayed, half=True, refuses=fla.refuses, avoids=fla.coarse),
        stateful(
            "chunked",
            "triton",
            decayed.by_triton,
            half=True,
            refuses=decayed.refuses_triton,
            avoids=decayed.trained,
        ),
        stateful("recurrent", "reference", decayed.recurrent, avoids=decayed.several),
        Run("parallel", "reference", _with_scale(_parallel, default), avoids=decayed.long),
        stateful("chunked", "reference", decayed.chunked),
    )


def _parameters(default: str) -> dict[str, Parameter]:
    return {
        "decay": number(
            "what is left of the memory after one token: a number, one a head, or a schedule",
            default,
            0,
            1,
            choices=SCHEDULES,
            axes=(("heads",),),
        ),
        "layer": integer("number of the layer, from 0, for the schedule lightning", 0, 0),
        "layers": integer("how many layers there are, for the schedule lightning", 1, 1),
        "chunk_size": integer("tokens a block of the chunked form", 64, 1),
    }


_LAWS = {
    "test_every_form_equals_a_loop_over_pairs": (
        "Weights are s (q·k) γ^(i−j); broken by a decay of the token that is just written."
    ),
    "test_published_schedules_have_their_published_numbers": (
        "γ_h = 1 − 2^(−5−h), e^(−slope) or e^(−(8/H)(1−l/L)h); broken by heads counted from 1."
    ),
    "test_a_decay_of_one_is_a_running_sum": (
        "γ = 1 is plain linear attention; broken by a decay that is applied at all."
    ),
}

register(
    Mechanism(
        name="retention",
        family="linear",
        paper="Sun et al. (2023), Retentive network: a successor to transformer for large language "
        "models, equations 5 to 7; arXiv 2307.08621",
        summary="A sum of values weighted by q·k that fades by a fixed factor a token; without the "
        "paper's rotation of query and key, which is the caller's.",
        formula=r"y_i = s \sum_{j \le i} \gamma^{i-j} (q_i \cdot k_j)\, v_j",
        runs=_runs(None),
        weights=_with_scale(_decay_weights, None),
        parameters={
            **_parameters("retnet"),
            "normalize": switch(
                "divide each row of decays by the root of its sum and each row of scores by its "
                "sum's size, at least 1 (the paper's score normalisation)",
                False,
            ),
        },
        mask="keys",
        cost="time O(n d²), memory O(n d) in blocks; O(n²) all pairs at once; state O(d²)",
        laws={
            **_LAWS,
            "test_crosstalk_of_decayed_memories_has_the_derived_variance": (
                "Interference at lag l is [(1−γ^2N)/(1−γ²) − γ^2l]/d; broken by 1 − γ for 1 − γ²."
            ),
            "test_normalised_scores_equal_the_paper": (
                "R/max(|ΣR|, 1) with D/√ΣD; broken by a sum over hidden keys."
            ),
        },
        symbols={"γ": "decay", "D": "the decays γ^(n−m)", "S_n": "memory (dim, value_dim)"},
    )
)

register(
    Mechanism(
        name="lightning",
        family="linear",
        paper="Qin et al. (2024), Lightning Attention-2: a free lunch for handling unlimited "
        "sequence lengths in large language models, equations 1 and 4; arXiv 2401.04658",
        summary="A sum of values weighted by q·k that fades by a fixed factor a token, neither "
        "scaled nor normalised, computed in tiles.",
        formula=r"y_i = \sum_{j \le i} \lambda^{i-j} (q_i \cdot k_j)\, v_j",
        runs=_runs(1.0),
        weights=_with_scale(_decay_weights, 1.0),
        parameters=_parameters("alibi"),
        mask="keys",
        scale="1",
        cost="time O(n d²), memory O(n d) in blocks; O(n²) all pairs at once; state O(d²)",
        laws={
            **_LAWS,
            "test_lightning_equals_the_tiles_of_its_paper": (
                "Tiles with λ^B KV + Kᵀdiag(λ^(B−r))V equal all pairs; broken by 1/√d."
            ),
        },
        symbols={"λ": "decay", "B": "chunk_size", "KV": "memory (dim, value_dim)"},
    )
)
