"""The transformer encoder reads through any mechanism that takes queries from elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neuroattn.attention import get, list_mechanisms
from neuroattn.encoders.decoder import BrainDecoder, DecoderConfig
from neuroattn.errors import InputError
from tests.encoders.test_decoder import COLUMNS, PLAIN, QUERIES, ROWS, decoder, drawn, images

TOKENS = ROWS * COLUMNS
READABLE = [name for name in list_mechanisms() if get(name).cross and False in get(name).causal]
#: As wide as the decoder: some mechanisms read slices of the tokens.
CHANNELS = 8
VOXELS = 7


def config(name: str) -> DecoderConfig:
    spec = get(name)
    given = {"length": TOKENS} if "length" in spec.options else {}
    heads = 1 if name == "economical" else PLAIN.heads  # published with one head
    return replace(PLAIN, layers=1, heads=heads, attention=name, attention_parameters=given)


def fresh(name: str) -> BrainDecoder:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return BrainDecoder(config(name), QUERIES, (ROWS, COLUMNS), CHANNELS).double()


def wide_images() -> torch.Tensor:
    return drawn(4, TOKENS, CHANNELS, seed=50)


@pytest.mark.parametrize("name", READABLE)
def test_one_step_of_training_lowers_the_loss_and_moves_what_is_learned(name):
    # Catches a gate whose gradient is cut, a NaN, and images that are read as one.
    made, tokens, response = fresh(name), wide_images(), drawn(4, VOXELS, seed=51)
    optimiser = torch.optim.SGD(made.parameters(), lr=1e-3)
    before = made.loss(tokens, response)
    before.backward()
    learned = made.layers[0].attention.learned
    for label, parameter in [] if learned is None else learned.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
    optimiser.step()
    assert made.loss(tokens, response) < before
    alone = torch.cat([made.eval()(tokens[[image]]) for image in range(4)])
    torch.testing.assert_close(made(tokens), alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", READABLE)
def test_maps_exist_where_weights_do(name):
    # Catches a report that ends in an error for half of the mechanisms.
    made, spec = fresh(name), get(name)
    if spec.weights is None:
        with pytest.raises(InputError, match="no explicit matrix"):
            made.attention_maps(wide_images())
    else:
        maps = made.attention_maps(wide_images())
        assert maps.shape == (4, 5, made.layers[0].attention.heads, TOKENS)


def test_mechanisms_of_their_own_tokens_are_refused_at_once():
    # Catches an error after the features were computed.
    refused = sorted(set(list_mechanisms()) - set(READABLE))
    for name in refused:
        with pytest.raises(InputError, match=f"attention='{name}' reads its own tokens"):
            DecoderConfig(attention=name)


def test_competing_queries_are_not_read_in_blocks():
    # Catches predictions that depend on the size of a block.
    assert not get("flow").queries_apart
    blocks = replace(config("flow"), query_block=2)
    with pytest.raises(InputError, match=r"all 5 must stand in one block; query_block=2"):
        BrainDecoder(blocks, QUERIES, (ROWS, COLUMNS), CHANNELS)
    BrainDecoder(replace(blocks, attention="softmax"), QUERIES, (ROWS, COLUMNS), CHANNELS)


def test_a_parameter_of_the_recipe_is_not_learned():
    # Catches a setting that the learned gate silently replaces.
    fixed = replace(PLAIN, layers=1, attention="delta", attention_parameters={"beta": 0.5})
    other = replace(PLAIN, layers=1, attention="delta", attention_parameters={"beta": 0.25})
    learned = replace(PLAIN, layers=1, attention="delta")
    reads = [decoder(each)(images()) for each in (fixed, other, learned)]
    assert not torch.allclose(reads[0], reads[1])
    assert not torch.allclose(reads[0], reads[2])
