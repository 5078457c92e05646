"""The attention matrix as the posterior of a small discrete graphical model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = "Singh & Buckley (2023), Attention: marginal probability is all you need?"
DIM, KEYS = 5, 7
Array = np.ndarray[Any, np.dtype[np.float64]]


def edge_posterior(keys: Array, prior: Array) -> tuple[Array, Array]:
    """Return the posterior over edges for every observation of a model of binary channels.

    A key j is drawn from the prior, then each channel c of the observation is +1 with probability
    σ(2 k_jc) and -1 otherwise. All observations are enumerated.

    Parameters
    ----------
    keys : array
        (keys, dim), dim of at most 16.
    prior : array
        (keys,), not negative, with a positive sum.

    Returns
    -------
    observations, posterior : array
        (2^dim, dim) of +-1 and (2^dim, keys).

    Raises
    ------
    InputError
        If shapes do not match, there are too many channels, or the prior is no distribution.

    References
    ----------
    Singh & Buckley (2023), arXiv 2304.04556; the model is ours.
    """
    keys, prior = np.asarray(keys, dtype=float), np.asarray(prior, dtype=float)
    if keys.ndim != 2 or not 1 <= keys.shape[1] <= 16 or prior.shape != keys.shape[:1]:
        raise InputError(
            f"keys {keys.shape} and prior {prior.shape} must be (keys, dim) and (keys,), with dim "
            "from 1 to 16."
        )
    if not (np.all(prior >= 0) and prior.sum() > 0):
        raise InputError("prior must hold no negative number and not only zeros.")
    observations = np.array(list(itertools.product((-1.0, 1.0), repeat=keys.shape[1])))
    up = 1 / (1 + np.exp(-2 * keys))
    likelihood = np.where(observations[:, None] > 0, up, 1 - up).prod(-1)
    joint = likelihood * prior / prior.sum()
    return observations, joint / joint.sum(-1, keepdims=True)


def normaliser(keys: Tensor) -> Tensor:
    """Return (keys,) log of the sum of e^(q.k) over all observations q."""
    return torch.log(2 * torch.cosh(keys)).sum(-1)


def attended(
    lab: Lab, keys: Tensor, observations: Array, log_prior: Tensor, counted: bool
) -> Tensor:
    """Return (priors, observations, keys) the weights of attention with each prior."""
    size = len(log_prior), 1, -1, -1
    query = torch.from_numpy(observations).expand(*size)
    eye = torch.eye(len(keys), dtype=torch.float64).expand(*size)
    shift = log_prior - normaliser(keys) if counted else log_prior
    given = {"log_prior": shift[:, None, None], "scale": 1.0}
    return lab.attend("prior", query, keys.expand(*size), eye, **given)[:, 0]


def measure_posterior(
    lab: Lab, counted: bool = True, power: float = 1.0, after: bool = False
) -> Iterator[Comparison]:
    """Enumerate all observations and edges, and attend with the log of the prior."""
    keys = lab.normal((KEYS, DIM), "keys")
    shares = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99], dtype=torch.float64)
    drawn = torch.from_numpy(lab.rng("prior").dirichlet(np.ones(KEYS)))
    prior = (1 - shares[:, None]) * drawn / drawn[1:].sum()
    prior[:, 0] = shares
    both = [edge_posterior(keys.numpy(), each) for each in prior.numpy()]
    wanted = torch.from_numpy(np.stack([posterior for _, posterior in both]))
    logits = torch.zeros_like(prior) if after else power * prior.log()
    found = attended(lab, keys, both[0][0], logits, counted)
    found = found * prior[:, None] if after else found
    yield lab.equal("posterior of every edge and observation", found, wanted, growth=256)
    yield lab.equal(
        "mean posterior of the first key",
        found[..., 0].mean(-1),
        wanted[..., 0].mean(-1),
        growth=256,
        axes={"its prior": shares.numpy()},
    )
    yield from _masks(lab, keys, counted)


def _masks(lab: Lab, keys: Tensor, counted: bool) -> Iterator[Comparison]:
    """Hide keys by a prior of zero."""
    prior = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    observations, wanted = edge_posterior(keys.numpy(), prior.numpy())
    found = attended(lab, keys, observations, prior.log()[None], counted)
    yield lab.equal("a prior of zero hides a key", found[0], wanted, growth=256)
    query = lab.normal((1, 1, KEYS, DIM), "query")
    eye = torch.eye(KEYS, dtype=torch.float64)[None, None]
    past = torch.ones(KEYS, KEYS, dtype=torch.float64).tril().log()[None, None]
    causal = lab.attend("softmax", query, keys[None, None], eye, causal=True, scale=1.0)
    hidden = lab.attend("prior", query, keys[None, None], eye, log_prior=past, scale=1.0)
    yield lab.equal("a prior of zero on the future is the causal mask", hidden, causal)


def prove_posterior(proof: Proof) -> None:
    """Write Bayes' rule for two keys of one channel."""
    q, one, two = sympy.symbols("q k1 k2", real=True)
    prior = sympy.symbols("pi", positive=True)
    mass = [sympy.exp(q * key) / (sympy.exp(key) + sympy.exp(-key)) for key in (one, two)]
    for sign in (1, -1):
        proof.equal(
            f"An observation of {sign:+d} has the probability sigma({2 * sign} k)",
            mass[0].subs(q, sign),
            1 / (1 + sympy.exp(-2 * sign * one)),
        )
    bayes = prior * mass[0] / (prior * mass[0] + (1 - prior) * mass[1])
    logits = [
        q * key + sympy.log(share) - sympy.log(sympy.exp(key) + sympy.exp(-key))
        for key, share in ((one, prior), (two, 1 - prior))
    ]
    proof.equal(
        "Bayes' rule is a softmax of q k + log prior - log normaliser",
        bayes,
        1 / (1 + sympy.exp(logits[1] - logits[0])),
    )
    proof.equal(
        "Keys of one size share the normaliser, and it drops out",
        (logits[0] - logits[1]).subs(two, -one),
        2 * q * one + sympy.log(prior) - sympy.log(1 - prior),
    )
    loud = (sympy.exp(one) + sympy.exp(-one)).diff(one)
    proof.equal("It grows with the size of a key", loud, 2 * sympy.sinh(one).rewrite(sympy.exp))


register(
    Claim(
        id="prior.edges.posterior",
        title="The attention matrix is the posterior over which key a query is joined to",
        paper=PAPER,
        place="attention as inference over a latent edge; the discrete model is ours",
        statement=r"p(\phi = j \mid q) = \mathrm{softmax}_j(q\cdot k_j + \log\pi_j - \log Z_j),"
        r"\quad Z_j = \prod_c 2\cosh k_{jc}",
        hypotheses=(
            "An edge j is drawn from the prior pi.",
            "Each channel of q is +1 with probability sigma(2 k_jc), else -1.",
        ),
        finding="sharpened",
        found="Enumeration of all 32 observations and 7 edges gives the attention matrix, masks "
        "as zero priors included. The likelihood's normaliser belongs to it: softmax attention "
        "without a prior assumes one in favour of large keys, proportional to Z.",
        mechanisms=("prior", "softmax"),
        prove=prove_posterior,
        measure=measure_posterior,
        mutants={
            "keys' normalisers left out": {"counted": False},
            "a prior taken twice": {"power": 2.0},
            "weights multiplied by the prior after the softmax": {"after": True},
        },
    )
)
