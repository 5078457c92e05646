"""The published layout: its arithmetic written out, and files that are not of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from neuroattn.encoders.incontext import SetTransformer, load_published, published_state
from neuroattn.errors import FileError, InputError, MismatchError
from tests.encoders.incontext.drawn import drawn, network
from tests.tolerances import TOLERANCE

E, D, LAYERS, HIDDEN, HEADS, S, VOXELS = 7, 20, 3, 13, 10, 11, 4
State = dict[str, Tensor]


def random_state(registers: int = 4) -> State:
    """Return random weights under the published names, in the published shapes."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, registers, D)}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}weight"], shapes[f"{name}bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}weight"], shapes[f"{name}bias"] = (width,), (width,)

    for name, inputs, outputs in (
        ("early_layers.0", E + 1, D),
        ("weight_pred.0", D, E + 1),
    ):
        norm(f"{name}.block.0.", inputs)
        linear(f"{name}.block.3.", inputs, 2 * D)
        norm(f"{name}.block.4.", 2 * D)
        linear(f"{name}.block.7.", 2 * D, outputs)
        linear(f"{name}.bypass.", inputs, outputs)
    for layer in range(LAYERS):
        name = f"transformer.{layer}"
        norm(f"{name}.layer_norm_1.", D)
        norm(f"{name}.layer_norm_2.", D)
        linear(f"{name}.attn.in_proj_", D, 3 * D)
        linear(f"{name}.attn.out_proj.", D, D)
        linear(f"{name}.ffn.linear1.", D, 2 * HIDDEN)
        linear(f"{name}.ffn.linear2.", HIDDEN, D)
    state = {
        name: drawn(*shape, seed=number) * 0.4
        for number, (name, shape) in enumerate(shapes.items())
    }
    for name in state:
        if name.endswith(("layer_norm_1.weight", "layer_norm_2.weight", ".0.weight", ".4.weight")):
            state[name] = state[name] + 1
    return state


def residual(state: State, name: str, values: Tensor, mutant: str) -> Tensor:
    def layer(number: int) -> tuple[Tensor, Tensor]:
        return state[f"{name}.block.{number}.weight"], state[f"{name}.block.{number}.bias"]

    slope = 0.01 if mutant == "slope" else 0.1
    found = F.leaky_relu(F.layer_norm(values, values.shape[-1:], *layer(0)), slope)
    found = F.linear(found, *layer(3))
    found = F.leaky_relu(F.layer_norm(found, found.shape[-1:], *layer(4)), slope)
    found = F.linear(found, *layer(7))
    if mutant == "bypass":
        return found
    return found + F.linear(values, state[f"{name}.bypass.weight"], state[f"{name}.bypass.bias"])


def attention(state: State, name: str, normed: Tensor, factor: Tensor, mutant: str) -> Tensor:
    weight = state[f"{name}.attn.in_proj_weight"].chunk(3)
    bias = state[f"{name}.attn.in_proj_bias"].chunk(3)
    query = F.linear(normed * factor, weight[0], bias[0])
    if mutant == "scaled bias":
        query = factor * F.linear(normed, weight[0], bias[0])
    heads = [
        each.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for each in (
            query,
            F.linear(normed, weight[1], bias[1]),
            F.linear(normed, weight[2], bias[2]),
        )
    ]
    logits = heads[0] @ heads[1].transpose(-1, -2) / (D / HEADS) ** 0.5
    read = (logits.softmax(dim=-1) @ heads[2]).transpose(1, 2).flatten(2)
    return F.linear(
        read, state[f"{name}.attn.out_proj.weight"], state[f"{name}.attn.out_proj.bias"]
    )


def reference(state: State, context: Tensor, response: Tensor, mutant: str = "") -> Tensor:
    """Return what the published network computes, or what a mutant of it does.

    The facts: a pair is [embedding; response]; registers stand in front; the query is scaled by
    the logarithm of the whole length before its projection; the first half of the hidden layer
    goes through silu and multiplies the second; the first register is read.
    """
    pairs = torch.cat([context.expand(len(response), -1, -1), response[..., None]], dim=-1)
    if mutant == "response first":
        pairs = pairs.roll(1, dims=-1)
    tokens = residual(state, "early_layers.0", pairs, mutant)
    registers = state["cls_token"]
    tokens = torch.cat([registers.expand(len(tokens), -1, -1), tokens], dim=1)
    length = torch.tensor(float(tokens.shape[1]), dtype=torch.float64)
    if mutant == "registers not counted":
        length -= registers.shape[1]
    factor = length.log2() if mutant == "base two" else length.log()
    for layer in range(LAYERS):
        name = f"transformer.{layer}"
        norms = [
            (state[f"{name}.layer_norm_{each}.weight"], state[f"{name}.layer_norm_{each}.bias"])
            for each in (1, 2)
        ]
        normed = F.layer_norm(tokens, (D,), *norms[0])
        tokens = tokens + attention(state, name, normed, factor, mutant)
        hidden = F.layer_norm(tokens, (D,), *norms[1])
        first, second = (state[f"{name}.ffn.linear{each}.weight"] for each in (1, 2))
        biases = [state[f"{name}.ffn.linear{each}.bias"] for each in (1, 2)]
        gate, value = F.linear(hidden, first, biases[0]).chunk(2, dim=-1)
        if mutant == "halves":
            gate, value = value, gate
        tokens = tokens + F.linear(F.silu(gate) * value, second, biases[1])
    last = mutant == "last token"
    return residual(state, "weight_pred.0", tokens[:, -1 if last else 0], mutant)


MUTANTS = [
    *("scaled bias", "registers not counted", "base two", "halves", "last token", "bypass"),
    *("slope", "response first"),
]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[State, Path]:
    state, path = random_state(), tmp_path / "weights.safetensors"
    save_file(state, path)
    return state, path


def data() -> tuple[Tensor, Tensor]:
    return drawn(S, E, seed=101), drawn(VOXELS, S, seed=102)


def gradients(made: SetTransformer) -> State:
    """Return the gradients under the published names."""
    for each in made.parameters():
        each.data = each.grad
    return published_state(made)


def test_it_computes_what_the_published_network_computes(saved: tuple[State, Path]) -> None:
    # Catches a tensor that goes to another layer, and every deviation in the list of mutants.
    state, path = saved
    config, made = load_published(path)
    assert (config.width, config.layers, config.feedforward) == (D, LAYERS, HIDDEN)
    assert (config.registers, config.heads, made.embedding_width) == (4, 10, E)
    context, response = (each.requires_grad_() for each in data())
    found = made(context, response)
    assert found.dtype == torch.float64
    for each in state.values():
        each.requires_grad_()
    expected = reference(state, context, response)
    torch.testing.assert_close(found, expected, **TOLERANCE["float64"])
    direction = drawn(*found.shape, seed=103)
    outer = torch.autograd.grad((found * direction).sum(), (context, response), retain_graph=True)
    names = ("context", "response", *state)
    asked = (context, response, *state.values())
    theirs = dict(zip(names, torch.autograd.grad((expected * direction).sum(), asked), strict=True))
    (found * direction).sum().backward()
    mine = {"context": outer[0], "response": outer[1], **gradients(made)}
    assert mine.keys() == theirs.keys()
    for name, each in theirs.items():
        torch.testing.assert_close(mine[name], each, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_sees_every_deviation(mutant: str, saved: tuple[State, Path]) -> None:
    # Catches weights so small that a wrong detail would not show.
    state, path = saved
    found = load_published(path)[1](*data())
    deviating = reference(state, *data(), mutant)
    assert (found - deviating).abs().max() > 1e-3 * found.abs().max()


@pytest.mark.parametrize("registers", [1, 4])
@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "ckpt"])
def test_all_ways_of_keeping_it_are_read(
    kind: str, prefix: str, registers: int, tmp_path: Path
) -> None:
    # Catches a reader for one of the files that are about.
    state, path = random_state(registers), tmp_path / f"weights.{kind}"
    named = {prefix + name: each for name, each in state.items()}
    if kind == "safetensors":
        save_file(named, path)
    else:
        torch.save({"state_dict": named, "epoch": 3} if kind == "ckpt" else named, path)
    _, made = load_published(path)
    torch.testing.assert_close(made(*data()), reference(state, *data()), **TOLERANCE["float64"])
    again = published_state(made)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], each) for name, each in state.items())
    save_file(again, tmp_path / "again.safetensors")
    save_file(made.state_dict(), tmp_path / "ours.safetensors")


def test_loading_draws_nothing_and_gives_trainable_weights(saved: tuple[State, Path]) -> None:
    # Catches weights that are frozen or share memory, and a load that changes later draws.
    before = torch.random.get_rng_state()
    _, made = load_published(saved[1])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(each.requires_grad and each.is_leaf for each in made.parameters())
    with torch.no_grad():
        made.blocks[0].attention.query.weight.zero_()
    assert made.blocks[0].attention.key.weight.all()
    assert not made.training


def test_half_precision_files_give_half_precision_networks(tmp_path: Path) -> None:
    # Catches a buffer that stays in another dtype.
    path = tmp_path / "half.safetensors"
    save_file({name: each.bfloat16() for name, each in random_state().items()}, path)
    _, made = load_published(path)
    assert {each.dtype for each in made.state_dict().values()} == {torch.bfloat16}
    assert made(*(each.bfloat16() for each in data())).isfinite().all()


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: each for key, each in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("cls_token"), "cls_token is missing; it has early_layers.0.block.0.weight"),
        (without("early_layers.0.bypass.weight"), "lacks early_layers.0.bypass.weight"),
        (without("transformer.1.attn.in_proj_bias"), r"lacks transformer.1.attn.in_proj_bias; "),
        (lambda state: {**state, "extra": torch.zeros(2)}, "has extra, which the published"),
        (
            lambda state: {**state, "transformer.2.ffn.linear1.bias": torch.zeros(25)},
            r"transformer.2.ffn.linear1.bias has shape \(25,\); .* must have \(26,\)",
        ),
        (lambda state: {**state, "cls_token": torch.zeros(4, D)}, "needed are 3 axes"),
        (lambda state: {**state, "steps": 7}, "steps is int; needed is a tensor of numbers"),
        (
            lambda state: {**state, "steps": torch.zeros(2, dtype=torch.int64)},
            "steps is torch.int64; needed is a tensor of numbers",
        ),
        (lambda state: {}, "cls_token is missing; it has nothing"),
    ],
)
def test_tensors_that_do_not_belong_are_named(
    change: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    # Catches a network with some layers as they were drawn.
    path = tmp_path / "weights.pth"
    torch.save(change(random_state()), path)
    with pytest.raises(MismatchError, match=message):
        load_published(path)


def test_files_that_are_not_plain_are_refused(tmp_path: Path) -> None:
    # Catches a loader that runs what a file says, and one that shows torch's own error.
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": random_state(), "callback": Fraction(1, 3)}, path)
    with pytest.raises(FileError, match=r"weights.pth is no file of tensors and pl") as refused:
        load_published(path)
    # Torch's own message advises to run the file.
    assert "False" not in str(refused.value)
    path.write_bytes(pickle.dumps(Fraction(1, 3), protocol=2))
    with pytest.raises(FileError, match="is no file of tensors"):
        load_published(path)
    for content in (b"", b"not weights", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(FileError, match="is no file of tensors"):
            load_published(path)
    torch.save([1, 2], path)
    with pytest.raises(FileError, match="holds a list; needed is a dict of tensors"):
        load_published(path)
    (tmp_path / "weights.safetensors").write_bytes(b"not weights")
    with pytest.raises(FileError, match="not a whole safetensors file"):
        load_published(tmp_path / "weights.safetensors")
    with pytest.raises(FileError, match="does not exist"):
        load_published(tmp_path / "nothing.pth")
    with pytest.raises(FileError, match="is no file of tensors"):
        load_published(tmp_path)


def test_heads_that_do_not_divide_the_width_are_refused(saved: tuple[State, Path]) -> None:
    # Catches heads of a fractional width.
    for heads in (3, 0):
        with pytest.raises(InputError, match=f"heads={heads} must divide the width 20"):
            load_published(saved[1], heads=heads)
    assert load_published(saved[1], heads=5)[0].heads == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention": "linear"}, "attention='linear' has no place"),
        ({"attention_parameters": {"bias": None}}, "attention_parameters=.* has no place"),
        ({"logit_scaling": "none"}, "logit_scaling='none' has no place"),
        ({"input_activation": False}, "input_activation=False has no place"),
    ],
)
def test_what_the_layout_has_no_place_for_is_not_written(
    change: dict[str, object], message: str
) -> None:
    # Catches a file that others would read as another network.
    with pytest.raises(InputError, match=message):
        published_state(network(**change))


def test_input_statistics_are_not_dropped_in_silence() -> None:
    # Catches weights for standardised embeddings, given to readers that do not standardise.
    for name in ("mean", "scale"):
        made = network()
        setattr(made, name, getattr(made, name) + 0.5)
        with pytest.raises(InputError, match="no place for the mean and scale"):
            published_state(made)
