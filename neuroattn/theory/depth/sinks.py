"""Attention sinks: the bigram-backcopy task, trained with softmax and with relu attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention import attend
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab

SYMBOLS, TRIGGERS, LENGTH, WIDTH = 12, 3, 24, 32
STEPS, BATCH = 1000, 64
#: What softmax attention does by itself and relu attention needs to be told.
GIVEN: dict[str, dict[str, Any]] = {"softmax": {}, "relu_attention": {"normalize": "none"}}


class Layer(nn.Module):
    """One attention layer with one head beside a feed-forward layer, over learned embeddings."""

    def __init__(self, mechanism: str, generator: torch.Generator) -> None:
        super().__init__()
        self.mechanism = mechanism

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) * shape[-1] ** -0.5)

        self.token, self.place = drawn(SYMBOLS + 1, WIDTH), drawn(LENGTH + 1, WIDTH)
        self.projections = drawn(4, WIDTH, WIDTH)
        self.up, self.down = drawn(4 * WIDTH, WIDTH), drawn(WIDTH, 4 * WIDTH)
        self.read_out = drawn(SYMBOLS, WIDTH)

    def projected(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return embeddings, queries, keys and values."""
        held = self.token[tokens] + self.place[: tokens.shape[1]]
        query, key, value = (F.layer_norm(held, [WIDTH]) @ w for w in self.projections[:3])
        return held, query[:, None], key[:, None], value[:, None]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (batch, tokens, symbols) of the next symbol."""
        held, *given = self.projected(tokens)
        read = attend(self.mechanism, *given, causal=True, **GIVEN[self.mechanism])[:, 0]
        # Beside the feed-forward layer, not before it: what an idle head reads cannot be undone.
        told = F.relu(F.layer_norm(held, [WIDTH]) @ self.up.T) @ self.down.T
        logits: Tensor = (held + told + read @ self.projections[3]) @ self.read_out.T
        return logits


def sequences(chain: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return (count, LENGTH + 1) tokens: a start, then a chain that steps back after triggers.

    Symbols below TRIGGERS are triggers: what follows one is what came before it. Others are
    followed by the chain's law; the start is the number SYMBOLS.
    """
    tokens = [torch.full((count,), SYMBOLS)]
    tokens.append(torch.randint(TRIGGERS, SYMBOLS, (count,), generator=generator))
    for _ in range(LENGTH - 1):
        last, before = tokens[-1], tokens[-2]
        step = torch.multinomial(chain[last], 1, generator=generator)[:, 0]
        tokens.append(torch.where(last < TRIGGERS, before, step))
    return torch.stack(tokens, dim=1)


def trained(lab: Lab, mechanism: str) -> dict[str, float]:
    """Train one layer and return its losses beside the least, and where its head attends."""
    chain = torch.softmax(1.5 * lab.normal((SYMBOLS, SYMBOLS), "chain"), dim=1).float()
    with torch.enable_grad():
        device = lab.settings.device
        layer = Layer(mechanism, lab.generator("weights", mechanism)).to(device)
        optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
        generator = lab.generator("sequences", mechanism)
        for _ in range(STEPS):
            tokens = sequences(chain, BATCH, generator).to(device)
            logits = layer(tokens[:, :-1])[:, 1:]
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 2:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    tokens = sequences(chain, 512, lab.generator("held out", mechanism)).to(device)
    trigger = (tokens[:, 1:-1] < TRIGGERS).cpu()
    logits = layer(tokens[:, :-1])[:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 2:], reduction="none").cpu()
    least = -torch.xlogy(chain, chain).sum(1)[tokens[:, 1:-1].cpu()]
    _, query, key, value = layer.projected(tokens[:, :-1])
    weights = lab.weights(mechanism, query, key, causal=True, **GIVEN[mechanism])[:, 0, 1:]
    share = weights[..., 0]
    # From the fourth place on, so that the first token is one of several.
    late = torch.zeros_like(trigger)
    late[:, 3:] = True
    size = value[:, 0].norm(dim=-1).cpu()
    return {
        "copy": float(losses[trigger].mean()),
        "excess": float((losses - least)[~trigger].mean()),
        "idle": float(share[late & ~trigger].mean()),
        "idle read": float(weights.sum(-1)[late & ~trigger].mean()),
        "copying": float(share[late & trigger].mean()),
        "value": float(size[:, 0].mean() / size[:, 1:].mean()),
    }


def measure_sinks(
    lab: Lab, sinking: str = "softmax", idle: str = "idle", dry: str = "relu_attention"
) -> Iterator[Comparison]:
    """Train both, see that both solve the task, and see where their heads attend when idle."""
    soft, relu = (lab.once(trained, name) for name in ("softmax", "relu_attention"))
    for name, found in (("softmax", soft), ("relu", relu)):
        yield lab.at_most(
            f"{name}: loss after triggers, and above the chain's entropy elsewhere (nats)",
            [found["copy"], found["excess"]],
            0.15,
            reason="0 for a task that is learnt; without the head the copy costs 2 nats",
        )
    sink, none = (lab.once(trained, name) for name in (sinking, dry))
    yield lab.at_least("softmax: weight on the first token of an idle head", sink[idle], 0.5)
    yield lab.at_most("softmax: the same after a trigger", soft["copying"], 0.1)
    yield lab.at_most("softmax: size of the first value beside others", soft["value"], 0.7)
    yield lab.at_most("relu: weight on the first token of an idle head", none["idle"], 0.45)
    yield lab.at_most(
        "relu: the same, and softmax's of this run less a fifth", none["idle"], sink[idle] - 0.2
    )


register(
    Claim(
        id="depth.sinks.backcopy",
        title="The backcopy task grows a sink with softmax, a weak one or none with relu",
        paper="Guo et al. (2024), Active-dormant attention heads",
        place="bigram-backcopy task; sizes are ours",
        statement=r"\alpha_{i,1}^{\mathrm{softmax}} > 0.5 > \alpha_{i,1}^{\mathrm{relu}}\ "
        r"\mathrm{at\ idle}\ i, \quad \alpha_{i,1}^{\mathrm{softmax}} < 0.1\ "
        r"\mathrm{after\ triggers}, \quad |v_1| < 0.7\,|v_j|",
        hypotheses=(
            "After a trigger the token before it is repeated, else a Markov chain goes on.",
            "One head beside a feed-forward layer; 1000 steps of Adam from scratch.",
        ),
        finding="sharpened",
        found="Both layers solve the task. At three seeds the softmax head parks .93, .99 and .82 "
        "of an idle query's weight on the first token, shrinks that token's value to about a "
        "third, and leaves it after a trigger. Relu puts .33, 0 and .23 there: it can read "
        "nothing, but what an idle head still reads is the first token too. The sink needs the "
        "head beside the feed-forward layer: with that layer after it, which can undo an idle "
        "read, softmax gave .35 and .22. Longer training lowers it (.67 after 2000 steps at one "
        "seed). The bounds held here were set after seeing these runs.",
        mechanisms=("softmax", "relu_attention"),
        measure=measure_sinks,
        mutants={
            "relu grows the sink": {"sinking": "relu_attention"},
            "softmax grows none": {"dry": "softmax"},
            "the sink is there after triggers": {"idle": "copying"},
        },
        slow=True,
    )
)
