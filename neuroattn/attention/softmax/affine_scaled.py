"""Affine-scaled attention: softmax weights times a gain, plus the same share for every key."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroattn.attention.learned import Learned
from neuroattn.attention.masks import allowed
from neuroattn.attention.parameters import choice, number, tensor
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import fused_softmax, softmax_weights

#: What the running mean keeps of itself at each step.
KEPT = 0.9


def affine_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    gain: Tensor,
    gain_average: Tensor,
    normalizer: str = "visible",
) -> Tensor:
    """Return gain · softmax + (gain_average - gain) / N over the visible keys.

    Parameters
    ----------
    query, key, causal, mask, scale
        As in :func:`neuroattn.attention.weights`.
    gain : Tensor
        (batch or 1, heads or 1, queries or 1)
    gain_average : Tensor
        (heads or 1,)
    normalizer : {"visible", "all"}
        N is the number of keys that the query sees, or of all keys.

    References
    ----------
    Bae et al. (2026), Affine-scaled attention; arXiv 2602.23057.
    """
    convex = softmax_weights(query, key, causal=causal, mask=mask, scale=scale)
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    visible = torch.ones_like(convex) if seen is None else seen.expand_as(convex).to(convex)
    total = visible.sum(dim=-1, keepdim=True) if normalizer == "visible" else key.shape[-2]
    gain, gain_average = gain[..., None], gain_average[:, None, None]
    count = torch.as_tensor(total, dtype=convex.dtype, device=convex.device).clamp_min(1)
    return gain * convex + (gain_average - gain) * visible / count


def affine_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    gain: Tensor,
    gain_average: Tensor,
    normalizer: str = "visible",
) -> Tensor:
    """Read the values with :func:`affine_weights`."""
    named = {"gain": gain, "gain_average": gain_average}
    weights = affine_weights(
        query, key, causal=causal, mask=mask, scale=scale, normalizer=normalizer, **named
    )
    return weights @ value


def fused_affine(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    gain: Tensor,
    gain_average: Tensor,
    normalizer: str = "visible",
) -> Tensor:
    """Do what :func:`affine_attention` does through ``scaled_dot_product_attention``.

    The share that all visible keys have is a running sum of the values.
    """
    read = fused_softmax(query, key, value, causal=causal, mask=mask, scale=scale)
    wide = torch.promote_types(value.dtype, torch.float32)
    total, count = _visible_sum(query, value.to(wide), causal, mask)
    if normalizer == "all":
        count = torch.full_like(count, key.shape[-2])
    gain, gain_average = gain[..., None].to(wide), gain_average[:, None, None].to(wide)
    return gain * read.to(wide) + (gain_average - gain) * total / count.clamp_min(1)


def _visible_sum(
    query: Tensor, value: Tensor, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the sum (batch, heads, queries or 1, value_dim) and number of the visible values."""
    queries, keys = query.shape[-2], value.shape[-2]
    if mask is not None and mask.shape[-2] != 1:
        seen = allowed(queries, keys, causal, mask, value.device)
        weights = mask.to(value) if seen is None else seen.to(value)
        weights = weights.expand(*weights.shape[:-1], keys)
        return weights @ value, weights.sum(dim=-1, keepdim=True)
    ones = torch.ones(1, 1, keys, 1, dtype=value.dtype, device=value.device)
    if mask is not None:
        written = mask.transpose(-1, -2).to(value)
        value, ones = value * written, ones * written
    if not causal:
        return value.sum(dim=-2, keepdim=True), ones.sum(dim=-2, keepdim=True)
    # Queries before the first key see nothing: the sums start with a row of zeros.
    last = torch.arange(queries, device=value.device) + keys - queries + 1
    sums = [nn.functional.pad(x.cumsum(dim=-2), (0, 0, 1, 0)) for x in (value, ones)]
    return sums[0][:, :, last.clamp_min(0)], sums[1][:, :, last.clamp_min(0)]


class Gain(Learned):
    """The gain of each query and head, and its running mean over training.

    The mean of the reads of some projected tokens counts from the next projection on, so that all
    reads of them, also those that are recomputed in the backward pass, use the same average. It
    moves once a training step where a step projects once.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    nonlinearity : {"linear_clipping", "sigmoid"}
        From the linear function of the query to the gain: clip(0.1 x + 0.5, 0, 1), or a sigmoid.
    start : float
        The running mean before any training: 0 as published, 0.5 in the published code.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        token_dim: int,
        nonlinearity: str = "linear_clipping",
        start: float = 0.0,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, heads, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)
        self.nonlinearity = nonlinearity
        self.register_buffer("average", torch.full((heads,), float(start)))
        self.register_buffer("waiting", torch.zeros(heads))
        self.register_buffer("reads", torch.zeros(()))

    average: Tensor
    waiting: Tensor
    reads: Tensor

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``gain_average`` (heads), with the reads since the last call in training."""
        if self.training:
            with torch.no_grad():
                step = (1 - KEPT) * self.reads.clamp(max=1)
                self.average += step * (self.waiting / self.reads.clamp(min=1) - self.average)
                self.waiting.zero_()
                self.reads.zero_()
        return {"gain_average": self.average.clone()}

    def of_queries(self, queries: Tensor) -> dict[str, Tensor]:
        """Return ``gain`` (batch, heads, queries), 0..1."""
        logits: Tensor = self.linear(queries).transpose(1, 2)
        if self.nonlinearity == "sigmoid":
            gain = logits.sigmoid()
        else:
            gain = (0.1 * logits + 0.5).clamp(0, 1)
        if self.training:
            with torch.no_grad():
                self.waiting += gain.mean(dim=(0, 2))
                self.reads += 1
        return {"gain": gain}


register(
    Mechanism(
        name="affine_scaled",
        family="softmax",
        paper="Bae et al. (2026), Affine-scaled attention: towards flexible and stable transformer "
        "attention; arXiv 2602.23057",
        summary="Softmax weights times a gain of the query, plus an equal share that makes every "
        "row sum to the gain's average.",
        formula=r"y_i = \sum_j \left[ g_i\, \mathrm{softmax}_j(s\,q_i \cdot k_j)"
        r" + \frac{\bar{g} - g_i}{N_i} \right] v_j",
        runs=(
            Run("parallel", "sdpa", fused_affine, half=True),
            Run("parallel", "reference", affine_attention),
        ),
        weights=affine_weights,
        parameters={
            "gain": tensor(
                "factor on the softmax weights", ("batch", "heads", "queries"), low=0, high=1
            ),
            "gain_average": tensor("what every row sums to", ("heads",), low=0, high=1),
            "normalizer": choice(
                "N: the keys that the query sees, or all keys as published", "visible", "all"
            ),
        },
        cost="time O(m n d), memory O(m d + n d) fused",
        laws={
            "test_rows_sum_to_the_average_over_the_visible_keys": (
                "Row sums are gain_average with N = visible keys, and gain + (gain_average - gain) "
                "i/N in row i with all keys; broken by the full length under a causal mask."
            ),
            "test_weights_are_negative_exactly_below_the_threshold": (
                "A weight is negative where softmax < (gain - average)/(gain N); broken by a clamp."
            ),
            "test_a_gain_and_an_average_of_one_are_softmax": (
                "Equals softmax at gain = average = 1; broken by a share added twice."
            ),
            "test_a_gain_of_zero_reads_the_mean_of_the_visible_values": (
                "A gain of 0 is a uniform read, not a silent head; broken by a gain on the sum."
            ),
            "test_the_running_mean_follows_its_recurrence_in_training_only": (
                "average <- 0.9 average + 0.1 mean(gain); broken by an update in evaluation or "
                "twice where a read is recomputed."
            ),
        },
        symbols={"α(X)": "gain", "α_ma": "gain_average", "β(X)": "(gain_average - gain)/N"},
        module=Gain,
        options={
            "nonlinearity": choice("of the gain", "linear_clipping", "sigmoid"),
            "start": number("running mean before training; 0.5 in the published code", 0.0, 0, 1),
        },
    )
)
