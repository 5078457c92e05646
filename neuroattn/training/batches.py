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
    the set); without shuffling every index comes once.

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
        If there are no items, or fewer items in a training batch than processes.
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
        self.count, self.size = count, min(batch_size, count)
        if shuffle:
            self.size -= self.size % world
            if not self.size:
                raise InputError(
                    f"batch_size={batch_size} of {count} images cannot be shared by "
                    f"{world} processes; give at least one image to each."
                )
        self.shuffle, self.seed, self.rank, self.world = shuffle, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.count // self.size
        return -(-self.count // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.count)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for batch in range(len(self)):
            whole = order[batch * self.size : (batch + 1) * self.size]
            mine = whole[self.rank :: self.world]
            if len(mine):
                yield mine.tolist()
