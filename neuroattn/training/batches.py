"""Which images make a batch: a function of seed and epoch alone, whatever ran before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from neuroattn.errors import InputError


class EpochBatches(Sampler[list[int]]):
    """Batches of indices; the order depends on ``(seed, epoch)`` only, so a resumed run repeats it.

    Each process takes every ``world``-th index of a batch. Nothing is padded or shown twice:
    when shuffling, the incomplete last batch is left out (a batch larger than the set becomes
    the set); without shuffling every index comes once, and a remainder too small for all
    processes joins the batch before it. So every process takes the same number of steps.

    Parameters
    ----------
    count : int
        Number of items.
    batch_size : int
        Items of a batch, over all processes.
    shuffle : bool
        New order every epoch.
    seed : int
        Seed of the order.
    rank, world : int
        This process and the number of processes.

    Raises
    ------
    InputError
        If there are no items, fewer items (in a training batch) than processes, or the seed is
        negative.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if count < 1 or batch_size < 1:
            raise InputError(f"count={count} and batch_size={batch_size} must be at least 1.")
        if seed < 0:
            raise InputError(f"seed={seed} must not be negative.")
        self.count, self.size = count, min(batch_size, count)
        if shuffle:
            self.size -= self.size % world
        if not self.size or count < world:
            raise InputError(
                f"batch_size={batch_size} of {count} images cannot be shared by "
                f"{world} processes; give at least one image to each."
            )
        self.size = max(self.size, world)
        self.shuffle, self.seed, self.rank, self.world = shuffle, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.size)
        return whole + (not self.shuffle and rest >= self.world)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.count)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for batch in range(len(self)):
            last = not self.shuffle and batch == len(self) - 1
            stop = self.count if last else (batch + 1) * self.size
            whole = order[batch * self.size : stop]
            yield whole[self.rank :: self.world].tolist()
