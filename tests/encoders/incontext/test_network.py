"""The set transformer: what it must not depend on, its short cuts, and its readout's weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention import get, list_mechanisms
from neuroattn.encoders.incontext import (
    PRESETS,
    SetTransformer,
    SetTransformerConfig,
    weight_count,
)
from neuroattn.errors import InputError, UnknownNameError
from tests.encoders.incontext.drawn import (
    EMBEDDING,
    HEADS,
    IMAGES,
    VOXELS,
    WIDTH,
    drawn,
    network,
    pairs,
)
from tests.tolerances import TOLERANCE

BIDIRECTIONAL = [name for name in list_mechanisms() if False in get(name).causal]
#: Without weights of their own, with gates, with queries that compete, with a place, in order.
KINDS = ["softmax", "linear", "local_linear", "gated", "flow", "landmark", "hierarchical", "delta"]
#: Its cubic loss overshoots without bound where a step is large.
GENTLE = {"moneta": {"beta": 0.01}}


def tokens(made: SetTransformer, context: Tensor, response: Tensor) -> Tensor:
    """Return registers and pairs as the blocks read them."""
    read = made.early((context - made.mean) / made.scale, response)
    return torch.cat([made.registers.expand(len(response), -1, -1), read], dim=1)


@pytest.mark.parametrize("activation", [True, False])
def test_the_order_of_the_context_plays_no_role(activation: bool) -> None:
    # Catches a position code, and responses that are paired with other images.
    made = network(input_activation=activation)
    context, response = pairs()
    turned = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(3))
    written, other = made(context, response), made(context[turned], response[:, turned])
    torch.testing.assert_close(other, written, **TOLERANCE["float64"])
    assert not torch.allclose(made(context, response[:, turned]), written, rtol=0.01)
    read = made.readout_attention(context, response, 1)
    moved = made.readout_attention(context[turned], response[:, turned], 1)
    torch.testing.assert_close(moved, read[..., turned], **TOLERANCE["float64"])


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_a_voxel_does_not_read_those_beside_it(name: str, activation: bool) -> None:
    # Catches statistics over the batch: a voxel's encoder would depend on the size of a block.
    made = network(attention=name, input_activation=activation)
    context, response = pairs()
    together = made(context, response)
    assert together.shape == (VOXELS, EMBEDDING + 1)
    alone = torch.cat([made(context, response[voxel : voxel + 1]) for voxel in range(VOXELS)])
    torch.testing.assert_close(alone, together, **TOLERANCE["float64"])
    assert not torch.allclose(together[0], together[1], rtol=0.01)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_the_last_block_asks_no_more_than_it_needs(name: str) -> None:
    # Catches a readout that is another token, and a mechanism in which queries compete or have a
    # place, asked for one of them.
    made = network(attention=name, attention_parameters=GENTLE.get(name, {}), layers=2)
    context, response = pairs()
    state = tokens(made, context, response)
    for block in made.blocks:
        state = block(state)
    expected = made.write(state[:, 0])
    torch.testing.assert_close(made(context, response), expected, **TOLERANCE["float64"])


def test_only_the_readout_is_asked_where_queries_are_apart() -> None:
    # Catches a short cut that nobody takes.
    asked = []
    made = network()
    for block in made.blocks:
        block.expand.register_forward_hook(lambda _, given, __: asked.append(given[0].shape[1]))
    made(*pairs())
    assert asked == [IMAGES + 2, IMAGES + 2, 1]


@pytest.mark.parametrize("name", ["softmax", "gated", "sink", "local_linear", "hedgehog"])
def test_every_weight_is_trained(name: str) -> None:
    # Catches a weight that nothing reads, on which distributed training stops.
    made = network(attention=name)
    made(*pairs()).square().sum().backward()
    idle = [n for n, each in made.named_parameters() if each.grad is None or not each.grad.any()]
    # A softmax does not see what is added to all its logits.
    assert {n.split(".", 2)[-1] for n in idle} <= {"attention.key.bias"}


@pytest.mark.parametrize("scaling", ["log", "none"])
@pytest.mark.parametrize(("layer", "same"), [(0, -3), (2, -1)])
def test_the_readouts_weights_are_the_softmax_of_its_logits(
    layer: int, same: int, scaling: str
) -> None:
    # Catches another layer or token, registers among the images, and a factor that is forgotten.
    made = network(logit_scaling=scaling)
    context, response = pairs()
    state = tokens(made, context, response)
    for block in made.blocks[:layer]:
        state = block(state)
    block = made.blocks[layer]
    normed = F.layer_norm(state, (WIDTH,), block.norm_attention.weight, block.norm_attention.bias)
    factor = math.log(2 + IMAGES) if scaling == "log" else 1.0
    query = block.attention.query(normed[:, 0] * factor).reshape(VOXELS, HEADS, -1)
    key = block.attention.key(normed).reshape(VOXELS, 2 + IMAGES, HEADS, -1)
    logits = torch.einsum("vhd,vshd->vhs", query, key) / math.sqrt(WIDTH / HEADS)
    expected = logits.softmax(dim=-1)[..., 2:]
    found = made.readout_attention(context, response, layer)
    torch.testing.assert_close(found, expected, **TOLERANCE["float64"])
    torch.testing.assert_close(made.readout_attention(context, response, same), found)
    assert found.min() >= 0
    assert found.sum(dim=-1).max() < 1


@pytest.mark.parametrize("name", ["flow", "landmark", "routing"])
def test_the_readouts_weights_are_a_row_of_the_matrix(name: str) -> None:
    # Catches one query asked alone where queries compete or have a place.
    made = network(attention=name, layers=1)
    context, response = pairs()
    block = made.blocks[0]
    normed = block.norm_attention(tokens(made, context, response))
    matrix = block.attention.maps(normed, block.attention.project(normed))
    found = made.readout_attention(context, response)
    torch.testing.assert_close(found, matrix[:, :, 0, 2:], **TOLERANCE["float64"])


def test_a_layer_that_is_not_there_and_weights_that_are_not_are_refused() -> None:
    # Catches an IndexError, and a layer counted from the other end.
    context, response = pairs()
    for layer in (3, -4):
        with pytest.raises(InputError, match=f"layer={layer} is not one of the 3 layers"):
            network().readout_attention(context, response, layer)
    with pytest.raises(InputError, match="attention='titans_mlp' has no explicit matrix"):
        network(attention="titans_mlp").readout_attention(context, response)


def test_what_is_written_is_for_embeddings_as_they_came() -> None:
    # Catches weights for standardised embeddings, or an intercept without the mean's share.
    made, plain = network(), network()
    made.mean, made.scale = 2 + drawn(EMBEDDING, seed=6), 0.5 + drawn(EMBEDDING, seed=7).square()
    context, response = pairs()
    written = made(context, response)
    inner = plain((context - made.mean) / made.scale, response)
    queries = drawn(20, EMBEDDING, seed=8)
    expected = (queries - made.mean) / made.scale @ inner[:, :-1].T + inner[:, -1]
    found = queries @ written[:, :-1].T + written[:, -1]
    torch.testing.assert_close(found, expected, **TOLERANCE["float64"])
    found = made.readout_attention(context, response)
    expected = plain.readout_attention((context - made.mean) / made.scale, response)
    torch.testing.assert_close(found, expected, **TOLERANCE["float64"])


def test_the_logarithm_changes_what_is_written() -> None:
    # Catches an option that is stored and never used.
    log, none = (network(logit_scaling=each)(*pairs()) for each in ("log", "none"))
    assert not torch.allclose(log, none, rtol=0.01)


@pytest.mark.parametrize("images", [1, 2, 33])
def test_a_context_may_have_any_length(images: int) -> None:
    # Catches a length that is built into the network.
    written = network()(*pairs(images))
    assert written.shape == (VOXELS, EMBEDDING + 1)
    assert written.isfinite().all()


def test_dropout_acts_in_training_only() -> None:
    # Catches an adaptation that differs from call to call.
    made = network(dropout=0.3)
    torch.testing.assert_close(made(*pairs()), made(*pairs()), rtol=0, atol=0)
    torch.testing.assert_close(made(*pairs()), network()(*pairs()), **TOLERANCE["float64"])
    made.train()
    assert not torch.allclose(made(*pairs()), made(*pairs()))


@pytest.mark.parametrize("activation", [True, False])
def test_other_precisions_stay_near(activation: bool) -> None:
    # Catches a tensor of a fixed dtype, on which a network in another fails.
    made = network(input_activation=activation)
    context, response = pairs()
    exact = made(context, response)
    single = made.float()(context.float(), response.float())
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = made(context.float(), response.float())
    half = made.bfloat16()(context.bfloat16(), response.bfloat16())
    assert single.dtype == mixed.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    for found in (mixed, half):
        error = (found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        assert error < 0.1


def layers_and_ends(width: int, hidden: int, layers: int, registers: int, embedding: int) -> int:
    """Count the weights of the published network by hand."""
    norm = 2 * width
    attention = 4 * (width * width + width)
    feedforward = (width + 1) * 2 * hidden + (hidden + 1) * width
    double, pair = 2 * width, embedding + 1
    early = 2 * pair + (pair + 1) * double + 2 * double + (double + 1) * width + (pair + 1) * width
    write = norm + (width + 1) * double + 2 * double + (double + 1) * pair + (width + 1) * pair
    return early + write + registers * width + layers * (2 * norm + attention + feedforward)


@pytest.mark.parametrize(
    ("name", "millions"), [("clip", "97.1"), ("dino", "156.0"), ("siglip", "277.0")]
)
def test_the_published_networks_have_their_size(name: str, millions: str) -> None:
    # Catches a layer that is missing, or one too many.
    embedding, config = PRESETS[name]
    with torch.device("meta"):
        whole = SetTransformer(config, embedding)
    built = sum(each.numel() for each in whole.parameters())
    by_hand = layers_and_ends(config.width, 2048, 20, 4, embedding)
    assert weight_count(config, embedding) == built == by_hand
    assert f"{built / 1e6:.1f}" == millions
    assert config == replace(SetTransformerConfig(), width=config.width)


@pytest.mark.parametrize("name", ["softmax", "gated", "s6"])
def test_weights_are_counted_without_touching_the_random_numbers(name: str) -> None:
    # Catches a count that leaves out what a mechanism learns, or changes the first weights.
    made = network(attention=name, layers=4)
    before = torch.random.get_rng_state()
    found = weight_count(made.config, EMBEDDING)
    assert found == sum(each.numel() for each in made.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_registers_start_as_published() -> None:
    # Catches registers as large as the tokens.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        made = SetTransformer(SetTransformerConfig(1000, 10, 1, 3, 8), 2)
    assert made.registers.shape == (1, 8, 1000)
    assert abs(float(made.registers.detach().std()) * math.sqrt(1001) - 1) < 4 / math.sqrt(2 * 8000)
    assert set(made.mean.tolist()) == {0.0}
    assert set(made.scale.tolist()) == {1.0}


@pytest.mark.parametrize(
    ("context", "response"),
    [((9, 7), (5, 8)), ((9, 6), (5, 9)), ((9, 7), (9,)), ((0, 7), (5, 0)), ((5, 9, 7), (5, 9))],
)
def test_pairs_that_do_not_fit_are_refused(
    context: tuple[int, ...], response: tuple[int, ...]
) -> None:
    # Catches a transposed matrix of responses, and embeddings of another basis.
    with pytest.raises(InputError, match=r"needed are \(images, 7\) and \(voxels, images\)"):
        network()(drawn(*context), drawn(*response))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 13}, "width=13 must be a multiple of heads=3"),
        ({"registers": 0}, "registers=0 must be at least 1"),
        ({"layers": 0}, "layers=0 must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must lie within"),
        ({"attention_parameters": {"heat": 2}}, "no parameter 'heat'"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    # Catches a mistake in a recipe that shows in the middle of a run.
    with pytest.raises(InputError, match=message):
        network(**change)


def test_unknown_names_are_answered_with_those_that_are_known() -> None:
    # Catches a scaling that is silently taken for none.
    with pytest.raises(UnknownNameError, match="logit_scaling='ln' is unknown"):
        SetTransformerConfig(logit_scaling="ln")
    with pytest.raises(UnknownNameError, match="did you mean 'softmax'"):
        SetTransformerConfig(attention="sotfmax")
    with pytest.raises(InputError, match="embedding_width=0 must be at least 1"):
        SetTransformer(SetTransformerConfig(12, 3, 1, 4), 0)


def test_a_mechanism_that_is_causal_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches a set that is read as a sequence.
    spec = replace(get("softmax"), causal=(True,))
    monkeypatch.setattr("neuroattn.encoders.incontext.network.get", lambda name: spec)
    with pytest.raises(InputError, match="attention='softmax' is causal only"):
        SetTransformerConfig()
