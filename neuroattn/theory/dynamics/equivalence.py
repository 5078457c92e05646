"""Which mechanisms are equivalent under which condition: a table whose every row is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuroattn.attention.linear.features import features, softmax_pair
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.dynamics.simulation import PAPER, draws, gate
from neuroattn.theory.lab import Lab

#: ``attend(name, query, key, value, **arguments)``, causal.
Attend = Callable[..., Tensor]


@dataclass(frozen=True)
class Equivalence:
    """Two mechanisms that read alike.

    Attributes
    ----------
    left, right : str
        Registered mechanisms.
    condition : str
        What has to hold.
    mapping : str
        How the right one's inputs follow from the left one's.
    both : callable
        ``both(attend, drawn, held)`` to the two outputs; ``held=False`` breaks the condition, or
        the mapping where no condition can be broken.
    claim : str
        The id of the claim that runs it.
    mistake : str
        What ``held=False`` does to the mapping; "" where it breaks the condition.
    """

    left: str
    right: str
    condition: str
    mapping: str
    both: Callable[[Attend, dict[str, Any], bool], tuple[Tensor, Tensor]]
    claim: str = "dynamics.equivalence.table"
    mistake: str = ""

    @property
    def broken(self) -> str:
        """What ``held=False`` breaks, in words."""
        return self.mistake or f"without: {self.condition}"


SUM: dict[str, Any] = {"feature_map": "identity", "normalize": False, "scale": 1.0}
#: Feature maps whose products are not negative, which is what the normaliser asks for.
MAPS: tuple[str, ...] = ("elu", "relu", "sigmoid", "softmax", "taylor")
Pair = tuple[Tensor, Tensor]
Draws = dict[str, Any]


def _retention_lightning(attend: Attend, drawn: Draws, held: bool) -> Pair:
    x = drawn["qkv"]
    other = attend("retention", *x, decay=0.875 if held else 0.75, scale=1.0)
    return attend("lightning", *x, decay=0.875), other


def _retention_ssd(attend: Attend, drawn: Draws, held: bool) -> Pair:
    q, k, v = drawn["qkv"]
    other = attend("ssd", q, k, v, alpha=0.875 if held else drawn["alpha"], beta=1.0)
    return attend("retention", q, k, v, decay=0.875, scale=1.0), other


def _ssd_linear(attend: Attend, drawn: Draws, held: bool) -> Pair:
    alpha = 1.0 if held else 0.9375
    return attend("ssd", *drawn["qkv"], alpha=alpha), attend("linear", *drawn["qkv"], **SUM)


def _ssd_linear_scaled(attend: Attend, drawn: Draws, held: bool) -> Pair:
    (q, k, v), alpha, beta = drawn["qkv"], drawn["alpha"], drawn["beta"]
    eta = (1 / alpha).cumprod(2)[..., None]
    key = (beta[..., None] if held else 1.0) * eta * k
    return attend("ssd", q, k, v, alpha=alpha, beta=beta), attend("linear", q, key, v, **SUM) / eta


def _s6_ssd(attend: Attend, drawn: Draws, held: bool) -> Pair:
    (q, k, v), beta = drawn["qkv"], drawn["beta"]
    steps = beta[..., None].expand_as(v)
    rate = torch.ones(k.shape[1], k.shape[-1], v.shape[-1], dtype=k.dtype) / 2
    if not held:
        rate[:, 0] = 2.0
    left = attend("s6", q, k, v, step=steps, rate=rate)
    return left, attend("ssd", q, k, v, alpha=(-beta / 2).exp(), beta=beta)


def _gated_delta(attend: Attend, drawn: Draws, held: bool) -> Pair:
    alpha = 1.0 if held else 0.9375
    left = attend("gated_delta", *drawn["qkv"], alpha=alpha, beta=drawn["beta"])
    return left, attend("delta", *drawn["qkv"], beta=drawn["beta"])


def _two_orders(attend: Attend, drawn: Draws, held: bool) -> Pair:
    (q, k, v), alpha, beta = drawn["qkv"], drawn["alpha"], drawn["beta"]
    given = alpha[..., None] * v if held else v
    right = attend("gated_delta", q, k, given, alpha=alpha, beta=beta / alpha)
    ways = {"alpha": alpha, "beta": beta, "order": "error first"}
    return attend("gated_delta", q, k, v, **ways), right


def _titans_gated(attend: Attend, drawn: Draws, held: bool) -> Pair:
    gates = {"alpha": drawn["alpha"], "beta": drawn["beta"]}
    left = attend("titans", *drawn["qkv"], momentum=0.0 if held else 0.25, **gates)
    return left, attend("gated_delta", *drawn["qkv"], order="error first", **gates)


def _titans_linear(attend: Attend, drawn: Draws, held: bool) -> Pair:
    q, k, v = drawn["qkv"]
    size = k.shape[2] if held else 4
    ways = {"gradient": "chunk start", "chunk_size": size, "normalize_keys": False, "beta": 0.5}
    return attend("titans", q, k, v, **ways), 0.5 * attend("linear", q, k, v, **SUM)


def _longhorn_delta(attend: Attend, drawn: Draws, held: bool) -> Pair:
    (q, k, v), beta = drawn["qkv"], drawn["beta"]
    step = beta / (1 + beta * k.square().sum(-1)) if held else beta / (1 + beta)
    right = attend("delta", q, k, v, beta=step, normalize_keys=False)
    return attend("longhorn", q, k, v, beta=beta), right


def _orthonormal(drawn: Draws, held: bool) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = drawn["qkv"]
    few = k.shape[-1]
    key = torch.linalg.qr(k[:, :, :few])[0] if held else k[:, :, :few]
    return q[:, :, :few], key, v[:, :, :few]


def _delta_linear(attend: Attend, drawn: Draws, held: bool) -> Pair:
    x = _orthonormal(drawn, held)
    return attend("delta", *x, beta=1.0, normalize_keys=False), attend("linear", *x, **SUM)


def _mesa_linear(attend: Attend, drawn: Draws, held: bool) -> Pair:
    x = _orthonormal(drawn, held)
    return attend("mesa", *x, ridge=0.5), attend("linear", *x, **SUM) / 1.5


def _yaad_gated(attend: Attend, drawn: Draws, held: bool) -> Pair:
    gates = {"alpha": drawn["alpha"], "beta": drawn["beta"]}
    left = attend("yaad", *drawn["qkv"], threshold=1e6 if held else 0.5, **gates)
    return left, attend("gated_delta", *drawn["qkv"], order="error first", **gates)


def _moneta_gated(attend: Attend, drawn: Draws, held: bool) -> Pair:
    alpha, beta = drawn["alpha"], drawn["beta"]
    norms = {"error_norm": 2.0 if held else 1.5, "memory_norm": 2.0}
    left = attend("moneta", *drawn["qkv"], alpha=alpha, beta=beta / 2, **norms)
    return left, attend("gated_delta", *drawn["qkv"], alpha=alpha, beta=beta, order="error first")


def _hedgehog_linear(attend: Attend, drawn: Draws, held: bool) -> Pair:
    (q, k, v), weight = drawn["qkv"], drawn["weight"]
    mapped = [softmax_pair(each @ (weight if held else -0.5 * weight)) for each in (q, k)]
    left = attend("hedgehog", q, k, v, feature_weight=weight)
    return left, attend("linear", *mapped, v, feature_map="identity")


def _linear_features(attend: Attend, drawn: Draws, held: bool) -> Pair:
    q, k, v = drawn["qkv"]
    left, right = [], []
    for number, name in enumerate(MAPS):
        ways: dict[str, Any] = {"scale": 1.0, **({"order": 2} if name == "taylor" else {})}
        left.append(attend("linear", q, k, v, feature_map=name, **ways))
        taken = name if held else MAPS[number - 1]
        mapped = [features(each, taken, 2) for each in (q, k)]
        right.append(attend("linear", *mapped, v, feature_map="identity", scale=1.0))
    return torch.cat(left, -1), torch.cat(right, -1)


def _sdm_linear(attend: Attend, drawn: Draws, held: bool) -> Pair:
    (q, k, v), places = drawn["qkv"], drawn["places"]
    radius = 2 if held else 3
    signs = torch.where(places > 0, 1.0, -1.0).double()
    near = [
        ((torch.where(x > 0, 1.0, -1.0).double() @ signs.mT) >= x.shape[-1] - 2 * radius).double()
        for x in (q, k)
    ]
    left = attend("sdm", q, k, v, radius=2, addresses=places)
    return left, attend("linear", *near, v, feature_map="relu")


def _window_softmax(attend: Attend, drawn: Draws, held: bool) -> Pair:
    q, k, v = drawn["qkv"]
    window = k.shape[2] if held else 3
    return attend("neighborhood", q, k, v, window=window), attend("softmax", q, k, v)


def _centred(attend: Attend, drawn: Draws, held: bool) -> Pair:
    q, k, v = drawn["qkv"]
    number = torch.arange(1, k.shape[2] + 1, dtype=k.dtype)[:, None]
    asked = q - k.cumsum(2) / number
    left = attend("covariance", q, k, v, normalize=not held, add_mean=False)
    return left, attend("linear", asked, k, v, center=True, **SUM)


_TABLE: tuple[Equivalence, ...] = (
    Equivalence("lightning", "retention", "the same decay", "scale 1", _retention_lightning),
    Equivalence("retention", "ssd", "one decay a head", "α = γ, β = 1", _retention_ssd),
    Equivalence("ssd", "linear", "no decay, no gate: α = β = 1", "identity map", _ssd_linear),
    Equivalence(
        "ssd",
        "linear",
        "no retention is 0",
        "ψ = βηk, read over η = ∏ 1/α",
        _ssd_linear_scaled,
        mistake="keys scaled without β",
    ),
    Equivalence("s6", "ssd", "one step a token, one rate a head", "α = e^(-ΔA), β = Δ", _s6_ssd),
    Equivalence("gated_delta", "delta", "α = 1", "the same", _gated_delta),
    Equivalence(
        "gated_delta",
        "gated_delta",
        "α > 0; error first, decay first",
        "β/α, αv",
        _two_orders,
        mistake="values not scaled by α",
    ),
    Equivalence("titans", "gated_delta", "no momentum", "error first", _titans_gated),
    Equivalence(
        "titans",
        "linear",
        "no momentum, nothing forgotten, gradients at the start of one chunk of all tokens",
        "times β",
        _titans_linear,
    ),
    Equivalence(
        "longhorn",
        "delta",
        "any keys",
        "β/(1 + β|k|²)",
        _longhorn_delta,
        mistake="the step β/(1 + β), right for unit keys only",
    ),
    Equivalence("delta", "linear", "orthonormal keys, β = 1", "the same", _delta_linear),
    Equivalence("mesa", "linear", "orthonormal keys", "over 1 + ridge", _mesa_linear),
    Equivalence("yaad", "gated_delta", "no error above the threshold", "error first", _yaad_gated),
    Equivalence("moneta", "gated_delta", "p = q = 2", "error first, twice β", _moneta_gated),
    Equivalence(
        "hedgehog",
        "linear",
        "any weights",
        "identity of the features",
        _hedgehog_linear,
        mistake="features of weights of other size and sign",
    ),
    Equivalence(
        "linear",
        "linear",
        "any feature map",
        "identity of φ",
        _linear_features,
        mistake="features of another map",
    ),
    Equivalence(
        "sdm",
        "linear",
        "any addresses",
        "[neuron near q], [near k]",
        _sdm_linear,
        mistake="a radius larger by one",
    ),
    Equivalence("covariance", "linear", "centred, not normalised", "q - mean of keys", _centred),
    Equivalence("neighborhood", "softmax", "a window of all tokens", "the same", _window_softmax),
)


def equivalences() -> tuple[Equivalence, ...]:
    """Return which mechanisms are equivalent to which, under which condition.

    Returns
    -------
    tuple of Equivalence
        Each is run through the registry by the claim that it names, as it is and with its
        condition broken; rows that hold under any condition, with a mistaken mapping.
    """
    return _TABLE


def run_row(lab: Lab, place: int, held: bool) -> tuple[Tensor, Tensor]:
    """Return both outputs of a row of the table, its condition (or mapping) held or broken."""
    query, key, value = draws(lab)
    drawn: dict[str, Any] = {"qkv": (query, key, value)}
    drawn["alpha"], drawn["beta"] = gate(lab, 0.7, 1, "alpha"), gate(lab, 0, 0.8, "beta")
    drawn["weight"] = lab.normal((key.shape[1], key.shape[-1], 4), "weight")
    drawn["places"] = lab.normal((24, key.shape[-1]), "places")

    def attend(name: str, *tensors: Tensor, **given: Any) -> Tensor:
        return lab.attend(name, *(lab.rounded(x) for x in tensors), causal=True, **given)

    return _TABLE[place].both(attend, drawn, held)


def measure_table(lab: Lab, broken: int | None = None) -> Iterator[Comparison]:
    """Run every row of the table; ``broken`` breaks the condition or the mapping of one."""
    for place, each in enumerate(_TABLE):
        left, right = lab.once(run_row, place, place != broken)
        yield lab.equal(
            f"{each.left} = {each.right}: {each.condition}; {each.mapping}",
            left,
            right,
            growth=64.0,
            reason="inputs that were computed are rounded before they are handed over",
        )
    if broken is not None:
        return
    for place, each in enumerate(_TABLE):
        left, right = lab.once(run_row, place, False)
        yield lab.at_least(
            f"{each.left} and {each.right} apart {_said(each)}",
            float((left - right).abs().max() / left.abs().max()),
            0.01,
        )


def _said(row: Equivalence) -> str:
    return f"with {row.mistake}" if row.mistake else f"{row.broken}; {row.mapping}"


_MAPPED = sum(bool(row.mistake) for row in _TABLE)

register(
    Claim(
        id="dynamics.equivalence.table",
        title="Which mechanisms are one another under which condition",
        paper=PAPER,
        place="the framework's purpose; the table is derived here",
        statement=r"(\Lambda,B,C,D)_{\mathrm{left}}=(\Lambda,B,C,D)_{\mathrm{right}}",
        hypotheses=("Each row's condition; causal reads.",),
        finding="sharpened",
        found=f"{len(_TABLE)} pairs, each equal to rounding. {len(_TABLE) - _MAPPED} have a "
        f"condition, and are at least 1 % apart when it is broken; {_MAPPED} hold whatever the "
        "inputs, and are at least 1 % apart when the mapping is mistaken (a step, a radius, a "
        f"feature map; {len(MAPS)} feature maps are run).",
        measure=measure_table,
        mutants={
            f"{each.left} = {each.right} {_said(each)}": {"broken": place}
            for place, each in enumerate(_TABLE)
        },
        mechanisms=tuple(dict.fromkeys(n for each in _TABLE for n in (each.left, each.right))),
    )
)
