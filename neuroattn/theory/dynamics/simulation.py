"""Claims: the state space of every mechanism that has one, simulated, is the mechanism."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.dynamics.sliding import moving_average
from neuroattn.theory.dynamics.space import StateSpace, simulate
from neuroattn.theory.dynamics.systems import state_space
from neuroattn.theory.lab import Lab

PAPER = (
    "Sieber, Amo Alonso, Didier, Zeilinger & Orvieto (2024), Understanding the differences in "
    "foundation models: attention, state space models, and recurrent neural networks"
)
#: Batch, heads, tokens, dim and value_dim of the draws.
SIZE = (2, 2, 23, 6, 5)
Case = tuple[str, dict[str, Any], str]  # a mechanism, its parameters, what is compared
Change = Callable[[StateSpace], StateSpace]


def draws(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value."""
    batch, heads, tokens, dim, width = SIZE
    query = lab.rounded(lab.normal((batch, heads, tokens, dim), "query"))
    key = lab.rounded(0.7 * lab.normal((batch, heads, tokens, dim), "key"))
    return query, key, lab.normal((batch, heads, tokens, width), "value")


def gate(lab: Lab, low: float, high: float, *tags: object, shape: tuple[int, ...] = ()) -> Tensor:
    """Return gates between low and high, (batch, heads, tokens) unless ``shape`` is given."""
    drawn = lab.normal(shape or SIZE[:3], *tags).sigmoid()
    return lab.rounded(low + (high - low) * drawn)


def _same(system: StateSpace) -> StateSpace:
    return system


def _kept(system: StateSpace) -> StateSpace:
    """Forget what Λ does."""
    if system.diagonal:
        return replace(system, Lambda=torch.ones_like(system.Lambda))
    one = torch.eye(system.states, dtype=system.Lambda.dtype)
    return replace(system, Lambda=one.expand_as(system.Lambda))


def _late(system: StateSpace) -> StateSpace:
    """Take Λ of the token before."""
    return replace(system, Lambda=system.Lambda.roll(1, dims=2))


def _early(system: StateSpace) -> StateSpace:
    """Read with C of the token before."""
    return replace(system, C=system.C.roll(1, dims=2))


def _ungated(system: StateSpace) -> StateSpace:
    """Take B of the first token's size."""
    size = system.B.norm(dim=-1, keepdim=True)
    return replace(system, B=system.B / size.clamp(min=1e-9) * size[:, :, :1])


def compare(lab: Lab, cases: list[Case], change: Change, reason: str = "") -> Iterator[Comparison]:
    """Compare every case's mechanism with its simulated state space."""
    query, key, value = draws(lab)
    for name, given, what in cases:
        system = change(state_space(name, query, key, value, **given))
        yield lab.equal(
            f"{name}{what and ', ' + what}: simulation = mechanism, N = {system.states}",
            lab.attend(name, query, key, value, causal=True, **given),
            simulate(system),
            reason=reason,
        )


def summing_cases(lab: Lab) -> list[Case]:
    """Return the mechanisms that add up features times values."""
    maps = ("elu", "relu", "sigmoid", "softmax", "taylor")
    cases: list[Case] = [
        ("linear", {"feature_map": name, "normalize": normalize}, f"{name}, {said}")
        for name in maps
        for normalize, said in ((True, "normalised"), (False, "not normalised"))
    ]
    cases.append(("linear", {"feature_map": "identity", "normalize": False}, "identity"))
    centred = {True: "elu, centred", False: "elu, centred, not normalised"}
    cases += [("linear", {"center": True, "normalize": n}, said) for n, said in centred.items()]
    cases += [
        ("covariance", {"normalize": normalize}, f"normalize={normalize}")
        for normalize in (True, False)
    ]
    weight = lab.normal((SIZE[1], SIZE[3], 4), "feature weight")
    cases += [
        ("hedgehog", {"feature_weight": weight, "feature_map": pair}, pair)
        for pair in ("softmax", "exp")
    ]
    cases.append(("sdm", {"radius": 2}, "the whole cube"))
    cases.append(("sdm", {"radius": 2, "neurons": 40, "normalize": False}, "40 neurons"))
    cases.append(("flow", {}, ""))
    return cases


def measure_summing(lab: Lab, change: Change = _same) -> Iterator[Comparison]:
    """Simulate linear attention with every feature map, and its relatives."""
    yield from compare(lab, summing_cases(lab), change, "chains of η_(i-1)/η_i over tokens")
    query, key, value = draws(lab)
    query, key = query.abs(), key.abs()  # the identity's normaliser is sound where it is positive
    system = change(state_space("linear", query, key, value, feature_map="identity"))
    yield lab.equal(
        "linear, identity, normalised, tokens without negative entries: simulation = mechanism",
        lab.attend("linear", query, key, value, causal=True, feature_map="identity"),
        simulate(system),
    )


def fading_cases(lab: Lab) -> list[Case]:
    """Return the mechanisms with a diagonal Λ below 1."""
    batch, heads, tokens, dim, width = SIZE
    alpha, beta = gate(lab, 0.3, 1, "alpha"), gate(lab, 0, 2, "beta")
    step = gate(lab, 0, 1.5, "step", shape=(batch, heads, tokens, width))
    rate = gate(lab, 0, 2, "rate", shape=(heads, dim, width))
    return [
        ("retention", {}, ""),
        ("retention", {"decay": 0.8, "normalize": True}, "scores normalised"),
        ("lightning", {}, ""),
        ("lightning", {"decay": "lightning", "layers": 3, "layer": 1}, "schedule of a layer"),
        ("ssd", {"alpha": alpha, "beta": beta}, ""),
        ("s6", {"step": step, "rate": rate}, ""),
        ("mesa", {"alpha": alpha, "beta": beta}, "the regression in C"),
    ]


def measure_fading(lab: Lab, change: Change = _same) -> Iterator[Comparison]:
    """Simulate the mechanisms whose memory decays."""
    yield from compare(lab, fading_cases(lab), change, "mesa solves a system a token")


def correcting_cases(lab: Lab) -> list[Case]:
    """Return the mechanisms with a Λ that is not diagonal."""
    alpha, beta = gate(lab, 0.5, 1, "alpha"), gate(lab, 0, 2, "beta")
    small, momentum = gate(lab, 0, 0.6, "small"), gate(lab, 0, 0.7, "momentum")
    mild = gate(lab, 0, 0.2, "mild")
    both = {"alpha": alpha, "beta": beta}
    carried = {"alpha": alpha, "beta": small, "momentum": momentum}
    return [
        ("delta", {"beta": beta}, ""),
        ("delta", {"beta": mild, "normalize_keys": False}, "keys as they come"),
        ("gated_delta", both, "decay first"),
        ("gated_delta", {**both, "order": "error first"}, "error first"),
        ("longhorn", {"beta": beta}, ""),
        ("titans", carried, "memory and momentum"),
        (
            "titans",
            {**carried, "gradient": "chunk start", "chunk_size": 5},
            "gradients at the start of a chunk",
        ),
        ("oja", {"beta": beta}, "driven by the keys"),
        ("oja", {"beta": mild, "normalize": False}, "plain step, driven by the keys"),
    ]


def measure_correcting(lab: Lab, change: Change = _same) -> Iterator[Comparison]:
    """Simulate the delta rules."""
    yield from compare(lab, correcting_cases(lab), change, "steps up to 2 reflect")


def measure_window(lab: Lab, change: Change = _same) -> Iterator[Comparison]:
    """Simulate softmax over the last keys, and Mega's average inside Mega."""
    cases: list[Case] = [
        ("neighborhood", {"window": 4}, "window 4"),
        ("neighborhood", {"window": 3, "dilation": 2}, "window 3, dilation 2"),
    ]
    yield from compare(lab, cases, change)
    heads, dim = SIZE[1], SIZE[3]
    hidden, shared = (heads, dim, 3), (heads, 4)
    unit = {name: gate(lab, 0, 1, name, shape=hidden) for name in ("gain", "damping")}
    linear = {name: lab.normal(hidden, name) for name in ("spread", "readout")}
    skip = lab.normal((heads, dim), "skip")
    named = {name: lab.normal(shared, name) for name in ("query_scale", "key_scale")}
    named |= {name: lab.normal(shared, name) for name in ("query_shift", "key_shift")}
    mixed, offset = lab.normal((heads, 4, dim), "W"), lab.normal(shared, "b")
    tokens, _, value = draws(lab)
    system = change(moving_average(tokens, **unit, **linear, skip=skip))
    seen = F.silu(F.silu(simulate(system)) @ mixed.mT + offset[:, None])
    asked, kept = (
        seen * named[f"{each}_scale"][:, None] + named[f"{each}_shift"][:, None]
        for each in ("query", "key")
    )
    logits = asked @ kept.mT / 2
    hide = torch.ones(SIZE[2], SIZE[2], dtype=torch.bool).triu(1)
    given = {**unit, **linear, **named, "skip": skip, "shared_weight": mixed, "shared_bias": offset}
    yield lab.equal(
        "mega: softmax of what its simulated average gives = mechanism",
        lab.attend("mega", tokens, tokens, value, causal=True, **given),
        logits.masked_fill(hide, -torch.inf).softmax(-1) @ value,
        reason="the logits are sums of three layers",
    )


_TOKENS = ("Queries, keys, values and gates are given; the input is the values.",)

register(
    Claim(
        id="dynamics.state-space.sums",
        title="Linear attention with any feature map, normalised or not, is a linear state space",
        paper=PAPER,
        place="the row of linear attention in the paper's table; the relatives are derived here",
        statement=r"\Lambda_i=\frac{\eta_{i-1}}{\eta_i},\ B_i=\frac{\psi(k_i)}{\eta_i},\ "
        r"C_i=\phi(q_i)^T",
        hypotheses=(*_TOKENS, "The number of features is finite; the normaliser is not zero."),
        finding="sharpened",
        found="The row holds for every feature map, also for Hedgehog, for sparse distributed "
        "memory (the features say which neurons are near) and for flow attention, whose "
        "competition goes into B. Centred memories need one more state a channel, the sum of the "
        "values; no nonlinearity enters.",
        half=True,
        measure=measure_summing,
        mutants={
            "the normaliser does not decay the state": {"change": _kept},
            "Λ of the token before": {"change": _late},
            "C of the token before": {"change": _early},
        },
        mechanisms=("linear", "hedgehog", "covariance", "sdm", "flow"),
    )
)
register(
    Claim(
        id="dynamics.state-space.decays",
        title="Retention, Lightning, SSD, S6 and the mesa layer have a diagonal transition",
        paper=PAPER,
        place="the rows of S6 and SSD in the paper's table; mesa is derived here",
        statement=r"\Lambda_i=e^{-\Delta_i\otimes A},\ B_i=\Delta_i\otimes b_i,\ C_i=c_i^T",
        hypotheses=_TOKENS,
        finding="sharpened",
        found="The mesa layer belongs here, too: its memory is a decayed sum, and ridge "
        "regression is a C that depends on all earlier keys.",
        half=True,
        measure=measure_fading,
        mutants={
            "no decay": {"change": _kept},
            "Λ of the token before": {"change": _late},
            "B of constant size, without its gate": {"change": _ungated},
        },
        mechanisms=("retention", "lightning", "ssd", "s6", "mesa"),
    )
)
register(
    Claim(
        id="dynamics.state-space.corrections",
        title="Delta rules are linear state spaces whose transition is not diagonal",
        paper=PAPER,
        place="the framework's equation with a full transition matrix; derived here",
        statement=r"\Lambda_i=\alpha_iI-\beta_ik_ik_i^T,\ B_i=\beta_ik_i,\ C_i=q_i^T",
        hypotheses=(*_TOKENS, "For Oja's rule the input is the keys, and the target the value."),
        finding="sharpened",
        found="The framework's diagonal Λ leaves DeltaNet out; with a full Λ it holds. Titans "
        "needs twice the states (memory and momentum), its training with gradients at the start "
        "of a chunk three times. Oja's rule is linear only when driven by the keys.",
        half=True,
        measure=measure_correcting,
        mutants={
            "nothing is erased": {"change": _kept},
            "Λ of the token before": {"change": _late},
            "B of constant size, without its gate": {"change": _ungated},
        },
        mechanisms=("delta", "gated_delta", "longhorn", "titans", "oja"),
    )
)
register(
    Claim(
        id="dynamics.state-space.windows",
        title="Softmax over a window has a finite state, a shift register; Mega's average too",
        paper=PAPER,
        place="derived here; the average is Ma et al. (2022), Mega, equations 5 to 7",
        statement=r"h_i=\Lambda_i h_{i-1}+B_iu_i,\quad y_i=C_ih_i+D_iu_i",
        hypotheses=(
            "The window is of fixed length.",
            "Mega's average is taken before its softmax.",
        ),
        finding="sharpened",
        found="A softmax needs an infinite state only because it reads all keys: over the last w "
        "the state is the last w values, and every eigenvalue is 0.",
        half=True,
        measure=measure_window,
        mutants={
            "the register does not shift": {"change": _kept},
            "C of the token before": {"change": _early},
        },
        mechanisms=("neighborhood", "mega"),
    )
)
