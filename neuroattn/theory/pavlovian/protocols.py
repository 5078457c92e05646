"""Conditioning experiments in a small language, run through an attention mechanism.

A protocol is a sequence of phases, each a pair of trial types and how often they are run:
``[("A+", 20), ("AB+", 20)]`` is blocking, ``[("A+, AX-", 100)]`` alternates two types. A trial type
is the stimuli that are present, a capital letter each, and the outcome: ``+`` (1), ``-`` (0), or
``+`` and a size, as in ``A+0.5``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neuroattn.attention import attend, get
from neuroattn.errors import InputError
from neuroattn.names import check_name
from neuroattn.theory.comparison import Array

if TYPE_CHECKING:
    import xarray as xr

#: Trial types, a comma between, and how often they are run in turn.
Protocol = Sequence[tuple[str, int]]

_TRIAL = re.compile(r"([A-Z]+)(?:(-)|\+((?:\d+(?:\.\d*)?|\.\d+)?))")
#: What makes a mechanism take its keys as they come, and its step as it is.
_PLAIN = {"normalize_keys": False, "feature_map": "identity", "normalize": False}


@dataclass(frozen=True)
class Trials:
    """A protocol, trial by trial.

    Attributes
    ----------
    stimuli : tuple of str
        Letters, in alphabetical order.
    present : array
        (trials, stimuli): 1 where a stimulus is present.
    outcome : array
        (trials,): size of what follows.
    phase : tuple of int
        Which phase each trial is of, from 1.
    types : tuple of str
        The type of each trial.
    """

    stimuli: tuple[str, ...]
    present: Array
    outcome: Array
    phase: tuple[int, ...]
    types: tuple[str, ...]


def parse(protocol: Any) -> Trials:
    """Return a protocol's trials.

    Raises
    ------
    InputError
        If it is malformed; the message names the phase, and the trial type.
    """
    if isinstance(protocol, str | bytes) or not isinstance(protocol, Sequence) or not protocol:
        raise InputError(
            f"protocol={protocol!r} must be a sequence of phases, each a pair of trial types and "
            "how often they are run, such as [('A+', 20), ('AB+', 20)]."
        )
    rows = [row for number, each in enumerate(protocol, 1) for row in _phase(number, each)]
    stimuli = tuple(sorted({letter for row in rows for letter in row[1]}))
    return Trials(
        stimuli,
        np.array([[float(each in row[1]) for each in stimuli] for row in rows]),
        np.array([row[2] for row in rows]),
        tuple(row[0] for row in rows),
        tuple(row[3] for row in rows),
    )


def _phase(number: int, phase: Any) -> list[tuple[int, str, float, str]]:
    if isinstance(phase, str) or not isinstance(phase, Sequence) or len(phase) != 2:
        raise InputError(
            f"phase {number} of protocol is {phase!r}; needed is a pair of trial types and how "
            "often they are run, such as ('AB+', 20)."
        )
    types, times = phase
    if isinstance(times, bool) or not isinstance(times, int | np.integer) or times < 1:
        raise InputError(
            f"phase {number} of protocol is run {times!r} times; needed is a whole number of at "
            "least 1."
        )
    if not isinstance(types, str):
        raise InputError(f"trial types of phase {number} are {types!r}; needed is a text: 'A+'.")
    return [_trial(number, each.strip()) for each in types.split(",")] * int(times)


def _trial(number: int, text: str) -> tuple[int, str, float, str]:
    found = _TRIAL.fullmatch(text)
    if found is None:
        raise InputError(
            f"trial type {text!r} in phase {number} of protocol must be capital letters (the "
            "stimuli) and an outcome, + or - or + and a size: 'A+', 'AX-', 'AB+0.5'; a comma "
            "stands between types that are run in turn."
        )
    letters, none, size = found.groups()
    if len(set(letters)) < len(letters):
        raise InputError(
            f"trial type {text!r} in phase {number} of protocol names a stimulus twice; each is "
            "there or not, give a louder one a salience above 1."
        )
    return number, letters, 0.0 if none else float(size or 1), text


def conditioning(
    protocol: Protocol,
    rule: str = "delta",
    *,
    saliences: Mapping[str, float] | None = None,
    step: float = 0.3,
    **parameters: Any,
) -> xr.DataArray:
    """Run a conditioning experiment through a recurrent attention mechanism.

    Every trial is a token: its key is the compound of the stimuli that are present, each an axis
    of its own times its salience, its value the outcome. The strength of a stimulus is what the
    mechanism reads for it alone.

    Parameters
    ----------
    protocol : sequence of (str, int)
        Phases: trial types, separated by commas, and how often they are run in turn. A trial type
        is capital letters and ``+``, ``-`` or ``+`` and a size: ``[("A+", 20), ("AB+0.5", 20)]``.
    rule : str
        A registered recurrent mechanism, such as ``"delta"`` (Rescorla-Wagner), ``"linear"``
        (Hebb) or ``"retention"`` (Hebb with decay).
    saliences : mapping of str to float, optional
        Positive; 1 for stimuli that are not named. For a compound of saliences α the delta rule
        is stable if step · Σα² is below 2.
    step : float
        Learning rate, positive: the mechanism's ``beta`` where it has one, otherwise a factor on
        the outcomes that are written.
    **parameters
        The mechanism's own. Unless given, keys are taken as they come (no normaliser, identity
        feature map), and ``scale`` is 1.

    Returns
    -------
    xarray.DataArray
        (trial, stimulus): strength after every trial, trial 0 being before the first; coordinates
        ``phase`` and ``type`` (trial), 0 and "" for trial 0.

    Raises
    ------
    InputError
        If the protocol is malformed, the step or a salience is no positive number, a salience is
        of a stimulus that does not occur, the mechanism is not recurrent, or a parameter is
        impossible.
    UnknownNameError
        If there is no such mechanism or parameter.

    References
    ----------
    Rescorla & Wagner (1972), A theory of Pavlovian conditioning; Qiao (2025), arXiv 2508.08289.
    """
    import xarray as xr

    trials = parse(protocol)
    strength = strengths(attend, trials, rule, saliences, step, **parameters)
    return xr.DataArray(
        strength,
        dims=("trial", "stimulus"),
        coords={
            "trial": np.arange(len(strength)),
            "stimulus": list(trials.stimuli),
            "phase": ("trial", np.array([0, *trials.phase])),
            "type": ("trial", np.array(["", *trials.types])),
        },
        name="strength",
        attrs={"rule": rule, "step": step},
    )


def strengths(
    read: Callable[..., Tensor],
    trials: Trials,
    rule: str,
    saliences: Mapping[str, float] | None = None,
    step: float = 0.3,
    **parameters: Any,
) -> Array:
    """Return (trials + 1, stimuli) strengths; ``read`` attends, as :func:`attend` does."""
    spec = get(rule)
    if not (spec.recurrent and True in spec.causal):
        raise InputError(
            f"rule={rule!r} is not recurrent: it keeps no memory from trial to trial; "
            "neuroattn.attention.list_mechanisms(recurrent=True) names those that do."
        )
    given = {key: each for key, each in _PLAIN.items() if key in spec.parameters} | parameters
    if "scale" not in given and spec.scale:
        given["scale"] = 1.0
    step = _positive("step", step)
    written = trials.outcome
    if "beta" in spec.parameters:
        given.setdefault("beta", step)
    else:
        written = written * step
    each = np.diag(_loudness(trials.stimuli, saliences))
    # One sequence a stimulus, which is asked for after every trial.
    shape = (len(trials.stimuli), 1, *trials.present.shape)
    query = torch.tensor(each)[:, None, None].expand(shape)
    key = torch.tensor(trials.present @ each).expand(shape)
    value = torch.tensor(written)[:, None].expand(*shape[:3], 1)
    found = read(rule, query, key, value, causal=True, **given)
    before = np.zeros((1, len(trials.stimuli)))
    return np.concatenate([before, found[:, 0, :, 0].T.cpu().numpy()])


def _loudness(stimuli: tuple[str, ...], saliences: Mapping[str, float] | None) -> list[float]:
    saliences = {} if saliences is None else saliences
    if not isinstance(saliences, Mapping):
        raise InputError(
            f"saliences={saliences!r} must be a mapping of stimuli to positive numbers, such as "
            "{'A': 2.0}."
        )
    for name in saliences:
        check_name("stimulus of saliences", name, stimuli)
    return [_positive(f"salience of {each}", saliences.get(each, 1.0)) for each in stimuli]


def _positive(name: str, number: Any) -> float:
    numeric = isinstance(number, int | float | np.number) and not isinstance(number, bool)
    if not numeric or not 0 < number < np.inf:
        raise InputError(f"{name}={number!r} must be a positive number.")
    return float(number)
