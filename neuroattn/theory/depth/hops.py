"""Following a chain of associations: how far a stack of layers can go, and what it learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention import attend
from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab

PAPER = "Sanford, Hsu & Telgarsky (2024), Transformers, parallel computation, and logarithmic depth"
HARD = 1e4
SYMBOLS, WIDTH, STEPS, BATCH = 6, 48, 1500, 128


def reachable_hops(layers: int, doubling: bool = True) -> int:
    """Return how many associations in a row a stack of hard heads can follow.

    Parameters
    ----------
    layers : int
        Number of layers, at least 1.
    doubling : bool
        Whether all tokens read in every layer, or the query alone.

    Returns
    -------
    int
        2^layers - 1, or ``layers`` if the query alone reads.

    Raises
    ------
    InputError
        If ``layers`` is below 1.

    References
    ----------
    The construction is derived here, after Sanford, Hsu & Telgarsky (2024), arXiv 2402.09268.
    """
    if layers < 1:
        raise InputError(f"layers={layers!r} must be at least 1.")
    return 2**layers - 1 if doubling else layers


def orders(lab: Lab, count: int, symbols: int, *tags: object) -> Tensor:
    """Return (count, symbols) one cycle each: the symbol that follows each symbol."""
    rng = lab.rng("cycles", count, symbols, *tags)
    shuffled = torch.from_numpy(
        rng.permuted(torch.arange(symbols).repeat(count, 1).numpy(), axis=1)
    )
    return torch.zeros_like(shuffled).scatter(1, shuffled, shuffled.roll(-1, 1))


def followed(following: Tensor, start: Tensor, hops: int) -> Tensor:
    """Return where a number of steps from ``start`` leads."""
    for _ in range(hops):
        start = following.gather(1, start[:, None])[:, 0]
    return start


def stacked(lab: Lab, layers: int, doubling: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (cycles,) where hard heads end, the cycles, and where they start.

    A token holds a pair: its symbol, and the symbol that it points to. A layer reads, for each
    token, the pair of the symbol that it points to.
    """
    symbols, count = 40, 64
    following = orders(lab, count, symbols, "stack")
    unit = torch.eye(symbols, dtype=torch.float64)
    start = torch.from_numpy(lab.rng("starts").integers(symbols, size=count))
    key, points = unit.expand(count, -1, -1), unit[following]
    held = unit[start][:, None]
    for _ in range(layers):
        asked = torch.cat([points, held], dim=1)
        read = lab.attend("softmax", asked[:, None], key[:, None], points[:, None], scale=HARD)[
            :, 0
        ]
        held = read[:, -1:]
        points = read[:, :-1] if doubling else points
    return held[:, 0].argmax(-1), following, start


def measure_reach(
    lab: Lab, hops: Callable[[int], int] = reachable_hops, doubling: bool = True
) -> Iterator[Comparison]:
    """Let the query and all pairs read, layer by layer, and see how far the query came."""
    layers = (1, 2, 3, 4, 5)
    reached = []
    for depth in layers:
        found, following, start = lab.once(stacked, depth, doubling)
        yield lab.exact(
            f"symbols that {depth} layers end at", found, followed(following, start, hops(depth))
        )
        right = [bool((followed(following, start, n) == found).all()) for n in range(40)]
        reached.append(right.index(True) if True in right else -1)
    yield lab.near(
        "associations followed",
        reached,
        [hops(depth) for depth in layers],
        tolerance=0.0,
        expected=0.0,
        reason="whole numbers",
        axes={"layers": layers},
    )


class Stack(nn.Module):
    """Layers of one attention head with a residual stream and no feed-forward layers."""

    def __init__(self, layers: int, generator: torch.Generator) -> None:
        super().__init__()

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) * shape[-1] ** -0.5)

        self.symbol = drawn(2, SYMBOLS + 1, WIDTH)
        self.projections = drawn(layers, 4, WIDTH, WIDTH)
        self.read_out = drawn(SYMBOLS, WIDTH)

    def forward(self, following: Tensor, start: Tensor) -> Tensor:
        """Return logits (batch, symbols); the last token is the query, which points nowhere."""
        own = torch.arange(SYMBOLS, device=start.device).expand_as(following)
        first = torch.cat([own, start[:, None]], dim=1)
        second = F.pad(following, (0, 1), value=SYMBOLS)
        held = self.symbol[0][first] + self.symbol[1][second]
        for each in self.projections:
            query, key, value = ((F.layer_norm(held, [WIDTH]) @ w)[:, None] for w in each[:3])
            held = held + attend("softmax", query, key, value)[:, 0] @ each[3]
        return F.layer_norm(held[:, -1], [WIDTH]) @ self.read_out.T


def learned(lab: Lab, layers: int, hops: int, start_number: int) -> float:
    """Train a stack to follow associations and return its share of right answers."""
    device = lab.settings.device

    def drawn(count: int, *tags: object) -> list[Tensor]:
        following = orders(lab, count, SYMBOLS, layers, hops, *tags)
        start = torch.from_numpy(lab.rng(layers, hops, *tags).integers(SYMBOLS, size=count))
        return [each.to(device) for each in (following, start, followed(following, start, hops))]

    with torch.enable_grad():
        stack = Stack(layers, lab.generator("weights", layers, hops, start_number)).to(device)
        optimizer = torch.optim.Adam(stack.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
        for step in range(STEPS):
            following, start, wanted = drawn(BATCH, "train", start_number, step)
            loss = F.cross_entropy(stack(following, start), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    following, start, wanted = drawn(2000, "held out")
    return float((stack(following, start).argmax(-1) == wanted).double().mean())


def best_of(lab: Lab, layers: int, hops: int) -> float:
    """Return the share of right answers of the better of two starts, the second if need be."""
    best = 0.0
    for start in range(2):
        best = max(best, learned(lab, layers, hops, start))
        if best > 0.9:
            break
    return best


def measure_learned(lab: Lab, shallow: int = 1, deep: int = 2) -> Iterator[Comparison]:
    """Train one and two layers from scratch, for one, two and three associations in a row."""
    yield lab.at_least("one layer, one association", lab.once(best_of, 1, 1), 0.75)
    yield lab.at_most(
        "one layer, two associations",
        lab.once(best_of, shallow, 2),
        0.6,
        reason="chance is .25: neither the symbol itself nor the one after it",
    )
    yield lab.at_least(
        "two layers, two and three associations",
        [lab.once(best_of, deep, hops) for hops in (2, 3)],
        0.8,
        axes={"associations": (2, 3)},
    )


register(
    Claim(
        id="depth.hops.reach",
        title="L layers of hard heads follow 2^L - 1 associations in a row",
        paper=PAPER,
        place="depth logarithmic in the number of hops; this construction is derived here",
        statement=r"h(L) = 2 h(L-1) + 1 = 2^L - 1",
        hypotheses=(
            "Every token holds one association of a permutation; the heads are argmaxes.",
            "All tokens read in all layers, each at the symbol that it points to.",
        ),
        finding="confirmed",
        found="1, 3, 7, 15 and 31 associations with 1 to 5 layers of softmax attention, exactly. "
        "If the query alone reads, L layers follow L.",
        mechanisms=("softmax",),
        measure=measure_reach,
        mutants={
            "a layer for every association": {"hops": lambda layers: reachable_hops(layers, False)},
            "2^L": {"hops": lambda layers: 2**layers},
            "pairs that do not read": {"doubling": False},
        },
    )
)
register(
    Claim(
        id="depth.hops.learned",
        title="One layer does not learn to follow two associations; two layers learn three",
        paper=PAPER,
        place="the need for depth; the small task is ours",
        statement=r"L = 1:\ h = 1;\quad L = 2:\ h \leq 3 = 2^2 - 1",
        hypotheses=(
            "A cycle of six symbols, drawn anew for every example; one token an association.",
            "Attention layers with one head of width 48 and nothing else, 1500 steps of Adam.",
        ),
        finding="confirmed",
        found="Trained from scratch, one layer answers one step and is right a third of the time "
        "at two, where chance is a quarter. Two layers answer two steps and three. Each is the "
        "better of two starts: the shallow failure is one of training, no proof that weights lack.",
        mechanisms=("softmax",),
        measure=measure_learned,
        mutants={
            "one layer is enough": {"deep": 1},
            "two layers are not": {"shallow": 2},
        },
        slow=True,
    )
)
