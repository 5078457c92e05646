"""Where a claim is measured: its draws, its device, and mechanisms through the registry."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from neuroattn.attention.dispatch import attend, weights
from neuroattn.attention.registry import State, get
from neuroattn.errors import InputError, MissingExtraError
from neuroattn.names import check_name
from neuroattn.theory.comparison import Array, Comparison, leaves, number

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
#: Chance that one statistical comparison of a right implementation fails, over all its entries:
#: that of four standard errors, either side.
FALSE_ALARM = float(2 * norm.sf(4))
#: Laws of keys whose squared length is 1 on average.
KEY_LAWS: tuple[str, ...] = ("sphere", "gaussian", "rademacher")
#: How many units of rounding the forms and backends of a mechanism may differ by.
AGREEMENT = 4096.0


@dataclass(frozen=True)
class Settings:
    """What a run of claims depends on: plain data, the same on every machine.

    Attributes
    ----------
    device : str
        Where mechanisms run, such as ``"cpu"`` or ``"cuda"``.
    dtype : {"float64", "float32", "bfloat16", "float16"}
        In which they run.
    backend : str
        Only this backend of those mechanisms that have it; ``"auto"`` for all.
    seed : int
        The same seed draws the same numbers, on any device.
    """

    device: str = "cpu"
    dtype: str = "float64"
    backend: str = "auto"
    seed: int = 0


class Lab:
    """What ``measure`` is given: seeded draws, mechanisms in every form, and comparisons.

    Tensors that come out are float64 on the CPU. Draws are rounded to the dtype of the settings,
    so that a prediction starts from the very numbers that the mechanism gets.

    Parameters
    ----------
    claim : str
        The id of the claim: part of what the draws depend on.
    settings : Settings, optional
        Device, dtype, backend and seed.
    """

    def __init__(self, claim: str, settings: Settings | None = None) -> None:
        self.claim = claim
        self.settings = settings or Settings()
        check_name("dtype", self.settings.dtype, DTYPES)
        self.dtype = DTYPES[self.settings.dtype]
        #: What ran: mechanism to its forms and backends.
        self.paths: dict[str, list[str]] = {}
        #: Largest difference between the paths of a mechanism, in units of its tolerance.
        self.disagreement: dict[str, float] = {}
        self._known: dict[Any, Any] = {}

    # Draws

    def seed(self, *tags: object) -> int:
        """Return a seed that depends on the settings' seed, the claim and the tags alone."""
        text = repr((self.settings.seed, self.claim, tags))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")

    def rng(self, *tags: object) -> np.random.Generator:
        """Return a numpy generator for these tags."""
        return np.random.default_rng(self.seed(*tags))

    def generator(self, *tags: object) -> torch.Generator:
        """Return a torch generator on the CPU for these tags."""
        return torch.Generator().manual_seed(self.seed(*tags))

    def normal(self, shape: Sequence[int], *tags: object) -> Tensor:
        """Return standard normal draws of a shape."""
        drawn = torch.randn(*shape, dtype=torch.float64, generator=self.generator(*tags))
        return self.rounded(drawn)

    def keys(self, law: str, shape: Sequence[int], *tags: object) -> Tensor:
        """Return keys (..., dim) of a law whose squared length is 1 on average.

        Parameters
        ----------
        law : {"sphere", "gaussian", "rademacher"}
            Uniform on the unit sphere, N(0, 1/dim) or +-1/sqrt(dim) in each entry.
        shape : sequence of int
            The last is the dimension.
        *tags
            What tells these draws from others of the claim.
        """
        check_name("law", law, KEY_LAWS)
        drawn: Tensor = torch.randn(
            *shape, dtype=torch.float64, generator=self.generator(law, *tags)
        )
        if law == "sphere":
            drawn = drawn / drawn.norm(dim=-1, keepdim=True)
        else:
            drawn = (drawn.sign() if law == "rademacher" else drawn) / math.sqrt(shape[-1])
        return self.rounded(drawn)

    def rounded(self, tensor: Tensor) -> Tensor:
        """Return a tensor's numbers as the dtype of the settings holds them, in float64."""
        return tensor.to(self.dtype).to(torch.float64)

    def once(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(lab, *arguments)``, computed once for the claim and its mutants."""
        key = (function, arguments)
        if key not in self._known:
            self._known[key] = function(self, *arguments)
        return self._known[key]

    # Mechanisms

    def attend(
        self, name: str, query: Tensor, key: Tensor, value: Tensor, **arguments: Any
    ) -> Tensor:
        """Return what :func:`neuroattn.attention.attend` does, in float64 on the CPU.

        Every form and backend that can do the request on the device does it; the first one's
        output is returned, and the claim fails if another differs by more than rounding (of
        outputs and states alike).
        """
        return self._read(name, (query, key, value), arguments, with_state=False)[0]

    def attend_state(
        self, name: str, query: Tensor, key: Tensor, value: Tensor, **arguments: Any
    ) -> tuple[Tensor, State]:
        """Return the output and the state after the last token; see :meth:`attend`."""
        return self._read(name, (query, key, value), arguments, with_state=True)

    def weights(self, name: str, query: Tensor, key: Tensor, **arguments: Any) -> Tensor:
        """Return :func:`neuroattn.attention.weights` in float64 on the CPU."""
        placed = self._placed(arguments)
        found = weights(name, self._place(query), self._place(key), **placed)
        if "weights" not in self.paths.setdefault(name, []):
            self.paths[name].append("weights")
        return found.to("cpu", torch.float64)

    def _read(
        self,
        name: str,
        inputs: tuple[Tensor, Tensor, Tensor],
        arguments: Mapping[str, Any],
        with_state: bool,
    ) -> tuple[Tensor, State]:
        spec = get(name)
        runs = [run for run in spec.runs if run.stateful or not with_state]
        wanted = self.settings.backend
        if wanted in spec.backends:
            runs = [run for run in runs if run.backend == wanted]
        query, key, value = (self._place(each) for each in inputs)
        placed = self._placed(arguments)
        first: tuple[Tensor, State] | None = None
        refused: Exception | None = None
        for run in runs:
            asked: dict[str, Any] = {"form": run.form, "backend": run.backend, **placed}
            if with_state:
                asked["return_state"] = True
            try:
                found: Any = attend(name, query, key, value, **asked)
            except (InputError, MissingExtraError) as error:
                refused = error
                continue
            output, state = found if with_state else (found, {})
            output = output.to("cpu", torch.float64)
            state = {part: each.to("cpu", torch.float64) for part, each in state.items()}
            path = f"{run.form}/{run.backend}"
            if path not in self.paths.setdefault(name, []):
                self.paths[name].append(path)
            if first is None:
                first = output, state
            else:
                self._agree(name, first[0], output)
                for part, each in state.items():
                    self._agree(name, first[1][part], each)
        if first is None:
            raise refused or InputError(f"attention={name!r} has no state to return.")
        return first

    def _agree(self, name: str, first: Tensor, other: Tensor) -> None:
        if not first.numel():
            return
        first, other = first.detach(), other.detach()
        size = max(float(first.abs().max()), torch.finfo(torch.float64).tiny)
        share = float((first - other).abs().max()) / size / self.rounding(AGREEMENT)
        share = math.inf if math.isnan(share) else share
        self.disagreement[name] = max(self.disagreement.get(name, 0.0), share)

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.settings.device, self.dtype)

    def _placed(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        def moved(each: Any) -> Any:
            if isinstance(each, dict):
                return {key: moved(value) for key, value in each.items()}
            if not isinstance(each, Tensor):
                return each
            floating = each.is_floating_point()
            return self._place(each) if floating else each.to(self.settings.device)

        return {key: moved(each) for key, each in arguments.items()}

    # Comparisons

    def rounding(self, growth: float) -> float:
        """Return ``growth`` units of rounding of the dtype.

        Half precision accumulates in float32 and rounds its inputs and outputs, so that there
        no more than 8 units are allowed, whatever the length.
        """
        unit = torch.finfo(self.dtype).eps
        return unit * (min(growth, 8.0) if self.dtype.itemsize == 2 else growth)

    def equal(
        self,
        name: str,
        measured: Any,
        predicted: Any,
        *,
        growth: float = 64.0,
        scale: float | None = None,
        reason: str = "",
        axes: Mapping[str, Any] | None = None,
    ) -> Comparison:
        """Compare numbers that are equal but for rounding.

        Parameters
        ----------
        name : str
            What is compared.
        measured, predicted : array or number
            Of shapes that broadcast.
        growth : float
            How many units of rounding, of the largest number, the algorithm may lose. A right
            implementation is expected to lose a tenth of it or more; otherwise give ``reason``.
        scale : float, optional
            What the rounding is relative to; the largest absolute prediction by default, 1 if
            all are 0.
        reason : str
            Why that many units.
        axes : mapping of str to array, optional
            Coordinates, if it is a curve to be drawn.
        """
        measured, predicted = _arrays(measured, predicted)
        largest = float(np.abs(predicted[np.isfinite(predicted)]).max(initial=0.0)) or 1.0
        allowed = self.rounding(growth) * (largest if scale is None else scale)
        said = f"{growth:g} units of rounding in {self.settings.dtype}"
        return self.near(
            name,
            measured,
            predicted,
            tolerance=allowed,
            expected=allowed / 10,
            reason=f"{said}: {reason}" if reason else said,
            axes=axes,
        )

    def near(
        self,
        name: str,
        measured: Any,
        predicted: Any,
        *,
        tolerance: Any,
        expected: float,
        reason: str,
        axes: Mapping[str, Any] | None = None,
    ) -> Comparison:
        """Compare numbers within a tolerance that has a reason.

        Parameters
        ----------
        name, measured, predicted, axes
            As in :meth:`equal`.
        tolerance : array or float
            Largest absolute difference.
        expected : float
            The difference that a right implementation makes.
        reason : str
            Where the difference comes from; if the tolerance is above ten times ``expected``,
            why.
        """
        measured, predicted = _arrays(measured, predicted)
        if not reason:
            raise InputError(f"comparison {name!r} needs a reason for its tolerance.")
        # Equal infinities differ by nothing.
        with np.errstate(invalid="ignore"):
            error = np.where(measured == predicted, 0.0, np.abs(measured - predicted))
        allowed = np.broadcast_to(np.asarray(tolerance, dtype=float), error.shape)
        return Comparison(
            name, predicted, measured, error, allowed, expected, reason, axes=_axes(axes, error)
        )

    def exact(self, name: str, measured: Any, predicted: Any) -> Comparison:
        """Compare integers (any size, nested lists), truths or words that have to be the same.

        The error is how many differ.
        """
        found, wanted = list(leaves(measured)), list(leaves(predicted))
        if len(found) != len(wanted):
            raise InputError(
                f"comparison {name!r} has {len(found)} measured and {len(wanted)} predicted "
                "entries; needed is the same number."
            )
        wrong = [place for place, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b]
        shown = wrong[0] if wrong else 0
        numbers = [number(each[shown]) if each else math.nan for each in (wanted, found)]
        return Comparison(
            name,
            np.array(numbers[0]),
            np.array(numbers[1]),
            np.array(float(len(wrong))),
            np.array(0.0),
            0.0,
            f"exact: {len(found)} compared one by one",
        )

    def mean(
        self,
        name: str,
        samples: Any,
        predicted: Any,
        *,
        axes: Mapping[str, Any] | None = None,
    ) -> Comparison:
        """Compare the mean of independent draws with its expectation.

        Parameters
        ----------
        name, predicted, axes
            As in :meth:`equal`.
        samples : array
            (draws, ...): independent along the first axis, at least 20.
        """
        drawn = np.asarray(samples, dtype=float)
        if drawn.ndim == 0 or len(drawn) < 20:
            raise InputError(f"comparison {name!r} needs at least 20 independent draws.")
        spread = drawn.std(axis=0, ddof=1) / math.sqrt(len(drawn))
        found = drawn.mean(axis=0)
        return self.estimate(name, found, spread, predicted, draws=len(drawn), axes=axes)

    def estimate(
        self,
        name: str,
        measured: Any,
        spread: Any,
        predicted: Any,
        *,
        draws: int | None = None,
        axes: Mapping[str, Any] | None = None,
    ) -> Comparison:
        """Compare an estimate that is normal about its expectation, given its standard error.

        The tolerance is four standard errors for one entry, and for several as many as keep the
        chance of a false alarm the same (Bonferroni). Where the standard error is itself
        estimated, from ``draws`` independent draws, Student's law widens it to the same chance.

        Parameters
        ----------
        name, measured, predicted, axes
            As in :meth:`equal`.
        spread : array
            Standard error of each entry.
        draws : int, optional
            From how many independent draws ``spread`` comes; many, if left out.
        """
        measured, predicted = _arrays(measured, predicted)
        spread = np.broadcast_to(np.asarray(spread, dtype=float), measured.shape)
        level = FALSE_ALARM / 2 / max(measured.size, 1)
        bound = float(norm.isf(level) if draws is None else student.isf(level, draws - 1))
        error = np.abs(measured - predicted)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(error == 0, 0.0, (measured - predicted) / spread)
        return Comparison(
            name,
            predicted,
            measured,
            error,
            bound * spread,
            float(spread.mean()) * math.sqrt(2 / math.pi),
            f"{bound:.2f} standard errors, one false alarm in {1 / FALSE_ALARM:,.0f}",
            z=z,
            spread=spread,
            axes=_axes(axes, measured),
        )

    def at_most(
        self,
        name: str,
        measured: Any,
        bound: Any,
        *,
        slack: float = 0.0,
        reason: str = "",
        axes: Mapping[str, Any] | None = None,
    ) -> Comparison:
        """Check measured <= bound; the error is by how much it is not.

        ``slack`` is allowed; if it is more than rounding, ``reason`` says why.
        """
        measured, bound = _arrays(measured, bound)
        error = np.maximum(measured - bound, 0.0)
        return self._bounded(name, "<=", measured, bound, error, slack, reason, axes)

    def at_least(
        self,
        name: str,
        measured: Any,
        bound: Any,
        *,
        slack: float = 0.0,
        reason: str = "",
        axes: Mapping[str, Any] | None = None,
    ) -> Comparison:
        """Check measured >= bound; see :meth:`at_most`."""
        measured, bound = _arrays(measured, bound)
        error = np.maximum(bound - measured, 0.0)
        return self._bounded(name, ">=", measured, bound, error, slack, reason, axes)

    def _bounded(
        self,
        name: str,
        relation: str,
        measured: Array,
        bound: Array,
        error: Array,
        slack: float,
        reason: str,
        axes: Mapping[str, Any] | None,
    ) -> Comparison:
        largest = max(1.0, float(np.abs(bound[np.isfinite(bound)]).max(initial=0.0)))
        if not reason and slack > self.rounding(AGREEMENT) * largest:
            raise InputError(f"comparison {name!r} needs a reason for its slack of {slack:g}.")
        said = reason or ("an inequality, but for rounding" if slack else "an inequality")
        allowed = np.full(error.shape, slack)
        drawn = _axes(axes, error)
        return Comparison(
            name, bound, measured, error, allowed, 0.0, said, axes=drawn, relation=relation
        )


def _arrays(measured: Any, predicted: Any) -> tuple[Any, Any]:
    found = [
        np.asarray(each.detach().cpu() if isinstance(each, Tensor) else each, dtype=float)
        for each in (measured, predicted)
    ]
    one, other = np.broadcast_arrays(*found)
    return one.copy(), other.copy()


def _axes(axes: Mapping[str, Any] | None, values: Any) -> dict[str, Any]:
    if not axes:
        return {}
    named = {name: np.asarray(each, dtype=float) for name, each in axes.items()}
    shape = tuple(len(each) for each in named.values())
    if shape != values.shape:
        raise InputError(f"axes {list(named)} have lengths {shape}; the values {values.shape}.")
    return named
