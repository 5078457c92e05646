"""Softmax attention against loops over every number, and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from neuroattn.attention import attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

BACKENDS = ["reference", "sdpa"]
EXAMPLES = {
    "softmax": [
        Example(label="plain"),
        Example(
            lambda sizes, generator: {
                "bias": torch.randn(
                    [sizes[axis] for axis in ("batch", "heads", "queries", "keys")],
                    generator=generator,
                    dtype=torch.float64,
                )
            },
            label="bias",
            lengths=(1, 2, 63, 65),
        ),
        Example(
            lambda sizes, generator: {
                "bias": torch.randn(
                    1, sizes["heads"], sizes["queries"], 1, generator=generator, dtype=torch.float64
                )
            },
            label="shared-bias",
            lengths=(1, 65),
        ),
    ]
}
SIZES = [(1, 1, 1), (2, 3, 5), (63, 65, 1), (65, 63, 7), (1, 65, 64)]


def tensors(queries, keys, dim, value_dim=None, batch=2, heads=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, dim), (keys, dim), (keys, value_dim or dim)]
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for shape in shapes
    ]


def random_mask(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.4


def by_loops(query, key, value, mask=None, scale=None):
    """Weigh one value after the other."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    batch, heads, queries, _ = query.shape
    read = torch.zeros(batch, heads, queries, value.shape[-1], dtype=query.dtype)
    for b in range(batch):
        for h in range(heads):
            for q in range(queries):
                seen = [k for k in range(key.shape[2]) if mask is None or mask[b, h, q, k]]
                logits = [float(query[b, h, q] @ key[b, h, k]) * scale for k in seen]
                highest = max(logits, default=0.0)
                powers = [math.exp(logit - highest) for logit in logits]
                for k, power in zip(seen, powers, strict=True):
                    read[b, h, q] += power / sum(powers) * value[b, h, k]
    return read


def gradients(read, inputs):
    direction = torch.randn(read.shape, generator=torch.Generator().manual_seed(5))
    return torch.autograd.grad((read * direction.to(read.dtype)).sum(), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("queries", "keys", "dim"), [(1, 1, 1), (2, 3, 5), (3, 65, 2)])
@pytest.mark.parametrize("scale", [None, 0.3, 0.0])
def test_every_number_equals_a_loop_over_keys(backend, queries, keys, dim, scale):
    # Catches a wrong scale (also one of zero, taken for none), axis or head order.
    inputs = tensors(queries, keys, dim, value_dim=dim + 1)
    expected = by_loops(*[x.detach() for x in inputs], scale=scale)
    read = attend("softmax", *inputs, scale=scale, backend=backend)
    torch.testing.assert_close(read.detach(), expected, **TOLERANCE["float64"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_true_in_a_mask_allows(backend):
    # Catches the opposite convention, in which True hides.
    inputs = [x.detach() for x in tensors(4, 5, 3)]
    mask = random_mask(2, 3, 4, 5)
    mask[1, 2, 3] = False
    read = attend("softmax", *inputs, mask=mask, backend=backend)
    torch.testing.assert_close(read, by_loops(*inputs, mask=mask), **TOLERANCE["float64"])


@pytest.mark.parametrize(("queries", "keys", "dim"), SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_and_gradients_equal_torch_on_both_backends(queries, keys, dim, masked):
    # Catches a backend that is right forward and wrong backward, at sizes off any tile.
    inputs = tensors(queries, keys, dim)
    mask = random_mask(1, 1, queries, keys) if masked else None
    if masked:
        mask[..., 0] = True
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    wanted = gradients(expected, inputs)
    for backend in (*BACKENDS, "auto"):
        read = attend("softmax", *inputs, mask=mask, backend=backend)
        torch.testing.assert_close(read, expected, **TOLERANCE["float64"])
        for found, correct in zip(gradients(read, inputs), wanted, strict=True):
            torch.testing.assert_close(found, correct, **TOLERANCE["float64"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_row_that_may_see_nothing_reads_zeros_with_finite_gradients(backend, dtype):
    # Catches NaN from a softmax over nothing, which one padded image spreads to all weights.
    inputs = tensors(5, 7, 4, dtype=dtype)
    mask = random_mask(5, 7)
    mask[0], mask[3] = False, False
    mask[1] = True
    read = attend("softmax", *inputs, mask=mask, backend=backend)
    assert read.dtype == dtype
    assert (read[:, :, [0, 3]] == 0).all()
    assert (read[:, :, 1] != 0).all()
    query, key, value = gradients(read, inputs)
    assert (query[:, :, [0, 3]] == 0).all()
    # What an empty row passes back is nothing: the others' gradients are theirs alone.
    kept = [1, 2, 4]
    alone = attend("softmax", inputs[0][:, :, kept], *inputs[1:], mask=mask[kept], backend=backend)
    direction = torch.randn(read.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    wanted = torch.autograd.grad((alone * direction[:, :, kept]).sum(), inputs)
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")]
    for found, correct in zip((query, key, value), wanted, strict=True):
        torch.testing.assert_close(found, correct, **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(), (7,), (5, 1), (1, 7), (3, 5, 7), (2, 1, 1, 7)])
def test_masks_broadcast_from_fewer_dimensions(backend, shape):
    # Catches a backend that needs all four dimensions.
    inputs = [x.detach() for x in tensors(5, 7, 4)]
    mask = random_mask(*shape, seed=3)
    whole = mask.expand(2, 3, 5, 7)
    read = attend("softmax", *inputs, mask=mask, backend=backend)
    torch.testing.assert_close(read, by_loops(*inputs, mask=whole), **TOLERANCE["float64"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (2, 5), (5, 2)])
def test_causal_attention_is_aligned_to_the_end(backend, queries, keys):
    # Catches torch's is_causal, which aligns to the start when lengths differ.
    inputs = [x.detach() for x in tensors(queries, keys, 3)]
    mask = torch.zeros(2, 3, queries, keys, dtype=torch.bool)
    for q in range(queries):
        for k in range(keys):
            mask[:, :, q, k] = k <= q + keys - queries
    read = attend("softmax", *inputs, causal=True, backend=backend)
    torch.testing.assert_close(read, by_loops(*inputs, mask=mask), **TOLERANCE["float64"])
    torchs = F.scaled_dot_product_attention(*inputs, is_causal=True)
    assert torch.allclose(read, torchs) == (queries == keys)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_later_key_never_reaches_an_earlier_query(backend):
    # Catches a mask that is transposed.
    query, key, value = (x.detach() for x in tensors(5, 5, 3))
    before = attend("softmax", query, key, value, causal=True, backend=backend)
    key[:, :, 3], value[:, :, 3] = 9.0, -9.0
    after = attend("softmax", query, key, value, causal=True, backend=backend)
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3], rtol=0, atol=0)
    assert not torch.allclose(after[:, :, 3:], before[:, :, 3:])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_lower_precision_stays_within_its_tolerance_of_float64(dtype, backend):
    # Catches an accumulation in half precision, and logits that overflow before the scale.
    inputs = [x.detach() for x in tensors(63, 65, 64)]
    exact = attend("softmax", *inputs, backend="reference")
    low = [x.to(getattr(torch, dtype)) for x in inputs]
    read = attend("softmax", *low, backend=backend)
    assert read.dtype == low[0].dtype
    torch.testing.assert_close(read.double(), exact, **TOLERANCE[dtype])
    loud = [100 * low[0], 100 * low[1], low[2]]
    assert torch.isfinite(attend("softmax", *loud, backend=backend)).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_explicit_weights_sum_to_one_and_read_what_attend_reads(causal, masked):
    # Catches maps in a report that are not those the network used.
    inputs = [x.detach() for x in tensors(6, 9, 4, value_dim=3)]
    mask = random_mask(2, 1, 6, 9) if masked else None
    if masked:
        mask[0, 0, 2] = False
    matrix = weights("softmax", *inputs[:2], causal=causal, mask=mask, scale=0.7)
    assert matrix.shape == (2, 3, 6, 9)
    assert (matrix >= 0).all()
    sums = matrix.sum(-1)
    empty = torch.zeros(2, 3, 6, dtype=torch.bool)
    if masked:
        empty[0, :, 2] = True
    torch.testing.assert_close(sums, (~empty).double(), **TOLERANCE["float64"])
    for backend in BACKENDS:
        read = attend("softmax", *inputs, causal=causal, mask=mask, scale=0.7, backend=backend)
        torch.testing.assert_close(matrix @ inputs[2], read, **TOLERANCE["float64"])


@pytest.mark.parametrize("causal", [False, True])
def test_the_reference_passes_gradcheck(causal):
    # Catches a detached or in-place step on the way.
    inputs = tensors(3, 4, 2, batch=1, heads=2)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False

    def read(query, key, value):
        return attend(
            "softmax", query, key, value, causal=causal, mask=mask, scale=0.9, backend="reference"
        )

    assert torch.autograd.gradcheck(read, inputs)


def biased(query, key, value, bias, seen):
    """Return Σ e^(s + b) v / Σ e^(s + b) over the seen pairs, 0 where the sum is."""
    powers = (query @ key.mT * query.shape[-1] ** -0.5 + bias).exp() * seen
    return powers @ value / powers.sum(-1, keepdim=True).clamp(min=1e-300)


def random_bias(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


@pytest.mark.parametrize("backend", [*BACKENDS, "sdpa-math", "sdpa-flash", "flex"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 70), (1, 3, 5, 1), (2, 1, 1, 70), (1, 1, 1, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_every_backend_adds_the_bias_to_what_is_seen(backend, shape, causal):
    # Catches a bias that is scaled, that stands in for the mask, or whose shared axis is cut.
    inputs = [x.detach() for x in tensors(5, 70, 4)]
    bias = random_bias(*shape)
    mask = random_mask(5, 70)
    mask[2] = False
    seen = mask.tril(65) if causal else mask
    read = attend("softmax", *inputs, causal=causal, mask=mask, bias=bias, backend=backend)
    torch.testing.assert_close(read, biased(*inputs, bias, seen), **TOLERANCE["float64"])


@pytest.mark.parametrize("backend", [*BACKENDS, "sdpa-math", "sdpa-flash", "flex"])
def test_a_bias_of_minus_infinity_hides(backend):
    # Catches NaN where a bias hides a whole row, and its NaN gradient.
    inputs = tensors(5, 7, 4)
    bias = random_bias(2, 3, 5, 7).masked_fill(random_mask(5, 7), -torch.inf)
    bias[:, :, 1] = -torch.inf
    if backend == "flex":
        inputs = [x.detach() for x in inputs]
    read = attend("softmax", *inputs, bias=bias, backend=backend)
    wanted = biased(*[x.detach() for x in inputs], bias, 1.0)
    torch.testing.assert_close(read.detach(), wanted, **TOLERANCE["float64"])
    assert (read[:, :, 1] == 0).all()
    if backend in BACKENDS:
        read = attend("softmax", *inputs, bias=bias.requires_grad_(), backend=backend)
        for slope in gradients(read, [*inputs, bias]):
            assert torch.isfinite(slope).all()


@pytest.mark.parametrize("backend", [*BACKENDS, "sdpa-math", "sdpa-flash", "flex"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["same", "float32", "float64"])
def test_half_precision_takes_masks_and_a_bias_of_any_dtype(backend, dtype, kind):
    # Catches a bias whose dtype the kernel refuses, and a read that comes back in another dtype.
    inputs = [x.detach().to(dtype) for x in tensors(33, 65, 16)]
    bias = random_bias(1, 3, 33, 65).to(dtype)
    mask = random_mask(2, 1, 33, 65)
    mask[0, 0, 3] = False
    given = bias if kind == "same" else bias.to(getattr(torch, kind))
    read = attend("softmax", *inputs, bias=given, mask=mask, backend=backend)
    assert read.dtype == dtype
    wanted = biased(*[x.double() for x in inputs], bias.double(), mask)
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(read.double(), wanted, rtol=4 * unit, atol=4 * unit)
    assert (read[0, :, 3] == 0).all()


class Operations(TorchDispatchMode):
    """Notes the names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.names.add(operation.name())
        return operation(*arguments, **(keywords or {}))


@pytest.mark.parametrize(("backend", "used"), [("sdpa-flash", True), ("sdpa-math", False)])
def test_the_kernel_that_is_asked_for_runs(backend, used):
    # Catches a name that is accepted while torch chooses the kernel itself.
    inputs = [x.detach() for x in tensors(5, 7, 4)]
    with Operations() as operations:
        attend("softmax", *inputs, backend=backend)
    assert any("flash_attention" in name for name in operations.names) == used


@pytest.mark.parametrize("backend", ["sdpa-efficient", "sdpa-cudnn"])
def test_kernels_of_cuda_say_on_the_cpu_that_they_need_it(backend):
    # Catches torch's "No available kernel", which names neither the device nor a way out.
    inputs = [x.detach() for x in tensors(3, 4, 2)]
    with pytest.raises(InputError, match=rf"{backend}: it needs a CUDA device.*'cpu'"):
        attend("softmax", *inputs, backend=backend)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [63, 65])
@pytest.mark.parametrize("masked", [False, True])
def test_the_flash_kernel_of_the_cpu_equals_the_reference_with_gradients(causal, queries, masked):
    # Catches a kernel name that is taken and never used, and one that is wrong in its blocks.
    inputs = tensors(queries, 65, 8)
    mask = random_mask(1, 1, queries, 65) if masked else None
    ways = {"causal": causal, "mask": mask}
    read, plan = attend("softmax", *inputs, **ways, backend="sdpa-flash", explain=True)
    assert (plan.form, plan.backend) == ("parallel", "sdpa-flash")
    wanted = attend("softmax", *inputs, **ways, backend="reference")
    torch.testing.assert_close(read, wanted, **TOLERANCE["float64"])
    for found, correct in zip(gradients(read, inputs), gradients(wanted, inputs), strict=True):
        torch.testing.assert_close(found, correct, **TOLERANCE["float64"])


def test_a_kernel_that_cannot_says_why():
    # Catches a refusal without a reason: flash needs equal widths and passes a bias nothing back.
    inputs = [x.detach() for x in tensors(3, 4, 2, value_dim=5)]
    with pytest.raises(InputError, match="value_dim = dim, not 5 and 2"):
        attend("softmax", *inputs, backend="sdpa-flash")
    inputs = [x.detach() for x in tensors(3, 4, 2)]
    bias = random_bias(1, 1, 3, 4).requires_grad_()
    with pytest.raises(InputError, match="no gradient to a bias"):
        attend("softmax", *inputs, bias=bias, backend="sdpa-flash")
    with pytest.raises(InputError, match="flex: on the CPU it has no backward pass"):
        attend("softmax", *inputs, bias=bias, backend="flex")


def test_what_torch_refuses_beyond_that_is_told_with_a_way_out(monkeypatch):
    # Catches torch's bare error where a kernel has limits that are not known beforehand.
    def refuse(*args, **kwargs):
        raise RuntimeError("No available kernel. Aborting execution.")

    inputs = [x.detach() for x in tensors(3, 4, 2)]
    monkeypatch.setattr(F, "scaled_dot_product_attention", refuse)
    with pytest.raises(InputError, match=r"backend='sdpa-math' does not take.*backend='auto'"):
        attend("softmax", *inputs, backend="sdpa-math")


def test_the_plan_names_what_ran_and_why():
    # Catches a plan that is made up apart from the choice.
    inputs = tensors(3, 4, 2)
    read, plan = attend("softmax", *inputs, explain=True)
    assert (plan.form, plan.backend, plan.reason) == ("parallel", "sdpa", "first that fits")
    torch.testing.assert_close(read, attend("softmax", *inputs), rtol=0, atol=0)
    _, plan = attend("softmax", *inputs, form="parallel", backend="reference", explain=True)
    assert plan.backend == "reference"
    assert "asked for" in plan.reason
