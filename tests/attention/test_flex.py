"""FlexAttention against the softmax written out, on the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from neuroattn.attention import flex
from neuroattn.attention.flex import entry, flex_read
from neuroattn.errors import InputError
from tests.tolerances import TOLERANCE

SIZES = [(1, 1, 1), (3, 70, 5), (70, 3, 5), (129, 257, 4)]


def normal(*shape, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def tensors(queries, keys, dim, value_dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, dim), (keys, dim), (keys, value_dim)]
    return [torch.randn(2, 3, *s, generator=generator, dtype=torch.float64) for s in shapes]


def written_out(query, key, value, scale, bias=0.0, seen=None):
    """Return Σ e^s v / Σ e^s over the seen pairs, 0 where the sum is."""
    powers = ((query @ key.mT) * scale + bias).exp()
    powers = powers if seen is None else powers * seen
    return powers @ value / powers.sum(-1, keepdim=True).clamp(min=1e-300)


def places(queries, keys):
    """Return the column of queries and the row of keys, queries counted as the last keys."""
    return torch.arange(queries)[:, None] + keys - queries, torch.arange(keys)[None]


def random_mask(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.4


@pytest.mark.parametrize(("queries", "keys", "dim"), SIZES)
@pytest.mark.parametrize("scale", [None, 0.3, 0.0])
def test_without_anything_more_it_is_softmax(queries, keys, dim, scale):
    # Catches a scale of zero taken for none.
    inputs = tensors(queries, keys, dim)
    wanted = written_out(*inputs, dim**-0.5 if scale is None else scale)
    torch.testing.assert_close(flex_read(*inputs, scale=scale), wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize(("queries", "keys", "dim"), SIZES)
@pytest.mark.parametrize("shape", [None, (1, 1), (2, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("padding", [False, True])
def test_causal_reads_masks_and_windows_are_joined(queries, keys, dim, shape, padding):
    # Catches a causal read aligned to the start, a mask of one head used for all, and a pair that
    # only one of the three hides.
    inputs = tensors(queries, keys, dim)
    place, key = places(queries, keys)
    mask = None if shape is None else random_mask(*shape, 1 if padding else queries, keys)
    seen = (key <= place) & (place - key < 40)
    wanted = written_out(*inputs, 0.5, seen=seen if mask is None else seen & mask)

    def near(image, head, query, key):
        return query + keys - queries - key < 40

    for shared in (False, True):
        read = flex_read(*inputs, causal=True, mask=mask, scale=0.5, visible=near, shared=shared)
        torch.testing.assert_close(read, wanted, **TOLERANCE["float64"])


def test_what_is_visible_may_differ_between_images_and_heads():
    # Catches blocks that were found for the first head alone.
    inputs = tensors(5, 300, 4)
    place, key = places(5, 300)

    def beyond(image, head, query, key):
        return key >= 128 * head + query + image

    offset = 128 * torch.arange(3).reshape(1, 3, 1, 1) + torch.arange(2).reshape(2, 1, 1, 1)
    wanted = written_out(*inputs, 0.5, seen=key >= offset + place - 295)
    torch.testing.assert_close(flex_read(*inputs, visible=beyond), wanted, **TOLERANCE["float64"])


def test_blocks_are_found_for_as_many_images_and_heads_as_differ(monkeypatch):
    # Catches blocks of the first head that stand for all, which only a fused kernel would show,
    # and blocks of all pairs where one table does.
    sizes = []

    def spy(seen, images, heads, *rest, **more):
        sizes.append((images, heads))
        return create_block_mask(seen, images, heads, *rest, **more)

    monkeypatch.setattr("torch.nn.attention.flex_attention.create_block_mask", spy)
    inputs = tensors(4, 6, 2)
    mask = random_mask(2, 1, 4, 6)
    ways = {"visible": lambda image, head, query, key: key >= query}
    flex_read(*inputs)
    flex_read(*inputs, causal=True)
    flex_read(*inputs, mask=mask, causal=True)
    flex_read(*inputs, **ways)
    flex_read(*inputs, mask=mask, **ways)
    flex_read(*inputs, shared=True, **ways)
    flex_read(*inputs, mask=mask, shared=True, **ways)
    assert sizes == [(1, 1), (2, 1), (2, 3), (2, 3), (1, 1), (2, 1)]


@pytest.mark.parametrize("shape", [(2, 3, 5, 70), (1, 3, 5, 1), (2, 1, 1, 70), (1, 1, 1, 1)])
def test_a_score_may_read_tensors_whose_axes_have_size_one(shape):
    # Catches an index beyond a shared axis, and a bias that is scaled with the product.
    inputs = tensors(5, 70, 4)
    bias = normal(*shape)
    at = entry(bias)
    read = flex_read(*inputs, scale=0.1, score=lambda score, *place: score + at(*place))
    torch.testing.assert_close(read, written_out(*inputs, 0.1, bias), **TOLERANCE["float64"])


def test_a_row_that_sees_nothing_reads_zeros():
    # Catches NaN from a softmax over nothing, hidden by a mask, a window or a score.
    query, key, value = tensors(5, 70, 4)
    mask = torch.ones(1, 1, 5, 70, dtype=torch.bool)
    mask[..., 1, :] = False
    read = flex_read(
        query,
        key,
        value,
        mask=mask,
        visible=lambda image, head, query, key: query != 2,
        score=lambda score, image, head, query, key: torch.where(query == 3, -torch.inf, score),
    )
    assert (read[:, :, 1:4] == 0).all()
    wanted = written_out(query, key, value, 0.5)[:, :, [0, 4]]
    torch.testing.assert_close(read[:, :, [0, 4]], wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lower_precision_stays_within_its_tolerance(dtype):
    # Catches scores that are summed in half precision.
    inputs = tensors(65, 63, 32)
    read = flex_read(*[x.to(getattr(torch, dtype)) for x in inputs], causal=True)
    assert read.dtype == getattr(torch, dtype)
    place, key = places(65, 63)
    wanted = written_out(*inputs, 32**-0.5, seen=key <= place)
    torch.testing.assert_close(read.double(), wanted, **TOLERANCE[dtype])


def test_gradients_on_the_cpu_are_refused_with_the_way_out():
    # Catches torch's own error, which does not say what to do, and one under no_grad.
    inputs = [x.requires_grad_() for x in tensors(3, 4, 2)]
    with pytest.raises(InputError, match=r"no backward pass on 'cpu'.*detach"):
        flex_read(*inputs)
    with torch.no_grad():
        read = flex_read(*inputs)
    torch.testing.assert_close(
        read, written_out(*[x.detach() for x in inputs], 2**-0.5), **TOLERANCE["float64"]
    )


def test_the_filters_of_warnings_are_left_as_they_were():
    # Catches a filter that stays and swallows a user's own warnings.
    before = list(warnings.filters)
    flex_read(*tensors(2, 3, 2))
    assert list(warnings.filters) == before


def test_many_different_scores_can_be_read_in_one_process():
    # Catches torch's limit on how often one function is compiled again.
    inputs = tensors(4, 6, 2)
    for power in range(12):
        bias = torch.full((1, 1, 4, 6), float(power), dtype=torch.float64).tril()
        at = entry(bias)
        read = flex_read(*inputs, scale=0.1 * power, score=lambda s, *p, at=at: s + at(*p))
        wanted = written_out(*inputs, 0.1 * power, bias)
        torch.testing.assert_close(read, wanted, **TOLERANCE["float64"])


def test_the_module_is_imported_without_the_compiler():
    # Catches an import that makes every use of attention wait for the compiler.
    code = (
        "import sys, neuroattn.attention.flex\n"
        "sys.exit('torch.nn.attention.flex_attention' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == 0


DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("device", DEVICES)
def test_the_fused_kernel_equals_the_softmax(device):
    # Catches a kernel whose padded widths, blocks or gradients (CUDA) differ. The CPU's compiled
    # kernel is never used by itself; it shows here what a GPU does with the blocks.
    inputs = [x.float().to(device).requires_grad_(device == "cuda") for x in tensors(65, 257, 8)]
    bias = normal(1, 3, 65, 1).float().to(device).requires_grad_(device == "cuda")
    at = entry(bias)
    mask = random_mask(2, 1, 65, 257)
    place, key = places(65, 257)
    ways = {"scale": 0.3, "score_mod": lambda score, *p: score + at(*p)}
    joined = flex._joined(True, mask.to(device), None, 257 - 65)
    read = flex._fused(*inputs, joined, (2, 1, 65, 257), ways)
    exact = [x.detach().double().cpu().requires_grad_() for x in (*inputs, bias)]
    wanted = written_out(*exact[:3], 0.3, exact[3], (key <= place) & mask)
    torch.testing.assert_close(read.double().cpu(), wanted, rtol=1e-3, atol=1e-3)
    if device == "cuda":
        slopes = torch.autograd.grad(wanted.square().sum(), exact)
        found = torch.autograd.grad(read.square().sum(), [*inputs, bias])
        for one, other in zip(found, slopes, strict=True):
            torch.testing.assert_close(one.double().cpu(), other, rtol=1e-2, atol=1e-2)
