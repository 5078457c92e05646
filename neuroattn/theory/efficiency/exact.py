"""Reads that are softmax attention in another order, and by how much the others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

TOKENS, DIM = 24, 6
Array = np.ndarray[Any, np.dtype[np.float64]]


def window_counts(tokens: int, window: int, causal: bool = False) -> Array:
    """Return how many keys each query of neighborhood attention sees.

    Parameters
    ----------
    tokens, window : int
        At least 1; the window at most ``tokens``.
    causal : bool
        Whether a query sees nothing after itself.

    Returns
    -------
    array
        (tokens,): the window everywhere, for windows are moved in at the edges, not cut; 1, 2, ...
        up to the window in a causal read.

    Raises
    ------
    InputError
        If a size is below 1, or the window larger than the sequence.

    References
    ----------
    Hassani et al. (2023), arXiv 2204.07143.
    """
    check_whole("window", window, 1, check_whole("tokens", tokens, 1))
    rows = np.arange(1.0, tokens + 1)
    return np.minimum(rows, window) if causal else np.full(tokens, float(window))


def drawn(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and the values 1."""
    query, key = (lab.normal((1, 1, TOKENS, DIM), name) for name in ("query", "key"))
    return query, key, torch.eye(TOKENS, dtype=torch.float64)[None, None]


def measure_window(
    lab: Lab, formula: Callable[[int, int, bool], Array] = window_counts
) -> Iterator[Comparison]:
    """Count the weights that are not zero, row by row."""
    given = drawn(lab)
    for window in (3, 8):
        for causal in (False, True):
            found = lab.attend("neighborhood", *given, window=window, causal=causal)[0, 0]
            said = "causal" if causal else "both sides"
            yield lab.near(
                f"keys that a query sees, window {window}, {said}",
                (found > 0).sum(-1),
                formula(TOKENS, window, causal),
                tolerance=0.0,
                expected=0.0,
                reason="whole numbers",
                axes={"row": np.arange(1, TOKENS + 1)},
            )
    whole = lab.attend("neighborhood", *given, window=TOKENS)
    yield lab.equal("a window of all tokens is softmax", whole, lab.attend("softmax", *given))


def chunked(lab: Lab, offset: float, chunk: int) -> Tensor:
    """Return the weights of memory-efficient attention, with an offset on all logits."""
    query, key, eye = lab.once(drawn)
    # One more channel adds the same to all logits of a query.
    query, key = (torch.cat([each, torch.ones_like(each[..., :1])], -1) for each in (query, key))
    query[..., -1] = offset
    given = {"chunk_size": chunk, "query_chunk_size": chunk, "scale": 1.0}
    return lab.attend("memory_efficient", query, key, eye, **given)[0, 0]


def merged(logits: Tensor, chunk: int) -> Tensor:
    """Return weights merged from blocks by their log-sum-exp."""
    parts = logits.split(chunk, dim=-1)
    sums = torch.stack([part.logsumexp(-1) for part in parts], -1)
    shares = sums.softmax(-1)
    return torch.cat([p.softmax(-1) * shares[..., n : n + 1] for n, p in enumerate(parts)], -1)


def averaged(logits: Tensor, chunk: int) -> Tensor:
    """Return weights whose blocks count by their sizes: the mistake."""
    parts = logits.split(chunk, dim=-1)
    return torch.cat([p.softmax(-1) * p.shape[-1] / logits.shape[-1] for p in parts], -1)


def overflowed(logits: Tensor, chunk: int) -> Tensor:
    """Return weights of blocks whose numbers stop at the largest float, as without a maximum."""
    raised = logits.exp().clamp(max=torch.finfo(torch.float32).max)
    return raised / raised.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def measure_chunks(
    lab: Lab, merge: Callable[[Tensor, int], Tensor] = merged
) -> Iterator[Comparison]:
    """Merge blocks of any size, at logits near 0 and near 1000."""
    query, key, _ = lab.once(drawn)
    logits = (query @ key.mT)[0, 0]
    chunks = (1, 2, 5, 8, 24)
    for offset in (0.0, 1000.0, -1000.0):
        first = [lab.once(chunked, offset, chunk)[0] for chunk in chunks]
        wanted = [merge(logits + offset, chunk)[0] for chunk in chunks]
        yield lab.equal(
            f"largest weight of the first query, logits about {offset:g}",
            torch.stack(first).amax(-1),
            torch.stack(wanted).amax(-1),
            growth=64 + 4 * abs(offset),
            scale=1.0,
            reason="logits of a thousand have a thousandth of their digits left",
            axes={"keys a block": chunks},
        )
        yield lab.equal(
            f"all weights, blocks of 5, logits about {offset:g}",
            lab.once(chunked, offset, 5),
            merge(logits + offset, 5),
            growth=64 + 4 * abs(offset),
            scale=1.0,
            reason="as above",
        )


def prove_chunks(proof: Proof) -> None:
    """Merge two blocks with their maxima."""
    x, y, z, m, n, k = sympy.symbols("x y z m n k", real=True)
    first = sympy.exp(x - m) + sympy.exp(y - m)
    second = sympy.exp(z - n)
    total = sympy.exp(m - k) * first + sympy.exp(n - k) * second
    whole = sympy.exp(x) + sympy.exp(y) + sympy.exp(z)
    proof.say("Sums of two blocks below their maxima m and n, brought to a common k", total)
    proof.equal(
        "A key's weight is softmax's, whatever m, n and k",
        sympy.exp(m - k) * sympy.exp(x - m) / total,
        sympy.exp(x) / whole,
    )
    share = 1 / (1 + sympy.exp(z) / (sympy.exp(x) + sympy.exp(y)))
    proof.equal(
        "Blocks share by a softmax of their log-sum-exps",
        share * sympy.exp(x) / (sympy.exp(x) + sympy.exp(y)),
        sympy.exp(x) / whole,
    )


def blocks_of(lab: Lab, block: int, landmarks: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return landmark attention's weights, softmax's, and which pairs share a block."""
    query, key, eye = lab.once(drawn)
    given = {"block_size": block, "landmarks": landmarks, "scale": 1.0}
    found = lab.attend("landmark", query, key, eye, **given)[0, 0]
    place = torch.arange(TOKENS) // block
    own = place[:, None] == place
    return found, lab.attend("softmax", query, key, eye, scale=1.0)[0, 0], own


def measure_landmarks(
    lab: Lab, landmarks: str = "log-sum-exp", factor: Callable[[int], float] = lambda n: 1 / n
) -> Iterator[Comparison]:
    """Compare landmarks with softmax, and the odds of far blocks under mean landmarks."""
    sizes = (1, 2, 3, 4, 6, 8, 12)
    odds, bound = [], []
    query, key, _ = lab.once(drawn)
    logits = (query @ key.mT)[0, 0]
    for size in sizes:
        found, convex, _ = lab.once(blocks_of, size, landmarks)
        yield lab.equal(f"{landmarks} landmarks beside softmax, blocks of {size}", found, convex)
        mean, _, own = lab.once(blocks_of, size, "mean")
        # Within the own block nothing changes but the normaliser: odds against it compare.
        ratio = mean / convex / (mean / convex)[own].reshape(TOKENS, size)[:, :1]
        parts = logits.reshape(TOKENS, -1, size)
        wanted = (parts.mean(-1) - parts.logsumexp(-1)).exp().repeat_interleave(size, 1)
        yield lab.equal(
            f"odds of far keys under mean landmarks, blocks of {size}",
            ratio[~own],
            wanted[~own],
            growth=1024,
            reason="a quotient of four weights, small ones among them",
        )
        odds.append(float(ratio[~own].max()))
        bound.append(factor(size))
    yield lab.at_most(
        "largest odds of far keys under mean landmarks, beside softmax",
        odds,
        bound,
        slack=lab.rounding(1024),
        axes={"tokens a block": sizes},
    )


def prove_landmarks(proof: Proof) -> None:
    """Take one far block of two keys."""
    own, x, y = sympy.symbols("o x y", real=True)
    block = sympy.exp(x) + sympy.exp(y)
    landmark = sympy.log(block)
    weight = sympy.exp(landmark) / (sympy.exp(own) + sympy.exp(landmark)) * sympy.exp(x) / block
    proof.equal(
        "A landmark of log(e^x + e^y) gives each key its softmax weight",
        weight,
        sympy.exp(x) / (sympy.exp(own) + block),
    )
    half = (x - y) / 2
    proof.equal(
        "A mean landmark's odds are e^mean over the sum: 1/(2 cosh of half the difference)",
        sympy.exp((x + y) / 2) / block,
        1 / (sympy.exp(half) + sympy.exp(-half)),
    )
    proof.say("which is at most 1/2, at equal logits", sympy.Rational(1, 2))


register(
    Claim(
        id="efficiency.neighborhood.counts",
        title="Every query of neighborhood attention sees as many keys, edges included",
        paper="Hassani et al. (2023), Neighborhood attention transformer",
        place="definition of the neighbourhood at the edges",
        statement=r"|N(i)| = w; \quad |N(i)| = \min(i, w)\ \mathrm{(causal)}; \quad"
        r" w = n:\ \mathrm{softmax}",
        hypotheses=("One axis, no dilation, a window of at most the sequence.",),
        finding="confirmed",
        found="Counted on the weights of every backend, with even windows too.",
        mechanisms=("neighborhood", "softmax"),
        measure=measure_window,
        mutants={
            "windows that are cut at the edges": {
                "formula": lambda n, w, causal: (
                    window_counts(n, w, True)
                    if causal
                    else np.array(
                        [min(i + (w - 1) // 2, n - 1) - max(i - w // 2, 0) + 1.0 for i in range(n)]
                    )
                )
            },
            "a causal window that is moved in": {
                "formula": lambda n, w, causal: window_counts(n, w)
            },
        },
    )
)
register(
    Claim(
        id="efficiency.memory-efficient.merge",
        title="Blocks merged by their log-sum-exp are softmax attention, at any offset",
        paper="Rabe & Staats (2021), Self-attention does not need O(n^2) memory",
        place="section 2, the running maximum",
        statement=r"\mathrm{softmax}(x) = \mathrm{softmax}_c(\mathrm{LSE}_c)\,"
        r"\mathrm{softmax}(x_c), \quad x \to x \pm 1000",
        hypotheses=("Blocks of any size cover the keys once.",),
        finding="confirmed",
        found="Blocks of 1 to 24 of 24 keys agree at logits of 0, 1000 and -1000; only the digits "
        "that a logit of a thousand has left limit it.",
        mechanisms=("memory_efficient",),
        prove=prove_chunks,
        measure=measure_chunks,
        mutants={
            "blocks that count by their sizes": {"merge": averaged},
            "no running maximum, in float32": {"merge": overflowed},
        },
    )
)
register(
    Claim(
        id="efficiency.landmark.log-sum-exp",
        title="Landmarks are exact at their block's log-sum-exp; a mean key starves far blocks",
        paper="Mohtashami & Jaggi (2023), Landmark attention",
        place="grouped softmax; the odds of mean landmarks are derived here",
        statement=r"g_{iC} = \mathrm{LSE}_{j \in C}\,s_{ij}:\ p = \mathrm{softmax}; \quad"
        r" g = \bar s:\ \mathrm{odds}\ e^{\bar s - \mathrm{LSE}} \leq \frac{1}{|C|}",
        hypotheses=("Every landmark is opened.", "Odds are against the query's own block."),
        finding="sharpened",
        found="With a landmark that is its block's mean key, far keys keep at most 1/|C| of the "
        "odds that softmax gives them, by Jensen's inequality: a learned landmark has to exceed "
        "the mean by at least log |C|.",
        mechanisms=("landmark", "softmax"),
        prove=prove_landmarks,
        measure=measure_landmarks,
        mutants={
            "mean landmarks taken for exact": {"landmarks": "mean"},
            "odds of 1/|C|^2": {"factor": lambda n: 1 / n**2},
        },
    )
)
