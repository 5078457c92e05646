"""Flow-Attention against loops, and the conservation of flow."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import attend, weights
from neuroattn.attention.linear.flow import CLAMPS
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked", "recurrent"]
EXAMPLES = {
    "flow": [
        Example(label="default"),
        Example(
            lambda s, g: {"clamp": "core", "chunk_size": 16}, lengths=(1, 15, 65), label="core"
        ),
        Example(lambda s, g: {"clamp": "language"}, lengths=(2, 65), label="language"),
    ]
}


def tensors(queries, keys, dim=3, value_dim=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (queries, dim), (keys, dim), (keys, value_dim)
    return [torch.randn(2, 2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def at_once(query, key, value, kept, clamp):
    """Read one head, flow by flow."""
    sinks, sources = query.sigmoid(), key[kept].sigmoid()
    length, number = len(sinks), len(sources)
    incoming = [sum(q @ k for k in sources) for q in sinks]
    outgoing = [sum(k @ q for q in sinks) for k in sources]
    read = torch.zeros(length, value.shape[1], dtype=torch.float64)
    conserved = [sum(k @ q / incoming[i] for i, q in enumerate(sinks)) for k in sources]
    powers = [math.exp(min(float(each), clamp)) for each in conserved]
    for i, q in enumerate(sinks):
        sink = sum(float(q @ k / outgoing[j]) for j, k in enumerate(sources))
        gate = 1 / (1 + math.exp(-sink * length / number))
        for j, k in enumerate(sources):
            share = powers[j] / sum(powers) * number
            read[i] += gate * q @ k / incoming[i] * share * value[kept[j]]
    return read


def up_to(query, key, value, kept, clamp):
    """Read one head causally: flows of token t are sums over tokens up to t."""
    sinks, sources = query.sigmoid(), key.sigmoid()
    length = len(sinks)
    written = [[j for j in kept if j <= i] for i in range(length)]
    incoming = [sum(float(sinks[i] @ sources[j]) for j in written[i]) for i in range(length)]
    outgoing = [sum(float(sources[j] @ sinks[i]) for i in range(j + 1)) for j in range(length)]
    powers = {}
    for j in kept:
        conserved = sum(
            float(sources[j] @ sinks[i]) * len(written[i]) / incoming[i]
            for i in range(j + 1)
            if written[i]
        ) / (j + 1)
        powers[j] = math.exp(min(conserved, clamp))
    read = torch.zeros(length, value.shape[1], dtype=torch.float64)
    for i in range(length):
        if not written[i]:
            continue
        sink = sum(float(sinks[i] @ sources[j]) * (j + 1) / outgoing[j] for j in written[i])
        gate = 1 / (1 + math.exp(-sink / len(written[i])))
        for j in written[i]:
            share = powers[j] / sum(powers[u] for u in written[j]) * len(written[j])
            read[i] += gate * sinks[i] @ sources[j] / incoming[i] * share * value[j]
    return read


@pytest.mark.parametrize("clamp", ["none", "core", "language"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_all_forms_equal_loops(clamp, causal, masked):
    # Catches a count that starts at 0, a clamp after the softmax, and sums over the wrong side.
    query, key, value = tensors(7 if causal else 4, 7)
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    if masked:
        mask[0, ..., [0, 3]], mask[1, ..., [5, 6]] = False, False
    loops = up_to if causal else at_once
    for form in FORMS:
        read = attend(
            "flow",
            query,
            key,
            value,
            causal=causal,
            mask=mask,
            form=form,
            clamp=clamp,
            scale=3.0,
            chunk_size=3,
        )
        for b in range(2):
            kept = [j for j in range(7) if mask[b, 0, 0, j]]
            for h in range(2):
                wanted = loops(3 * query[b, h], key[b, h], value[b, h], kept, CLAMPS[clamp])
                torch.testing.assert_close(read[b, h], wanted, **EXACT)


def flows(query, key):
    """Return incoming and outgoing flow, before and after conservation, from the definition."""
    sinks, sources = query.sigmoid(), key.sigmoid()
    every = sinks @ sources.transpose(-1, -2)
    incoming, outgoing = every.sum(-1), every.sum(-2)
    conserved_in = (every / outgoing[..., None, :]).sum(-1)
    conserved_out = (every / incoming[..., None]).sum(-2)
    return every, incoming, outgoing, conserved_in, conserved_out


def test_flow_is_conserved():
    # Catches a sum over the wrong side: what the read uses is taken back from its gates and shares.
    query, key, value = tensors(5, 8)
    every, incoming, outgoing, into, out = flows(query, key)
    torch.testing.assert_close(incoming.sum(-1), outgoing.sum(-1), **EXACT)
    assert into.sum(-1).flatten().tolist() == pytest.approx([8.0] * 4)
    assert out.sum(-1).flatten().tolist() == pytest.approx([5.0] * 4)
    matrix = weights("flow", query, key) / (every / incoming[..., None])
    gate = (into * 5 / 8).sigmoid()
    share = matrix[:, :, 0] / gate[:, :, :1]
    # All rows have the same shares, which are a softmax of the conserved outgoing flow.
    torch.testing.assert_close(matrix, gate[..., None] * share[:, :, None], **EXACT)
    assert share.sum(-1).flatten().tolist() == pytest.approx([8.0] * 4)
    logits = share.log()
    torch.testing.assert_close(logits.diff(dim=-1), out.diff(dim=-1), **EXACT)
    torch.testing.assert_close(
        (matrix[..., :1] / share[:, :, None, :1]).squeeze(-1).logit() * 8 / 5, into, **EXACT
    )
    torch.testing.assert_close(
        attend("flow", query, key, value),
        weights("flow", query, key) @ value,
        **EXACT,
    )


@pytest.mark.parametrize("causal", [False, True])
def test_normalised_flows_into_each_sink_sum_to_one(causal):
    # Catches a normaliser over queries: without gate and shares a row is a mixture.
    query, key, _ = tensors(6, 6)
    every = flows(query, key)[0]
    matrix = weights("flow", query, key, causal=causal)
    if causal:
        every = every.tril()
        assert (matrix.triu(1) == 0).all()
    # The last column's share and the rows' gates are divided out of every entry.
    ratio = matrix[:, :, -1] / every[:, :, -1]
    share = ratio / ratio.mean(-1, keepdim=True)
    plain = matrix / share[:, :, None]
    rows = plain.sum(-1, keepdim=True)
    mixture = plain / rows
    torch.testing.assert_close(mixture, every / every.sum(-1, keepdim=True), **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_equal_sources_share_equally(form):
    # Catches a competition that is not multiplied by the number of sources: with one key for all a
    # read is the mean value, times σ(1) as each sink takes its share of all sources.
    query, key, value = tensors(5, 5)
    key = key[:, :, :1].expand(-1, -1, 5, -1)
    query = query[:, :, :1].expand(-1, -1, 5, -1)
    read = attend("flow", query, key, value, form=form)
    gate = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(read, (gate * value.mean(2, keepdim=True)).expand_as(read), **EXACT)
    read = attend("flow", query, key, value, form=form, causal=True)
    mean = value.cumsum(2) / torch.arange(1, 6)[:, None]
    torch.testing.assert_close(read, gate * mean, **EXACT)


def test_the_clamps_of_the_code_bound_the_competition():
    # Catches a clamp after the softmax, and bounds that are exchanged.
    query, key, _ = tensors(25, 5)
    query, key = 4 * query, 4 * key
    _, incoming, _, into, out = flows(query, key)
    assert out.min() < 1 < 5 < out.max()
    assert ((out > 1) & (out < 5)).any()
    every = query.sigmoid() @ key.sigmoid().transpose(-1, -2)
    for name, most in (("core", 1.0), ("language", 5.0)):
        matrix = weights("flow", query, key, clamp=name)
        share = matrix / (every / incoming[..., None]) / (into * 5).sigmoid()[..., None]
        logits = out.clamp(max=most)
        wanted = logits.softmax(-1)[:, :, None] * 5
        torch.testing.assert_close(share, wanted.expand_as(share), **EXACT)


def test_missing_early_queries_count_as_zeros():
    # Catches forms that count them otherwise.
    query, key, value = tensors(3, 7)
    filled = torch.cat([torch.zeros(2, 2, 4, 3, dtype=torch.float64), query], dim=2)
    for form in FORMS:
        wanted = attend("flow", filled, key, value, causal=True, form=form)[:, :, 4:]
        found = attend("flow", query, key, value, causal=True, form=form)
        torch.testing.assert_close(found, wanted, **EXACT)


def test_a_read_that_is_not_causal_has_no_state():
    # Catches a state of flows that are not those of the read.
    with pytest.raises(InputError, match=r"without causal=True .* no state"):
        attend("flow", *tensors(3, 3), return_state=True)
