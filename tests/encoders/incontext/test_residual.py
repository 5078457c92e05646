"""The pairs' block against the same block on pairs that are really built."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.encoders.incontext import residual
from neuroattn.encoders.incontext.residual import PairBlock, ResidualBlock
from tests.encoders.incontext.drawn import drawn, redrawn
from tests.tolerances import TOLERANCE

E, HIDDEN, OUTPUTS, S, VOXELS = 7, 10, 5, 9, 4


def made(activation: bool, dropout: float = 0.0, embedding: int = E) -> PairBlock:
    with torch.random.fork_rng(devices=[]):
        block = PairBlock(embedding, HIDDEN, OUTPUTS, dropout, activation).double()
    redrawn(block)
    return block


def built(block: PairBlock, context: Tensor, response: Tensor) -> Tensor:
    """Return what the block is by definition, with every pair built."""
    inner = block.block
    pairs = torch.cat([context.expand(len(response), -1, -1), response[..., None]], dim=-1)
    normed = F.layer_norm(pairs, pairs.shape[-1:], inner.norm_inputs.weight, inner.norm_inputs.bias)
    first = F.leaky_relu(normed, 0.1) if block.input_activation else normed
    hidden = inner.norm_hidden(inner.expand(first))
    return inner.contract(F.leaky_relu(hidden, 0.1)) + inner.bypass(pairs)


def test_a_residual_block_is_its_layers_in_their_order() -> None:
    # Catches a rectifier with another slope, or one that comes before the normalisation.
    with torch.random.fork_rng(devices=[]):
        block = ResidualBlock(E, HIDDEN, OUTPUTS).double()
    redrawn(block)
    values = drawn(3, S, E)
    first = block.expand(F.leaky_relu(block.norm_inputs(values), 0.1))
    added = block.contract(F.leaky_relu(block.norm_hidden(first), 0.1))
    expected = added + block.bypass(values)
    torch.testing.assert_close(block(values), expected, **TOLERANCE["float64"])


@pytest.mark.parametrize("limit", [1, 200, 10**6])
@pytest.mark.parametrize("activation", [True, False])
def test_split_pairs_equal_pairs_that_are_built(
    activation: bool, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches a variance of the embedding alone, a response half with the image half's gain, and
    # blocks of voxels put together wrongly.
    monkeypatch.setattr(residual, "BLOCK_ELEMENTS", limit)
    block = made(activation)
    context, response = drawn(S, E), 3 * drawn(VOXELS, S, seed=1)
    asked = [context.requires_grad_(), response.requires_grad_(), *block.parameters()]
    found, expected = block(context, response), built(block, context, response)
    torch.testing.assert_close(found, expected, **TOLERANCE["float64"])
    direction = drawn(*found.shape, seed=3)
    mine, theirs = (torch.autograd.grad((x * direction).sum(), asked) for x in (found, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE["float64"])
    with torch.no_grad():
        torch.testing.assert_close(block(context, response), expected, **TOLERANCE["float64"])


@pytest.mark.parametrize("activation", [True, False])
def test_embeddings_far_from_zero_lose_no_digits(activation: bool) -> None:
    # Catches a variance as the difference of two large sums: here it would be wrong by 1e-4.
    block = made(activation)
    context, response = 1e6 + drawn(S, E), 1e6 + drawn(VOXELS, S, seed=1)
    found, expected = block(context, response), built(block, context, response)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("activation", [True, False])
def test_nothing_as_large_as_all_pairs_is_held_for_the_backward_pass(activation: bool) -> None:
    # Catches embeddings that are kept once a voxel.
    embedding = 40 * HIDDEN
    block = made(activation, embedding=embedding)
    held = []

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return tensor

    response = drawn(VOXELS, S, seed=1).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(drawn(S, embedding), response)
    assert 0 < max(held) < VOXELS * S * embedding


@pytest.mark.parametrize("activation", [True, False])
def test_dropout_acts_in_training_only_and_alike_when_computed_again(activation: bool) -> None:
    # Catches a backward pass through other dropped entries than the forward pass had.
    block = made(activation, dropout=0.5)
    context, response = drawn(S, E), drawn(VOXELS, S, seed=1)
    torch.testing.assert_close(block(context, response), block(context, response))
    block.train()

    def run(values: Tensor) -> Tensor:
        torch.random.default_generator.manual_seed(5)
        return block(context, values)

    with torch.random.fork_rng(devices=[]):
        assert not torch.allclose(run(response), block(context, response))
        assert torch.autograd.gradcheck(run, response.requires_grad_(), nondet_tol=0)


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("how", ["module", "autocast"])
def test_half_precision_stays_near(activation: bool, how: str) -> None:
    # Catches statistics in bfloat16: the mean of this context would lose the deviations.
    block = made(activation)
    block.block.bypass.weight.data.zero_()  # beside which the rest would not show
    context, response = 30 + drawn(S, E), 30 + drawn(VOXELS, S, seed=1)
    exact = built(block, context.bfloat16().double(), response.bfloat16().double())
    if how == "module":
        found = block.bfloat16()(context.bfloat16(), response.bfloat16())
        assert found.dtype == torch.bfloat16
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = (each.bfloat16().float() for each in (context, response))
            found = block.float()(*rounded)
    error = (found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.008
