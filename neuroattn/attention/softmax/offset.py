"""Softmax that may attend to nothing: one more term in its denominator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention.learned import Learned
from neuroattn.attention.masks import allowed, masked_softmax
from neuroattn.attention.parameters import number
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import fused_softmax


def sink_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    sink_logit: float | Tensor = 0.0,
) -> Tensor:
    """Return e^s / (e^sink + Σ e^s) over the allowed keys; rows sum to less than one.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    sink_logit : float or Tensor
        Logit of the key that is not there, (batch or 1, heads or 1, queries or 1, 1); 0 gives
        ``softmax_one``, -inf the softmax.

    References
    ----------
    Miller (2023), Attention is off by one: softmax_1.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * scale) @ key.transpose(-1, -2)
    sink = torch.as_tensor(sink_logit, dtype=logits.dtype, device=logits.device)
    # An infinite logit would be subtracted from itself.
    sink = sink.clamp(max=torch.finfo(logits.dtype).max)
    sink = sink.expand(*logits.shape[:-1], 1)
    logits = torch.cat([sink, logits], dim=-1)
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    if seen is not None:
        seen = seen.expand(*logits.shape[:-1], key.shape[-2])
        seen = torch.cat([sink.detach() > float("-inf"), seen], dim=-1)
    return masked_softmax(logits, seen)[..., 1:]


def sink_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    sink_logit: float | Tensor = 0.0,
) -> Tensor:
    """Read the values with :func:`sink_weights`."""
    matrix = sink_weights(query, key, causal=causal, mask=mask, scale=scale, sink_logit=sink_logit)
    return matrix @ value


def fused_sink(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    sink_logit: float | Tensor = 0.0,
) -> Tensor:
    """Do what :func:`sink_attention` does through ``scaled_dot_product_attention``.

    The sink is a key before the first whose value is zero. Its logit enters as one more channel of
    the queries, that only this key reads: a bias would keep the fused kernels away.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    dim, value_dim = query.shape[-1], value.shape[-1]
    sink = torch.as_tensor(sink_logit, dtype=query.dtype, device=query.device)
    # Infinity would meet zeros; half of the range leaves room for the differences.
    most = torch.finfo(query.dtype).max / 2
    sink = sink.clamp(-most, most)
    query = torch.cat([query * scale, sink.expand(*query.shape[:-1], 1)], dim=-1)
    nobody = F.one_hot(torch.tensor(dim, device=key.device), dim + 1).to(key.dtype)
    key = torch.cat([nobody.expand(*key.shape[:2], 1, -1), F.pad(key, (0, 1))], dim=-2)
    # Flash kernels need values as wide as keys.
    width = max(dim + 1, value_dim)
    query, key = (F.pad(each, (0, width - dim - 1)) for each in (query, key))
    value = F.pad(value, (0, width - value_dim, 1, 0))
    if causal:
        # A query of the sink's own keeps the diagonal where it was.
        query = F.pad(query, (0, 0, 1, 0))
    if mask is not None:
        rows = int(causal and mask.shape[-2] != 1)
        mask = F.pad(mask.expand(-1, -1, -1, key.shape[-2] - 1), (1, 0, rows, 0), value=True)
    read = fused_softmax(query, key, value, causal=causal, mask=mask, scale=1.0)
    return read[:, :, int(causal) :, :value_dim]


class Sink(Learned):
    """A logit for each head of the key that is not there, from 0.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`~neuroattn.attention.learned.Learned`.
    """

    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__()
        self.sink_logit = nn.Parameter(torch.zeros(1, heads, 1, 1))

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the logits (1, heads, 1, 1), the same for all tokens."""
        return {"sink_logit": self.sink_logit}


_COST = "time O(m n d), memory O(m + n) fused, O(m n) with explicit weights"
_GATED = (
    "Equals softmax attention times σ(log-sum-exp of the logits - sink); broken by a sink that "
    "enters before the maximum is subtracted, or is scaled."
)

register(
    Mechanism(
        name="softmax_one",
        family="softmax",
        paper="Miller (2023), Attention is off by one, softmax_1",
        summary="Softmax with 1 added to the denominator, so that a head may read nothing.",
        formula=r"y_i = \sum_j \frac{e^{s\,q_i \cdot k_j}}{1 + \sum_l e^{s\,q_i \cdot k_l}} v_j",
        runs=(
            Run("parallel", "sdpa", fused_sink, half=True),
            Run("parallel", "reference", sink_attention),
        ),
        weights=sink_weights,
        cost=_COST,
        laws={
            "test_it_is_softmax_gated_by_the_log_sum_exp": _GATED,
            "test_logits_of_a_thousand_are_exact": (
                "Reads nothing at logits of -1000 and the best key at 1000; broken by a sum of "
                "exponentials whose maximum leaves the 1 out."
            ),
        },
        symbols={"x": "scale · query · key"},
    )
)

register(
    Mechanism(
        name="sink",
        family="softmax",
        paper="Miller (2023), Attention is off by one; OpenAI (2025), gpt-oss-120b & gpt-oss-20b "
        "model card, section 2.2 (learned sinks); arXiv 2508.10925",
        summary="Softmax with a learned logit a head in the denominator, whose value is zero.",
        formula=r"y_i = \sum_j \frac{e^{s\,q_i \cdot k_j}}"
        r"{e^{\sigma_i} + \sum_l e^{s\,q_i \cdot k_l}} v_j",
        runs=(
            Run("parallel", "sdpa", fused_sink, half=True),
            Run("parallel", "reference", sink_attention),
        ),
        weights=sink_weights,
        parameters={
            "sink_logit": number(
                "logit of a key whose value is zero; -inf gives the softmax, inf nothing",
                0.0,
                axes=(("batch", "heads", "queries", 1),),
            )
        },
        cost=_COST,
        laws={
            "test_it_is_softmax_gated_by_the_log_sum_exp": _GATED,
            "test_the_sink_leads_from_softmax_to_softmax_one_to_nothing": (
                "Sink -inf is softmax, 0 is softmax_one, a high one reads nothing; broken by a "
                "sink that is divided by the temperature or whose value is read."
            ),
        },
        symbols={"x": "scale · query · key", "σ": "sink_logit"},
        module=Sink,
    )
)
