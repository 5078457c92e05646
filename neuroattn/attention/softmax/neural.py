"""Neural attention: a small network scores each pair of query and key."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neuroattn.attention.learned import Learned
from neuroattn.attention.masks import allowed, masked_softmax
from neuroattn.attention.parameters import integer, switch, tensor
from neuroattn.attention.registry import Mechanism, Request, Run, register


def neural_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    third: Tensor,
    chunk_size: int = 64,
) -> Tensor:
    """Return the softmax of third · relu(second · relu(first · [q; k] + b) + c) over the keys.

    The first layer is linear in the pair, so that it is a sum of what query and key give apart.

    Parameters
    ----------
    query, key, causal, mask
        As in :func:`neuroattn.attention.weights`.
    scale : float, optional
        Factor on the scores; 1 by default.
    first : Tensor
        (heads or 1, 2, dim, hidden): for the query, then for the key.
    first_bias : Tensor
        (heads or 1, hidden)
    second, second_bias : Tensor
        (heads or 1, hidden, narrow) and (heads or 1, narrow).
    third : Tensor
        (heads or 1, narrow); a bias would cancel in the softmax.
    chunk_size : int
        Not used here, see :func:`chunked_neural`.

    References
    ----------
    DiGiugno & Mahmood (2025), Neural attention: a novel mechanism for enhanced expressive power
    in transformer models, section 3; arXiv 2502.17206.
    """
    asked, given = query @ first[:, 0] + first_bias[:, None], key @ first[:, 1]
    pairs = (asked[:, :, :, None] + given[:, :, None]).relu()
    narrow = (pairs.flatten(2, 3) @ second + second_bias[:, None]).relu()
    scores = (narrow @ third[..., None]).unflatten(2, pairs.shape[2:4]).squeeze(-1)
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    return masked_softmax(scores if scale is None else scale * scores, seen)


def neural_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **network: Any,
) -> Tensor:
    """Read the values with :func:`neural_weights`; ``network`` are its tensors."""
    return neural_weights(query, key, causal=causal, mask=mask, scale=scale, **network) @ value


def chunked_neural(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    chunk_size: int = 64,
    **network: Any,
) -> Tensor:
    """Do what :func:`neural_attention` does, ``chunk_size`` queries at once.

    The pairs of a block are computed again in the backward pass instead of being kept.
    """
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    if seen is not None:
        seen = seen.expand(*seen.shape[:-2], query.shape[-2], seen.shape[-1])

    def read(part: Tensor, visible: Tensor | None) -> Tensor:
        return neural_attention(part, key, value, mask=visible, scale=scale, **network)

    parts = []
    for start in range(0, max(query.shape[-2], 1), chunk_size):
        rows = slice(start, start + chunk_size)
        visible = None if seen is None else seen[..., rows, :]
        part = query[:, :, rows]
        if torch.is_grad_enabled():
            parts.append(checkpoint(read, part, visible, use_reentrant=False))
        else:
            parts.append(read(part, visible))
    return torch.cat(parts, dim=2)


def _long(request: Request) -> str:
    size = request.parameters["chunk_size"]
    if request.queries > size:
        return f"more than chunk_size={size} queries: all pairs at once need much memory"
    return ""


class Network(Learned):
    """The network that scores pairs.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    width : int
        Units of the first layer; the second has half as many.
    per_head : bool
        Whether each head has a network of its own; the published code has one for all heads.
    """

    def __init__(
        self, dim: int, heads: int, token_dim: int, width: int = 16, per_head: bool = True
    ) -> None:
        super().__init__()
        each, size, half = heads if per_head else 1, dim // heads, max(1, width // 2)

        def drawn(*shape: int, inputs: int) -> nn.Parameter:
            return nn.Parameter(nn.init.uniform_(torch.empty(shape), -(inputs**-0.5), inputs**-0.5))

        self.first = drawn(each, 2, size, width, inputs=2 * size)
        self.first_bias = drawn(each, width, inputs=2 * size)
        self.second = drawn(each, width, half, inputs=width)
        self.second_bias = drawn(each, half, inputs=width)
        self.third = drawn(each, half, inputs=half)

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the five tensors of the network, the same for all tokens."""
        return dict(self.named_parameters())


register(
    Mechanism(
        name="neural",
        family="softmax",
        paper="DiGiugno & Mahmood (2025), Neural attention: a novel mechanism for enhanced "
        "expressive power in transformer models, section 3; arXiv 2502.17206",
        summary="Softmax over scores that a small network gives to each pair of query and key.",
        formula=r"y_i = \sum_j \mathrm{softmax}_j\left( s\, w^T \mathrm{relu}(B\,"
        r"\mathrm{relu}(A_q q_i + A_k k_j + a) + b) \right) v_j",
        runs=(
            Run("parallel", "reference", neural_attention, avoids=_long),
            Run("chunked", "reference", chunked_neural),
        ),
        weights=neural_weights,
        parameters={
            "first": tensor("first layer, of query and of key", ("heads", 2, "dim", "hidden")),
            "first_bias": tensor("its bias", ("heads", "hidden")),
            "second": tensor("second layer", ("heads", "hidden", "narrow")),
            "second_bias": tensor("its bias", ("heads", "narrow")),
            "third": tensor("last layer", ("heads", "narrow")),
            "chunk_size": integer("queries scored at once in the chunked form", 64, 1),
        },
        scale="1",
        cost="time O(m n p²), memory O(m n p), chunked O(chunk_size n p); p units",
        laws={
            "test_a_network_that_multiplies_tends_to_softmax_as_it_grows": (
                "With units that approximate q·k the error falls with the square of their number; "
                "broken by a layer that is skipped or a scale of 1/sqrt(dim) on the scores."
            ),
            "test_every_number_equals_a_network_on_concatenated_pairs": (
                "Equals the network on [q; k]; broken by [k; q]."
            ),
            "test_tokens_in_another_order_read_in_that_order": (
                "Permutation equivariant; broken by pairs that are folded back in another order."
            ),
        },
        symbols={"W_h, b_h": "first, second", "p, d'": "width", "Score_ij": "scores"},
        module=Network,
        options={
            "width": integer("units of the first layer, twice those of the second", 16, 1),
            "per_head": switch("one network a head; the published code has one for all", True),
        },
    )
)
