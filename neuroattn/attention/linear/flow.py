"""Flow-Attention: linear attention in which sources compete and flow is conserved.

Queries are sinks and keys are sources of flow. Each sink takes in as much as any other, hence
sources compete; each source gives as much as any other, hence sinks are allocated their share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention.linear.accumulate import divided, started, summed
from neuroattn.attention.linear.linear import CHUNK_SIZE, many_keys
from neuroattn.attention.masks import written
from neuroattn.attention.parameters import choice
from neuroattn.attention.registry import Mechanism, Request, Run, State, register

#: Bounds on the logits of the competition, by name.
CLAMPS = {"none": float("inf"), "core": 1.0, "language": 5.0}

#: The logit of a source that is hidden: flows are positive, and e^-10,000 is 0.
HIDDEN = -1e4


def _positive(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sinks and sources, hidden ones 0, and which sources are there (…, keys, 1)."""
    there = key.new_ones(*key.shape[:3], 1)
    seen = written(mask, key)
    if seen is not None:
        there = there * seen
    sinks = (query if scale is None else query * scale).sigmoid()
    return sinks, key.sigmoid() * there, there


def flow_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    clamp: str = "none",
    chunk_size: int = 64,
) -> Tensor:
    """Return the explicit weights from the matrix of all flows; parameters as in the registry."""
    queries, keys = query.shape[-2], key.shape[-2]
    early = max(0, queries - keys) if causal else 0
    if causal:
        query = F.pad(query[:, :, early:], (0, 0, max(0, keys - queries), 0))
    sinks, sources, there = _positive(query, key, mask, scale)
    every = torch.ones_like(sinks[..., :1] @ sources[..., :1].transpose(-1, -2))
    down, up = (every.tril(), every.triu()) if causal else (every, every)
    flows = sinks @ sources.transpose(-1, -2)
    # How many sources each sink has, and how many sinks each source.
    own = down @ there
    others, number = up.sum(-2, keepdim=True), there.sum(2, keepdim=True)
    incoming = (flows * down).sum(-1, keepdim=True)
    outgoing = (flows * up).sum(-2, keepdim=True)
    given_away = flows * down * divided(others, outgoing, True)
    sink = divided(given_away.sum(-1, keepdim=True), own, True)
    source = (flows * up * divided(own, incoming, True)).sum(-2, keepdim=True) / others
    if not causal:
        source = source * divided(others, number, True)
    logits = source.clamp(max=CLAMPS[clamp]).masked_fill(there.transpose(-1, -2) == 0, HIDDEN)
    rivals = logits
    if causal:
        rivals = logits.expand(-1, -1, keys, -1).masked_fill(down == 0, HIDDEN)
    against = rivals.logsumexp(-1, keepdim=True)
    share = (logits.transpose(-1, -2) - against).exp() * (own if causal else number) * there
    found = sink.sigmoid() * divided(flows * down, incoming, True) * share.transpose(-1, -2)
    return F.pad(found[:, :, max(0, keys - queries) :], (0, 0, early, 0)) if causal else found


def flow_matrix(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
    """Read the values with :func:`flow_weights`."""
    return flow_weights(query, key, **given) @ value


def _at_once(sinks: Tensor, sources: Tensor, there: Tensor, value: Tensor, clamp: str) -> Tensor:
    """Read all sources with all sinks, in linear order."""
    number = there.sum(2, keepdim=True)
    incoming = sinks @ sources.sum(2)[..., None]
    outgoing = sources @ sinks.sum(2)[..., None]
    sink = sinks @ divided(sources, outgoing, True).sum(2)[..., None]
    source = sources @ divided(sinks, incoming, True).sum(2)[..., None]
    share = source.clamp(max=CLAMPS[clamp]).masked_fill(there == 0, HIDDEN).softmax(2) * number
    context = sources.transpose(-1, -2) @ (value * share * there)
    allocated = divided(sink * sinks.shape[2], number, True).sigmoid()
    return allocated * divided(sinks @ context, incoming, True)


#: Entries of the state, after batch and heads; d is the width of a key, v that of a value.
def _shapes(dim: int, value_dim: int) -> dict[str, tuple[int, ...]]:
    return {
        "memory": (dim, value_dim),
        "key_sum": (dim,),
        "query_sum": (dim,),
        "source_flow": (dim,),
        "sink_flow": (dim,),
        "rivals": (1,),
        "sources": (1,),
        "sinks": (1,),
    }


def _begun(initial_state: State | None, dim: int, value: Tensor) -> list[Tensor]:
    entries = _shapes(dim, value.shape[-1])
    state = started(initial_state, value, entries)
    if initial_state is None:
        state[5] = torch.full_like(state[5], HIDDEN)
    return state


def flow_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    initial_state: State | None = None,
    clamp: str = "none",
    chunk_size: int = 64,
) -> tuple[Tensor, State]:
    """Read with cumulative sums, and the memory block by block.

    Returns
    -------
    output : Tensor
        (batch, heads, queries, value_dim)
    state : dict of str to Tensor
        After a causal read: ``memory`` (batch, heads, dim, value_dim); the sums ``key_sum``,
        ``query_sum``, ``source_flow``, ``sink_flow`` (batch, heads, dim); ``rivals``, the logarithm
        of the competition's normaliser, and the numbers of ``sources`` and ``sinks`` (batch,
        heads, 1). Nothing after another read.
    """
    sinks, sources, there = _positive(query, key, mask, scale)
    if not causal:
        return _at_once(sinks, sources, there, value, clamp), {}
    state = _begun(initial_state, key.shape[-1], value)

    def grown(place: int, each: Tensor) -> Tensor:
        return state[place][:, :, None] + each.cumsum(2)

    key_sum, query_sum = grown(1, sources), grown(2, sinks)
    own, others = grown(6, there), grown(7, torch.ones_like(there))
    incoming = (sinks * key_sum).sum(-1, keepdim=True)
    outgoing = (sources * query_sum).sum(-1, keepdim=True)
    source_flow = grown(3, divided(sinks * own, incoming, True))
    sink_flow = grown(4, divided(sources * others, outgoing, True))
    source = (sources * source_flow).sum(-1, keepdim=True) / others
    logits = source.clamp(max=CLAMPS[clamp]).masked_fill(there == 0, HIDDEN)
    rivals = torch.cat([state[5][:, :, None], logits], dim=2).logcumsumexp(2)[:, :, 1:]
    share = (logits - rivals).exp() * own * there
    read, memory = summed(
        sinks, sources, value * share, state[0], causal=True, chunk_size=chunk_size
    )
    sink = divided((sinks * sink_flow).sum(-1, keepdim=True), own, True)
    output = sink.sigmoid() * divided(read, incoming, True)
    if not key.shape[2]:
        return output, dict(zip(_shapes(*state[0].shape[-2:]), state, strict=True))
    ends = [key_sum, query_sum, source_flow, sink_flow, rivals, own, others]
    last = [memory, *(each[:, :, -1] for each in ends)]
    return output, dict(zip(_shapes(*memory.shape[-2:]), last, strict=True))


def flow_tokens(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    initial_state: State | None = None,
    clamp: str = "none",
    chunk_size: int = 64,
) -> tuple[Tensor, State]:
    """Do what :func:`flow_blocks` does, token by token."""
    sinks, sources, there = _positive(query, key, mask, scale)
    if not causal:
        return _at_once(sinks, sources, there, value, clamp), {}
    state = _begun(initial_state, key.shape[-1], value)
    memory, key_sum, query_sum, source_flow, sink_flow, rivals, own, others = state
    reads = [value[:, :, :0]]
    for token in range(key.shape[2]):
        sink, source, here = (each[:, :, token] for each in (sinks, sources, there))
        key_sum, query_sum = key_sum + source, query_sum + sink
        own, others = own + here, others + 1
        incoming = (sink * key_sum).sum(-1, keepdim=True)
        outgoing = (source * query_sum).sum(-1, keepdim=True)
        source_flow = source_flow + divided(sink * own, incoming, True)
        sink_flow = sink_flow + divided(source * others, outgoing, True)
        logit = ((source * source_flow).sum(-1, keepdim=True) / others).clamp(max=CLAMPS[clamp])
        logit = logit.masked_fill(here == 0, HIDDEN)
        rivals = torch.logaddexp(rivals, logit)
        share = (logit - rivals).exp() * own * here
        memory = memory + source[..., :, None] * (value[:, :, token] * share)[..., None, :]
        conserved = divided((sink * sink_flow).sum(-1, keepdim=True), own, True)
        read = divided((sink[..., None, :] @ memory)[..., 0, :], incoming, True)
        reads.append((conserved.sigmoid() * read)[:, :, None])
    last = [memory, key_sum, query_sum, source_flow, sink_flow, rivals, own, others]
    return torch.cat(reads, 2), dict(zip(_shapes(*memory.shape[-2:]), last, strict=True))


def _no_state(request: Request) -> str:
    if request.state and not request.causal:
        return "without causal=True each source's flow is that into all queries, so no state"
    return ""


register(
    Mechanism(
        name="flow",
        family="linear",
        paper="Wu et al. (2022), Flowformer: linearizing transformers with conservation flows, "
        "Flow-Attention: competition, aggregation, allocation; arXiv 2202.06258. The causal read "
        "is that of its code",
        summary="Linear attention in which sources of flow compete and sinks are allocated "
        "theirs, because the flow out of each and into each is conserved.",
        formula=r"y_i = \sigma\big(\tfrac{L}{S}\hat I_i\big) \frac{\phi(q_i)^\top}{I_i} \sum_j "
        r"\phi(k_j)\, S\,\mathrm{softmax}_j(\hat O)\, v_j,\quad "
        r"I_i = \phi(q_i)\cdot\sum_j \phi(k_j),\ O_j = \phi(k_j)\cdot\sum_i \phi(q_i),\ "
        r"\hat I_i = \phi(q_i)\cdot\sum_j \tfrac{\phi(k_j)}{O_j},\ "
        r"\hat O_j = \phi(k_j)\cdot\sum_i \tfrac{\phi(q_i)}{I_i},\ \phi = \sigma(s\,\cdot)",
        runs=(
            Run("parallel", "reference", flow_matrix, avoids=many_keys),
            Run("chunked", "reference", flow_blocks, stateful=True, refuses=_no_state),
            Run("recurrent", "reference", flow_tokens, stateful=True, refuses=_no_state),
        ),
        weights=flow_weights,
        parameters={
            "clamp": choice(
                "upper bound on the logits of the competition: none, or that of the published "
                "code, 1 in its core and 5 for language",
                *CLAMPS,
            ),
            "chunk_size": CHUNK_SIZE,
        },
        mask="keys",
        scale="1, on the query before its sigmoid",
        queries_apart=False,
        cost="time O((m + n) d v), state d v + 4 d + 3; chunked O(n C (d + v) + n d v); parallel "
        "O(m n). Causal sums over sources and sinks run up to the token itself; of fewer queries "
        "than keys, the early ones that are missing count as zeros",
        laws={
            "test_flow_is_conserved": (
                "ΣI = ΣO, ΣÔ = L, ΣÎ = S; broken by a sum over the wrong side."
            ),
            "test_all_forms_equal_loops": (
                "The definition, causal and not; broken by a count that starts at 0."
            ),
            "test_normalised_flows_into_each_sink_sum_to_one": (
                "Rows of φ(Q)/I φ(K)ᵀ; broken by a normaliser over queries."
            ),
            "test_equal_sources_share_equally": (
                "With one key for all, a read is the mean value times σ(1); broken by a "
                "competition that is not multiplied by the number of sources."
            ),
            "test_the_clamps_of_the_code_bound_the_competition": (
                "±1 and ±5; broken by a clamp after the softmax."
            ),
        },
        symbols={
            "I, O": "incoming and outgoing flow",
            "Î, Ô": "conserved flows",
            "φ": "sigmoid",
            "L, S": "queries, keys",
        },
    )
)
