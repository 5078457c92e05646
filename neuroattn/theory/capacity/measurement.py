"""The capacity of one mechanism at one width, with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import t as student

from neuroattn.attention import get
from neuroattn.attention.backends import BACKENDS
from neuroattn.attention.registry import Mechanism
from neuroattn.errors import InputError, UnknownNameError
from neuroattn.names import check_name, did_you_mean
from neuroattn.theory.capacity.associations import Associations, associations
from neuroattn.theory.capacity.criterion import Question, allowed_error, unable
from neuroattn.theory.capacity.neutral import neutral
from neuroattn.theory.lab import DTYPES, KEY_LAWS, Settings

#: What a capacity is taken to be beyond measuring, unless another is asked for.
LARGEST = 2**12
#: Retrieval may fail below this many associations and hold above: a centred memory of one is empty.
START = 8
#: Numbers of associations are told apart down to this fraction of themselves; ends of intervals,
#: which are rounded outward, to a coarser one.
RESOLUTION, END_RESOLUTION = 256, 64
#: In single precision, which the sign of a read does not notice.
SINGLE = Settings(dtype="float32")


@dataclass(frozen=True)
class Capacity:
    """How many associations a mechanism was found to hold.

    Attributes
    ----------
    mechanism, dim, value_dim : str, int, int
        What was measured.
    case, law, noise, snr, sweeps : str, str, float, float, int
        The task and the criterion, see :mod:`neuroattn.theory.capacity`.
    capacity : int or None
        Largest number of associations at which retrieval holds (above 256, to within 1/256 of
        it); the largest tried if ``censored``; None if the mechanism cannot be asked.
    crossing : float or None
        The same as a real number: where the measured failures, interpolated between neighbouring
        numbers of associations, cross what is allowed. None if censored or not asked.
    low, high : int or None
        Ends of the confidence interval of ``capacity``; ``high`` is None beyond the largest tried.
    censored : bool
        Whether retrieval still held at ``largest``.
    largest : int
        Largest number of associations that was allowed.
    failures, allowed : float or None, float
        Measured share of failures at ``capacity``, and what is allowed.
    draws : int
        Independent lists of associations at ``capacity``.
    confidence : float
        Of the interval.
    taken : str
        What was given to the mechanism where it has no default, in words.
    reason : str
        Why it cannot be asked, or "".
    """

    mechanism: str
    dim: int
    value_dim: int
    case: str
    law: str
    noise: float
    snr: float
    sweeps: int
    capacity: int | None
    crossing: float | None
    low: int | None
    high: int | None
    censored: bool
    largest: int
    failures: float | None
    allowed: float
    draws: int
    confidence: float
    taken: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class _Point:
    """Share of failures at one number of associations, and ends of its interval."""

    mean: float
    low: float
    high: float
    draws: int


def measure(
    mechanism: str,
    dim: int,
    *,
    case: str = "average",
    snr: float = 1.0,
    law: str = "sphere",
    noise: float = 0.0,
    value_dim: int | None = None,
    sweeps: int = 1,
    draws: int = 64,
    largest: int = LARGEST,
    confidence: float = 0.95,
    settings: Settings = SINGLE,
    **parameters: Any,
) -> Capacity:
    """Find how many associations a mechanism holds before retrieval falls below the criterion.

    Parameters
    ----------
    mechanism : str
        A registered mechanism.
    dim : int
        Width of keys and queries.
    case : {"average", "worst"}
        Random values, or the worst ones.
    snr : float
        The criterion: a bit may be wrong as often as Gaussian interference of this
        signal-to-noise ratio makes it; in the worst case, the weight of the item asked for
        exceeds ``sqrt(snr)`` times all others together.
    law : {"sphere", "gaussian", "rademacher"}
        Of the keys, whose coordinates have unit variance.
    noise : float
        Standard deviation of what is added to each coordinate of the query.
    value_dim : int, optional
        Bits of a value; ``dim`` by default.
    sweeps : int
        How often the list of associations is written, in the same order.
    draws : int
        Independent lists of associations, at most; long ones are fewer, but at least 8.
    largest : int
        Largest number of associations that is tried.
    confidence : float
        Of the interval.
    settings : Settings
        Device, dtype, backend and seed. The same seed gives the same capacity.
    **parameters
        The mechanism's own parameters, and ``scale``. Those that it needs and that are not given
        are neutral ones, as ``taken`` says.

    Returns
    -------
    Capacity
        A mechanism that cannot be asked has ``capacity`` None and a ``reason``.

    Raises
    ------
    UnknownNameError
        Unknown mechanism, case, law, dtype, backend or parameter.
    InputError
        A number out of its range, or parameters that the mechanism refuses.
    """
    spec = get(mechanism)
    value_dim = dim if value_dim is None else value_dim
    counts = {"dim": dim, "value_dim": value_dim, "sweeps": sweeps, "largest": largest}
    _check(counts, draws, law, noise, confidence, settings)
    _check_parameters(spec, parameters)
    allowed = allowed_error(case, snr)
    known = neutral(spec)
    question = Question(spec, known, parameters, case, snr, noise, sweeps, settings.backend)
    most = min(largest, known.most or largest)
    common: dict[str, Any] = {
        **{"mechanism": mechanism, "dim": dim, "value_dim": value_dim, "case": case, "law": law},
        **{"noise": float(noise), "snr": float(snr), "sweeps": sweeps, "largest": most},
        **{"allowed": allowed, "confidence": confidence, "taken": known.words},
    }
    reason = unable(question)
    if reason:
        fields = ("capacity", "crossing", "low", "high", "failures")
        empty: dict[str, Any] = dict.fromkeys(fields)
        return Capacity(**common, **empty, censored=False, draws=0, reason=reason)
    dtype = DTYPES[settings.dtype]
    drawn = associations(dim, value_dim, law, draws, settings.seed, settings.device, dtype)
    curve = _Curve(question, drawn, allowed, confidence)
    return Capacity(**common, **curve.capacity(most), reason="")


class _Curve:
    """Failures over the number of associations, each number measured once."""

    def __init__(
        self, question: Question, drawn: Associations, allowed: float, confidence: float
    ) -> None:
        self.question, self.drawn, self.allowed = question, drawn, allowed
        self.confidence = confidence
        self.points: dict[int, _Point] = {}

    def at(self, pairs: int) -> _Point:
        """Return the failures at a number of associations."""
        if pairs not in self.points:
            shares, reads = self.question.failures(self.drawn, pairs)
            draws = len(shares)
            mean = float(shares.mean())
            spread = float(shares.std()) / math.sqrt(draws) if draws > 1 else 0.0
            # No less than that of independent reads, were the share what is allowed.
            floor = math.sqrt(self.allowed * (1 - self.allowed) / (draws * reads))
            width = float(student.ppf((1 + self.confidence) / 2, max(draws - 1, 1)))
            reach = width * max(spread, floor)
            self.points[pairs] = _Point(mean, mean - reach, mean + reach, draws)
        return self.points[pairs]

    def capacity(self, most: int) -> dict[str, Any]:
        """Return what is found between 1 and ``most`` associations."""
        low, above = self._last(lambda point: point.mean <= self.allowed, most)
        least, _ = self._last(lambda point: point.high <= self.allowed, most, END_RESOLUTION)
        _, beyond = self._last(lambda point: point.low <= self.allowed, most, END_RESOLUTION)
        found = self.at(low) if low else None
        return {
            "capacity": low,
            "crossing": None if above is None else self._crossing(low, above),
            "low": min(least, low),
            "high": None if beyond is None else max(beyond - 1, low),
            "censored": above is None,
            "failures": found.mean if found else None,
            "draws": self.at(max(low, 1)).draws,
        }

    def _last(
        self, holds: Callable[[_Point], bool], most: int, resolution: int = RESOLUTION
    ) -> tuple[int, int | None]:
        """Return the last number that holds (0 if none does) and one above that does not.

        The second is None if the largest number holds.
        """
        low, high = 0, None
        size = 1
        while high is None and low < most:
            size = min(size, most)
            if holds(self.at(size)):
                low = size
            elif low or size >= min(START, most):
                high = size
            size *= 2
        if high is None:
            return low, None
        for size in sorted(size for size in self.points if low < size < high):
            if not holds(self.points[size]):
                high = size
                break
            low = size
        while high - low > max(1, low // resolution):
            middle = (low + high) // 2
            if holds(self.at(middle)):
                low = middle
            else:
                high = middle
        return low, high

    def _crossing(self, low: int, above: int) -> float:
        if not low:
            return 0.0
        under, over = self.at(low).mean, self.at(above).mean
        return low + (above - low) * (self.allowed - under) / (over - under)


def _check(
    counts: Mapping[str, Any],
    draws: int,
    law: str,
    noise: float,
    confidence: float,
    settings: Settings,
) -> None:
    for name, number in counts.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"{name}={number!r} must be an integer, at least 1.")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 2:
        raise InputError(f"draws={draws!r} must be an integer, at least 2: intervals need two.")
    check_name("law", law, KEY_LAWS)
    if not (isinstance(noise, int | float) and 0 <= noise < math.inf):
        raise InputError(f"noise={noise!r} must be a number, at least 0.")
    if not (isinstance(confidence, int | float) and 0 < confidence < 1):
        raise InputError(f"confidence={confidence!r} must be above 0 and below 1, such as 0.95.")
    check_name("dtype", settings.dtype, DTYPES)
    check_name("backend", settings.backend, ("auto", *BACKENDS))
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device={settings.device!r}: torch sees no CUDA device; use 'cpu'.")


def _check_parameters(spec: Mechanism, parameters: Mapping[str, Any]) -> None:
    for name in parameters:
        if name not in ("scale", *spec.parameters):
            known = ("scale", *spec.parameters)
            raise UnknownNameError(
                f"attention={spec.name!r} has no parameter {name!r}"
                f"{did_you_mean(name, known) or '.'} Allowed: {', '.join(known)}."
            )
