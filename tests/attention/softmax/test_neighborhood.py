"""Neighborhood attention against windows that are slid along lists of tokens."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def fitting(window, dilation=1, stride=1):
    """Return parameters that fit any length: windows shrink with a short axis."""

    def parameters(sizes, generator):
        step = min(dilation, sizes["keys"])
        width = min(window, sizes["keys"] // step)
        return {"window": width, "dilation": step, "stride": min(stride, width)}

    return parameters


def on_grid(sizes, generator):
    """Return a grid of two axes, the first of them as long as a factor allows."""
    rows = next(x for x in (7, 5, 3, 2, 1) if sizes["keys"] % x == 0)
    columns = sizes["keys"] // rows
    return {"grid": (rows, columns), "window": (min(2, rows), min(3, columns))}


def default(sizes, generator):
    return {} if sizes["keys"] >= 7 else {"window": sizes["keys"]}


EXAMPLES = {
    "neighborhood": [
        Example(default, label="default", lengths=(6, 7, 8, 65, 257)),
        Example(fitting(3), label="narrow", lengths=(1, 2, 3, 63)),
        Example(fitting(4, dilation=3, stride=2), label="dilated", lengths=(2, 13, 64)),
        Example(on_grid, label="grid", lengths=(1, 2, 35, 63)),
    ]
}
WAYS = [("parallel", "reference"), ("parallel", "sdpa"), ("chunked", "reference")]
WAYS += [("parallel", "flex")]


def tensors(tokens, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 2, tokens, width, generator=generator, dtype=torch.float64)
        for width in (dim, dim, 3)
    ]


def window_of(own, extent, window, dilation, stride, causal):
    """Slide a window along the tokens of one residue class until its middle is the leader's."""
    kin = [token for token in range(extent) if token % dilation == own % dilation]
    groups = [kin[start : start + stride] for start in range(0, len(kin), stride)]
    group = next(group for group in groups if own in group)
    if causal:
        reach = kin[: kin.index(group[-1]) + 1][-window:]
        return [token for token in reach if token <= own]
    leader = group[stride // 2] if len(group) > stride // 2 else group[-1]
    start = 0
    while start + window < len(kin) and kin[start + window // 2] < leader:
        start += 1
    return kin[start : start + window]


def by_loops(query, key, value, grid, window, dilation, stride, causal):
    """Weigh each query's window; all arguments but the tensors have one entry an axis."""
    places = list(itertools.product(*map(range, grid)))
    read = torch.zeros(*query.shape[:3], value.shape[-1], dtype=query.dtype)
    for number, place in enumerate(places):
        spans = zip(place, grid, window, dilation, stride, causal, strict=True)
        near = [places.index(p) for p in itertools.product(*(window_of(*each) for each in spans))]
        logits = key[:, :, near] @ query[:, :, number, :, None] / math.sqrt(query.shape[-1])
        power = logits.exp()
        read[:, :, number] = (power / power.sum(2, keepdim=True) * value[:, :, near]).sum(2)
    return read


GRIDS = [
    ((11,), (4,), (1,), (1,)),
    ((13,), (3,), (4,), (2,)),
    ((10,), (5,), (2,), (5,)),
    ((5, 7), (3, 4), (1, 1), (1, 1)),
    ((6, 7), (2, 3), (2, 2), (1, 2)),
    ((3, 4, 5), (2, 3, 2), (1, 1, 2), (2, 1, 1)),
]


@pytest.mark.parametrize(("grid", "window", "dilation", "stride"), GRIDS)
@pytest.mark.parametrize("ordered", [(), (0,), "last", "all"])
@pytest.mark.parametrize(("form", "backend"), WAYS)
def test_grids_equal_loops_over_tokens(grid, window, dilation, stride, ordered, form, backend):
    # Catches swapped axes, an axis's causality on another, and a wrong leader of a group.
    count = len(grid)
    named = {"last": (count - 1,), "all": tuple(range(count))}.get(ordered, ordered)
    inputs = tensors(math.prod(grid))
    wanted = by_loops(
        *inputs, grid, window, dilation, stride, [axis in named for axis in range(count)]
    )
    ways = {"causal": bool(named), "form": form, "backend": backend}
    ways |= {"causal_axes": named} if named and ordered != "all" else {}
    found = attend(
        "neighborhood",
        *inputs,
        grid=grid,
        window=window,
        dilation=dilation,
        stride=stride,
        **ways,
    )
    torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("form", "backend"), WAYS)
def test_a_window_of_the_whole_grid_is_softmax(causal, form, backend):
    # Catches a window that is cut at the edges, and a scale of its own.
    inputs = tensors(12)
    ways = {"causal": causal, "scale": 0.7}
    wanted = attend("softmax", *inputs, **ways)
    found = attend("neighborhood", *inputs, window=12, form=form, backend=backend, **ways)
    torch.testing.assert_close(found, wanted, **EXACT)
    if not causal:
        whole = {"grid": (3, 4), "window": (3, 4), "form": form, "backend": backend}
        torch.testing.assert_close(attend("neighborhood", *inputs, **whole, **ways), wanted)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_a_stride_of_the_window_is_block_diagonal(size):
    # Catches a leader that is the first or last query of its group.
    query, key, _ = tensors(12)
    found = weights("neighborhood", query, key, window=size, stride=size)
    block = torch.arange(12) // size
    assert torch.equal(found > 0, (block[:, None] == block).expand_as(found))
    part = slice(size, 2 * size)
    alone = weights("softmax", query[:, :, part], key[:, :, part])
    torch.testing.assert_close(found[:, :, part, part], alone, **EXACT)


@pytest.mark.parametrize("window", range(1, 10))
@pytest.mark.parametrize(("dilation", "stride"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_every_query_sees_exactly_w_keys(window, dilation, stride):
    # Catches zero padding at the edges, where a query would see fewer.
    query, key, _ = tensors(19)
    stride = min(stride, window)
    found = weights("neighborhood", query, key, window=window, dilation=dilation, stride=stride)
    assert ((found > 0).sum(-1) == window).all()
    if stride == 1:
        assert (found.diagonal(dim1=-2, dim2=-1) > 0).all()


@pytest.mark.parametrize("window", [1, 3, 8])
def test_causal_rows_count_up_to_the_window(window):
    # Catches a causal window that is clamped to the start, and so sees later keys.
    query, key, _ = tensors(8)
    seen = weights("neighborhood", query, key, window=window, causal=True) > 0
    for row in range(8):
        wanted = [row - window < column <= row for column in range(8)]
        assert seen[0, 0, row].tolist() == wanted


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [12, 13, 14])
def test_dilation_is_separate_attention_in_each_residue_class(tokens, causal):
    # Catches a clamp at the edges of the axis instead of those of the class.
    inputs = tensors(tokens)
    found = attend("neighborhood", *inputs, window=3, dilation=3, causal=causal)
    for first in range(3):
        alone = [x[:, :, first::3] for x in inputs]
        wanted = attend("neighborhood", *alone, window=3, causal=causal)
        torch.testing.assert_close(found[:, :, first::3], wanted, **EXACT)


@pytest.mark.parametrize(("form", "backend"), WAYS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 15), (2, 1, 15, 15), (1, 2, 15, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_hide_keys_within_windows(shape, form, backend, causal):
    # Catches a mask that is indexed by the place in the window, or that brings later keys back.
    inputs = tensors(15)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.4
    ways = {"grid": (3, 5), "window": (3, 2), "causal": causal}
    seen = weights("neighborhood", *inputs[:2], **ways) > 0
    wanted = attend("softmax", *inputs, mask=seen & mask)
    found = attend("neighborhood", *inputs, mask=mask, form=form, backend=backend, **ways)
    torch.testing.assert_close(found, wanted, **EXACT)


def test_auto_gathers_long_sequences_and_fuses_short_ones():
    # Catches n² memory for windows that are a small part of it.
    for tokens, form in ((64, "parallel"), (2048, "chunked")):
        _, plan = attend("neighborhood", *tensors(tokens, dim=2), explain=True)
        assert plan.form == form
    assert "7 of 2048" in plan.reason


WRONG = [
    ({"window": 9}, "at most 8"),
    ({"window": 5, "dilation": 2}, "at most 4"),
    ({"window": 3, "stride": 4}, "exceeds window=3"),
    ({"grid": (3, 3)}, "holds 9 tokens.*number of tokens, 8"),
    ({"grid": (1, 2, 2, 2), "window": 1}, "one to three axes"),
    ({"grid": (2, 4), "window": (2, 2, 2)}, "has 3 entries for a grid of 2 axes"),
    ({"window": 3, "causal_axes": 1, "causal": True}, "axes 0 to 0"),
    ({"window": 3, "causal_axes": (0, 2)}, "axes 0 to 0"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
@pytest.mark.parametrize("form", ["auto", "chunked"])
def test_what_does_not_fit_is_refused_with_what_would(given, message, form):
    # Catches a window that silently wraps around its axis.
    with pytest.raises(InputError, match=message):
        attend("neighborhood", *tensors(8), form=form, **given)


def test_a_block_takes_lists_from_yaml_and_trains():
    # Catches parameters that only tuples fit, and a gather without a gradient.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(
        8, 2, mechanism="neighborhood", parameters={"grid": [3, 4], "window": [3, 2]}
    )
    tokens = torch.randn(2, 12, 8, generator=generator)
    target = torch.randn(2, 12, 8, generator=generator)
    step = torch.optim.SGD(block.parameters(), lr=0.05)
    losses = []
    for _ in range(2):
        loss = (block(tokens, block.project(tokens, torch.ones(12, 8))) - target).square().mean()
        step.zero_grad()
        loss.backward()
        assert all(each.grad.isfinite().all() for each in block.parameters())
        assert block.query.weight.grad.abs().max() > 0
        step.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
