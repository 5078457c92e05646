"""What Titans becomes without momentum: the delta rule, and the gated delta rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.memory.titans_chunk import PAPER
from neuroattn.theory.proof import Proof

Association = tuple[Any, Any, Any]


def decay_first(alpha: Any, beta: Any, value: Any) -> Association:
    """Return gates and value with which the gated delta rule does what Titans does.

    From ``(alpha I - beta k k^T) w + beta v k`` (the error before the decay) to
    ``alpha (I - beta' k k^T) w + beta' v' k`` (after it).

    Parameters
    ----------
    alpha, beta : float or array
        Retention, above 0 and at most 1, and write strength.
    value : float or array

    Returns
    -------
    tuple
        alpha, beta / alpha, alpha value.

    Raises
    ------
    InputError
        If ``alpha`` is out of its range.
    """
    retained = np.asarray(alpha)
    if not bool(np.all((retained > 0) & (retained <= 1))):
        raise InputError(
            f"alpha={alpha!r} must be above 0 and at most 1; with nothing retained an error "
            "measured after the decay knows nothing of the memory."
        )
    return alpha, beta / alpha, alpha * value


def tokens(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, unit keys and values of two heads."""
    key = lab.keys("sphere", (1, 2, 20, 6), "key")
    return lab.normal((1, 2, 20, 6), "query"), key, lab.normal((1, 2, 20, 3), "value")


def measure_delta(lab: Lab, factor: float = 2.0, other: str = "delta") -> Iterator[Comparison]:
    """Compare theta = 1/2 with the delta rule, and what one write leaves of the error."""
    query, key, value = lab.once(tokens)
    options = {"causal": True, "scale": 1.0}
    # theta = 1/2 in the paper's terms is beta = factor * theta in the registry's.
    titans = lab.attend("titans", query, key, value, beta=factor * 0.5, **options)
    plain = {"beta": 1.0} if other == "delta" else {"feature_map": "identity", "normalize": False}
    delta = lab.attend(other, query, key, value, **plain, **options)
    yield lab.equal("theta = 1/2 without momentum is the delta rule", titans, delta, growth=16)
    state = lab.attend_state("titans", query, key, value, beta=factor * 0.5, scale=1.0)[1]
    recalled = key[:, :, -1:] @ state["memory"]
    yield lab.equal("the newest key recalls its value", recalled, value[:, :, -1:], growth=8)
    steps = np.array([0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0])
    one = lab.rounded(key[:, :, :1])
    left = []
    for step in steps:
        arguments = {"beta": factor * float(step), "scale": 1.0}
        error = value[:, :, :1] - lab.attend("titans", one, one, value[:, :, :1], **arguments)
        # The signed share of the value that is left, by projection.
        left.append(float((error * value[:, :, :1]).sum() / value[:, :, :1].square().sum()))
    yield lab.equal(
        "share of the error that one write leaves",
        left,
        1 - 2 * steps,
        growth=16,
        axes={"step theta": steps},
    )


def prove_delta(proof: Proof) -> None:
    """Take the gradient of the paper's loss for a memory of 2 x 2."""
    memory = sympy.Matrix(2, 2, sympy.symbols("M_11 M_12 M_21 M_22", real=True))
    value = sympy.Matrix(sympy.symbols("v_1 v_2", real=True))
    angle, theta = sympy.symbols("phi theta", real=True)
    key = sympy.Matrix([sympy.cos(angle), sympy.sin(angle)])
    error = memory * key - value
    loss = error.dot(error)
    slope = sympy.Matrix(2, 2, lambda i, j: sympy.diff(loss, memory[i, j]))
    proof.equal("The gradient of |M k - v|^2", slope, 2 * error * key.T)
    after = memory - theta * slope
    delta = memory + (value - memory * key) * key.T
    half = sympy.Rational(1, 2)
    proof.equal("At theta = 1/2 one step is the delta rule", after.subs(theta, half), delta)
    recalled = sympy.simplify(after.subs(theta, half) * key)
    proof.equal("after which a unit key recalls its value", recalled, value)
    left = sympy.simplify(after * key - value)
    proof.equal("Any step leaves 1 - 2 theta of the error", left, (1 - 2 * theta) * error)


register(
    Claim(
        id="memory.titans.delta",
        title="Titans without momentum and forgetting is the delta rule, at theta = 1/2",
        paper=PAPER,
        place="equations 13 and 14 with a linear memory; derived here",
        statement=r"\eta_t=\alpha_t=0,\ \theta=\frac{1}{2}:\quad M_t=M_{t-1}+(v_t-M_{t-1}k_t)"
        r"k_t^\top,\quad M_tk_t=v_t",
        hypotheses=("The memory is linear.", "Keys have unit length.", "The loss has no half."),
        finding="sharpened",
        found="Exact to rounding, and only at theta = 1/2: the loss of the paper has no half, so "
        "that a step theta of Titans is the write strength 2 theta of the delta rule. At "
        "theta = 1, the largest step of the paper, a write turns the error round and learns "
        "nothing.",
        mechanisms=("titans", "delta"),
        prove=prove_delta,
        measure=measure_delta,
        mutants={
            "theta taken for the write strength": {"factor": 1.0},
            "linear attention in place of the delta rule": {"other": "linear"},
        },
    )
)


def long_run(lab: Lab, order: str, alpha: float, beta: float) -> float:
    """Return what a unit key recalls after many repetitions of a value of 1."""
    key = lab.keys("sphere", (1, 1, 1, 4), "repeated").expand(1, 1, 240, 4)
    value = key.new_ones(1, 1, 240, 1)
    gates: dict[str, Any] = {"alpha": alpha, "beta": beta, "scale": 1.0}
    if order == "titans":
        return float(lab.attend("titans", key[:, :, -1:], key, value, **gates))
    return float(lab.attend("gated_delta", key[:, :, -1:], key, value, order=order, **gates))


def measure_gated(
    lab: Lab,
    change: Callable[[Any, Any, Any], Association] = decay_first,
    order: str = "decay first",
) -> Iterator[Comparison]:
    """Compare Titans with the gated delta rule under the change of variables, and in the limit."""
    query, key, value = lab.once(tokens)
    options = {"causal": True, "scale": 1.0}
    alpha = 0.6 + 0.4 * lab.keys("sphere", (1, 2, 20), "alpha").abs()
    beta = lab.normal((1, 2, 20), "beta").abs().clamp(0.1, 1.5)
    alpha, beta = lab.rounded(alpha), lab.rounded(beta)
    titans = lab.attend("titans", query, key, value, alpha=alpha, beta=beta, **options)
    changed = change(alpha[..., None], beta[..., None], value)
    gates = {"alpha": changed[0][..., 0], "beta": changed[1][..., 0]}
    gated = lab.attend("gated_delta", query, key, changed[2], order=order, **gates, **options)
    yield lab.equal(
        "the gated delta rule under (alpha, beta/alpha, alpha v)", gated, titans, growth=16
    )
    kept, strength = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.95]), 0.5
    limits = {
        "titans": strength / (1 - kept + strength),
        "decay first": strength / (1 - kept + kept * strength),
    }
    for name, wanted in limits.items():
        asked = order if name == "decay first" else name
        yield lab.equal(
            f"what a repeated pair recalls in the long run, {name}",
            [lab.once(long_run, asked, float(each), strength) for each in kept],
            wanted,
            growth=8,
            axes={"retention alpha": kept},
        )


def prove_gated(proof: Proof) -> None:
    """Write both forms for two channels."""
    a, b, v = sympy.symbols("alpha beta v", positive=True)
    key = sympy.Matrix(sympy.symbols("k_1 k_2", real=True))
    memory = sympy.Matrix([sympy.symbols("w_1 w_2", real=True)])

    def titans(a: Any, b: Any, v: Any) -> Any:
        return a * memory - b * (memory * key - sympy.Matrix([v])) * key.T

    def gated(a: Any, b: Any, v: Any) -> Any:
        return a * memory - b * (a * memory * key - sympy.Matrix([v])) * key.T

    proof.say("The error first, as in Titans", titans(a, b, v))
    proof.say("The decay first, as in Gated DeltaNet", gated(a, b, v))
    same = gated(a, b / a, a * v)
    proof.equal(
        "They coincide under (alpha, beta, v) -> (alpha, beta/alpha, alpha v)",
        same,
        titans(a, b, v),
    )
    gap = (gated(a, b, v) - titans(a, b, v)).applyfunc(sympy.expand)
    wanted = (b * (1 - a) * (memory * key)[0] * key.T).applyfunc(sympy.expand)
    proof.equal("Unchanged, they differ by what was decayed", gap, wanted)
    w = sympy.Symbol("w")
    for name, after in (("error", a * w - b * (w - v)), ("decay", a * w - b * (a * w - v))):
        fixed = sympy.solve(sympy.Eq(after, w), w)[0]
        bottom = 1 - a + (b if name == "error" else a * b)
        proof.equal(f"A repeated unit key recalls, {name} first", fixed, b * v / bottom)


register(
    Claim(
        id="memory.titans.gated-delta",
        title="Titans without momentum is the gated delta rule with other gates",
        paper=PAPER,
        place="equation 13 without momentum; derived here",
        statement=r"w\leftarrow(\alpha I-\beta kk^\top)w+\beta vk\ \equiv\ "
        r"w\leftarrow\alpha(I-\beta' kk^\top)w+\beta' v'k,\quad "
        r"(\beta',v')=(\frac{\beta}{\alpha},\alpha v)",
        hypotheses=(
            "No momentum, a linear memory; the retention alpha is above 0.",
            "For the long run: one unit key repeats, and 0 < beta < 1 + alpha.",
        ),
        finding="sharpened",
        found="Both orders of decay and correction are one family, but not with the same gates: "
        "the write strength is divided by the retention and the value multiplied by it. With "
        "equal gates they settle on different recalls of a repeated pair, v beta / (1 - "
        "alpha + beta) where the error comes first and v beta / (1 - alpha + alpha beta) where "
        "the decay does; neither is v.",
        mechanisms=("titans", "gated_delta"),
        prove=prove_gated,
        measure=measure_gated,
        mutants={
            "the same gates in both": {"change": lambda a, b, v: (a, b, v)},
            "the value is left as it is": {"change": lambda a, b, v: (a, b / a, v)},
            "the change the other way round": {"change": lambda a, b, v: (a, a * b, v / a)},
            "Titans' own order with changed gates": {"order": "error first"},
        },
    )
)
