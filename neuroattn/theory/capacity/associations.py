"""The associations that are stored: nested draws, of which every size takes the first ones."""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Numbers in one tensor of keys or values: fewer draws are taken where they would be more.
BUDGET = 2**23
#: However many associations, no fewer draws than this: their spread is what intervals come from.
FEWEST_DRAWS = 8
#: Items that are asked for, a draw.
ITEMS = 32


@dataclass
class Associations:
    """Independent draws of a list of associations, as long as is asked for.

    The first ``n`` of a draw do not depend on how many are asked for, nor on the device.

    Attributes
    ----------
    dim, value_dim : int
        Widths of keys and values.
    law : {"sphere", "gaussian", "rademacher"}
        Of the keys.
    draws : int
        How many lists, at most: long ones are fewer, see :meth:`count`.
    seed : int
        The same seed, the same numbers.
    device : str
        Where they are.
    dtype : torch.dtype
        Of what comes out.
    """

    dim: int
    value_dim: int
    law: str
    draws: int
    seed: int
    device: str
    dtype: torch.dtype
    _blocks: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)
    _joined: dict[int, list[Tensor]] = field(default_factory=dict, repr=False)

    def count(self, pairs: int, heaviest: int = 0) -> int:
        """Return how many draws there are of so many associations.

        It is one number between two powers of two, and it never grows.

        Parameters
        ----------
        pairs : int
            Number of associations.
        heaviest : int
            Numbers that a mechanism holds for one draw beside the associations.
        """
        width = max(self.dim, self.value_dim)
        most = BUDGET // max(width << (pairs - 1).bit_length(), heaviest)
        return min(self.draws, max(FEWEST_DRAWS, most))

    def first(self, pairs: int) -> tuple[Tensor, Tensor]:
        """Return the first keys (draws, 1, pairs, dim) and values (draws, 1, pairs, value_dim)."""
        levels = (pairs - 1).bit_length() + 1
        while len(self._blocks) < levels:
            self._blocks.append(self._block(len(self._blocks)))
        if levels not in self._joined:
            count = self.count(pairs)
            # Only the last is kept: bisection stays between two powers of two.
            self._joined.clear()
            self._joined[levels] = [
                torch.cat([block[kind][:count] for block in self._blocks[:levels]], dim=1)
                for kind in (0, 1)
            ]
        keys, values = (each[:, None, :pairs] for each in self._joined[levels])
        return keys, values

    def asked(self, pairs: int, items: int = ITEMS) -> Tensor:
        """Return which associations are asked for (draws, items), each uniform among them.

        All of them where they are no more than ``items``. Else one of each of as many equal
        parts of the list: uniform, and with less spread than independent choices.
        """
        count = self.count(pairs)
        if pairs <= items:
            return torch.arange(pairs, device=self.device).expand(count, pairs)
        drawn = torch.rand(self.draws, items, dtype=torch.float64, generator=self._rng("asked"))
        within = (torch.arange(items) + drawn[:count]) / items
        return (within * pairs).long().clamp(max=pairs - 1).to(self.device)

    def noise(self, pairs: int, items: int) -> Tensor:
        """Return standard normal numbers (draws, 1, items, dim) for the queries."""
        rng = self._rng("noise")
        # By item, so that fewer items have the first ones' noise.
        drawn = [torch.randn(self.draws, self.dim, generator=rng) for _ in range(items)]
        stacked = torch.stack(drawn, dim=1)[: self.count(pairs), None]
        return stacked.to(self.device, self.dtype)

    def _block(self, level: int) -> tuple[Tensor, Tensor]:
        size = 1 if level == 0 else 2 ** (level - 1)
        count = self.count(2**level)
        rng = self._rng("block", level)
        keys = torch.randn(count, size, self.dim, generator=rng)
        if self.law == "sphere":
            keys *= math.sqrt(self.dim) / keys.norm(dim=-1, keepdim=True)
        elif self.law == "rademacher":
            keys = keys.sign()
        bits = torch.randint(2, (count, size, self.value_dim), generator=rng, dtype=torch.int8)
        values = (2 * bits - 1).to(torch.float32) / math.sqrt(self.value_dim)
        return keys.to(self.device, self.dtype), values.to(self.device, self.dtype)

    def _rng(self, *tags: object) -> torch.Generator:
        text = repr((self.seed, self.law, self.dim, self.value_dim, tags))
        digest = hashlib.blake2b(text.encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


@functools.lru_cache(maxsize=1)
def associations(
    dim: int, value_dim: int, law: str, draws: int, seed: int, device: str, dtype: torch.dtype
) -> Associations:
    """Return the draws; the last ones are kept, for the next mechanism of the same width."""
    return Associations(dim, value_dim, law, draws, seed, device, dtype)
