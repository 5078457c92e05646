"""Mesa: every query reads the ridge regression of the values on the keys so far."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroattn.attention.linear.accumulate import started
from neuroattn.attention.linear.delta import GatedWriteStrength
from neuroattn.attention.linear.delta_engine import per_token, products, strength
from neuroattn.attention.parameters import integer, number
from neuroattn.attention.registry import Mechanism, Request, Run, State, register
from neuroattn.attention.regression.precision import wide

Number = float | Tensor


def mesa_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    ridge: float = 1.0,
    alpha: Number = 1.0,
    beta: Number = 1.0,
    chunk_size: int = 64,
) -> Tensor:
    """Return q (Σ c k kᵀ + ridge)⁻¹ k · c (batch, heads, queries, keys), c what is left of a write.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    ridge : float
        Above 0.
    alpha, beta : float or Tensor
        Retention and weight of every token, (batch or 1, heads or 1, keys or 1).
    chunk_size : int
        Without influence here.
    """
    left = products(per_token(alpha, key))[..., 1:] * strength(beta, key, mask)[..., None, :]
    queries, keys = query.shape[-2], key.shape[-2]
    if causal:
        blind = left.new_zeros(*left.shape[:2], max(0, queries - keys), keys)
        left = torch.cat([blind, left[..., max(0, keys - queries) + 1 :, :]], dim=-2)
    else:
        left = left[..., -1:, :].expand(-1, -1, queries, -1)
    gram = torch.einsum("bhqk,bhkd,bhke->bhqde", left.expand(*query.shape[:2], -1, -1), key, key)
    solved = _solve(gram, _scaled(query, scale), ridge)
    return (solved @ key.transpose(-1, -2)) * left


def mesa(query: Tensor, key: Tensor, value: Tensor, **given: object) -> Tensor:
    """Read the values with :func:`mesa_weights`."""
    return mesa_weights(query, key, **given) @ value  # type: ignore[arg-type]


def recurrent_mesa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    ridge: float,
    alpha: Number,
    beta: Number,
    chunk_size: int,
    initial_state: State | None,
) -> tuple[Tensor, State]:
    """Read token by token: recursive least squares, or a solution a token where alpha forgets.

    Parameters
    ----------
    query, key, value, causal, mask, scale, ridge, alpha, beta, chunk_size
        As in :func:`mesa_weights`; value is (batch, heads, keys, value_dim).
    initial_state : dict of str to Tensor or None
        ``gram`` (batch, heads, dim, dim) and ``memory`` (batch, heads, dim, value_dim), the sums
        of c k kᵀ and of c k vᵀ.
    """
    query = _scaled(query, scale)
    gram, memory = _first(initial_state, key, value)
    retain, step = per_token(alpha, key)[..., None, None], strength(beta, key, mask)[..., None]
    if causal and not isinstance(alpha, Tensor) and alpha == 1:
        read = _least_squares(query, key, value, step, gram, memory, ridge)
        return read, _state(*_written(key, value, step, gram, memory))
    reads = [value[:, :, :0]]
    for token in range(key.shape[-2]):
        one = slice(token, token + 1)
        kept = retain[:, :, token]
        gram, memory = _written(
            key[:, :, one], value[:, :, one], step[:, :, one], kept * gram, kept * memory
        )
        if causal:
            reads.append(_solve(gram[:, :, None], query[:, :, one], ridge) @ memory)
    last = torch.cat(reads, dim=-2) if causal else _solve_all(gram, query, ridge) @ memory
    return last, _state(gram, memory)


def chunked_mesa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    ridge: float,
    alpha: Number,
    beta: Number,
    chunk_size: int,
    initial_state: State | None,
) -> tuple[Tensor, State]:
    """Do what :func:`recurrent_mesa` does in blocks of ``chunk_size`` tokens."""
    query = _scaled(query, scale)
    gram, memory = _first(initial_state, key, value)
    lasting = not isinstance(alpha, Tensor) and alpha == 1
    retain, step = per_token(alpha, key), strength(beta, key, mask)
    reads = [value[:, :, :0]]
    for start in range(0, key.shape[-2], chunk_size):
        block = slice(start, start + chunk_size)
        near, read, written = key[:, :, block], value[:, :, block], step[..., block]
        if lasting:
            if causal:
                reads.append(
                    _woodbury(query[:, :, block], near, read, written, gram, memory, ridge)
                )
            gram, memory = _written(near, read, written[..., None], gram, memory)
            continue
        left = products(retain[..., block])[..., 1:, :]
        before, writes = left[..., :1], left[..., 1:] * written[..., None, :]
        if causal:
            states = (gram, memory, before, writes)
            reads.append(_solved(query[:, :, block], near, read, *states, ridge))
        kept = before[..., -1:, :]
        last = writes[..., -1, :, None]
        gram, memory = _written(near, read, last, kept * gram, kept * memory)
    output = torch.cat(reads, dim=-2) if causal else _solve_all(gram, query, ridge) @ memory
    return output, _state(gram, memory)


def _least_squares(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    step: Tensor,
    gram: Tensor,
    memory: Tensor,
    ridge: float,
) -> Tensor:
    """Update inverse and solution by Sherman and Morrison's formula, token by token."""
    dtype = query.dtype
    query, key, value, step, gram, memory = wide(query, key, value, step, gram, memory)
    inverse = torch.linalg.inv(gram + ridge * _eye(gram))
    solution = inverse @ memory
    reads = [value[:, :, :0]]
    for token in range(key.shape[-2]):
        one = slice(token, token + 1)
        row, weight = key[:, :, one], step[:, :, one]
        turned = row @ inverse
        gain = weight * turned / (1 + weight * (turned * row).sum(-1, keepdim=True))
        solution = solution + gain.transpose(-1, -2) @ (value[:, :, one] - row @ solution)
        inverse = inverse - gain.transpose(-1, -2) @ turned
        reads.append(query[:, :, one] @ solution)
    return torch.cat(reads, dim=-2).to(dtype)


def _woodbury(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    step: Tensor,
    gram: Tensor,
    memory: Tensor,
    ridge: float,
) -> Tensor:
    """Read a block by Woodbury's formula, every query with the tokens up to its own.

    One Cholesky factor serves all: its leading blocks are the factors of the leading blocks, and
    a triangular solution's first rows are those of the first rows alone.
    """
    dtype = query.dtype
    query, key, value, step, gram, memory = wide(query, key, value, step, gram, memory)
    # At a hidden key the square root has no slope; its step is zero and stays so.
    root = torch.where(step > 0, step, 1.0).sqrt().where(step > 0, 0.0)[..., None]
    key, value = key * root, value * root
    inverted = torch.linalg.solve(gram + ridge * _eye(gram), torch.cat([key, query], -2).mT)
    of_keys, of_queries = inverted.split([key.shape[-2], query.shape[-2]], dim=-1)
    inner = key @ of_keys
    factor = torch.linalg.cholesky(inner + _eye(inner))
    crossed = torch.linalg.solve_triangular(factor, key @ of_queries, upper=False).triu()
    missed = torch.linalg.solve_triangular(factor, value - of_keys.mT @ memory, upper=False)
    read: Tensor = of_queries.mT @ memory + crossed.mT @ missed
    return read.to(dtype)


def _solved(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gram: Tensor,
    memory: Tensor,
    before: Tensor,
    writes: Tensor,
    ridge: float,
) -> Tensor:
    """Read a block with one Gram matrix a token: forgetting leaves no inverse to update."""
    dim = key.shape[-1]
    outer = (key[..., :, None] * key[..., None, :]).flatten(-2)
    own = (writes @ outer).unflatten(-1, (dim, dim)) + before[..., None] * gram[:, :, None]
    solved = _solve(own, query, ridge)
    return before * (solved @ memory) + ((solved @ key.mT) * writes) @ value


def _written(
    key: Tensor, value: Tensor, step: Tensor, gram: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    weighted = (key * step).mT
    return gram + weighted @ key, memory + weighted @ value


def _solve(gram: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Solve (gram + ridge) x = wanted: (..., dim, dim) and (..., dim), one Gram matrix each."""
    solved: Tensor = torch.linalg.solve(gram + ridge * _eye(gram), wanted[..., None])
    return solved[..., 0]


def _solve_all(gram: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Solve (gram + ridge) x = wanted for all rows of wanted with one Gram matrix."""
    solved: Tensor = torch.linalg.solve(gram + ridge * _eye(gram), wanted.mT)
    return solved.mT


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _scaled(query: Tensor, scale: float | None) -> Tensor:
    return query if scale is None else query * scale


def _first(state: State | None, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    dim, width = key.shape[-1], value.shape[-1]
    gram, memory = started(state, value, {"gram": (dim, dim), "memory": (dim, width)})
    return gram, memory


def _state(gram: Tensor, memory: Tensor) -> State:
    return {"gram": gram, "memory": memory}


def _many_systems(request: Request) -> str:
    if request.keys <= 8:
        return ""
    return f"it solves a system for each of {request.queries} queries and keeps all Gram matrices"


register(
    Mechanism(
        name="mesa",
        family="regression",
        paper="Von Oswald et al. (2023), Uncovering mesa-optimization algorithms in transformers, "
        "the mesa layer, arXiv 2309.05858; with retention and write strength von Oswald et al. "
        "(2025), MesaNet, arXiv 2506.05233",
        summary="Each query reads the ridge regression of values on keys, solved anew every token.",
        formula=r"y_i = s\,q_i^\top \Bigl(\sum_{j \le i} c_{ij} k_j k_j^\top + \lambda I"
        r"\Bigr)^{-1} \sum_{j \le i} c_{ij} k_j v_j^\top, \quad "
        r"c_{ij} = \beta_j \prod_{l=j+1}^i \alpha_l",
        runs=(
            Run("parallel", "reference", mesa, avoids=_many_systems),
            Run("chunked", "reference", chunked_mesa, stateful=True),
            Run("recurrent", "reference", recurrent_mesa, stateful=True),
        ),
        weights=mesa_weights,
        parameters={
            "ridge": number("penalty on the regression, not forgotten", 1.0, 0, exclude="low"),
            "alpha": number(
                "retention: factor on all earlier tokens",
                1.0,
                0,
                1,
                axes=(("batch", "heads", "keys"),),
            ),
            "beta": number(
                "weight of a token in the regression", 1.0, 0, axes=(("batch", "heads", "keys"),)
            ),
            "chunk_size": integer("tokens a block of the chunked form", 64, 1),
        },
        mask="keys",
        scale="1",
        cost="time O(n d² + n c d) for blocks of c with alpha = 1, O(n d³) with forgetting; "
        "memory O(d²) a state",
        laws={
            "test_reads_ridge_regression_without_intercept": (
                "Equals scikit-learn's ridge regression on the tokens so far; broken by an "
                "intercept, a ridge divided by n, or a query that misses its own token."
            ),
            "test_retention_and_write_strength_weigh_the_regression": (
                "Equals ridge regression with sample weights β ∏ α; broken by a ridge that is "
                "forgotten with the tokens."
            ),
            "test_recursive_least_squares_never_solve_and_agree": (
                "Sherman and Morrison's updates equal the solution; broken by a gain without its "
                "denominator."
            ),
            "test_a_large_ridge_is_linear_attention": (
                "ridge · read tends to un-normalised linear attention; broken by a ridge on values."
            ),
            "test_the_newest_token_alone_is_read_when_nothing_is_retained": (
                "alpha = 0 reads the newest token only, with its true gradient; broken by "
                "quotients of products of alphas."
            ),
        },
        symbols={
            "Φ, W": "memory after the inverse",
            "R, H": "inverse of gram + ridge, gram",
            "Λ, λ": "ridge",
            "γ": "alpha",
            "β": "beta",
        },
        module=GatedWriteStrength,
    )
)
