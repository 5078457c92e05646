"""Our Triton kernels against the reference, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton: tox run -e triton")
if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    pytest.skip("needs a GPU or TRITON_INTERPRET=1", allow_module_level=True)

from neuroattn.attention import attend
from neuroattn.attention.linear import decayed
from neuroattn.errors import InputError
from tests.attention.contract import close
from tests.tolerances import TOLERANCE

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
SINGLE = TOLERANCE["float32"]


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE)


def inputs(length, dim=4, width=5):
    """Return query, key, value, retentions with zeros among them, and a memory."""
    tensors = [drawn(2, 3, length, d, seed=s) for s, d in enumerate((dim, dim, width))]
    alpha = drawn(2, 3, length, seed=4).sigmoid()
    alpha[:, 1, ::7] = 0.0
    # The first head keeps nearly all, so that late tokens still read the first memory.
    alpha[:, 0] = 1 - alpha[:, 0] / 50
    return [*tensors, alpha, drawn(2, 3, dim, width, seed=5)]


def slopes(outputs, leaves):
    total = sum((x.double() * drawn(*x.shape, seed=9)).sum() for x in outputs)
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(y) if x is None else x for x, y in zip(found, leaves, strict=True)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("length", "dim", "width"),
    [(1, 4, 5), (2, 4, 5), (63, 4, 5), (64, 4, 5), (65, 4, 5), (130, 4, 5), (33, 70, 80)],
)
def test_the_kernel_equals_the_reference_in_reads_memory_and_every_gradient(
    causal, length, dim, width
):
    # Catches a block that is off by one, tokens beyond the last that decay the memory, channels
    # beyond the last slice, and a gradient that is paired with another input.
    from neuroattn.attention import triton_decayed

    exact = [x.requires_grad_() for x in inputs(length, dim, width)]
    single = [x.detach().float().requires_grad_() for x in exact]
    ways = {"scale": 0.7, "causal": causal, "chunk_size": 64}
    wanted = decayed.recurrent(*exact[:4], memory=exact[4], **ways)
    found = triton_decayed.chunked(*single[:4], memory=single[4], **ways)
    for each, correct, what in zip(found, wanted, ("read", "memory"), strict=True):
        assert each.dtype == torch.float32
        close(each.double(), correct, SINGLE, what)
    for number, pair in enumerate(zip(slopes(found, single), slopes(wanted, exact), strict=True)):
        close(pair[0].double(), pair[1], SINGLE, f"gradient {number}")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("retention", {}),
        ("lightning", {"decay": 0.9}),
        ("ssd", {}),
        ("ssd", {"alpha": "tokens", "beta": "tokens"}),
    ],
)
def test_mechanisms_run_on_it_with_masks_states_and_other_lengths(name, parameters):
    # Catches a backend that drops a parameter, a mask or the alignment to the end.
    query, key, value, alpha, _ = (x.float() for x in inputs(70))
    named = {each: alpha if of == "tokens" else of for each, of in parameters.items()}
    mask = torch.ones(70, dtype=torch.bool, device=DEVICE)
    mask[[3, 69]] = False
    for queries, causal in ((70, True), (3, True), (3, False)):
        given = query[:, :, :queries], key, value
        ways = {"causal": causal, "mask": mask, "return_state": True, **named}
        found, state = attend(name, *given, backend="triton", **ways)
        wanted, last = attend(name, *given, form="recurrent", backend="reference", **ways)
        close(found, wanted, SINGLE, f"{name} {queries}")
        close(state["memory"], last["memory"], SINGLE, "memory")
    whole = attend(name, query, key, value, causal=True, backend="triton", **named)
    parts = [slice(0, 65), slice(65, 70)]
    cut = [{each: x[:, :, part] for each, x in named.items() if isinstance(x, torch.Tensor)}
           for part in parts]  # fmt: skip
    fixed = {each: x for each, x in named.items() if not isinstance(x, torch.Tensor)}
    state, reads = None, []
    for part, own in zip(parts, cut, strict=True):
        tensors = [x[:, :, part] for x in (query, key, value)]
        ways = {"causal": True, "backend": "triton", "return_state": True, **fixed, **own}
        read, state = attend(name, *tensors, initial_state=state, **ways)
        reads.append(read)
    close(torch.cat(reads, 2), whole, SINGLE, "split")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_twice_the_standard_implementation(dtype):
    # Catches an accumulation, or retentions, in half precision.
    low = [x.to(dtype) for x in inputs(130)[:3]]
    exact = attend("retention", *(x.double() for x in low), causal=True)
    standard = attend("retention", *(x.float() for x in low), causal=True).to(dtype)
    found = attend("retention", *low, causal=True, backend="triton")
    assert found.dtype == dtype
    limit = 2 * (standard.double() - exact).abs().max()
    assert (found.double() - exact).abs().max() <= limit + 4 * torch.finfo(dtype).eps


def test_auto_takes_it_forward_and_says_why_not_backward():
    # Catches a slow backward pass that is taken by default, and a float64 read in float32.
    from neuroattn.attention.dispatch import choose
    from neuroattn.attention.registry import Request, get

    sizes = {"queries": 300, "keys": 300, "dim": 16, "value_dim": 16}
    flags = {"causal": True, "masked": False, "state": False, "parameters": {}}
    request = Request(DEVICE, torch.float32, **sizes, **flags, gradient=False)
    assert choose(get("retention"), request, "auto", "auto")[1].backend == "triton"
    request = Request(DEVICE, torch.float32, **sizes, **flags, gradient=True)
    _, plan = choose(get("retention"), request, "auto", "auto")
    assert plan.backend == "reference"
    assert "backward" in plan.reason
    with pytest.raises(InputError, match="float64 goes through the reference"):
        attend("retention", *inputs(3)[:3], backend="triton")
    single = [x.float() for x in inputs(3)[:3]]
    with pytest.raises(InputError, match="does not normalise"):
        attend("retention", *single, normalize=True, backend="triton")
