"""When an association counts as retrieved: one definition, see :mod:`neuroattn.theory.capacity`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuroattn.attention import attend, weights
from neuroattn.attention.registry import Mechanism
from neuroattn.errors import InputError
from neuroattn.names import check_name
from neuroattn.theory.capacity.associations import ITEMS, Associations
from neuroattn.theory.capacity.neutral import Neutral, chosen_asking, chosen_form, weight

#: Random values, or those that an adversary chooses.
CASES: tuple[str, ...] = ("average", "worst")


def allowed_error(case: str, snr: float = 1.0) -> float:
    """Return the probability of failure up to which retrieval holds.

    Parameters
    ----------
    case : {"average", "worst"}
        Of a wrong bit under random values: Q(sqrt(snr)). Of an item whose bit an adversary can
        turn: 1/2, the median item.
    snr : float
        Signal-to-noise ratio, above 0.

    Raises
    ------
    InputError
        If ``snr`` is not a positive number.
    UnknownNameError
        If there is no such case.
    """
    check_name("case", case, CASES)
    if not (isinstance(snr, int | float) and 0 < snr < math.inf):
        raise InputError(f"snr={snr!r} must be a positive number: signal over noise, as variances.")
    return math.erfc(math.sqrt(snr / 2)) / 2 if case == "average" else 0.5


@dataclass(frozen=True)
class Question:
    """What is asked of a mechanism.

    Attributes
    ----------
    spec : Mechanism
        The mechanism.
    known : Neutral
        How it is asked.
    parameters : mapping
        The caller's own.
    case : {"average", "worst"}
        Random values, or the adversary's.
    snr, noise : float
        See :mod:`neuroattn.theory.capacity`.
    sweeps : int
        How often the list is written.
    backend : str
        The backend that runs; ``"auto"`` for the first that can.
    """

    spec: Mechanism
    known: Neutral
    parameters: Mapping[str, Any]
    case: str
    snr: float
    noise: float
    sweeps: int
    backend: str = "auto"

    def failures(self, drawn: Associations, pairs: int) -> tuple[Tensor, int]:
        """Return the share of failures of each draw (draws,), and how many reads are in it."""
        everyone = chosen_asking(self.spec, self.known) == "all"
        items = pairs if everyone else ITEMS
        heaviest = weight(self.spec, self.known) * drawn.dim * drawn.value_dim
        if everyone:
            # The square of a power of two: the number of draws changes with the doubling only.
            heaviest = max(heaviest, 8 * 4 ** (pairs - 1).bit_length())
        count = drawn.count(pairs, int(heaviest))
        keys, values = (each[:count] for each in drawn.first(pairs))
        asked = drawn.asked(pairs, items)[:count]
        place = asked[:, None, :, None]
        query = keys.take_along_dim(place, dim=2)
        if self.noise:
            query = query + self.noise * drawn.noise(pairs, asked.shape[1])[:count]
        keys, values = (each.repeat(1, 1, self.sweeps, 1) for each in (keys, values))
        with torch.no_grad():
            if self.case == "average":
                read = self._read(query, keys, values, pairs)
                wrong = _wrong_bits(read, values.take_along_dim(place, dim=2))
            else:
                found = self._weights(query, keys, pairs)
                # What an item was written with several times adds up.
                found = found.unflatten(-1, (self.sweeps, pairs)).sum(dim=-2)
                wrong = _turned(found, place, self.snr)
        return wrong.flatten(1).double().mean(dim=1).cpu(), wrong[0].numel()

    def _read(self, query: Tensor, keys: Tensor, values: Tensor, pairs: int) -> Tensor:
        named = self._named(query, values.shape[-1], pairs)
        asked = {"form": chosen_form(self.spec, self.known), "backend": "auto"}
        if self.backend in self.spec.backends:
            asked = {"form": "auto", "backend": self.backend}
        reads = [
            attend(self.spec.name, part, keys, values, **asked, **named)
            for part in self._apart(query)
        ]
        return torch.cat(reads, dim=2)

    def _weights(self, query: Tensor, keys: Tensor, pairs: int) -> Tensor:
        # A mechanism with explicit weights is linear in values of any width.
        named = self._named(query, keys.shape[-1], pairs)
        found = [weights(self.spec.name, part, keys, **named) for part in self._apart(query)]
        return torch.cat(found, dim=2)

    def _apart(self, query: Tensor) -> tuple[Tensor, ...]:
        """Return the queries that are read in one call each."""
        one = chosen_asking(self.spec, self.known) == "one"
        return query.split(1, dim=2) if one else (query,)

    def _named(self, query: Tensor, value_dim: int, pairs: int) -> dict[str, Any]:
        given = {**self.known.given(query.shape[-1], value_dim, pairs * self.sweeps)}
        given |= self.parameters

        def moved(each: Any) -> Any:
            floating = isinstance(each, Tensor) and each.is_floating_point()
            return each.to(query.device, query.dtype) if floating else each

        return {name: moved(each) for name, each in given.items()}


def _wrong_bits(read: Tensor, value: Tensor) -> Tensor:
    """Return 1 where the sign is wrong, 1/2 where there is none (0 or not a number), else 0."""
    agreement = (read.sign() * value.sign()).nan_to_num(0.0)
    return (1 - agreement) / 2


def _turned(found: Tensor, place: Tensor, snr: float) -> Tensor:
    """Return 1 where the adversary can turn the bit of the item asked for, else 0."""
    own = found.take_along_dim(place, dim=-1)[..., 0]
    size = found.abs()
    others = size.scatter(-1, place, 0.0).sum(dim=-1)
    return (~(own > math.sqrt(snr) * others)).to(found.dtype)


def unable(question: Question) -> str:
    """Return why a mechanism cannot be asked, or ""."""
    known, spec = question.known, question.spec
    if known.reason:
        return known.reason
    if False not in spec.causal:
        return "has a causal form only: no query reads the memory after the last item"
    given = {**known.given(1, 1, 1), **question.parameters}
    missing = [
        name for name, each in spec.parameters.items() if each.required and name not in given
    ]
    if missing:
        return f"needs what is learned, and nothing is neutral: {', '.join(missing)}"
    if question.case == "worst" and spec.weights is None:
        return "has no explicit weights: its worst values are not known"
    return ""
