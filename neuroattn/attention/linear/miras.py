"""Moneta, Yaad and Memora: memories of the Miras family, with other losses and other retentions.

All three correct the memory W (dim, value_dim) against the error e = k W - v of the newest
association; none is linear in its state, so that they run token by token.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuroattn.attention.linear.accumulate import started
from neuroattn.attention.linear.delta import GatedWriteStrength
from neuroattn.attention.linear.delta_engine import per_token, strength, unit
from neuroattn.attention.linear.mirror import mirrored, power_of
from neuroattn.attention.parameters import Parameter, choice, number, switch
from neuroattn.attention.registry import Mechanism, Run, State, register

Number = float | Tensor

#: From the memory and one token's key (.., 1, dim), value (.., 1, value_dim), retention and write
#: strength (.., 1, 1) to the next memory.
Write = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float | None,
    retain: Tensor,
    step: Tensor,
    memory: Tensor,
    write: Write,
    read: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Write token by token; return what the queries read, and the last memory as it is kept."""
    query = query if scale is None else query * scale
    retain, step = retain[..., None, None], step[..., None, None]
    reads = [value[:, :, :0]]
    for token in range(key.shape[-2]):
        one = slice(token, token + 1)
        memory = write(
            memory, key[:, :, one], value[:, :, one], retain[:, :, token], step[:, :, token]
        )
        if causal:
            reads.append(query[:, :, one] @ read(memory))
    return torch.cat(reads, dim=-2) if causal else query @ read(memory), memory


def _begun(state: State | None, key: Tensor, value: Tensor, name: str) -> Tensor:
    (memory,) = started(state, value, {name: (key.shape[-1], value.shape[-1])})
    return memory


def moneta(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    alpha: Number,
    beta: Number,
    error_norm: float,
    memory_norm: float,
    mirror: str,
    smooth: bool,
    normalize_keys: bool,
    initial_state: State | None,
) -> tuple[Tensor, State]:
    """Write along the gradient of ‖e‖_p^p into A; the memory is A's mirror image.

    Parameters
    ----------
    query, key, value : Tensor
        (batch, heads, queries, dim), (batch, heads, keys, dim), (batch, heads, keys, value_dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    alpha, beta : float or Tensor
        Retention of A and write strength, (batch or 1, heads or 1, keys or 1).
    error_norm, memory_norm : float
        p of the loss and q of the retention.
    mirror : {"exact", "quoted"}
        See :func:`neuroattn.attention.linear.mirror.mirrored`.
    smooth : bool
        Use tanh(10 x) for the sign and √(x² + 1e-6) for the size of the error.
    normalize_keys : bool
        Divide every key by its length.
    initial_state : dict of str to Tensor or None
        ``accumulator`` (batch, heads, dim, value_dim).
    """

    def image(accumulator: Tensor) -> Tensor:
        return mirrored(accumulator, memory_norm, mirror)

    def write(kept: Tensor, k: Tensor, v: Tensor, retain: Tensor, step: Tensor) -> Tensor:
        error = k @ image(kept) - v
        if smooth:
            slope = (10 * error).tanh() * (error.square() + 1e-6).pow((error_norm - 1) / 2)
        else:
            slope = error.sign() * power_of(error, error_norm - 1)
        return retain * kept - step * error_norm * (k.mT @ slope)

    output, kept = _run(
        query,
        unit(key, normalize_keys),
        value,
        causal=causal,
        scale=scale,
        retain=per_token(alpha, key),
        step=strength(beta, key, mask),
        memory=_begun(initial_state, key, value, "accumulator"),
        write=write,
        read=image,
    )
    return output, {"accumulator": kept}


def yaad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    alpha: Number,
    beta: Number,
    threshold: float,
    huber: str,
    normalize_keys: bool,
    initial_state: State | None,
) -> tuple[Tensor, State]:
    """Write along the gradient of the Huber loss, ½ ‖e‖² up to a threshold, linear beyond.

    Parameters
    ----------
    query, key, value, causal, mask, scale, alpha, beta, normalize_keys
        As in :func:`moneta`; alpha retains the memory.
    threshold : float
        δ, the length of the error from which on its gradient does not grow.
    huber : {"vector", "quoted"}
        Beyond the threshold δ e / ‖e‖, continuous; or δ sign(e), which jumps by up to the root
        of the number of value channels.
    initial_state : dict of str to Tensor or None
        ``memory`` (batch, heads, dim, value_dim).
    """

    def write(memory: Tensor, k: Tensor, v: Tensor, retain: Tensor, step: Tensor) -> Tensor:
        error = k @ memory - v
        square = error.square().sum(-1, keepdim=True)
        near = square <= threshold**2
        if huber == "vector":
            length = torch.where(near, 1.0, square).sqrt()
            slope = error * torch.where(near, 1.0, threshold / length)
        else:
            slope = torch.where(near, error, threshold * error.sign())
        return retain * memory - step * (k.mT @ slope)

    output, memory = _run(
        query,
        unit(key, normalize_keys),
        value,
        causal=causal,
        scale=scale,
        retain=per_token(alpha, key),
        step=strength(beta, key, mask),
        memory=_begun(initial_state, key, value, "memory"),
        write=write,
        read=lambda memory: memory,
    )
    return output, {"memory": memory}


def memora(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    alpha: Number,
    beta: Number,
    normalize_keys: bool,
    initial_state: State | None,
) -> tuple[Tensor, State]:
    """Write by exponentiated gradients of ½ ‖e‖², each value channel's weights on the simplex.

    Parameters
    ----------
    query, key, value, causal, mask, scale, alpha, beta, normalize_keys
        As in :func:`moneta`; alpha is the power to which the memory is raised, which draws it
        toward the uniform one that it starts from.
    initial_state : dict of str to Tensor or None
        ``log_memory`` (batch, heads, dim, value_dim), whose exponential sums to 1 over dim, and
        ``written`` (batch, heads, 1, 1), 1 once a key was written and 0 before.
    """
    step = strength(beta, key, mask)
    shapes: dict[str, tuple[int, ...]] = {
        "log_memory": (key.shape[-1], value.shape[-1]),
        "written": (1, 1),
    }
    first, begun = started(initial_state, value, shapes)
    if initial_state is None:
        first = first - math.log(key.shape[-1])

    def write(kept: Tensor, k: Tensor, v: Tensor, retain: Tensor, step: Tensor) -> Tensor:
        error = k @ kept.exp() - v
        return (retain * kept - step * (k.mT @ error)).log_softmax(dim=-2)

    output, kept = _run(
        query,
        unit(key, normalize_keys),
        value,
        causal=causal,
        scale=scale,
        retain=per_token(alpha, key),
        step=step,
        memory=first,
        write=write,
        read=torch.exp,
    )
    # The uniform memory is no reading: before the first key there is nothing to read.
    ones = key.new_ones(*key.shape[:3]) if mask is None else _seen(mask, key)
    count = torch.cat([begun, ones[..., None]], dim=2).cummax(2).values
    output = output * (count[:, :, 1:] if causal else count[:, :, -1:])
    return output, {"log_memory": kept, "written": count[:, :, -1:]}


def _seen(mask: Tensor, key: Tensor) -> Tensor:
    return mask[:, :, 0].expand(*key.shape[:3]).to(key.dtype)


class SmallWriteStrength(GatedWriteStrength):
    """A retention and a write strength that starts near 0.01.

    A step that grows with the square of the error, and a mirror that spreads it over all entries
    of the memory, are stable for small steps only.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`neuroattn.attention.learned.Learned`.
    """

    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__(dim, heads, token_dim)
        nn.init.constant_(self.beta.bias, -4.6)


_AXES = (("batch", "heads", "keys"),)
_GATES: dict[str, Parameter] = {
    "alpha": number("retention at every token", 1.0, 0, 1, axes=_AXES),
    "beta": number("write strength", 0.5, 0, axes=_AXES),
    "normalize_keys": switch("divide every key by its length", True),
}
_COST = "time O(n d²), token by token; memory O(d²) a state"
_PAPER = (
    "Behrouz, Razaviyayn, Zhong & Mirrokni (2025), It's all connected: a journey through test-time "
    "memorization, attentional bias, retention, and online optimization, {}; arXiv 2504.13173"
)

register(
    Mechanism(
        name="moneta",
        family="linear",
        paper=_PAPER.format("Moneta, with a linear memory"),
        summary="The delta rule with the p-th power of the error and a memory of bounded q-norm.",
        formula=r"A_t = \alpha_t A_{t-1} - \beta_t\, p\, k_t "
        r"(\operatorname{sign}(e_t) |e_t|^{p-1})^\top, \quad e_t = W_{t-1}^\top k_t - v_t, \quad "
        r"W_t = \frac{\operatorname{sign}(A_t) |A_t|^{q'-1}}{\lVert A_t \rVert_{q'}^{q'-2}}, \quad "
        r"\frac1q + \frac1{q'} = 1, \quad y_t = s\,W_t^\top q_t",
        runs=(Run("recurrent", "reference", moneta, stateful=True),),
        parameters={
            **_GATES,
            "beta": number(
                "write strength; the step grows with a power of the error and with the size of "
                "the memory, which too large a strength lets grow without bound",
                0.01,
                0,
                axes=_AXES,
            ),
            "error_norm": number("p of the loss", 3.0, 1),
            "memory_norm": number("q of the retention", 4.0, 1, exclude="low"),
            "mirror": choice(
                "'exact' inverts the gradient of ½‖W‖_q²; 'quoted' is A / ‖A‖_q^(q-2)",
                "exact",
                "quoted",
            ),
            "smooth": switch("tanh(10 x) for the sign and √(x² + 1e-6) for the size", False),
        },
        mask="keys",
        scale="1",
        cost=_COST,
        laws={
            "test_the_exact_mirror_map_inverts_the_gradient_of_the_retention": (
                "The exact map inverts ∇½‖W‖_q², the quoted one does not; broken by the exponent "
                "of q taken for that of its dual."
            ),
            "test_squares_make_moneta_the_delta_rule": (
                "p = q = 2 is the delta rule with twice the step; broken by a lost factor p."
            ),
            "test_every_write_follows_its_equation": (
                "Equals a loop over numbers; broken by a memory that is read before its mirror."
            ),
        },
        symbols={"η": "beta", "p": "error_norm", "q": "memory_norm", "α": "alpha"},
        module=SmallWriteStrength,
    )
)

register(
    Mechanism(
        name="yaad",
        family="linear",
        paper=_PAPER.format("Yaad, with a linear memory"),
        summary="The gated delta rule with a Huber loss: a surprising value moves no more than δ.",
        formula=r"W_t = \alpha_t W_{t-1} - \beta_t k_t\, h(e_t)^\top, \quad "
        r"e_t = W_{t-1}^\top k_t - v_t, \quad "
        r"h(e) = e \min(1, \delta / \lVert e \rVert), \quad y_t = s\,W_t^\top q_t",
        runs=(Run("recurrent", "reference", yaad, stateful=True),),
        parameters={
            **_GATES,
            "threshold": number(
                "δ, length of the error that is taken whole", 1.0, 0, exclude="low"
            ),
            "huber": choice(
                "beyond δ: 'vector' takes δ e/‖e‖, 'quoted' δ sign(e), which jumps at δ",
                "vector",
                "quoted",
            ),
        },
        mask="keys",
        scale="1",
        cost=_COST,
        laws={
            "test_an_infinite_threshold_makes_yaad_the_gated_delta_rule": (
                "δ = ∞ is gated_delta, error first; broken by a factor 2 in the gradient."
            ),
            "test_the_vector_huber_is_continuous_and_the_quoted_one_jumps": (
                "Continuous at ‖e‖ = δ; the quoted one jumps by up to √value_dim."
            ),
            "test_a_huge_value_moves_yaad_by_no_more_than_its_threshold": (
                "A write changes the memory by at most β δ; broken by a threshold an entry."
            ),
            "test_every_write_follows_its_equation": (
                "Equals a loop over numbers; broken by an error that is measured after the decay."
            ),
        },
        symbols={"η": "beta", "δ": "threshold", "α": "alpha"},
        module=GatedWriteStrength,
    )
)

register(
    Mechanism(
        name="memora",
        family="linear",
        paper=_PAPER.format("Memora, with a linear memory"),
        summary="Each value channel mixes the key channels, by weights of sum 1.",
        formula=r"W_t = \operatorname{softmax}_{\text{dim}}\bigl(\alpha_t \log W_{t-1} - "
        r"\beta_t k_t e_t^\top\bigr), \quad e_t = W_{t-1}^\top k_t - v_t, \quad "
        r"W_0 = 1/d, \quad y_t = s\,W_t^\top q_t",
        runs=(Run("recurrent", "reference", memora, stateful=True),),
        parameters=_GATES,
        mask="keys",
        scale="1",
        cost=_COST,
        laws={
            "test_memora_minimises_its_objective_over_the_simplex": (
                "A write minimises ⟨W, g⟩ + KL(W‖W₀)/η + Σ W log W/a, at alpha = a/(a + η) and "
                "beta = a η/(a + η); broken by a softmax over the wrong axis or a lost retention."
            ),
            "test_memora_stays_on_the_simplex_under_extreme_writes": (
                "Every value channel's weights sum to 1 and are finite; broken by a memory that "
                "is kept as such, whose logarithm is lost when it underflows."
            ),
            "test_every_write_follows_its_equation": (
                "Equals a loop over numbers; broken by a mixture that is not normalised anew."
            ),
        },
        symbols={
            "η": "beta",
            "α": "alpha",
            "λ, η'": "1 − alpha and beta, where both penalties are given",
        },
        module=GatedWriteStrength,
    )
)
