"""Peak of the memory that torch's allocator holds during a training step, gradients told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile

from neuroattn.attention.bench import allocations


def peak_allocation(
    backward: Callable[[], Any], parameters: Iterable[nn.Parameter]
) -> dict[str, int]:
    """Return what forward and backward allocate at most over what lives before, in bytes.

    Every allocation of torch's CPU allocator counts, scratch of a kernel included; what was there
    before the call (parameters, optimiser state, the batch as it was read) does not.

    Parameters
    ----------
    backward : callable
        Runs forward and backward once, with no gradients before it.
    parameters : iterable of Parameter
        Whose gradients are left out of ``activations``.

    Returns
    -------
    dict
        ``with_gradients``, the peak over parameters and optimiser state; ``activations``, the
        peak of everything but the memory in which a gradient of a parameter is handed over.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        backward()
    events = sorted(allocations(profiled), key=lambda event: event[0])
    kept = {p.grad.untyped_storage().data_ptr() for p in parameters if p.grad is not None}
    # Of all allocations at a gradient's address, the last one, never freed, is the gradient.
    last = {address: index for index, (_, address, size) in enumerate(events) if size > 0}
    live = without = most = most_without = 0
    for index, (_, address, size) in enumerate(events):
        live += size
        without += 0 if address in kept and index == last.get(address) else size
        most, most_without = max(most, live), max(most_without, without)
    return {"with_gradients": most, "activations": most_without}
