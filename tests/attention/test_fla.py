"""Layouts, scales, masks and states of flash-linear-attention, with kernels written as loops.

The package's own kernels need a GPU; here a package of the same names holds their definitions,
(batch, tokens, heads, dim) and all, so that what is passed to them is what is tested.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from neuroattn.attention import attend, backends, fla, get
from neuroattn.attention.backends import unavailable
from neuroattn.attention.registry import Request
from neuroattn.errors import InputError, MissingExtraError
from tests.attention.contract import close
from tests.tolerances import TOLERANCE

HALF, SINGLE = TOLERANCE["float16"], TOLERANCE["float32"]
MODULES = {
    "simple_gla": ("chunk_simple_gla",),
    "linear_attn": ("chunk_linear_attn",),
    "delta_rule": ("chunk_delta_rule",),
    "gated_delta_rule": ("chunk_gated_delta_rule",),
}


def loop(q, k, v, scale, initial_state, output_final_state, gate=None, beta=None):
    """Write and read token by token, in (batch, tokens, heads, dim)."""
    batch, tokens, heads, dim = q.shape
    assert k.shape == q.shape
    assert v.shape[:3] == q.shape[:3]
    assert q.is_contiguous()
    dtype = q.dtype
    q, k, v = q.float(), k.float(), v.float()
    memory = torch.zeros(batch, heads, dim, v.shape[-1])
    if initial_state is not None:
        assert initial_state.dtype == torch.float32
        assert initial_state.shape == memory.shape
        memory = initial_state
    rows = []
    for t in range(tokens):
        if gate is not None:
            assert gate.dtype == torch.float32
            memory = memory * gate[:, t].exp()[..., None, None]
        write = v[:, t]
        if beta is not None:
            held = torch.einsum("bhd,bhdv->bhv", k[:, t], memory)
            write = beta[:, t, :, None] * (write - held)
        memory = memory + k[:, t, :, :, None] * write[:, :, None]
        rows.append(torch.einsum("bhd,bhdv->bhv", q[:, t] * scale, memory))
    return torch.stack(rows, 1).to(dtype), memory if output_final_state else None


def chunk_simple_gla(
    q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False
):
    assert (g is None) != (g_gamma is None)
    if g_gamma is not None:
        assert g_gamma.shape == (q.shape[2],)
        # As the kernel: it passes no gradient back to one decay a head.
        g = g_gamma.detach().expand(q.shape[:3])
    assert g.shape == q.shape[:3]
    assert torch.isfinite(g).all()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return loop(q, k, v, scale, initial_state, output_final_state, gate=g)


def chunk_linear_attn(
    q, k, v, scale=None, initial_state=None, output_final_state=False, normalize=True
):
    assert not normalize
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return loop(q, k, v, scale, initial_state, output_final_state)


def chunk_delta_rule(q, k, v, beta, scale=None, initial_state=None, output_final_state=False):
    assert q.dtype != torch.float32
    assert beta.shape == q.shape[:3]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return loop(q, k, v, scale, initial_state, output_final_state, beta=beta)


def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False
):
    assert g.shape == beta.shape == q.shape[:3]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return loop(q, k, v, scale, initial_state, output_final_state, gate=g, beta=beta)


@pytest.fixture
def package(monkeypatch):
    """Put the loops where the package's kernels are."""
    parent = ModuleType("fla.ops")
    monkeypatch.setattr(backends, "_installed", lambda package: False)
    monkeypatch.setitem(sys.modules, "fla", ModuleType("fla"))
    monkeypatch.setitem(sys.modules, "fla.ops", parent)
    for name, kernels in MODULES.items():
        module = ModuleType(f"fla.ops.{name}")
        for kernel in kernels:
            setattr(module, kernel, globals()[kernel])
        monkeypatch.setitem(sys.modules, module.__name__, module)


def drawn(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def tensors(queries=7, keys=7, dtype=torch.float32):
    return [
        drawn(2, 3, n, d, seed=s, dtype=dtype)
        for s, (n, d) in enumerate(((queries, 4), (keys, 4), (keys, 6)))
    ]


def gates(keys=7, seed=8):
    return drawn(2, 3, keys, seed=seed).sigmoid()


MASK = torch.tensor([True, False, True, True, True, False, True]).reshape(1, 1, 1, 7)


def compare(name, run, tolerance, dtype=torch.float32, **parameters):
    """Compare a run with the mechanism's reference, with masks, both reads and a state."""
    filled = {each: about.default for each, about in get(name).parameters.items()} | parameters
    for queries, causal, mask in ((7, True, None), (7, True, MASK), (3, False, MASK)):
        given = tensors(queries, dtype=dtype)
        ways = {"causal": causal, "mask": mask, "scale": None}
        start = run(*tensors(dtype=dtype), **{**ways, "causal": True}, initial_state=None, **filled)
        found, state = run(*given, **ways, initial_state=start[1], **filled)
        before, after = ([x.double() for x in each] for each in (tensors(dtype=dtype), given))
        same = {"form": "recurrent", "return_state": True, **parameters}
        _, middle = attend(name, *before, causal=True, mask=mask, **same)
        wanted, last = attend(name, *after, causal=causal, mask=mask, initial_state=middle, **same)
        assert found.dtype == dtype
        close(found.double(), wanted, tolerance, f"{name} causal={causal}")
        assert state.keys() == last.keys()
        for entry, each in last.items():
            close(state[entry].double(), each, tolerance, entry)


def run_of(name):
    return next(run.function for run in get(name).runs if run.backend == "fla")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("retention", {}),
        ("retention", {"decay": torch.tensor([0.9, 0.5, 1.0])}),
        ("lightning", {}),
        ("lightning", {"decay": "lightning", "layer": 1, "layers": 3}),
        ("ssd", {}),
        ("ssd", {"alpha": 0.7, "beta": 0.5}),
        ("ssd", {"alpha": gates(), "beta": drawn(2, 3, 7, seed=4)}),
        ("ssd", {"alpha": gates()[:1, :, :1], "beta": 2.0}),
    ],
)
def test_decayed_reads_reach_the_kernel_as_they_are_meant(package, name, parameters):
    # Catches heads taken for tokens, the package's scale for ours, a decay that is not a
    # logarithm, a hidden key that is written, and the first token read where all are.
    compare(name, run_of(name), SINGLE, **parameters)


@pytest.mark.parametrize("feature_map", ["identity", "elu", "relu"])
@pytest.mark.parametrize("normalize", [False, True])
def test_linear_reads_reach_the_kernel_with_their_features_and_our_normaliser(
    package, feature_map, normalize
):
    # Catches the package's default of normalising, a scale after the map, and a normaliser that
    # forgets the tokens before the state.
    compare("linear", fla.linear, SINGLE, feature_map=feature_map, normalize=normalize)


def delta(key, mask, *, beta, normalize_keys=True, **more):
    """Return unit keys and gates, as the rule of a mechanism does."""
    step = torch.as_tensor(beta).expand(key.shape[:3])
    if mask is not None:
        step = step * mask[:, :, 0]
    used = torch.nn.functional.normalize(key, dim=-1) if normalize_keys else key
    retain = torch.as_tensor(more.get("alpha", 1.0)).expand(1, 1, key.shape[2])
    return used, SimpleNamespace(write=step, retain=retain)


@pytest.mark.parametrize("name", ["delta", "gated_delta"])
def test_delta_rules_reach_the_kernel_with_their_gates(package, name):
    # Catches gates (batch, heads, tokens) where (batch, tokens, heads) are asked for, keys that
    # are normalised twice or not, and a gate that is not a logarithm.
    run = fla.ruled(delta)
    more = {"alpha": 0.7} if name == "gated_delta" else {}
    compare(name, run, {k: 4 * v for k, v in HALF.items()}, torch.float16, beta=gates(), **more)


def test_gradients_reach_every_input_and_a_decay_that_is_learned(package):
    # Catches the kernel's decay a head, to which it passes no gradient back.
    for decay in (torch.tensor([0.9, 0.5, 0.8]), None):
        given = [x.requires_grad_() for x in tensors()]
        decay = None if decay is None else decay.requires_grad_()
        parameters = {} if decay is None else {"decay": decay}
        leaves = given if decay is None else [*given, decay]
        filled = {k: p.default for k, p in get("retention").parameters.items()} | parameters
        for causal in (False, True):
            ways = {"causal": causal, "mask": None, "scale": None}
            found, _ = run_of("retention")(*given, **ways, initial_state=None, **filled)
            wanted = attend("retention", *given, causal=causal, form="recurrent", **parameters)
            direction = drawn(*wanted.shape, seed=3)
            for pair in zip(
                *(torch.autograd.grad((x * direction).sum(), leaves) for x in (found, wanted)),
                strict=True,
            ):
                close(*pair, SINGLE, f"causal={causal}")


def test_a_retention_of_zero_is_finite_and_forgets(package):
    # Catches log 0, from which the kernels make NaN.
    alpha = gates()
    alpha[:, :, 3] = 0.0
    given = tensors()
    ways = {"causal": True, "mask": None, "scale": None, "initial_state": None, "chunk_size": 64}
    found, _ = run_of("ssd")(*given, alpha=alpha, beta=1.0, **ways)
    close(found, attend("ssd", *given, causal=True, alpha=alpha), SINGLE, "read")


def test_the_normaliser_keeps_float32_at_half_precision(package):
    # Catches sums of keys in bfloat16, which stop growing at 256.
    ones = torch.ones(1, 1, 600, 2, dtype=torch.bfloat16)
    filled = {k: p.default for k, p in get("linear").parameters.items()} | {"feature_map": "relu"}
    ways = {"causal": True, "mask": None, "scale": None, "initial_state": None}
    read, state = fla.linear(ones, ones, ones, **ways, **filled)
    assert (state["normalizer"] == 600).all()
    # The read is rounded before it is divided and after.
    assert (read - 1).abs().max() <= torch.finfo(torch.bfloat16).eps


def request(**changes):
    sizes = {"queries": 8, "keys": 8, "dim": 16, "value_dim": 16}
    flags = dict.fromkeys(("causal", "masked", "gradient", "state"), False)
    given = {"device": "cuda", "dtype": torch.bfloat16, **sizes, **flags, "parameters": {}}
    return Request(**{**given, **changes})


def test_what_the_kernels_cannot_do_is_refused_and_what_they_do_coarsely_is_avoided():
    # Catches an assertion of the package where a reason was due.
    assert fla.refuses(request()) == fla.coarse(request()) == ""
    assert fla.refuses_linear(request()) == fla.refuses_delta(request()) == ""
    assert "float64" in fla.refuses(request(dtype=torch.float64))
    assert "even" in fla.refuses(request(value_dim=5))
    assert "even" in fla.refuses_delta(request(dim=5))
    assert "normalise" in fla.refuses(request(parameters={"normalize": True, "decay": 0.9}))
    assert fla.refuses_linear(request(parameters={"normalize": True})) == ""
    assert "centre" in fla.refuses_linear(request(parameters={"center": True}))
    assert "taylor" in fla.refuses_linear(request(parameters={"feature_map": "taylor"}))
    assert "float32" in fla.refuses_delta(request(dtype=torch.float32))
    assert "256" in fla.refuses_delta(request(dim=258))
    assert "error first" in fla.refuses_delta(request(parameters={"order": "error first"}))
    assert "TF32" in fla.coarse(request(dtype=torch.float32))


def test_without_the_package_or_a_gpu_the_backend_says_what_it_needs(monkeypatch):
    # Catches an ImportError, or a kernel that is launched on tensors of the CPU.
    monkeypatch.setattr(backends, "_installed", lambda package: False)
    with pytest.raises(MissingExtraError, match=r"'fla': pip install 'neuroattn\[gpu\]'"):
        attend("ssd", *tensors(), backend="fla")
    monkeypatch.setattr(backends, "_installed", lambda package: True)
    assert "CUDA" in unavailable("fla", request(device="cpu"))
    with pytest.raises(InputError, match="needs a CUDA device, the tensors are on 'cpu'"):
        attend("ssd", *tensors(), backend="fla")
    _, plan = attend("ssd", *tensors(), explain=True)
    assert plan.backend == "reference"
    assert "chunked/fla: it needs a CUDA device" in plan.reason


def test_the_installed_package_takes_what_the_loops_take():
    # Catches a release that renames an argument.
    pytest.importorskip("fla", reason="needs flash-linear-attention")
    for name, kernels in MODULES.items():
        module = importlib.import_module(f"fla.ops.{name}")
        for kernel in kernels:
            theirs = inspect.signature(getattr(module, kernel)).parameters
            ours = inspect.signature(globals()[kernel]).parameters
            assert ours.keys() <= theirs.keys(), kernel
