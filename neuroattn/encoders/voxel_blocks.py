"""Fit blocks of voxels here or by other processes, with the same bytes.

A product of matrices rounds according to its shape, the layout of its factors in memory and the
number of threads that share it. All three are the same wherever a block is fitted: blocks are cut
by voxels alone, never by the number of workers; tensors arrive in the layout in which they left;
and a block is fitted with as many threads as the process has that asked for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, overload

import numpy as np
import torch

from neuroattn.errors import InputError
from neuroattn.tasks import run_tasks, workers_in_use

__all__ = ["fitted_blocks"]

# One block at a time in a process: its threads and himalaya's backend are the process's own.
_ONE_AT_A_TIME = threading.Lock()


def fitted_blocks(
    function: Callable[..., tuple[torch.Tensor, ...]],
    shared: tuple[Any, ...],
    voxelwise: Sequence[torch.Tensor],
    size: int,
) -> Iterator[tuple[slice, tuple[torch.Tensor, ...]]]:
    """Call ``function(*shared, *block)`` for each block of voxels.

    Runs in this process, or where :func:`neuroattn.tasks.use_workers` says.

    Parameters
    ----------
    function : callable
        Defined in a module; returns tensors. What it returns for a voxel may depend on the other
        voxels of its block by rounding alone.
    shared : tuple
        What every block needs: tensors, plain data, and tuples, lists and dataclasses of them.
        Sent once to each process.
    voxelwise : sequence of torch.Tensor
        (..., voxel), cut along the last axis; each block is sent to one process.
    size : int
        Voxels in a block; the last may be smaller.

    Yields
    ------
    tuple of slice and tuple of torch.Tensor
        Voxels of a block and what the function returned for them, in the order of completion.

    Raises
    ------
    InputError
        If ``size`` is not positive.
    FileError, NeuroattnError
        As :func:`neuroattn.tasks.run_tasks`.
    """
    if size < 1:
        raise InputError(f"voxel_block={size} must be at least 1.")
    blocks = _Blocks([_settled(each) for each in voxelwise], size)
    workers = workers_in_use()
    common = (function, torch.get_num_threads(), _Sent(shared))
    found = run_tasks(
        _fit_block, blocks, shared=common, jobs=workers.jobs, scheduler=workers.scheduler
    )
    for index, result in found:
        yield blocks.where(index), result.value


class _Blocks(Sequence[tuple["_Sent"]]):
    """Cut when they are asked for: all of them at once would be a second copy of the responses."""

    def __init__(self, voxelwise: Sequence[torch.Tensor], size: int) -> None:
        self.voxelwise, self.size = voxelwise, size
        self.voxels = voxelwise[0].shape[-1]

    def __len__(self) -> int:
        return -(-self.voxels // self.size)

    @overload
    def __getitem__(self, index: int) -> tuple[_Sent]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[_Sent]]: ...

    def __getitem__(self, index: int | slice) -> tuple[_Sent] | Sequence[tuple[_Sent]]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = self.where(index)
        return (_Sent(tuple(each[..., block].contiguous() for each in self.voxelwise)),)

    def where(self, index: int) -> slice:
        """Return the voxels of a block."""
        return slice(index * self.size, min((index + 1) * self.size, self.voxels))


def _fit_block(
    function: Callable[..., tuple[torch.Tensor, ...]], threads: int, shared: _Sent, block: _Sent
) -> _Sent:
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        if before != threads:
            torch.set_num_threads(threads)
        try:
            return _Sent(function(*shared.value, *block.value))
        finally:
            if before != threads:
                torch.set_num_threads(before)


class _Sent:
    """Tensors that keep their layout on the way to another process.

    Torch's own way is shared memory, which other machines do not have.
    """

    def __init__(self, value: tuple[Any, ...]) -> None:
        self.value = _mapped(value, torch.Tensor, _settled)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (_mapped(self.value, torch.Tensor, torch.Tensor.numpy),)


def _received(value: Any) -> _Sent:
    return _Sent(_mapped(value, np.ndarray, _owned))


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples, lists and dataclasses with everything of a kind changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_mapped(each, kind, change) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        made = object.__new__(type(value))
        for field in fields(value):
            changed = _mapped(getattr(value, field.name), kind, change)
            object.__setattr__(made, field.name, changed)
        return made
    return value


def _settled(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor stored row after row or column after column, as numpy would send it."""
    plain = tensor.is_contiguous() or (tensor.ndim == 2 and tensor.T.is_contiguous())
    return tensor if plain else tensor.contiguous()


def _owned(array: Any) -> torch.Tensor:
    # Copied: what arrives may be read-only, and begin where no product of matrices would have it.
    strides = [step // array.itemsize for step in array.strides]
    kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
    made = torch.empty_strided(array.shape, strides, dtype=kind)
    made.numpy()[...] = array
    return made
