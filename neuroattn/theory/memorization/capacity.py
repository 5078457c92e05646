"""Rank of the stacked weights, and what a linear read-out of them memorises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch

from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = "Mahdavi, Liao and Thrampoulidis (2024), Memorization capacity of multi-head attention"
#: Heads, tokens and head dimension.
SHAPES = ((1, 8, 16), (2, 8, 16), (4, 8, 16), (8, 4, 16))
Law = Callable[[int, int], int]


def memory_capacity(heads: int, tokens: int, normalized: bool = True) -> int:
    """Return how many labels heads that share a context can memorise, by a linear read-out.

    Parameters
    ----------
    heads : int
        Number of heads, at least 1.
    tokens : int
        Number of tokens in the context, at least 1.
    normalized : bool
        Whether each head's weights sum to one.

    Returns
    -------
    int
        heads (tokens - 1) + 1 if they do, heads · tokens if they need not.

    Raises
    ------
    InputError
        If a number is below 1.

    References
    ----------
    Mahdavi, Liao and Thrampoulidis (2024), arXiv 2306.02010, theorem on memorisation; that no more
    is possible is derived here.
    """
    check_whole("heads", heads, 1)
    check_whole("tokens", tokens, 1)
    return heads * (tokens - 1) + 1 if normalized else heads * tokens


def published_capacity(heads: int, tokens: int, head_dim: int) -> int:
    """Return the published number of examples, with the minimum of tokens and head dimension.

    Parameters
    ----------
    heads, tokens, head_dim : int
        Each at least 1.

    Returns
    -------
    int
        heads (min(tokens, head_dim) - 1) + 1.

    Raises
    ------
    InputError
        If a number is below 1.

    References
    ----------
    Mahdavi, Liao and Thrampoulidis (2024), arXiv 2306.02010.
    """
    check_whole("head_dim", head_dim, 1)
    return memory_capacity(heads, min(tokens, head_dim))


def stacked(
    lab: Lab, shape: tuple[int, int, int], examples: int, mechanism: str = "softmax"
) -> Array:
    """Return the heads' weights side by side, (examples, heads · tokens), for one context."""
    heads, tokens, dim = shape
    query = lab.normal((1, heads, examples, dim), "query", shape, examples)
    key = lab.normal((1, heads, tokens, dim), "key", shape)
    # Logits of variance 4: weights far from uniform, so that the rank is plain.
    sharp: dict[str, Any] = {"scale": 2 / dim**0.5} if mechanism in SHARPENED else {}
    found = lab.weights(mechanism, query, key, **sharp, **PLAIN.get(mechanism, {}))
    return np.asarray(found[0].transpose(0, 1).reshape(examples, heads * tokens))


#: Mechanisms whose weights may sum to anything, or must sum to one, with what makes them so.
PLAIN: dict[str, dict[str, Any]] = {
    "relu_attention": {"normalize": "none"},
    "sigmoid_attention": {"bias": 0.0},
}
SHARPENED = ("softmax", "relu_attention", "sigmoid_attention", "softmax_one")


def rank(lab: Lab, matrix: Array) -> int:
    """Return the rank: the number of singular values above the rounding of the entries."""
    values = np.linalg.svd(matrix, compute_uv=False)
    unit = lab.rounding(1.0)
    return int((values > values[0] * unit * 8 * max(matrix.shape)).sum())


def measure_rank(lab: Lab, law: Law = memory_capacity) -> Iterator[Comparison]:
    """Count the rank of the stacked weights of softmax for four shapes and more heads."""
    found = [rank(lab, lab.once(stacked, shape, 2 * shape[0] * shape[1])) for shape in SHAPES]
    yield lab.exact("rank of the stacked weights", found, [law(h, n) for h, n, _ in SHAPES])
    heads = (1, 2, 3, 4, 6)
    yield lab.near(
        "rank of the stacked weights, 5 tokens",
        [rank(lab, lab.once(stacked, (h, 5, 8), 40)) for h in heads],
        [law(h, 5) for h in heads],
        tolerance=0.0,
        expected=0.0,
        reason="whole numbers",
        axes={"heads": heads},
    )


def residuals(lab: Lab, shape: tuple[int, int, int], extra: int) -> Array:
    """Return (labels,) shares of random labels that are left, ``extra`` examples past the bound."""
    examples = memory_capacity(shape[0], shape[1]) + extra
    weights = stacked(lab, shape, examples)
    labels = lab.rng("labels", shape, extra).standard_normal((examples, 400))
    # What is below rounding in the weights is not theirs.
    cut = lab.rounding(1.0) * 8 * max(weights.shape)
    solution = np.linalg.lstsq(weights, labels, rcond=cut)[0]
    left = np.square(weights @ solution - labels).sum(0)
    return np.asarray(left / np.square(labels).sum(0))


def measure_fit(lab: Lab, surplus: int = 0, shift: int = 0) -> Iterator[Comparison]:
    """Fit random labels at the bound, and of more examples than it."""
    shapes = ((2, 8, 16), (4, 8, 16), (8, 4, 16), (8, 5, 32))
    yield lab.at_most(
        "relative residual at H(n-1)+1 examples, the largest of 400 labellings",
        [lab.once(residuals, shape, surplus).max() ** 0.5 for shape in shapes],
        0.0,
        slack=1e-8,
        reason="solved in float64, whatever the weights are held in",
    )
    extra = (1, 2, 4, 8, 16)
    for shape in shapes[1:3]:
        bound = memory_capacity(shape[0], shape[1])
        yield lab.mean(
            f"share of the labels' variance that is left, H = {shape[0]}, n = {shape[1]}",
            np.stack([lab.once(residuals, shape, each) for each in extra], -1),
            [(each + shift) / (bound + each) for each in extra],
            axes={"examples beyond H(n-1)+1": extra},
        )


def measure_width(
    lab: Lab, law: Callable[[int, int, int], int] = lambda h, n, d: memory_capacity(h, n)
) -> Iterator[Comparison]:
    """Count the rank for heads narrower than the context."""
    widths = (2, 3, 4, 6, 8, 16)
    yield lab.near(
        "rank of the stacked weights, 4 heads, 8 tokens",
        [rank(lab, lab.once(stacked, (4, 8, width), 64)) for width in widths],
        [law(4, 8, width) for width in widths],
        tolerance=0.0,
        expected=0.0,
        reason="whole numbers",
        axes={"head dimension": widths},
    )


def outputs(lab: Lab, shared: bool, examples: int, tokens: int) -> tuple[Array, Array]:
    """Return (examples, 3 tokens) weights and (examples, 3 · 4) reads of three heads."""
    heads, dim = 3, 4
    batch, queries = (1, examples) if shared else (examples, 1)
    query = lab.normal((batch, heads, queries, dim), "query", examples, tokens)
    context = lab.normal((batch, 1, tokens, dim), "context", examples, tokens)
    mix = lab.normal((heads, dim, dim), "mix") / dim**0.5
    key = lab.rounded(context @ mix)
    value = context.expand(-1, heads, -1, -1).contiguous()
    weights = lab.weights("softmax", query, key, scale=1.0)
    read = lab.attend("softmax", query, key, value, scale=1.0)

    def rows(each: torch.Tensor) -> Array:
        return np.asarray(each.transpose(1, 2).reshape(examples, -1))

    return rows(weights), rows(read)


def measure_contexts(
    lab: Lab,
    shared: bool = False,
    law: Callable[[int, int, int], int] = lambda h, n, d: h * d,
) -> Iterator[Comparison]:
    """Count the ranks with a context for each example, longer and shorter than the dimension."""
    numbers = (4, 8, 12, 16, 32)
    for tokens in (3, 8):
        found = [lab.once(outputs, shared, number, tokens) for number in numbers]
        laws = {"weights": memory_capacity(3, tokens), "outputs": law(3, tokens, 4)}
        for place, (name, bound) in enumerate(laws.items()):
            yield lab.near(
                f"rank of the {name}, a context for each example, H = 3, d = 4, n = {tokens}",
                [rank(lab, each[place]) for each in found],
                [min(number, bound) for number in numbers],
                tolerance=0.0,
                expected=0.0,
                reason="whole numbers",
                axes={"examples": numbers},
            )


NORMALIZED = {
    "softmax": True,
    "efficient": True,
    "softmax_one": False,
    "relu_attention": False,
    "sigmoid_attention": False,
}


def measure_normalizer(
    lab: Lab, normalized: Callable[[str], bool] = lambda name: NORMALIZED[name]
) -> Iterator[Comparison]:
    """Count the rank for mechanisms whose weights sum to one and for others."""
    heads, tokens, dim = 3, 5, 8
    for name in NORMALIZED:
        yield lab.exact(
            f"rank of the stacked weights of {name}, H = 3, n = 5",
            rank(lab, lab.once(stacked, (heads, tokens, dim), 60, name)),
            memory_capacity(heads, tokens, normalized(name)),
        )


def prove_bound(proof: Proof) -> None:
    """Show that stacked weights whose rows sum to one lose a direction for each further head."""
    examples, tokens = 5, 2
    one = sympy.Matrix(examples, tokens, sympy.symbols(f"a:{examples * tokens}"))
    other = sympy.Matrix(examples, tokens, sympy.symbols(f"b:{examples * tokens}"))
    for each in (one, other):
        each[:, tokens - 1] = sympy.ones(examples, 1) - sum(
            (each[:, k] for k in range(tokens - 1)), sympy.zeros(examples, 1)
        )
    both = one.row_join(other)
    proof.say("Weights of two heads over two tokens, five examples, rows that sum to one", both)
    null = sympy.Matrix([1] * tokens + [-1] * tokens)
    proof.equal(
        "The sum of one head's columns less that of the other's vanishes for any weights",
        both * null,
        sympy.zeros(examples, 1),
    )
    for heads in (2, 3, 4):
        blocks = [
            [(k == 0) - (k == h) for k in range(heads) for _ in range(tokens)]
            for h in range(1, heads)
        ]
        relations = sympy.Matrix(blocks)
        proof.equal(
            f"{heads} heads have such a relation for each head after the first; their rank is",
            relations.rank(),
            heads - 1,
        )
        proof.equal(
            f"so that of {heads * tokens} columns at most H(n-1)+1 are independent",
            heads * tokens - relations.rank(),
            heads * (tokens - 1) + 1,
        )
    minor = both.extract([0, 1, 2], [0, 1, 2]).det()
    values = dict(zip(sorted(minor.free_symbols, key=str), (1, 0, 2, 3, 5, 7), strict=False))
    proof.true(
        "A minor of that size for two heads, 3, is not identically 0: almost all weights attain "
        "the bound if they are free but for their sums; that softmax's are is measured",
        bool(sympy.expand(minor).subs(values) != 0),
        sympy.factor(minor),
    )


SHARED = (
    "All examples share one context of n tokens; their queries differ.",
    "Queries and keys are generic: drawn from a density.",
)

register(
    Claim(
        id="memorization.rank.weights",
        title="The stacked weights of H heads over n tokens have rank H(n-1)+1",
        paper=PAPER,
        place="theorem on memorisation; the upper bound is derived here",
        statement=r"\mathrm{rank}[\alpha^{(1)},\ldots,\alpha^{(H)}]=H(n-1)+1",
        hypotheses=(*SHARED, "There are at least H(n-1)+1 examples."),
        finding="sharpened",
        found=(
            "8, 15, 29 and 25 for (H, n) = (1, 8), (2, 8), (4, 8) and (8, 4). The published number "
            "is also the most that is possible, because rows that sum to one share a direction."
        ),
        mechanisms=("softmax",),
        prove=prove_bound,
        measure=measure_rank,
        mutants={
            "all Hn columns": {"law": lambda h, n: h * n},
            "without the shared direction": {"law": lambda h, n: h * (n - 1)},
        },
    )
)
register(
    Claim(
        id="memorization.fit.bound",
        title="Any labels of H(n-1)+1 examples are fitted exactly, and not those of one more",
        paper=PAPER,
        place="theorem on memorisation; that it is tight is derived here",
        statement=r"E\frac{\min_w\|Zw-y\|^2}{\|y\|^2}=\frac{\max(0,\,T-T^*)}{T},\quad T^*=H(n-1)+1",
        hypotheses=(*SHARED, "Labels are scalars, read out linearly."),
        finding="sharpened",
        found=(
            "At the bound the residual is 1e-14. Beyond it a share (T - T*)/T of the variance of "
            "random labels is left: the first further example costs 1/T, a residual of .18 for 30."
        ),
        mechanisms=("softmax",),
        measure=measure_fit,
        mutants={
            "one example more fits too": {"surplus": 1},
            "one example more than the bound is free": {"shift": -1},
        },
    )
)
register(
    Claim(
        id="memorization.rank.head-dimension",
        title="Heads narrower than the context reach the same rank",
        paper=PAPER,
        place="r = min(n, d_h) in the theorem",
        statement=r"\mathrm{rank}=H(n-1)+1\quad\mathrm{for}\ d_h<n\ \mathrm{too}",
        hypotheses=SHARED,
        finding="sharpened",
        found=(
            "The theorem's number, with its minimum with d_h, is sufficient and not necessary: it "
            "says 5 for 4 heads of dimension 2 over 8 tokens, where generic inputs have rank 29."
        ),
        mechanisms=("softmax",),
        measure=measure_width,
        mutants={"the minimum with the head dimension": {"law": published_capacity}},
    )
)
register(
    Claim(
        id="memorization.contexts.per-example",
        title="With a context for each example the read-out is bounded by Hd",
        paper=PAPER,
        place="contexts of each example; derived here",
        statement=r"\mathrm{rank}\,[\hat y^{(1)},\ldots,\hat y^{(H)}]=\min(T,Hd)",
        hypotheses=(
            "Each example has its own context; the values are the tokens, the read-out is linear.",
            "Queries, contexts and the heads' maps are generic.",
        ),
        finding="sharpened",
        found=(
            "The weights keep rank H(n-1)+1, but a read-out sees the outputs only, and those have "
            "rank min(T, Hd): for 3 heads of 4 dimensions 12, where the weights of 8 tokens have "
            "rank 22 and those of 3 tokens 7. With short contexts it is more than a shared context "
            "allows."
        ),
        mechanisms=("softmax",),
        measure=measure_contexts,
        mutants={
            "the bound of a shared context": {"law": lambda h, n, d: memory_capacity(h, n)},
            "one head's outputs": {"law": lambda h, n, d: d},
            "one context for all": {"shared": True},
        },
    )
)
register(
    Claim(
        id="memorization.rank.normaliser",
        title="Weights that need not sum to one gain H - 1 dimensions",
        paper=PAPER,
        place="upper bound by row sums; derived here",
        statement=r"\mathrm{rank}=Hn\ \mathrm{unless}\ \sum_j\alpha_{ij}=1",
        hypotheses=(
            *SHARED,
            "There are at least Hn examples.",
            "A head's unnormalised weights alone have rank n: a kernel of r features allows r.",
        ),
        finding="sharpened",
        found=(
            "Relu and sigmoid attention without a normaliser, and softmax with 1 in its "
            "denominator, reach Hn = 15 where softmax has 13."
        ),
        mechanisms=tuple(NORMALIZED),
        measure=measure_normalizer,
        mutants={
            "all as softmax": {"normalized": lambda name: True},
            "softmax as the others": {"normalized": lambda name: False},
        },
    )
)
