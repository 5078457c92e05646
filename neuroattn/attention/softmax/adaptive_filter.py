"""Adaptive filter attention: each token a noisy measurement of one drifting state."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention.learned import Learned
from neuroattn.attention.masks import allowed, masked_softmax
from neuroattn.attention.parameters import choice, number, switch, tensor
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.errors import InputError

Number = float | Tensor


def log_variance(
    lag: Tensor,
    rate: Number,
    process_noise: Number,
    measurement_noise: Number,
    floor_noise: Number,
) -> Tensor:
    """Return the logarithm of the variance with which a token predicts one ``lag`` away.

    V = σ² (1 - e^{2μΔ})/(-2μ) + η² e^{2μΔ} + γ², and its limit σ²Δ + η² + γ² at μ = 0.

    Parameters
    ----------
    lag : Tensor
        Δ, at least 0.
    rate : float or Tensor
        μ, at most 0, broadcastable to ``lag`` as the others.
    process_noise, measurement_noise, floor_noise : float or Tensor
        σ, η > 0 and γ, standard deviations.

    References
    ----------
    Racioppo (2025), Attention as an adaptive filter, the propagated covariance; arXiv 2509.04154.
    """
    rate, process, measured, floor = (
        torch.as_tensor(each, dtype=lag.dtype, device=lag.device)
        for each in (rate, process_noise, measurement_noise, floor_noise)
    )
    exponent = 2 * rate * lag
    grown = process.square() * lag * _mean_power(exponent) + floor.square()
    # With neither noise the rest is a pure power, which underflows long before its logarithm.
    pure = grown < torch.finfo(lag.dtype).tiny
    sum_ = grown + measured.square() * exponent.exp()
    return torch.where(
        pure, exponent + 2 * measured.abs().log(), torch.where(pure, 1.0, sum_).log()
    )


def _mean_power(exponent: Tensor) -> Tensor:
    """Return (e^u - 1)/u, by its series near 0, where the quotient and its slope are lost."""
    near = exponent.abs() < 1e-2
    safe = torch.where(near, 1.0, exponent)
    small = torch.where(near, exponent, 0.0)
    series = torch.ones_like(small)
    for order in (7, 6, 5, 4, 3, 2):
        series = 1 + small / order * series
    return torch.where(near, series, torch.expm1(safe) / safe)


def rotated(pairs: Tensor, angle: Tensor | None) -> Tensor:
    """Turn each pair of channels (2c, 2c+1) by its angle.

    Parameters
    ----------
    pairs : Tensor
        (batch, heads, tokens, channels)
    angle : Tensor or None
        (batch or 1, heads or 1, tokens, channels / 2); None turns nothing.
    """
    if angle is None:
        return pairs
    first, second = pairs[..., 0::2], pairs[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.flatten(-2)


def _of_heads(each: Any) -> Any:
    """Let one number a head broadcast over (batch, heads, queries, keys)."""
    return each[:, None, None] if isinstance(each, Tensor) else each


def _times(
    queries: int, keys: int, given: tuple[Tensor | None, Tensor | None], like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return when queries and keys were measured, (batch or 1, 1, tokens), and the lags."""
    asked, told = given
    counted = torch.arange(min(0, keys - queries), keys, dtype=like.dtype, device=like.device)
    asked = counted[len(counted) - queries :] if asked is None else asked.to(like.dtype)
    told = counted[len(counted) - keys :] if told is None else told.to(like.dtype)
    asked, told = (each[None, None] if each.ndim == 1 else each[:, None] for each in (asked, told))
    return asked, told, (asked[..., None] - told[..., None, :]).abs()


def _angle(times: Tensor, frequency: Tensor | None, width: int, name: str) -> Tensor | None:
    if frequency is None:
        return None
    if 2 * frequency.shape[-1] != width:
        raise InputError(
            f"adaptive_filter's {name} has {frequency.shape[-1]} pairs for {width} channels; "
            "needed is half of an even number of channels."
        )
    return times[..., None] * frequency[:, None]


class Noise(NamedTuple):
    """What the filter takes for granted of one head's state and measurements.

    Attributes
    ----------
    rate, process_noise, measurement_noise, floor_noise : float or Tensor
        As in :func:`log_variance`.
    robust : float, Tensor or None
        Degrees of freedom of the residuals' heavy tail; None for Gaussian residuals.
    tail : {"student", "published"}
        Which heavy tail.
    temperature : float or Tensor
        Its square multiplies the logits.
    """

    rate: Number
    process_noise: Number
    measurement_noise: Number
    floor_noise: Number
    robust: Number | None
    tail: str
    temperature: Number

    def logits(self, residual: Tensor, lag: Tensor, width: int) -> Tensor:
        """Return the log precision of tokens with squared residuals of ``width`` channels."""
        log_v = log_variance(
            lag, self.rate, self.process_noise, self.measurement_noise, self.floor_noise
        )
        # Beyond this a token counts for nothing, and infinity times zero would be NaN.
        most = math.log(torch.finfo(lag.dtype).max) / 2
        surprise = residual * (-log_v).clamp(max=most).exp()
        if self.robust is not None:
            count = self.robust * width
            surprise = torch.log1p(surprise / count)
            surprise = surprise if self.tail == "published" else count * surprise
        return self.temperature**2 * (-log_v - surprise)


def adaptive_filter(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    frequency: Tensor | None = None,
    value_frequency: Tensor | None = None,
    query_times: Tensor | None = None,
    key_times: Tensor | None = None,
    **given: Any,
) -> Tensor:
    """Estimate the state at each query from all tokens, weighted by their precision.

    Parameters
    ----------
    query, key, value, causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    frequency, value_frequency, query_times, key_times, **given
        The mechanism's parameters; ``given`` are those of :class:`Noise`.

    References
    ----------
    Racioppo (2025), Attention as an adaptive filter, the isotropic filter; arXiv 2509.04154.
    """
    noise = Noise(**{name: _of_heads(each) for name, each in given.items()})
    asked, told, lag = _times(query.shape[-2], key.shape[-2], (query_times, key_times), query)
    value_frequency = frequency if value_frequency is None else value_frequency
    dim, value_dim = query.shape[-1], value.shape[-1]
    query = rotated(query, _angle(-asked, frequency, dim, "frequency"))
    key = rotated(key, _angle(-told, frequency, dim, "frequency"))
    forward = _angle(asked, value_frequency, value_dim, "value_frequency")
    back = _angle(-told, value_frequency, value_dim, "value_frequency")
    kept = (noise.rate * lag).exp()
    # |q - E k|² without a tensor (queries, keys, dim); rounding may put it below 0.
    told_squares = kept.square() * key.square().sum(-1)[:, :, None]
    squares = query.square().sum(-1, keepdim=True) + told_squares
    residual = (squares - 2 * kept * (query @ key.transpose(-1, -2))).clamp(min=0)
    residual = residual if scale is None else residual * scale
    logits = noise.logits(residual, lag, dim)
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    return rotated((masked_softmax(logits, seen) * kept) @ rotated(value, back), forward)


class AdaptiveFilter(Learned):
    """What the filter learns of one block: dynamics, noises and temperature of each head.

    Frequencies start as in rotary position codes; the measurement noise starts at sqrt(dim of a
    head), so that residuals of unit channels weigh about one.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`neuroattn.attention.MultiheadAttention`.
    learn_robust : bool
        Whether each head learns the degrees of freedom of a robust filter.

    Raises
    ------
    InputError
        If the channels of a head cannot be paired.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, learn_robust: bool = False) -> None:
        super().__init__()
        width = dim // heads
        if width % 2:
            raise InputError(
                f"adaptive_filter turns pairs of channels; dim={dim} with heads={heads} gives "
                f"{width} a head, needed is an even number."
            )

        def start(positive: float) -> nn.Parameter:
            return nn.Parameter(torch.full((heads,), math.log(math.expm1(positive))))

        pairs = torch.arange(width // 2)
        rotary = 10_000.0 ** (-pairs / (width // 2))
        self.frequency = nn.Parameter(rotary.repeat(heads, 1))
        self.rate = start(0.01)
        self.process_noise = start(0.1 * width**0.5)
        self.measurement_noise = start(width**0.5)
        self.floor_noise = start(0.1 * width**0.5)
        self.temperature = start(1.0)
        self.robust = start(1.0) if learn_robust else None

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the named tensors; they are the same for all tokens."""
        named = {name: F.softplus(each) for name, each in self.named_parameters()}
        return {**named, "frequency": self.frequency, "rate": -named["rate"]}


_HEADS = (("heads",),)

register(
    Mechanism(
        name="adaptive_filter",
        family="softmax",
        paper="Racioppo (2025), Attention as an adaptive filter, the isotropic filter; "
        "arXiv 2509.04154",
        summary="Keys and values are noisy measurements of a state that turns, decays and drifts; "
        "each is carried to the query's time and weighted by its precision there. Without a "
        "causal read, later tokens are carried back by the reversed process.",
        formula=r"\log w_{ij} = \tau^2\left(-\log V_{ij} - \frac{|q_i - e^{(\mu + i\omega)"
        r"\Delta_{ij}} k_j|^2}{V_{ij}}\right),\quad V = \sigma^2 \frac{1 - e^{2\mu\Delta}}{-2\mu}"
        r" + \eta^2 e^{2\mu\Delta} + \gamma^2,\quad "
        r"y_i = \sum_j \frac{w_{ij}}{\sum_l w_{il}} e^{(\mu + i\omega)\Delta_{ij}} v_j",
        runs=(Run("parallel", "reference", adaptive_filter),),
        parameters={
            "rate": number("μ, how fast the state decays", 0.0, high=0.0, axes=_HEADS),
            "frequency": tensor(
                "ω, by how much a pair of channels turns in a unit of time; nothing for none",
                ("heads", "pairs"),
                optional=True,
            ),
            "value_frequency": tensor(
                "ω of the values; that of the keys if nothing",
                ("heads", "value_pairs"),
                optional=True,
            ),
            "process_noise": number(
                "σ, what drives the state in a unit of time", 0.1, 0.0, axes=_HEADS
            ),
            "measurement_noise": number("η, of each token", 1.0, 0.0, exclude="low", axes=_HEADS),
            "floor_noise": number("γ, that no measurement is free of", 0.0, 0.0, axes=_HEADS),
            "robust": number(
                "ν, beyond which a residual is taken for an outlier; nothing for Gaussian noise",
                None,
                0.0,
                exclude="low",
                axes=_HEADS,
                optional=True,
            ),
            "tail": choice(
                "of the robust filter: student is ν dim log(1 + R²/(ν dim V)), Gaussian for large "
                "ν; published lacks the factor ν dim, as the authors' code",
                "student",
                "published",
            ),
            "temperature": number("τ, whose square multiplies logits", 1.0, 0.0, axes=_HEADS),
            "query_times": tensor(
                "when queries are asked; by default query i is token i + keys - queries",
                ("queries",),
                ("batch", "queries"),
                optional=True,
            ),
            "key_times": tensor(
                "when tokens were measured; 0, 1, 2, ... by default",
                ("keys",),
                ("batch", "keys"),
                optional=True,
            ),
        },
        queries_apart=False,
        scale="1, a factor on R²/V",
        cost="time O(m n d), memory O(m n)",
        laws={
            "test_the_variance_solves_the_propagation_equation": (
                "dV/dΔ = 2μV + σ² from η²; broken by a decay μ in place of 2μ."
            ),
            "test_the_variance_at_rate_zero_is_its_limit": (
                "σ²Δ + η² + γ² at μ = 0, with finite slopes; broken by a division by μ."
            ),
            "test_without_dynamics_and_of_unit_norm_it_is_softmax": (
                "softmax(2 q·k/V); broken by the factor 2 of the cross term."
            ),
            "test_the_robust_filter_tends_to_the_gaussian": (
                "Student's tail at ν → ∞; broken by the missing factor ν dim."
            ),
            "test_only_differences_of_times_count": (
                "A common shift of all times changes nothing; broken by values that are not "
                "turned back."
            ),
            "test_outputs_equal_a_loop_over_pairs_of_complex_channels": (
                "Equals the complex equations pair by pair; broken by E² left off the key's norm."
            ),
        },
        symbols={
            "μ": "rate",
            "ω": "frequency",
            "σ, η, γ": "process_noise, measurement_noise, floor_noise",
            "ν": "robust",
            "τ": "temperature",
            "t": "query_times, key_times",
        },
        module=AdaptiveFilter,
        options={"learn_robust": switch("whether each head learns ν", False)},
    )
)
