"""Titans with a memory of two layers, learned token by token by explicit gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention.learned import Learned
from neuroattn.attention.linear.accumulate import started
from neuroattn.attention.linear.delta import ALPHA, NORMALIZE_KEYS
from neuroattn.attention.linear.delta_engine import per_token, scaled, strength, unit
from neuroattn.attention.linear.titans import MOMENTUM, SurpriseGates
from neuroattn.attention.parameters import choice, integer, number, tensor
from neuroattn.attention.registry import Mechanism, Request, Run, State, register

_EPSILON = 1e-5


class Layers(NamedTuple):
    """The memory's weights (batch, heads, dim, hidden) and (batch, heads, hidden, value_dim)."""

    first: Tensor
    second: Tensor


def _gelu_slope(hidden: Tensor) -> Tensor:
    density = (-hidden.square() / 2).exp() / (2 * torch.pi) ** 0.5
    found: Tensor = torch.special.ndtr(hidden) + hidden * density
    return found


def recall(layers: Layers, asked: Tensor, memory: str) -> Tensor:
    """Return what the memory answers.

    Parameters
    ----------
    layers : Layers
        Its weights.
    asked : Tensor
        (batch, heads, tokens, dim)
    memory : {"plain", "residual"}
        gelu(x W₁) W₂, or x + LayerNorm(gelu(x W₁) W₂) without scale and shift.

    Returns
    -------
    Tensor
        (batch, heads, tokens, value_dim)
    """
    answer = F.gelu(asked @ layers.first) @ layers.second
    if memory == "plain":
        return answer
    return asked + F.layer_norm(answer, answer.shape[-1:], eps=_EPSILON)


def slopes(layers: Layers, key: Tensor, value: Tensor, memory: str) -> Layers:
    """Return the gradients of ½|M(k) - v|² with respect to the memory's weights.

    They are written out, so that the outer gradient needs no graph within a graph.

    Parameters
    ----------
    layers : Layers
        The weights.
    key, value : Tensor
        One token: (batch, heads, 1, dim) and (batch, heads, 1, value_dim).
    memory : {"plain", "residual"}
        As in :func:`recall`.
    """
    before = key @ layers.first
    hidden = F.gelu(before)
    answer = hidden @ layers.second
    if memory == "plain":
        back = answer - value
    else:
        centred = answer - answer.mean(dim=-1, keepdim=True)
        deviation = (centred.square().mean(dim=-1, keepdim=True) + _EPSILON).sqrt()
        normal = centred / deviation
        error = key + normal - value
        along = (error * normal).mean(dim=-1, keepdim=True)
        back = (error - error.mean(dim=-1, keepdim=True) - along * normal) / deviation
    down = back @ layers.second.transpose(-1, -2) * _gelu_slope(before)
    return Layers(key.transpose(-1, -2) * down, hidden.transpose(-1, -2) * back)


def titans_mlp(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    first: Tensor,
    second: Tensor,
    beta: float | Tensor,
    alpha: float | Tensor,
    momentum: float | Tensor,
    memory: str,
    normalize_keys: bool,
    initial_state: State | None = None,
) -> tuple[Tensor, State]:
    """Write every token into the memory's weights, and read with the forward pass.

    Parameters
    ----------
    query, key, value, causal, mask, scale, initial_state
        As in :func:`neuroattn.attention.attend`.
    first, second : Tensor
        The weights before the first token, (heads or 1, dim, hidden) and (heads or 1, hidden,
        value_dim).
    beta, alpha, momentum, normalize_keys
        As of ``titans``; all weights are decayed and moved alike.
    memory : {"plain", "residual"}
        As in :func:`recall`.

    Returns
    -------
    tuple of Tensor and dict
        Output (batch, heads, queries, value_dim) and state: the weights, their momentum, and
        whether a key was written.
    """
    query, key = scaled(query, scale), unit(key, normalize_keys)
    step = strength(beta, key, mask)[..., None, None]
    retain, carry = (per_token(each, key)[..., None, None] for each in (alpha, momentum))
    seen = torch.ones_like(key[..., :1]) if mask is None else mask.transpose(-1, -2).to(key.dtype)
    seen = seen.expand(*key.shape[:-1], 1)[..., None]
    sizes = {name: (*each.shape[-2:],) for name, each in (("first", first), ("second", second))}
    sizes |= {f"{name}_momentum": size for name, size in sizes.items()}
    *weights, begun = started(initial_state, key, {**sizes, "begun": (1, 1)})
    layers, moving = Layers(*weights[:2]), Layers(*weights[2:])
    if initial_state is None:
        shape = key.shape[:2]
        layers = Layers(*(each.to(key.dtype).expand(*shape, -1, -1) for each in (first, second)))
    reads = [value.new_zeros(*value.shape[:2], 0, value.shape[-1])]
    for token in range(key.shape[-2]):
        found = slopes(layers, key[:, :, token, None], value[:, :, token, None], memory)
        pairs = zip(moving, found, strict=True)
        moving = Layers(*(carry[:, :, token] * m - step[:, :, token] * g for m, g in pairs))
        layers = Layers(*(retain[:, :, token] * w + m for w, m in zip(layers, moving, strict=True)))
        begun = torch.maximum(begun, seen[:, :, token])
        if causal:
            # Before any key is written there is nothing to recall, whatever the first weights.
            reads.append(begun * recall(layers, query[:, :, token, None], memory))
    output = torch.cat(reads, dim=-2) if causal else begun * recall(layers, query, memory)
    state = {**layers._asdict(), **{f"{name}_momentum": m for name, m in moving._asdict().items()}}
    return output, {**state, "begun": begun}


def _refused(request: Request) -> str:
    if request.parameters["memory"] == "residual" and request.dim != request.value_dim:
        return f"memory='residual' needs value_dim = dim, not {request.value_dim} and {request.dim}"
    return ""


class MemoryLayers(Learned):
    """The memory's weights before the first token, one memory a head, and the gates of titans.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    expansion : int
        Width of the hidden layer over the width of a head.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, expansion: int = 4) -> None:
        super().__init__()
        width = dim // heads
        self.gates = SurpriseGates(dim, heads, token_dim)
        # Two layers are learned stably by smaller steps than one: about 0.1 at first.
        nn.init.constant_(self.gates.beta.bias, -2.0)
        self.first = nn.Parameter(torch.empty(heads, width, expansion * width))
        self.second = nn.Parameter(torch.empty(heads, expansion * width, width))
        for layer in (self.first, self.second):
            nn.init.normal_(layer, std=layer.shape[-2] ** -0.5)

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the gates (batch, heads, tokens), ``first`` and ``second``."""
        return {**self.gates.of_tokens(tokens), "first": self.first, "second": self.second}


register(
    Mechanism(
        name="titans_mlp",
        family="linear",
        paper="Behrouz, Zhong & Mirrokni (2024), Titans: learning to memorize at test time, "
        "equations 13 and 14, arXiv 2501.00663; for memory='residual' Behrouz, Razaviyayn, Zhong "
        "& Mirrokni (2025), It's all connected (Miras), arXiv 2504.13173",
        summary="A two-layer perceptron whose weights learn every token's value from its key.",
        formula=r"S_t = \eta_t S_{t-1} - \beta_t \nabla_M \tfrac12 \lVert M_{t-1}(k_t) - v_t "
        r"\rVert^2, \quad M_t = \alpha_t M_{t-1} + S_t, \quad y_t = M_t(s\,q_t), \quad "
        r"M(x) = W_2^\top \mathrm{gelu}(W_1^\top x)",
        runs=(Run("recurrent", "reference", titans_mlp, stateful=True, refuses=_refused),),
        parameters={
            "first": tensor("first layer before any token", ("heads", "dim", "hidden")),
            "second": tensor("second layer before any token", ("heads", "hidden", "value_dim")),
            "beta": number(
                "step on ½|M(k) - v|² (twice the paper's θ); with loud values (some ten times "
                "a unit) the plain memory diverges, the residual one is bounded",
                0.1,
                0,
                axes=(("batch", "heads", "keys"),),
            ),
            "alpha": ALPHA,
            "momentum": MOMENTUM,
            "memory": choice(
                "'plain': two layers; 'residual': the input plus their normalised answer",
                "plain",
                "residual",
            ),
            "normalize_keys": NORMALIZE_KEYS,
        },
        mask="keys",
        scale="1",
        cost="time O(n d h) for h hidden units, token by token; memory O(d h) a state",
        laws={
            "test_written_out_slopes_equal_autograd": (
                "Both memories' explicit gradients equal autograd's; broken by a dropped term of "
                "the layer norm or of gelu's slope."
            ),
            "test_a_memory_that_stays_linear_is_the_linear_titans": (
                "Far on gelu's linear side, with the first layer held, it is `titans` on the "
                "hidden units; broken by momentum on the weights instead of the step."
            ),
            "test_repeating_a_pair_teaches_it": (
                "The error of a repeated pair shrinks to zero; broken by a step uphill."
            ),
        },
        symbols={
            "M_t": "the weights of two layers",
            "α_t": "1 - alpha",
            "θ_t": "beta / 2",
            "η_t": "momentum",
            "W_Q x, W_K x, W_V x": "query, key, value",
        },
        module=MemoryLayers,
        options={"expansion": integer("hidden units a channel of a head", 4, 1)},
    )
)
