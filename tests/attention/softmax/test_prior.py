"""Attention with a prior over edges against the enumerated posterior of a discrete model."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
BACKENDS = ["reference", "sdpa", "flex"]


def drawn(*axes):
    """Return the parameters of an example whose prior has these axes, or size 1."""

    def parameters(sizes, generator):
        shape = [sizes[axis] if axis else 1 for axis in axes]
        return {"log_prior": torch.randn(shape, generator=generator, dtype=torch.float64)}

    return parameters


EXAMPLES = {
    "prior": [
        Example(label="uniform", lengths=(1, 65)),
        Example(drawn("batch", "heads", "queries", "keys"), label="edge", lengths=(1, 2, 64, 65)),
        Example(drawn("", "heads", "", "keys"), label="key", lengths=(1, 63, 65)),
    ]
}


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def tensors(queries, keys, dim=3, value_dim=4):
    return (
        normal(2, 3, queries, dim),
        normal(2, 3, keys, dim, seed=1),
        normal(2, 3, keys, value_dim),
    )


def some_prior(*shape):
    """Return the logarithm of a normalised prior with impossible edges."""
    prior = normal(*shape, seed=3).exp() * (normal(*shape, seed=4) > -0.4)
    prior[..., 0] += 0.1
    return (prior / prior.sum(-1, keepdim=True)).log()


def density(point, mean, variance):
    """Return the density of a normal distribution with the same variance on all axes."""
    norm = (2 * math.pi * variance) ** (-len(point) / 2)
    return norm * math.exp(
        -sum((a - b) ** 2 for a, b in zip(point, mean, strict=True)) / 2 / variance
    )


def test_the_matrix_is_the_posterior_over_edges():
    # Law. A query is a key plus noise of variance 1/scale; which key, is what the edge says. All
    # edges are enumerated with Gaussian densities. The keys' squared lengths, which a product does
    # not know, belong to the prior.
    scale = 0.6
    query, key, value = tensors(4, 5)
    log_prior = some_prior(2, 3, 4, 5)
    wanted = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    for b, h, q in torch.cartesian_prod(*map(torch.arange, (2, 3, 4))).tolist():
        joint = [
            math.exp(log_prior[b, h, q, k])
            * density(query[b, h, q].tolist(), key[b, h, k].tolist(), 1 / scale)
            for k in range(5)
        ]
        wanted[b, h, q] = torch.tensor(joint, dtype=torch.float64) / sum(joint)
    lengths = key.square().sum(-1)[:, :, None]
    edges = log_prior - scale / 2 * lengths
    torch.testing.assert_close(
        weights("prior", query, key, scale=scale, log_prior=edges), wanted, **EXACT
    )
    for backend in BACKENDS:
        read = attend("prior", query, key, value, scale=scale, log_prior=edges, backend=backend)
        torch.testing.assert_close(read, wanted @ value, **EXACT)


def test_two_edges_of_a_model_are_read_independently():
    # Catches a posterior that is normalised over all edges of the graph: the joint over both
    # queries' edges is enumerated, and each is its marginal.
    query, key, value = (x[:1, :1] for x in tensors(2, 3))
    log_prior = some_prior(1, 1, 2, 3)
    total, marginal = 0.0, torch.zeros(2, 3, dtype=torch.float64)
    for first in range(3):
        for second in range(3):
            joint = 1.0
            for q, k in ((0, first), (1, second)):
                logit = float(query[0, 0, q] @ key[0, 0, k]) / math.sqrt(3)
                joint *= math.exp(logit + log_prior[0, 0, q, k])
            total += joint
            marginal[0, first] += joint
            marginal[1, second] += joint
    read = attend("prior", query, key, value, log_prior=log_prior)
    torch.testing.assert_close(read[0, 0], marginal / total @ value[0, 0], **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_uniform_prior_is_softmax_and_a_zero_one_a_mask(backend, causal):
    # Law. Catches -inf that gives NaN, forward or backward, also where a whole row is impossible.
    inputs = tensors(4, 6)
    ways = {"causal": causal, "backend": backend}
    plain = attend("softmax", *inputs, causal=causal)
    for uniform in (None, torch.full((1, 1, 1, 1), -math.log(6), dtype=torch.float64)):
        torch.testing.assert_close(
            attend("prior", *inputs, log_prior=uniform, **ways), plain, **EXACT
        )
    possible = normal(2, 3, 4, 6, seed=5) > -0.2
    possible[:, :, 1] = False
    mask = normal(4, 6, seed=6) > -0.5
    log_prior = torch.where(possible, -1.0, -torch.inf).double()
    read = attend("prior", *inputs, log_prior=log_prior, mask=mask, **ways)
    wanted = attend("softmax", *inputs, causal=causal, mask=possible & mask)
    torch.testing.assert_close(read, wanted, **EXACT)
    assert (read[:, :, 1] == 0).all()
    if backend != "flex":
        leaves = [each.requires_grad_() for each in (*inputs, log_prior)]
        read = attend("prior", *inputs, log_prior=log_prior, mask=mask, **ways)
        for slope in torch.autograd.grad(read.square().sum(), leaves):
            assert torch.isfinite(slope).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prior_need_not_be_normalised(backend):
    # Law. Catches weights that are multiplied by the prior after the softmax.
    inputs = tensors(4, 6)
    log_prior = some_prior(2, 1, 4, 6)
    read = attend("prior", *inputs, log_prior=log_prior, backend=backend)
    louder = log_prior + normal(2, 1, 4, 1, seed=7) * 5
    found = attend("prior", *inputs, log_prior=louder, backend=backend)
    torch.testing.assert_close(found, read, **EXACT)
    matrix = weights("prior", *inputs[:2], log_prior=louder)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 3, 4, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("shape", [(1, 1, 1, 6), (2, 1, 4, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_priors_may_be_shared_along_axes(shape, backend):
    # Catches a shared axis that is taken for the first entry's alone.
    inputs = tensors(4, 6)
    log_prior = some_prior(*shape)
    read = attend("prior", *inputs, log_prior=log_prior, backend=backend, causal=True)
    whole = attend(
        "prior",
        *inputs,
        log_prior=log_prior.expand(2, 3, 4, 6).clone(),
        backend="reference",
        causal=True,
    )
    torch.testing.assert_close(read, whole, **EXACT)


def test_a_block_learns_a_prior_a_head_and_token():
    # Catches a prior that is no parameter, does not start uniform or never reaches the mechanism.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, mechanism="prior", parameters={"prior_tokens": 5})
    log_prior = block.learned.log_prior
    assert log_prior.shape == (1, 2, 1, 5)
    queries, tokens = (torch.randn(2, n, 8, generator=generator) for n in (3, 5))
    plain = MultiheadAttention(8, 2)
    plain.load_state_dict(block.state_dict(), strict=False)
    torch.testing.assert_close(
        block(queries, block.project(tokens)), plain(queries, plain.project(tokens))
    )
    target = torch.randn(2, 3, 8, generator=generator)

    def loss():
        return (block(queries, block.project(tokens)) - target).square().mean()

    before = loss()
    before.backward()
    assert (log_prior.grad != 0).all()
    with torch.no_grad():
        log_prior -= 0.1 * log_prior.grad
    assert loss() < before
    with pytest.raises(InputError, match=r"log_prior is a tensor of shape \(1, 2, 1, 5\)"):
        block(queries, block.project(tokens[:, :4]))
    assert MultiheadAttention(8, 2, mechanism="prior").learned is None
