"""What the products of mimetic weights are, and what attention does with them at the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, nn

from neuroattn.attention.mimetic import mimetic
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = "Trockman & Kolter (2023), Mimetic initialization of self-attention layers"
QUERY_KEY, VALUE_OUTPUT = (0.7, 0.7), (0.4, 0.4)


def own_logit(dim: int, tokens: int, diagonal: float = 0.7) -> float:
    """Return by how much a token's own logit exceeds the mean over all tokens, on average.

    Parameters
    ----------
    dim : int
        Width of the tokens and of the one head, at least 1; tokens are standard normal.
    tokens : int
        Their number, at least 1.
    diagonal : float
        b of the product a Z + b I of query and key.

    Returns
    -------
    float
        b sqrt(dim) (1 - 1/tokens).

    Raises
    ------
    InputError
        If ``dim`` or ``tokens`` is below 1.

    References
    ----------
    For Trockman & Kolter (2023), arXiv 2305.09828; derived here.
    """
    for name, each in {"dim": dim, "tokens": tokens}.items():
        check_whole(name, each, 1)
    return diagonal * math.sqrt(dim) * (1 - 1 / tokens)


def weights(lab: Lab, dim: int, heads: int, draw: int) -> list[Tensor]:
    """Return W of query, key, value and output as rows of outputs, in float64."""
    layers = [nn.Linear(dim, dim, bias=False, dtype=torch.float64) for _ in range(4)]
    generator = lab.generator("Z", dim, draw)
    mimetic(*layers, heads=heads, generator=generator)
    return [layer.weight.detach() for layer in layers]


def target(lab: Lab, dim: int, draw: int, place: int) -> Tensor:
    """Return a Z + b I: of query and key for place 0, of value and output for place 1."""
    generator = lab.generator("Z", dim, draw)
    drawn = [torch.randn(dim, dim, generator=generator).double() for _ in range(2)]
    noise, diagonal = (QUERY_KEY, (VALUE_OUTPUT[0], -VALUE_OUTPUT[1]))[place]
    unit = torch.eye(dim, dtype=torch.float64)
    return noise * drawn[place] / math.sqrt(dim) + diagonal * unit


def measure_products(lab: Lab, sign: float = -1.0, tail: str = "smallest") -> Iterator[Comparison]:
    """Multiply the weights of one head, of all its rank and of less."""
    dim = 48
    query, key, value, output = weights(lab, dim, 1, 0)
    for name, product, place in (
        ("query and key", query.T @ key, 0),
        ("output and value", output @ value, 1),
    ):
        yield lab.near(
            f"product of {name}",
            product,
            target(lab, dim, 0, place),
            tolerance=3e-14,
            expected=3e-15,
            reason="an SVD in float64",
        )
    dims = (8, 16, 32, 64)
    means: dict[int, list[np.ndarray[Any, Any]]] = {0: [], 1: []}
    for each in dims:
        drawn = [weights(lab, each, 1, draw) for draw in range(40)]
        means[0].append(np.array([float((q.T @ k).diagonal().mean()) for q, k, _, _ in drawn]))
        means[1].append(np.array([float((o @ v).diagonal().mean()) for _, _, v, o in drawn]))
    for place, wanted in ((0, QUERY_KEY[1]), (1, sign * VALUE_OUTPUT[1])):
        yield lab.mean(
            f"mean diagonal of the product of {('query and key', 'output and value')[place]}",
            np.stack(means[place], axis=1),
            np.full(len(dims), wanted),
            axes={"dim": dims},
        )
    ranks = (48, 24, 16, 12, 8, 6, 4)
    spectrum = torch.linalg.svdvals(target(lab, dim, 0, 0)).square()
    lost = []
    for rank in ranks:
        query, key, _, _ = weights(lab, dim, dim // rank, 0)
        first = query[:rank].T @ key[:rank]
        lost.append(float((first - target(lab, dim, 0, 0)).square().sum()))
    left = [
        float(spectrum[rank:].sum() if tail == "smallest" else spectrum[: dim - rank].sum())
        for rank in ranks
    ]
    yield lab.near(
        "squared error of the first head's product",
        lost,
        left,
        tolerance=5e-13,
        expected=5e-14,
        reason="an SVD in float64, of a sum of 48 squares",
        axes={"rank of a head": ranks},
    )


def raised(lab: Lab, dim: int, tokens: int, mechanism: str) -> np.ndarray[Any, Any]:
    """Return (draws,) how far a token's own log-weight is above the mean, averaged over tokens."""
    draws = 100
    asked, told = [], []
    for draw in range(draws):
        query, key, _, _ = weights(lab, dim, 1, draw)
        seen = lab.normal((tokens, dim), "tokens", dim, draw)
        asked.append(seen @ query.T)
        told.append(seen @ key.T)
    eye = torch.eye(tokens, dtype=torch.float64).expand(draws, 1, -1, -1)
    read = lab.attend(mechanism, torch.stack(asked)[:, None], torch.stack(told)[:, None], eye)
    log = read[:, 0].log()
    own: np.ndarray[Any, Any] = (log.diagonal(dim1=1, dim2=2) - log.mean(2)).mean(1).numpy()
    return own


def measure_start(
    lab: Lab, formula: Callable[[int, int], float] = own_logit
) -> Iterator[Comparison]:
    """Attend with fresh weights to Gaussian tokens, over the dimension."""
    dims, tokens = (4, 8, 16, 32, 64), 4
    yield lab.mean(
        "own logit above the mean of all",
        np.stack([lab.once(raised, dim, tokens, "softmax") for dim in dims], axis=1),
        [formula(dim, tokens) for dim in dims],
        axes={"dim": dims},
    )


def prove_products(proof: Proof) -> None:
    """Divide a matrix of two dimensions between two weights, and truncate it."""
    s, t, c, e = sympy.symbols("s t c e", positive=True)
    left, right = (
        sympy.Matrix([[sympy.cos(x), -sympy.sin(x)], [sympy.sin(x), sympy.cos(x)]]) for x in (c, e)
    )
    whole = left * sympy.diag(s, t) * right.T
    query, key = (turn * sympy.diag(sympy.sqrt(s), sympy.sqrt(t)) for turn in (left, right))
    proof.say("The roots of singular values go to both sides; the whole is", whole)
    proof.equal("One head has all of it", query * key.T, whole)
    kept = query[:, :1] * key[:, :1].T
    proof.equal(
        "A head of rank one loses the square of the other singular value",
        sympy.simplify(sum(each**2 for each in whole - kept)),
        t**2,
    )
    a, b = sympy.symbols("a b", real=True)
    other = sympy.Matrix([[s + a, b], [b, b**2 / (s + a)]])
    proof.say("In the axes of the singular vectors, symmetric ones of rank one near it are", other)
    lost = sum(each**2 for each in sympy.diag(s, t) - other)
    slopes = [sympy.diff(lost, x).subs({a: 0, b: 0}) for x in (a, b)]
    proof.equal("There the loss is flat", sympy.Matrix(slopes), sympy.zeros(2, 1))
    proof.equal(
        "and curved upwards where s > t (Eckart and Young)",
        sympy.diff(lost, b, 2).subs({a: 0, b: 0}),
        4 * (s - t) / s,
    )


def prove_start(proof: Proof) -> None:
    """Take the mean of a quadratic form in two dimensions."""
    z = sympy.Matrix(2, 2, sympy.symbols("z1:3_1:3", real=True))
    a, b, n = sympy.symbols("a b n", positive=True)
    x, y = (sympy.Matrix(sympy.symbols(f"{name}1:3", real=True)) for name in "xy")
    form = sympy.expand((x.T * (a * z / sympy.sqrt(2) + b * sympy.eye(2)) * x)[0])
    no_noise = form.subs(dict.fromkeys(z, 0))
    proof.equal("Z has mean 0: the own logit's mean given x is b|x|^2", no_noise, b * x.dot(x))
    other = sympy.expand((x.T * (a * z + b * sympy.eye(2)) * y)[0])
    proof.equal(
        "and that of another token, itself of mean 0, is 0",
        other.subs(dict.fromkeys(y, 0)),
        0,
    )
    d = sympy.symbols("d", positive=True)
    mean = (b * d - b * d / n) / sympy.sqrt(d)
    proof.equal(
        "E|x|^2 = d; over sqrt(d), less the mean over n tokens",
        mean,
        b * sympy.sqrt(d) * (1 - 1 / n),
    )


register(
    Claim(
        id="initialization.mimetic.products",
        title="Mimetic weights multiply to a Z + b I, but for the tail that a head's rank loses",
        paper=PAPER,
        place="the initialisation; (.7, .7) and (.4, .4)",
        statement=r"W_Q W_K^\top = \alpha_1 Z+\beta_1 I,\ W_V W_O = \alpha_2 Z-\beta_2 I;\quad"
        r" d_h < d:\ \|\cdot\|^2 = \sum_{i > d_h} \sigma_i^2",
        hypotheses=("Z has independent normal entries of variance 1/d.",),
        finding="confirmed",
        found="The products are exact with one head, their mean diagonals .7 and -.4. With heads "
        "of rank d_h the error is the spectrum's tail (Eckart-Young): most of it for d_h = d/8.",
        prove=prove_products,
        measure=measure_products,
        mutants={
            "value and output with a positive diagonal": {"sign": 1.0},
            "the largest singular values left out": {"tail": "largest"},
        },
    )
)
register(
    Claim(
        id="initialization.mimetic.own-logit",
        title="With mimetic weights a token attends to itself from the start, as b sqrt(d)",
        paper=PAPER,
        place="why it helps; derived here for Gaussian tokens",
        statement=r"E\left[s_{ii} - \frac{1}{n}\sum_j s_{ij}\right] ="
        r" \beta_1\sqrt{d}\left(1-\frac{1}{n}\right)",
        hypotheses=(
            "Tokens are independent standard normals; one head of rank d.",
            "Logits are divided by sqrt(d).",
        ),
        finding="sharpened",
        found="The lead of the own logit grows with the square root of the width, from 1.05 at "
        "d = 4 to 4.2 at d = 64 with 4 tokens.",
        mechanisms=("softmax",),
        prove=prove_start,
        measure=measure_start,
        mutants={
            "logits not divided by sqrt(d)": {
                "formula": lambda d, n: own_logit(d, n) * math.sqrt(d)
            },
            "no diagonal": {"formula": lambda d, n: 0.0},
            "the mean over the other tokens": {
                "formula": lambda d, n: own_logit(d, n) * n / (n - 1)
            },
        },
    )
)
