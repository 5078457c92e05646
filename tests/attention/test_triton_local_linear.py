"""Our Triton kernel of local linear attention against its reference, interpreted or on a GPU."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton: tox run -e triton")
if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    pytest.skip("needs a GPU or TRITON_INTERPRET=1", allow_module_level=True)

from neuroattn.attention import attend
from neuroattn.errors import InputError
from tests.attention.contract import close
from tests.tolerances import TOLERANCE

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
SINGLE = TOLERANCE["float32"]


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE)


def inputs(queries, keys, dim=4, width=5):
    """Return query, key and value that float32 holds exactly."""
    sizes = ((queries, dim), (keys, dim), (keys, width))
    return [drawn(1, 2, *size, seed=s).float().double() for s, size in enumerate(sizes)]


def both(tensors, **ways):
    """Return the kernel's read of float32 and the definition's of float64."""
    found = attend("local_linear", *(x.float() for x in tensors), backend="triton", **ways)
    wanted = attend("local_linear", *tensors, form="parallel", backend="reference", **ways)
    return found, wanted


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys", "dim", "width"),
    [
        (1, 1, 4, 5),
        (2, 2, 4, 5),
        (63, 63, 4, 5),
        (64, 64, 4, 5),
        (65, 65, 4, 5),
        (3, 130, 4, 5),
        (70, 5, 1, 1),
        (33, 34, 70, 80),
    ],
)
def test_the_kernel_equals_the_definition(causal, queries, keys, dim, width):
    # Catches a block that is off by one, keys or channels beyond the last, a causal read that is
    # not aligned to the end, a mean key left out of the covariance, and a slope of wrong sign.
    # A ridge of 1 keeps the condition, and with it the rounding of the slope, near 1.
    found, wanted = both(inputs(queries, keys, dim, width), causal=causal, ridge=1.0, scale=0.4)
    assert found.dtype == torch.float32
    close(found.double(), wanted, SINGLE, "read")
    if causal and queries > keys:
        assert (found[:, :, : queries - keys] == 0).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(9, 11), (1, 11), (1, 2, 1, 11), (1, 2, 9, 1)])
def test_masks_of_keys_and_of_pairs_are_kept_and_empty_rows_read_zeros(causal, shape):
    # Catches a mask read with another head's or query's step, padding that moves the centre, and
    # nothing divided by nothing.
    query, key, value = inputs(9, 11)
    mask = drawn(*shape, seed=7) > -0.5
    mask[..., 0, -1:] = False
    key[:, :, -1] = 1e6 if shape[-2:] == (1, 11) else key[:, :, -1]
    found, wanted = both((query, key, value), causal=causal, mask=mask, ridge=1.0)
    close(found.double(), wanted, SINGLE, "read")
    mask = torch.ones(9, 11, dtype=torch.bool, device=DEVICE)
    mask[4] = False
    found, wanted = both(inputs(9, 11), causal=causal, mask=mask, ridge=1.0)
    close(found.double(), wanted, SINGLE, "read")
    assert (found[:, :, 4] == 0).all()
    nothing, _ = both(inputs(3, 0), causal=causal)
    assert nothing.shape == (1, 2, 3, 5)
    assert (nothing == 0).all()


def test_a_small_ridge_is_solved_to_the_rounding_of_float32():
    # Catches too few iterations: rows with few keys have a condition of a thousand here, and
    # with direct differences of keys, as in the definition, rounding is somewhat smaller.
    tensors = inputs(40, 40, 16, 3)
    found, wanted = both(tensors, causal=True)
    ways = {"causal": True, "form": "parallel", "backend": "reference"}
    standard = attend("local_linear", *(x.float() for x in tensors), **ways)
    assert (found - wanted).abs().max() <= 8 * (standard - wanted).abs().max()


def test_iterations_and_tolerance_stop_conjugate_gradients():
    # Catches a parameter that the kernel drops.
    tensors = inputs(5, 30, 8, 3)
    errors = []
    for iterations, tolerance in ((1, 0.0), (3, 0.0), (40, 0.0), (40, 1e-2)):
        ways = {"iterations": iterations, "tolerance": tolerance, "ridge": 0.1}
        single = [x.float() for x in tensors]
        ways["solver"] = "conjugate gradients"
        found = attend("local_linear", *single, backend="triton", **ways)
        wanted = attend("local_linear", *tensors, form="chunked", ridge=0.1)
        errors.append(float((found - wanted).abs().max()))
    one, three, many, loose = errors
    assert one > three > loose > many
    assert many < 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_the_reference(causal):
    # Catches a gradient that is paired with another input, or that forgets mask or scale.
    exact = [x.requires_grad_() for x in inputs(9, 11)]
    single = [x.detach().float().requires_grad_() for x in exact]
    mask = torch.ones(11, dtype=torch.bool, device=DEVICE)
    mask[3] = False
    ways = {"causal": causal, "mask": mask, "scale": 0.7, "ridge": 0.5}
    slope = drawn(1, 2, 9, 5, seed=9)
    wanted = attend("local_linear", *exact, form="parallel", backend="reference", **ways)
    found = attend("local_linear", *single, backend="triton", **ways)
    wanted = torch.autograd.grad(wanted, exact, slope)
    found = torch.autograd.grad(found, single, slope.float())
    for number, (each, correct) in enumerate(zip(found, wanted, strict=True)):
        assert each.dtype == torch.float32
        close(each.double(), correct, SINGLE, f"gradient {number}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_twice_the_standard_implementation(dtype):
    # Catches an accumulation, or a slope, in half precision.
    low = [x.to(dtype) for x in inputs(70, 70)]
    ways = {"causal": True, "ridge": 0.1, "form": "parallel"}
    exact = attend("local_linear", *(x.double() for x in low), backend="reference", **ways)
    standard = attend("local_linear", *(x.float() for x in low), backend="reference", **ways)
    found = attend("local_linear", *low, backend="triton", **ways)
    assert found.dtype == dtype
    limit = 2 * (standard.to(dtype).double() - exact).abs().max()
    assert (found.double() - exact).abs().max() <= limit + 4 * torch.finfo(dtype).eps


def test_keys_far_from_zero_are_read_as_near_it():
    # Catches moments that cancel in float32: the read does not move with queries and keys.
    query, key, value = inputs(9, 30)
    found, _ = both((query + 1024, key + 1024, value), scale=0.0, ridge=0.1)
    moved = (query + 1024).float().double() - 1024, (key + 1024).float().double() - 1024
    _, wanted = both((*moved, value), scale=0.0, ridge=0.1)
    close(found.double(), wanted, {"rtol": 2e-4, "atol": 0.0}, "read")


def test_rows_far_from_the_centre_of_all_keys_keep_their_digits():
    # Catches products with the mean key that are left to cancel: early rows see keys around 128
    # alone, the centre of all keys is 0.
    query, key, value = inputs(40, 40)
    key[:, :, :20] += 128
    key[:, :, 20:] -= 128
    query[:, :, :20] += 128
    query[:, :, 20:] -= 128
    tensors = [x.float().double() for x in (query, key, value)]
    found, wanted = both(tensors, causal=True, scale=0.0, ridge=1.0)
    close(found[:, :, :20].double(), wanted[:, :, :20], {"rtol": 1e-4, "atol": 0.0}, "read")


def test_it_says_what_it_does_not_take():
    # Catches a float64 read in float32, iterations on singular systems, and a slow backward pass
    # that is taken by default.
    from neuroattn.attention.dispatch import choose
    from neuroattn.attention.registry import Request, get

    with pytest.raises(InputError, match="float64 goes through the reference"):
        attend("local_linear", *inputs(3, 3), backend="triton")
    single = [x.float() for x in inputs(3, 3)]
    with pytest.raises(InputError, match="need ridge above 0"):
        attend("local_linear", *single, ridge=0, backend="triton")
    wide = [x.float() for x in inputs(3, 3, 129)]
    with pytest.raises(InputError, match="at most 128 channels, not 129"):
        attend("local_linear", *wide, backend="triton")
    sizes = {"queries": 300, "keys": 300, "dim": 16, "value_dim": 16}
    flags = {"causal": True, "masked": False, "state": False, "parameters": {"ridge": 0.01}}
    for dtype, gradient, backend in (
        (torch.float16, False, "triton"),
        (torch.float16, True, "reference"),
        (torch.float32, False, "reference"),
    ):
        request = Request(DEVICE, dtype, **sizes, **flags, gradient=gradient)
        assert choose(get("local_linear"), request, "auto", "auto")[1].backend == backend
