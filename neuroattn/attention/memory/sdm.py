"""Sparse distributed memory: binary addresses, neurons in balls, exact overlaps."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from neuroattn.attention.masks import allowed, written
from neuroattn.attention.memory.intersection import ball, circle_table
from neuroattn.attention.parameters import integer, switch, tensor
from neuroattn.attention.registry import Mechanism, Request, Run, State, register
from neuroattn.errors import InputError

#: Most bits at which the neurons of the whole cube are enumerated.
CUBE = 16


def signs(numbers: Tensor) -> Tensor:
    """Return addresses as ±1: a bit is set where the number is above 0.

    So 0/1 and -1/1 mean the same address, and floats are cut at 0.
    """
    return torch.where(numbers > 0, 1.0, -1.0).to(numbers.dtype)


@lru_cache(maxsize=16)
def _drawn(dim: int, neurons: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (neurons, dim), generator=generator)


def neuron_addresses(
    like: Tensor, neurons: int | None, seed: int, addresses: Tensor | None
) -> Tensor:
    """Return the neurons' addresses as ±1, (neurons, dim) or (heads, neurons, dim).

    Parameters
    ----------
    like : Tensor
        Gives dim (its last axis), dtype and device.
    neurons : int or None
        How many are drawn with equal chances; None for every corner of the cube.
    seed : int
        Of the draw.
    addresses : Tensor or None
        Where the neurons are, instead of a draw.

    Raises
    ------
    InputError
        If both ``neurons`` and ``addresses`` are given and their numbers differ.
    """
    dim = like.shape[-1]
    if addresses is not None:
        if neurons not in (None, addresses.shape[-2]):
            raise InputError(
                f"sdm's neurons={neurons} and addresses of {addresses.shape[-2]} neurons came; "
                "give one of them."
            )
        return signs(addresses.to(like))
    if neurons is not None:
        return signs(_drawn(dim, neurons, seed).to(like))
    corners = torch.arange(2**dim, device=like.device)
    bits = corners[:, None] >> torch.arange(dim, device=like.device) & 1
    return signs(bits.to(like))


def within(numbers: Tensor, places: Tensor, radius: int) -> Tensor:
    """Return which neurons are within ``radius`` of each address, as 0 and 1.

    Parameters
    ----------
    numbers : Tensor
        (batch, heads, tokens, dim)
    places : Tensor
        From :func:`neuron_addresses`.
    radius : int
        Hamming distance.

    Returns
    -------
    Tensor
        (batch, heads, tokens, neurons)
    """
    # Of ±1 addresses: dim - 2 · distance, exact in any floating type.
    agreement = signs(numbers) @ places.transpose(-1, -2)
    return (agreement >= numbers.shape[-1] - 2 * radius).to(numbers.dtype)


def overlaps(
    query: Tensor,
    key: Tensor,
    *,
    radius: int,
    neurons: int | None,
    seed: int,
    addresses: Tensor | None,
    normalize: bool,
) -> Tensor:
    """Return the neurons within ``radius`` of both query and key, in float64.

    As a fraction of all neurons, or, with ``normalize`` and the whole cube, of one ball's.

    Returns
    -------
    Tensor
        (batch, heads, queries, keys)
    """
    dim = query.shape[-1]
    if neurons is None and addresses is None:
        agreement = signs(query) @ signs(key).transpose(-1, -2)
        # Python divides integers of any size to the nearest float.
        unit = ball(dim, radius) if normalize else 2**dim
        shares = [count / unit for count in circle_table(dim, radius)]
        table = torch.tensor(shares, dtype=torch.float64, device=query.device)
        return table[((dim - agreement) / 2).round().long()]
    places = neuron_addresses(query, neurons, seed, addresses)
    read, wrote = within(query, places, radius), within(key, places, radius)
    return (read @ wrote.transpose(-1, -2)).double() / places.shape[-2]


def sdm_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    radius: int | None = None,
    neurons: int | None = None,
    seed: int = 0,
    addresses: Tensor | None = None,
    normalize: bool = True,
    chunk_size: int = 64,
) -> Tensor:
    """Return the share of neurons within ``radius`` of both addresses, see :func:`overlaps`.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    causal, mask, scale, radius, neurons, seed, addresses, normalize, chunk_size
        As in :func:`neuroattn.attention.attend`; scale and chunk_size change nothing here.

    References
    ----------
    Bricken & Pehlevan (2021), equations 1 and 2; arXiv 2111.05498.
    """
    shared = overlaps(
        query,
        key,
        radius=_radius(radius, query),
        neurons=neurons,
        seed=seed,
        addresses=addresses,
        normalize=normalize,
    )
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    if seen is not None:
        shared = shared.masked_fill(~seen, 0.0)
    if normalize:
        shared = _divided(shared, shared.sum(-1, keepdim=True))
    return shared.to(query.dtype)


def sdm_kernel(query: Tensor, key: Tensor, value: Tensor, **given: object) -> Tensor:
    """Read the values with :func:`sdm_weights`."""
    return sdm_weights(query, key, **given) @ value  # type: ignore[arg-type]


def sdm_recurrent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    initial_state: State | None = None,
    radius: int | None = None,
    neurons: int | None = None,
    seed: int = 0,
    addresses: Tensor | None = None,
    normalize: bool = True,
    chunk_size: int = 64,
) -> tuple[Tensor, State]:
    """Write each value to every neuron near its key; read every neuron near the query.

    Returns
    -------
    output : Tensor
        (batch, heads, queries, value_dim)
    state : dict of str to Tensor
        ``memory`` (batch, heads, neurons, value_dim), sums of what each neuron was given, and
        ``writes`` (batch, heads, neurons, 1), how often.

    References
    ----------
    Kanerva (1988), Sparse distributed memory, chapter 4.
    """
    places = neuron_addresses(query, neurons, seed, addresses)
    near = _radius(radius, query)
    contents = _contents(value, written(mask, key))
    state = _begun(initial_state, contents, places)
    reads = [state[:, :, :0]]
    for token in range(key.shape[-2]):
        here = slice(token, token + 1)
        wrote = within(key[:, :, here], places, near)
        state = state + wrote.transpose(-1, -2) * contents[:, :, here]
        if causal:
            reads.append(within(query[:, :, here], places, near) @ state)
    found = torch.cat(reads, dim=2) if causal else within(query, places, near) @ state
    return _output(found, places, normalize), _named(state)


def sdm_chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    initial_state: State | None = None,
    radius: int | None = None,
    neurons: int | None = None,
    seed: int = 0,
    addresses: Tensor | None = None,
    normalize: bool = True,
    chunk_size: int = 64,
) -> tuple[Tensor, State]:
    """Do what :func:`sdm_recurrent` does, ``chunk_size`` tokens at a time."""
    places = neuron_addresses(query, neurons, seed, addresses)
    near = _radius(radius, query)
    contents = _contents(value, written(mask, key))
    state = _begun(initial_state, contents, places)
    reads = [state[:, :, :0]]
    for start in range(0, key.shape[-2], chunk_size):
        chunk = slice(start, start + chunk_size)
        wrote = within(key[:, :, chunk], places, near)
        if causal:
            asked = within(query[:, :, chunk], places, near)
            inside = (asked @ wrote.transpose(-1, -2)).tril()
            reads.append(asked @ state + inside @ contents[:, :, chunk])
        state = state + wrote.transpose(-1, -2) @ contents[:, :, chunk]
    found = torch.cat(reads, dim=2) if causal else within(query, places, near) @ state
    return _output(found, places, normalize), _named(state)


def _radius(radius: int | None, query: Tensor) -> int:
    return query.shape[-1] // 4 if radius is None else radius


def _contents(value: Tensor, kept: Tensor | None) -> Tensor:
    """Return values with a column of ones, which counts writes; zeros where a key is hidden."""
    counted = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
    return counted if kept is None else counted.masked_fill(~kept, 0.0)


def _begun(initial: State | None, contents: Tensor, places: Tensor) -> Tensor:
    if initial is None:
        return contents.new_zeros(*contents.shape[:2], places.shape[-2], contents.shape[-1])
    return torch.cat([initial["memory"], initial["writes"]], dim=-1).to(contents)


def _named(state: Tensor) -> State:
    return {"memory": state[..., :-1], "writes": state[..., -1:]}


def _output(found: Tensor, places: Tensor, normalize: bool) -> Tensor:
    sums, counts = found[..., :-1], found[..., -1:]
    return _divided(sums, counts) if normalize else sums / places.shape[-2]


def _divided(sums: Tensor, by: Tensor) -> Tensor:
    """Divide; where no neuron is shared the sums are zeros and stay so."""
    return sums / by.masked_fill(by == 0, 1.0)


def _refuses(request: Request) -> str:
    given = request.parameters
    if given["neurons"] is None and given["addresses"] is None and request.dim > CUBE:
        return (
            f"the whole cube has 2**{request.dim} neurons, at most 2**{CUBE} are written; give "
            "neurons, or take form='parallel'"
        )
    return ""


register(
    Mechanism(
        name="sdm",
        family="memory",
        paper="Kanerva (1988), Sparse distributed memory, chapter 4; Bricken & Pehlevan (2021), "
        "Attention approximates sparse distributed memory, equations 1 and 2; arXiv 2111.05498",
        summary="Binary addresses: a value is written to all neurons near its key, and a query "
        "reads all neurons near it. A bit is 1 where the number is above 0; only values pass "
        "gradients.",
        formula=r"y_i = \frac{\sum_j |B_d(q_i) \cap B_d(k_j)|\, v_j}"
        r"{\sum_l |B_d(q_i) \cap B_d(k_l)|}, \quad "
        r"B_d(x) = \{\text{neurons within Hamming distance } d \text{ of } x\}",
        runs=(
            Run("parallel", "reference", sdm_kernel),
            Run("chunked", "reference", sdm_chunked, stateful=True, refuses=_refuses),
            Run("recurrent", "reference", sdm_recurrent, stateful=True, refuses=_refuses),
        ),
        weights=sdm_weights,
        parameters={
            "radius": integer(
                "Hamming distance within which a neuron is written and read; dim // 4 if nothing",
                None,
                0,
                optional=True,
            ),
            "neurons": integer(
                "how many neurons are drawn at random; nothing for the whole cube, whose weights "
                "are exact integers at any dim",
                None,
                1,
                optional=True,
            ),
            "seed": integer("of the draw of neurons", 0, 0, 2**63 - 1),
            "addresses": tensor(
                "where the neurons are, bits as in keys, instead of a draw",
                ("neurons", "dim"),
                ("heads", "neurons", "dim"),
                optional=True,
            ),
            "normalize": switch(
                "whether weights sum to one; else they are fractions of all neurons", True
            ),
            "chunk_size": integer("tokens that are written at a time in the chunked form", 64, 1),
        },
        mask="keys",
        scale="",
        cost="kernel: time O(m n d), memory O(m n); write then read: time O((m + n) r (d + "
        "value_dim)), state O(r value_dim) for r neurons",
        laws={
            "test_write_then_read_equals_the_kernel_of_exact_integers": (
                "Forms agree on the whole cube; broken by a strict inequality at the radius."
            ),
            "test_it_is_linear_attention_with_indicator_features": (
                "Equals linear attention with φ_r(x) = [neuron r near x]; broken by weights of "
                "the distance alone."
            ),
            "test_weights_are_the_golden_integers": (
                "Un-normalised weights times 2^n are Kanerva's integers; broken by float "
                "binomials and by an off-by-one in the inner sum."
            ),
            "test_finite_neurons_scatter_as_predicted": (
                "Relative scatter sqrt((1 - p2)/(r p2)), p2 of the overlap; broken by p of one "
                "ball."
            ),
            "test_the_kernel_is_positive_semi_definite": (
                "Gram matrices have no negative eigenvalue; broken by a table that is shifted."
            ),
        },
        symbols={"d": "radius", "r": "neurons", "n": "dim", "ξ": "query", "p_a": "key"},
    )
)
