"""Claims on gates: the reversed sigmoid, the quasi-LSTM and the two gated delta rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.dynamics.simulation import PAPER, gate
from neuroattn.theory.dynamics.sliding import quasi_lstm
from neuroattn.theory.dynamics.space import simulate
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]


def reversed_sigmoid(x: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Return σ(-x)^rate."""
    return np.asarray((1 / (1 + np.exp(x))) ** rate)


def measure_reversed(lab: Lab, formula: Formula = reversed_sigmoid) -> Iterator[Comparison]:
    """Read off what one token of S6 and of SSD leaves of a memory."""
    inputs, rates = np.linspace(-6, 6, 13), np.array([0.5, 1.0, 2.0])
    step = lab.rounded(F.softplus(torch.as_tensor(inputs)))
    ones = torch.ones(1, len(rates), 1, 1, dtype=torch.float64)
    wide = torch.zeros(1, len(rates), 1, len(inputs), dtype=torch.float64)
    memory = torch.ones_like(wide)
    _, after = lab.attend_state(
        "s6",
        ones,
        ones,
        wide,
        causal=True,
        step=step.expand_as(wide),
        rate=torch.as_tensor(rates)[:, None, None].expand(-1, 1, len(inputs)),
        initial_state={"memory": memory},
    )
    axes = {"rate a": rates, "gate input x": inputs}
    wanted = formula(inputs[None], rates[:, None])
    yield lab.equal(
        "what one token of S6 leaves", after["memory"][0, :, 0], wanted, growth=32.0, axes=axes
    )
    same = torch.ones(1, len(inputs), 1, 1, dtype=torch.float64)
    alpha = (-rates[2] * step).exp()[None, :, None]
    _, after = lab.attend_state(
        "ssd", same, same, 0 * same, causal=True, alpha=alpha, initial_state={"memory": same}
    )
    yield lab.equal("what one token of SSD leaves", after["memory"].flatten(), wanted[2])


def prove_reversed(proof: Proof) -> None:
    """S4, from the definition of softplus."""
    x = sympy.symbols("x", real=True)
    a = sympy.symbols("a", positive=True)
    softplus = sympy.log(1 + sympy.exp(x))
    sigmoid = 1 / (1 + sympy.exp(x))
    proof.say("softplus(x)", softplus)
    proof.say("σ(-x)", sigmoid)
    proof.equal(
        "-log of the reversed sigmoid is softplus",
        sympy.expand_log(-sympy.log(sigmoid), force=True),
        softplus,
    )
    proof.equal("S6's decay exp(-a softplus(x)) is σ(-x)^a", sympy.exp(-a * softplus), sigmoid**a)
    proof.equal(
        "The reversed sigmoid is one minus the sigmoid",
        sigmoid,
        1 - sympy.exp(x) / (1 + sympy.exp(x)),
    )
    slope = sympy.diff((1 + sympy.exp(x)) ** -a, x)
    proof.equal(
        "It falls with x: slope -a σ(x) σ(-x)^a",
        slope,
        -a * sympy.exp(x) / (1 + sympy.exp(x)) * (1 + sympy.exp(x)) ** -a,
    )


def by_loop(tokens: Tensor, forget: np.ndarray, write: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Return the LSTM's reads, number by number; the gates are after their sigmoids."""
    cell = np.zeros_like(forget[:, :, 0])
    out = np.zeros_like(forget)
    for token in range(forget.shape[2]):
        cell = forget[:, :, token] * cell + write[:, :, token] * tokens[:, :, token].numpy()
        out[:, :, token] = read[:, :, token] * cell
    return out


def measure_lstm(
    lab: Lab, sign: float = 1.0, scaled: bool = True, inside: bool = False
) -> Iterator[Comparison]:
    """Compare the quasi-LSTM, its state space, and S6 with one state a channel."""
    shape, rate = (2, 1, 24, 5), 1.5
    tokens, forget, write, read = (lab.normal(shape, name) for name in ("u", "f", "i", "o"))
    opened, shown = write.sigmoid(), read.sigmoid()
    kept = reversed_sigmoid(sign * forget.numpy(), np.array(rate))
    looped = by_loop(tokens, kept, opened.numpy(), shown.numpy())
    system = quasi_lstm(tokens, forget, write, read, rate=rate)
    yield lab.near(
        "quasi-LSTM with the reversed sigmoid: simulated state space = loop",
        simulate(system),
        looped,
        tolerance=1e-13,
        expected=1e-14,
        reason="24 steps in float64, whatever the dtype of the mechanisms",
    )
    yield lab.exact("states a head: one a channel", system.size, shape[-1])
    one = torch.ones(*shape[:3], 1, dtype=torch.float64)
    step = lab.rounded(F.softplus(forget))
    given = opened * tokens / step if scaled else opened * tokens
    given = given * shown if inside else given
    cell = lab.attend("s6", one, one, lab.rounded(given), causal=True, step=step, rate=rate)
    yield lab.equal(
        "S6 with one key channel, values divided by the step, gated output = quasi-LSTM",
        cell if inside else cell * shown,
        looped,
        growth=64.0,
        reason="steps and values are rounded before they are handed over",
    )
    step = lab.rounded(F.softplus(-forget))
    cell = lab.attend("s6", one, one, lab.rounded(opened * tokens / step), causal=True, step=step)
    plain = by_loop(tokens, forget.sigmoid().numpy(), opened.numpy(), shown.numpy())
    yield lab.equal(
        "with rate 1 and the gate's sign turned it is the plain quasi-LSTM",
        cell * shown,
        plain,
        growth=64.0,
        reason="steps and values are rounded before they are handed over",
    )


def tokens_of(lab: Lab) -> dict[str, Tensor]:
    """Return draws for the two forms of the gated delta rule."""
    shape = (2, 2, 24)
    drawn = {name: lab.normal((*shape, 5), name) for name in ("query", "key")}
    drawn["value"] = lab.normal((*shape, 4), "value")
    drawn["alpha"] = gate(lab, 0.3, 1, "alpha", shape=shape)
    return {**drawn, "beta": gate(lab, 0.1, 1.2, "beta", shape=shape)}


def measure_forms(lab: Lab, valued: bool = True, power: float = -1.0) -> Iterator[Comparison]:
    """Translate 'error first' into 'decay first', and show where it cannot be done."""
    given = tokens_of(lab)
    query, key, value = (given[name] for name in ("query", "key", "value"))
    alpha, beta = given["alpha"], given["beta"]
    changed = lab.rounded(alpha[..., None] * value) if valued else value
    step = lab.rounded(beta * alpha**power)
    yield lab.equal(
        "(αI - βkkᵀ)W + βkv = α(I - β'kkᵀ)W + β'kv' with β' = β/α, v' = αv",
        lab.attend("gated_delta", query, key, changed, causal=True, alpha=alpha, beta=step),
        lab.attend(
            "gated_delta",
            query,
            key,
            value,
            causal=True,
            alpha=alpha,
            beta=beta,
            order="error first",
        ),
        growth=64.0,
        reason="steps β/α up to 4 amplify the roundings of β and v before them",
    )
    rates = np.linspace(0, 1, 11)
    one = torch.ones(1, 11, 1, 1, dtype=torch.float64)
    half = 0.5
    ways = {"causal": True, "beta": half, "alpha": torch.as_tensor(rates)[None, :, None]}
    left = [
        lab.attend_state(
            "gated_delta", one, one, 0 * one, order=order, initial_state={"memory": one}, **ways
        )[1]["memory"].flatten()
        for order in ("decay first", "error first")
    ]
    yield lab.equal(
        "untranslated they differ by β(1-α) of what the memory holds",
        left[0] - left[1],
        half * (1 - rates),
        scale=1.0,
        axes={"retention α": rates},
    )


def prove_forms(proof: Proof) -> None:
    """S6: the change of variables, for two channels and any memory."""
    alpha, beta, v = sympy.symbols("alpha beta v", nonzero=True)
    k, w = sympy.Matrix(sympy.symbols("k1:3")), sympy.Matrix(sympy.symbols("w1:3"))
    one = sympy.eye(2)

    def decay_first(a: sympy.Expr, b: sympy.Expr, u: sympy.Expr) -> sympy.Matrix:
        return a * (one - b * k * k.T) * w + b * k * u

    error_first = (alpha * one - beta * k * k.T) * w + beta * k * v
    proof.say("Error first", error_first)
    proof.say("Decay first", decay_first(alpha, beta, v))
    proof.equal(
        "With β/α for β and αv for v the second is the first",
        decay_first(alpha, beta / alpha, alpha * v),
        error_first,
    )
    gap = decay_first(alpha, beta, v) - error_first
    proof.equal("Without they differ along k", gap, beta * (1 - alpha) * (k.T * w)[0] * k)
    proof.equal(
        "At α = 0 the first still reads the old memory, the second does not",
        error_first.subs(alpha, 0) - decay_first(0, beta, v),
        -beta * (k.T * w)[0] * k,
    )


register(
    Claim(
        id="dynamics.gate.reversed-sigmoid",
        title="S6's decay is a sigmoid read backwards, to the power of its rate",
        paper=PAPER,
        place="equation 23 as quoted; derived here",
        statement=r"e^{-a\,\mathrm{softplus}(x)}=\sigma(-x)^a",
        hypotheses=("The step is a softplus, the rate a is not negative.",),
        finding="confirmed",
        found="A large input forgets: the gate falls with x, where an LSTM's forget gate rises.",
        half=True,
        measure=measure_reversed,
        prove=prove_reversed,
        mutants={
            "the sigmoid is not reversed": {"formula": lambda x, a: reversed_sigmoid(-x, a)},
            "no power": {"formula": lambda x, a: reversed_sigmoid(x, a**0)},
            "rate times the input": {"formula": lambda x, a: reversed_sigmoid(a * x, a**0)},
        },
        mechanisms=("s6", "ssd"),
    )
)
register(
    Claim(
        id="dynamics.gate.quasi-lstm",
        title="The quasi-LSTM is a diagonal state space with one state a channel: S6 with N = 1",
        paper=PAPER,
        place="the row of the quasi-LSTM in the paper's table, and its reversed sigmoid",
        statement=r"h_i=\sigma(-x_i)^a\odot h_{i-1}+\sigma(W_iu_i)\odot u_i,\quad "
        r"y_i=\sigma(W_ou_i)\odot h_i",
        hypotheses=("The gates depend on the token, not on the state before.",),
        finding="sharpened",
        found="S6 with a single key channel, values divided by the step and a gated output is the "
        "quasi-LSTM exactly. With rate 1 the reversed sigmoid is the plain forget gate with the "
        "opposite sign of its weights: only the power is new.",
        half=True,
        measure=measure_lstm,
        mutants={
            "the gate is not reversed": {"sign": -1.0},
            "values not divided by the step": {"scaled": False},
            "the output gate on the input": {"inside": True},
        },
        mechanisms=("s6",),
    )
)
register(
    Claim(
        id="dynamics.gate.gated-delta-forms",
        title="The two gated delta rules are one, up to a change of variables",
        paper="Yang, Kautz & Hatamizadeh (2024), Gated delta networks; Behrouz, Zhong & Mirrokni "
        "(2024), Titans",
        place="the update of each; the change of variables is derived here",
        statement=r"(\alpha I-\beta kk^T)W+\beta kv^T=\alpha(I-\beta' kk^T)W+\beta' k v'^T,\quad "
        r"\beta'=\frac{\beta}{\alpha},\ v'=\alpha v",
        hypotheses=("The retention is not zero.",),
        finding="sharpened",
        found="They coincide only where the retention is positive, and β/α may be above 2 although "
        "the transition is the same stable matrix. At α = 0 decay first has forgotten all; error "
        "first still subtracts β kkᵀW, which no choice of the other's gates does.",
        half=True,
        measure=measure_forms,
        prove=prove_forms,
        mutants={
            "values are not scaled": {"valued": False},
            "β times α": {"power": 1.0},
            "β as it is": {"power": 0.0},
        },
        mechanisms=("gated_delta",),
    )
)
