"""What each backend needs of the machine, and how to get it.

``reference`` is plain torch, on any device and dtype, with gradients. ``sdpa`` is torch's fused
softmax attention (``sdpa-flash``, ``sdpa-efficient``, ``sdpa-cudnn`` and ``sdpa-math`` are its
kernels), ``flex`` torch's FlexAttention, ``fla`` the kernels of flash-linear-attention, and
``triton`` our own.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

from neuroattn.attention.registry import Request

#: Every backend's one sentence.
BACKENDS: dict[str, str] = {
    "reference": "plain torch, any device and dtype, with gradients",
    "sdpa": "torch's scaled_dot_product_attention, the kernel left to torch",
    "sdpa-flash": "its flash kernel",
    "sdpa-efficient": "its memory-efficient kernel (CUDA)",
    "sdpa-cudnn": "its cuDNN kernel (CUDA, half precision)",
    "sdpa-math": "its unfused kernel",
    "flex": "torch's FlexAttention; on the CPU forward only",
    "fla": "the Triton kernels of flash-linear-attention (CUDA)",
    "triton": "our Triton kernels (CUDA; on the CPU in Triton's interpreter)",
}


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing(backend: str) -> str:
    """Return which package a backend lacks and how to get it, or ""."""
    package = {"fla": "fla", "triton": "triton"}.get(backend)
    if package is None or _installed(package):
        return ""
    return (
        f"it needs the package {package!r}: pip install 'neuroattn[gpu]', or from a clone "
        "pip install -c constraints.txt '.[gpu]'"
    )


def unavailable(backend: str, request: Request) -> str:
    """Return why a backend cannot run here, or "" if it can."""
    lacking, cuda = missing(backend), request.device == "cuda"
    if lacking and not cuda and not (backend == "triton" and interpreted()):
        return f"{lacking}; and a CUDA device, the tensors are on {request.device!r}"
    if lacking:
        return lacking
    if backend in ("sdpa-efficient", "sdpa-cudnn", "fla") and not cuda:
        return f"it needs a CUDA device, the tensors are on {request.device!r}"
    if backend == "sdpa-cudnn" and request.dtype.itemsize != 2:
        return f"it takes float16 and bfloat16, not {request.dtype}"
    if backend == "triton" and not cuda and not interpreted():
        return (
            f"it needs a CUDA device, the tensors are on {request.device!r} "
            "(TRITON_INTERPRET=1 runs it slowly on the CPU, to test it)"
        )
    if backend == "flex" and not cuda and request.gradient:
        return "on the CPU it has no backward pass; detach the inputs"
    return ""
