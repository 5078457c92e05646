"""Errors through depth: layers, heads and width of associative memories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.delta import PAPER, check_counts, plain
from neuroattn.theory.proof import Proof

HYPOTHESES = (
    "Every layer and head has its own codes of the N items, independent and uniform on the unit "
    "sphere.",
    "A layer writes every item's code with the item's codes of the next layer as its value, reads "
    "linearly, and averages its heads.",
)

#: (pairs, dim, heads, layers) to an error.
Law = Callable[[int, int, int, int], float]


def depth_error(pairs: int, dim: int, heads: int = 1, layers: int = 1) -> float:
    """Return the expected squared error of an item that is passed on through layers.

    Parameters
    ----------
    pairs : int
        Number of associations in every layer, at least 1.
    dim : int
        Dimension of the keys of a head, at least 1.
    heads : int
        Heads whose reads are averaged, at least 1.
    layers : int
        Number of layers, at least 1.

    Returns
    -------
    float
        E|a - e|^2, where a holds how much of every item is read in the end, and e is 1 at the item
        that was asked for.

    Raises
    ------
    InputError
        If one of them is no whole number of at least 1.

    References
    ----------
    Derived here, for the error propagation of Qiao (2025), arXiv 2508.08289.
    """
    check_counts(pairs=pairs, dim=dim, heads=heads, layers=layers)
    return float(np.expm1(layers * np.log1p((pairs - 1) / (heads * dim))))


def _fresh_noise(pairs: int, dim: int, heads: int, layers: int) -> float:
    """Return what follows if crosstalk were fresh isotropic noise, of gain N/d a layer."""
    width, error = heads * dim, 0.0
    for _ in range(layers):
        error = (pairs - 1) / width + pairs / width * error
    return error


def _codes(lab: Lab, shape: tuple[int, int, int, int], shared: bool, *tags: object) -> Tensor:
    draws, heads, pairs, dim = shape
    drawn = lab.keys("sphere", (draws, 1 if shared else heads, pairs, dim), "codes", *tags)
    return drawn.expand(draws, heads, pairs, dim)


def passed_on(
    lab: Lab, draws: int, size: tuple[int, int, int, int], shared: bool, noise: bool = False
) -> Array:
    """Pass all items, or noise beside them, through layers of linear attention.

    Parameters
    ----------
    lab : Lab
        Where the mechanism runs.
    draws : int
        Independent networks.
    size : (pairs, dim, heads, layers)
        Of each network.
    shared : bool
        Whether the heads of a layer share one code.
    noise : bool
        Ask for isotropic noise of squared length 1 instead of for the items.

    Returns
    -------
    array
        (draws, layers): mean squared error after every layer, or squared length of what is left
        of the noise.
    """
    pairs, dim, heads, layers = size
    code = _codes(lab, (draws, heads, pairs, dim), shared, size, 0)
    query = lab.keys("sphere", (draws, heads, pairs, dim), "noise", size) if noise else code
    eye = torch.eye(pairs, dtype=torch.float64).expand(draws, heads, pairs, pairs)
    found: list[Array] = []
    for layer in range(1, layers + 1):
        after = _codes(lab, (draws, heads, pairs, dim), shared, size, layer)
        # Value of an item: which one it is, and its codes for all heads of the next layer.
        wide = after.transpose(1, 2).reshape(draws, 1, pairs, heads * dim)
        value = torch.cat([eye, wide.expand(-1, heads, -1, -1)], dim=-1)
        read = lab.attend("linear", query, code, value, scale=1.0, **plain("linear")).mean(1)
        items, codes = read[..., :pairs], read[..., pairs:]
        error = codes if noise else items - eye[:, 0]
        found.append(error.square().sum(-1).mean(-1).numpy())
        query = lab.rounded(codes).unflatten(-1, (heads, dim)).transpose(1, 2)
        code = after
    return np.stack(found, axis=1)


def measure_law(lab: Lab, formula: Law = depth_error, shared: bool = False) -> Iterator[Comparison]:
    """Follow the error through six layers, for one head and for four."""
    layers = tuple(range(1, 7))
    for pairs, dim, heads, draws in ((12, 16, 1, 800), (12, 16, 4, 200), (24, 32, 4, 80)):
        size = (pairs, dim, heads, len(layers))
        yield lab.mean(
            f"squared error, {pairs} items, {heads} heads of {dim} dimensions",
            lab.once(passed_on, draws, size, shared),
            [formula(pairs, dim, heads, layer) for layer in layers],
            axes={"layers": layers},
        )


def prove_law(proof: Proof) -> None:
    """Derive the factor of one layer from the second moment of an overlap."""
    n, width, layers = sympy.symbols("N D L", positive=True, integer=True)
    x, h, d = sympy.symbols("x H d", positive=True)
    proof.say("A layer maps the items' shares a to M a; M is 1 on its diagonal. Off it, the mean")
    proof.say("of H independent cosines, each of variance 1/d, has the variance", 1 / (h * d))
    shares = sympy.Matrix(sympy.symbols("a1:4", real=True))
    c12, c13, c23 = sympy.symbols("c12 c13 c23", real=True)
    layer = sympy.Matrix([[1, c12, c13], [c12, 1, c23], [c13, c23, 1]])
    squared = sympy.expand(((layer * shares).T * (layer * shares))[0])
    zero = dict.fromkeys((c12, c13, c23), 0)
    cosines = (c12, c13, c23)
    mean = squared.subs(zero) + sum(squared.coeff(c, 2).subs(zero) * x for c in cosines)
    proof.equal(
        "Cosines of mean 0, uncorrelated: with three items E|M a|^2 is |a|^2 (1 + 2/(H d))",
        mean.subs(x, 1 / (h * d)),
        (shares.T * shares)[0] * (1 + 2 / (h * d)),
    )
    error = (1 + (n - 1) / width) ** layers - 1
    proof.say("E a is e, and |e| = 1: so with D = H d, E|a - e|^2 after L layers is", error)
    proof.equal(
        "One layer more multiplies 1 + error by the same factor",
        error.subs(layers, layers + 1) + 1,
        (error + 1) * (1 + (n - 1) / width),
    )
    proof.equal("To first order in 1/D it is L (N-1)/D", _slope(error, width), layers * (n - 1))


def _slope(error: Any, width: Any) -> Any:
    small = sympy.symbols("epsilon", positive=True)
    return sympy.diff(error.subs(width, 1 / small), small).subs(small, 0)


register(
    Claim(
        id="pavlovian.depth.law",
        title="Through depth the error of crosstalk compounds: (1 + (N-1)/(Hd))^L - 1",
        paper=PAPER,
        place="error propagation through depth, width and heads; the law is derived here",
        statement=r"E\|a_L-e\|^2 = \left(1+\frac{N-1}{Hd}\right)^L-1 \leq e^{L(N-1)/(Hd)}-1",
        hypotheses=HYPOTHESES,
        finding="sharpened",
        found="Reliable depth needs L (N-1) well below H d: one layer gains exactly 1/H from its "
        "heads, and depth stands in the exponent. The natural argument, fresh noise in every layer "
        "and a gain N/d on what came in, is wrong: it predicts a plateau where the error grows "
        "geometrically (0.31 against 11.5 after 12 layers, 16 items in 64 dimensions), because "
        "crosstalk is made of stored codes and is therefore recalled, at gain 1.",
        mechanisms=("linear",),
        prove=prove_law,
        measure=measure_law,
        half=True,
        mutants={
            "crosstalk as fresh isotropic noise": {"formula": _fresh_noise},
            "errors of layers add up": {
                "formula": lambda n, d, h, layers: layers * (n - 1) / (h * d)
            },
            "the bound for the law": {
                "formula": lambda n, d, h, layers: np.expm1(layers * (n - 1) / (h * d))
            },
            "heads that share one code": {"shared": True},
            "heads that gain nothing": {
                "formula": lambda n, d, h, layers: depth_error(n, d, 1, layers)
            },
        },
    )
)


def measure_product(
    lab: Lab, formula: Law = depth_error, shared: bool = False
) -> Iterator[Comparison]:
    """Hold heads times width, and vary how it is split."""
    pairs, layers, heads = 10, 3, (1, 2, 4, 8)
    for width in (32, 64):
        errors = [
            lab.once(passed_on, 200, (pairs, width // each, each, layers), shared)[:, -1]
            for each in heads
        ]
        yield lab.mean(
            f"squared error after {layers} layers, heads times dim {width}",
            np.stack(errors, axis=1),
            [formula(pairs, width // each, each, layers) for each in heads],
            axes={"heads": heads},
        )


register(
    Claim(
        id="pavlovian.depth.product",
        title="Heads and width are interchangeable: only their product Hd matters",
        paper=PAPER,
        place="the trade of depth, width and heads; derived here",
        statement=r"E\|a_L-e\|^2 = f(N,\,Hd,\,L)",
        hypotheses=HYPOTHESES,
        finding="sharpened",
        found="Eight heads of 4 dimensions err as much as one of 32, in the mean square: "
        "redundancy of heads buys what width buys, no more. It buys nothing where the heads share "
        "their codes.",
        mechanisms=("linear",),
        measure=measure_product,
        half=True,
        mutants={
            "heads count with their square root": {
                "formula": lambda n, d, h, layers: (1 + (n - 1) / (d * h**0.5)) ** layers - 1
            },
            "width counts, heads do not": {
                "formula": lambda n, d, h, layers: depth_error(n, d, 1, layers)
            },
            "heads that share one code": {"shared": True},
        },
    )
)


def noise_gain(pairs: int, dim: int, layers: int) -> float:
    """Return what layers leave of the squared length of isotropic noise in the first query."""
    return pairs / dim * (1 + (pairs - 1) / dim) ** (layers - 1)


def measure_noise(
    lab: Lab, formula: Callable[[int, int, int], float] = noise_gain
) -> Iterator[Comparison]:
    """Ask for isotropic noise, and follow what is passed on of it."""
    numbers, dim = (2, 4, 8, 16, 24, 32), 16
    gains = [lab.once(passed_on, 1000, (n, dim, 1, 1), False, True)[:, 0] for n in numbers]
    yield lab.mean(
        f"gain of one layer, {dim} dimensions",
        np.stack(gains, axis=1),
        [formula(number, dim, 1) for number in numbers],
        axes={"associations": numbers},
    )
    layers = (1, 2, 3, 4, 5, 6)
    yield lab.mean(
        "gain of all layers so far, 8 associations in 16 dimensions",
        lab.once(passed_on, 2000, (8, dim, 1, len(layers)), False, True),
        [formula(8, dim, layer) for layer in layers],
        axes={"layers": layers},
    )


register(
    Claim(
        id="pavlovian.depth.noise",
        title="A layer damps noise from outside by N/d, once: what passes is then recalled",
        paper=PAPER,
        place="error propagation; derived here",
        statement=r"\frac{E\|x_L\|^2}{E\|x_0\|^2} = \frac{N}{d}\left(1+\frac{N-1}{d}\right)^{L-1}",
        hypotheses=(
            *HYPOTHESES,
            "The noise is isotropic, independent of all codes, and enters the first layer's query.",
        ),
        finding="sharpened",
        found="Noise that is not made of stored codes is damped if and only if N is below d, "
        "because only its projection on the codes is read. But one layer later it is made of "
        "stored codes, and grows as crosstalk does: no number of layers takes it away.",
        mechanisms=("linear",),
        measure=measure_noise,
        half=True,
        mutants={
            "damped by N/d in every layer": {"formula": lambda n, d, layers: (n / d) ** layers},
            "damped once, then kept": {"formula": lambda n, d, layers: n / d},
            "read at gain 1, as a stored code": {
                "formula": lambda n, d, layers: (1 + (n - 1) / d) ** layers
            },
        },
    )
)
