"""Oja's rule as an attention memory: Hebbian writing with a decay that bounds it."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroattn.attention.linear.accumulate import blocks, started
from neuroattn.attention.linear.linear import CHUNK_SIZE
from neuroattn.attention.masks import written
from neuroattn.attention.parameters import choice, number, switch, tensor
from neuroattn.attention.registry import Mechanism, Run, State, register


def _begun(
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    beta: float | Tensor,
    memory: Tensor | None,
    initial_state: State | None,
    target: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return beta and whether a key is written (batch, heads, keys, 1), memory and count."""
    dim, width = key.shape[-1], value.shape[-1]
    rate = torch.as_tensor(beta, dtype=value.dtype, device=value.device)
    rate = rate.expand(value.shape[:3])[..., None]
    seen = written(mask, key)
    there = torch.ones_like(rate) if seen is None else torch.ones_like(rate) * seen
    start, count = started(initial_state, value, {"memory": (dim, width), "count": (1,)})
    if initial_state is None and memory is not None:
        start = memory.to(value).expand_as(start)
    elif initial_state is None and target == "output":
        start = torch.eye(dim, width, dtype=value.dtype, device=value.device).expand_as(start)
    return rate * there, there, start, count


def _step_size(rate: Tensor, loudness: Tensor, normalize: bool) -> Tensor:
    """Return the write strength, divided by 1 + rate ‖x‖² if it is to be stable."""
    return rate / (1 + rate * loudness) if normalize else rate


def oja_tokens(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    initial_state: State | None = None,
    beta: float | Tensor = 0.1,
    target: str = "value",
    normalize: bool = True,
    memory: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, State]:
    """Write and read token by token; parameters as in the registry.

    Returns
    -------
    output : Tensor
        (batch, heads, queries, value_dim)
    state : dict of str to Tensor
        ``memory`` (batch, heads, dim, value_dim) and ``count`` (batch, heads, 1) of keys written.
    """
    begun = _begun(key, value, mask, beta, memory, initial_state, target)
    rate, there, grown, count = begun
    if scale is not None:
        query = query * scale
    reads = [value[:, :, :0]]
    for token in range(key.shape[2]):
        here, step = key[:, :, token], rate[:, :, token]
        if target == "value":
            post = value[:, :, token]
            loudness = post.square().sum(-1, keepdim=True)
        else:
            post = (here[..., None, :] @ grown)[..., 0, :]
            loudness = here.square().sum(-1, keepdim=True)
        step = _step_size(step, loudness, normalize)
        # In our layout W is memoryᵀ: W + β (y kᵀ - y yᵀ W).
        apart = here - (grown @ post[..., None])[..., 0]
        grown = grown + (step * apart)[..., :, None] * post[..., None, :]
        count = count + there[:, :, token]
        if causal:
            read = query[:, :, token, None] @ grown
            reads.append(read * (count > 0)[:, :, None])
    output = torch.cat(reads, 2) if causal else (query @ grown) * (count > 0)[:, :, None]
    return output, {"memory": grown, "count": count}


def oja_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    initial_state: State | None = None,
    beta: float | Tensor = 0.1,
    target: str = "value",
    normalize: bool = True,
    memory: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, State]:
    """Do what :func:`oja_tokens` does, block by block where that is exact.

    With ``target="value"`` the memory's decay does not depend on the memory: what all tokens of a
    block write is the solution of one triangular system. With ``target="output"`` it does, and
    tokens are written one by one.
    """
    if target == "output":
        return oja_tokens(
            query,
            key,
            value,
            causal=causal,
            mask=mask,
            scale=scale,
            initial_state=initial_state,
            beta=beta,
            target=target,
            normalize=normalize,
            memory=memory,
        )
    begun = _begun(key, value, mask, beta, memory, initial_state, target)
    rate, there, grown, count = begun
    if scale is not None:
        query = query * scale
    length = key.shape[2]
    counts = count[:, :, None] + there.cumsum(2)
    step = _step_size(rate, value.square().sum(-1, keepdim=True), normalize)
    if not causal:
        total = count + there.sum(2)
        for keys, values, steps in _cut(chunk_size, key, value, step):
            grown = grown + _written(keys, values, steps, grown).transpose(-1, -2) @ values
        return (query @ grown) * (total > 0)[:, :, None], {"memory": grown, "count": total}
    reads = [value[:, :, :0]]
    for keys, values, steps, queries in _cut(chunk_size, key, value, step, query):
        new = _written(keys, values, steps, grown)
        reads.append(queries @ grown + (queries @ new.transpose(-1, -2)).tril() @ values)
        grown = grown + new.transpose(-1, -2) @ values
    output = torch.cat(reads, 2)[:, :, :length] * (counts > 0)
    return output, {"memory": grown, "count": counts[:, :, -1] if length else count}


def _cut(chunk_size: int, *tokens: Tensor) -> list[tuple[Tensor, ...]]:
    """Return the tensors block by block; a block that is filled with zeros writes nothing."""
    return list(zip(*(blocks(each, chunk_size).unbind(2) for each in tokens), strict=True))


def _written(key: Tensor, value: Tensor, step: Tensor, memory: Tensor) -> Tensor:
    """Return β (k - M v) for each token of a block, M being the memory just before it.

    M before token i is memory + Σ_(j<i) w_j v_jᵀ, hence w_i + β_i Σ_(j<i) w_j (v_j · v_i) =
    β_i (k_i - memory v_i).
    """
    overlap = (step * (value @ value.transpose(-1, -2))).tril(-1)
    apart = step * (key - value @ memory.transpose(-1, -2))
    solved: Tensor = torch.linalg.solve_triangular(
        overlap + torch.eye(key.shape[-2], dtype=key.dtype, device=key.device),
        apart,
        upper=False,
        unitriangular=True,
    )
    return solved


register(
    Mechanism(
        name="oja",
        family="linear",
        paper="Oja (1989), Neural networks, principal components, and subspaces, International "
        "Journal of Neural Systems 1, 61-68, the subspace rule, for the target output; the target "
        "value is ours",
        summary="A Hebbian memory that each write also shrinks along what it writes, which bounds "
        "it without a normaliser.",
        formula=r"W_t = W_{t-1} + \eta_t\,(y_t k_t^\top - y_t y_t^\top W_{t-1}),\quad "
        r"o_t = W_t\,s\,q_t,\quad y_t = v_t \text{ (target value) or } W_{t-1} k_t "
        r"\text{ (target output)},\quad \eta_t = \frac{\beta_t}{1 + \beta_t \lVert x_t \rVert^2}"
        r" \text{ or } \beta_t",
        runs=(
            Run("chunked", "reference", oja_blocks, stateful=True),
            Run("recurrent", "reference", oja_tokens, stateful=True),
        ),
        parameters={
            "beta": number("write strength", 0.1, 0, axes=(("batch", "heads", "keys"),)),
            "target": choice(
                "y of the rule. value: the value, which makes it hetero-associative; W tends to "
                "the regression of keys on values, transposed. output: W k, the subspace rule "
                "itself; values are not read, and the output is the query in the keys' leading "
                "subspace",
                "value",
                "output",
            ),
            "normalize": switch(
                "divide beta by 1 + beta‖x‖², x being the value or, for the target output, the "
                "key; without it the memory diverges where beta‖x‖² stays above 2",
                True,
            ),
            "memory": tensor(
                "the memory at the start, Wᵀ: zeros by default, unit vectors for the target "
                "output, which never leaves 0. Nothing is read of it before the first key",
                ("heads", "dim", "value_dim"),
                ("batch", "heads", "dim", "value_dim"),
                optional=True,
            ),
            "chunk_size": CHUNK_SIZE,
        },
        mask="keys",
        scale="1, on the query",
        cost="time O(n d v), state d v; chunked O(n C (d + v + C) + n d v). The target output is "
        "not linear in the memory, so that all its forms go token by token",
        laws={
            "test_all_forms_equal_the_rule_by_loops": (
                "The rule, number by number; broken by the memory after the write in its decay."
            ),
            "test_the_target_output_finds_an_orthonormal_basis_of_the_leading_subspace": (
                "WWᵀ = 1 and W spans the principal components; broken by y kᵀ without decay."
            ),
            "test_the_target_value_tends_to_the_regression_of_keys_on_values": (
                "W tends to E[vvᵀ]⁻¹E[vkᵀ]; broken by a decay along keys."
            ),
            "test_the_memory_stays_bounded_where_that_of_linear_grows": (
                "Decay; broken by its sign."
            ),
            "test_a_small_beta_gives_linear_attention": (
                "o/β tends to the un-normalised linear read; broken by a write of y instead of v."
            ),
            "test_it_is_the_delta_rule_with_keys_and_values_exchanged": (
                "The target value learns keys from values; broken by an error that is not the "
                "key's."
            ),
        },
        symbols={"W": "state memory, transposed", "η": "beta, normalised", "x, y": "key, output"},
    )
)
