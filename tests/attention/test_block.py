"""The learnable block against torch's own, and the sine code against its formula."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from neuroattn.attention import MultiheadAttention
from neuroattn.attention.block import sine_position
from neuroattn.attention.mimetic import mimetic
from neuroattn.errors import InputError, UnknownNameError
from tests.tolerances import TOLERANCE

DIM, HEADS, TOKENS, QUERIES = 12, 3, 7, 5
KINDS = ("weight", "bias")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def block(token_dim: int | None = None, **more: object) -> MultiheadAttention:
    with torch.random.fork_rng(devices=[]):
        made = MultiheadAttention(DIM, HEADS, token_dim, **more).double()  # type: ignore[arg-type]
    for number, parameter in enumerate(made.parameters()):
        parameter.data = drawn(*parameter.shape, seed=number + 10) / 3
    return made


def test_with_copied_weights_it_equals_torchs_multihead_attention():
    # Catches heads that are split along the wrong axis, or a bias left out.
    ours = block()
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True, dtype=torch.float64)
    ours.key_position.weight.data = ours.key.weight.data.clone()
    theirs.in_proj_weight.data = torch.cat([p.weight for p in (ours.query, ours.key, ours.value)])
    theirs.in_proj_bias.data = torch.cat([p.bias for p in (ours.query, ours.key, ours.value)])
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    queries, tokens, position = drawn(2, QUERIES, DIM), drawn(2, TOKENS, DIM), drawn(TOKENS, DIM)
    read = ours.project(tokens, position)
    expected, maps = theirs(queries, tokens + position, tokens, average_attn_weights=False)
    found = ours(queries, read)
    torch.testing.assert_close(found, expected, **TOLERANCE["float64"])
    torch.testing.assert_close(ours.maps(queries, read), maps, **TOLERANCE["float64"])
    direction = drawn(2, QUERIES, DIM, seed=3)
    mine = torch.autograd.grad((found * direction).sum(), ours.value.weight)[0]
    other = torch.autograd.grad((expected * direction).sum(), theirs.in_proj_weight)[0]
    torch.testing.assert_close(mine, other[2 * DIM :], **TOLERANCE["float64"])


def test_the_position_enters_the_keys_only():
    # Catches values that carry the place: voxels could then read where instead of what.
    ours, tokens = block(token_dim=9), drawn(2, TOKENS, 9)
    keys, values, _ = ours.project(tokens, drawn(TOKENS, DIM))
    moved_keys, moved_values, _ = ours.project(tokens, drawn(TOKENS, DIM, seed=1))
    torch.testing.assert_close(values, moved_values, rtol=0, atol=0)
    assert not torch.allclose(keys, moved_keys)
    assert keys.shape == values.shape == (2, HEADS, TOKENS, DIM // HEADS)


def test_a_batch_of_one_query_set_is_read_by_every_image():
    # Catches an output for the first image only.
    ours = block()
    tokens, position = drawn(4, TOKENS, DIM), drawn(TOKENS, DIM)
    read = ours.project(tokens, position)
    shared = drawn(1, QUERIES, DIM)
    once = ours(shared, read)
    repeated = ours(shared.expand(4, -1, -1), read)
    torch.testing.assert_close(once, repeated, **TOLERANCE["float64"])
    for image in range(4):
        alone = ours(shared, ours.project(tokens[image : image + 1], position))
        torch.testing.assert_close(once[image], alone[0], **TOLERANCE["float64"])
    assert ours.maps(shared, read).shape == (4, HEADS, QUERIES, TOKENS)


def test_the_weights_of_a_plain_block_have_the_names_they_always_had():
    # Catches an option that adds or renames weights of encoders that were saved before it.
    named = set(block().state_dict())
    layers = {f"{name}.{kind}" for name in ("query", "key", "value", "output") for kind in KINDS}
    assert named == {*layers, "key_position.weight"}


def test_a_block_without_position_keeps_no_weights_for_it():
    # Catches weights without a gradient, and a position that is dropped without a word.
    ours, placed = block(position=False), block()
    assert {name for name in ours.state_dict() if "position" in name} == set()
    ours.load_state_dict({n: each for n, each in placed.state_dict().items() if "pos" not in n})
    tokens, queries = drawn(2, TOKENS, DIM), drawn(2, QUERIES, DIM, seed=2)
    found, expected = (each(queries, each.project(tokens)) for each in (ours, placed))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"\(7, 12\) came to a block .* position=False"):
        ours.project(tokens, drawn(TOKENS, DIM))


def test_log_scaling_multiplies_the_queries_before_their_projection():
    # Catches a bias that is scaled too, and the logarithm to another base or of another length.
    ours = block(logit_scaling="log")
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True, dtype=torch.float64)
    theirs.in_proj_weight.data = torch.cat([p.weight for p in (ours.query, ours.key, ours.value)])
    theirs.in_proj_bias.data = torch.cat([p.bias for p in (ours.query, ours.key, ours.value)])
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    queries, tokens = drawn(2, QUERIES, DIM), drawn(2, TOKENS, DIM, seed=1)
    read = ours.project(tokens)
    scaled = queries * math.log(TOKENS)
    expected, maps = theirs(scaled, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(ours(queries, read), expected, **TOLERANCE["float64"])
    torch.testing.assert_close(ours.maps(queries, read), maps, **TOLERANCE["float64"])
    plain = block()
    assert not torch.allclose(plain(queries, plain.project(tokens)), expected, rtol=0.01)
    with pytest.raises(UnknownNameError, match="logit_scaling='ln' is unknown"):
        block(logit_scaling="ln")


def test_log_scaling_counts_what_a_query_reads():
    # Catches padding that changes what a short set reads, and a row that may see nothing.
    ours, tokens, queries = block(logit_scaling="log"), drawn(3, TOKENS, DIM), drawn(1, 2, DIM)
    mask = torch.ones(3, 1, 1, TOKENS, dtype=torch.bool)
    mask[1, ..., 4:] = False
    mask[2] = False
    found = ours(queries.requires_grad_(), ours.project(tokens), mask)
    assert torch.autograd.grad(found.sum(), queries)[0].isfinite().all()
    short = ours(queries, ours.project(tokens[1:2, :4]))
    torch.testing.assert_close(found[1:2], short, **TOLERANCE["float64"])
    nothing = ours.output.bias.expand(2, -1)
    torch.testing.assert_close(found[2], nothing, **TOLERANCE["float64"])
    with pytest.raises(InputError, match=r"mask has shape \(3, 3, 1, 7\).*alike for all heads"):
        ours(queries, ours.project(tokens), mask.expand(3, HEADS, 1, TOKENS))
    with pytest.raises(InputError, match=r"mask has shape \(7,\)"):
        ours(queries, ours.project(tokens), mask[0, 0, 0])


def test_a_causal_row_is_scaled_by_its_own_length():
    # Catches the whole length taken for every row: a prefix would read other than it did alone.
    ours, tokens = block(logit_scaling="log", causal=True), drawn(1, TOKENS, DIM)
    whole = ours(tokens, ours.project(tokens))
    for count in range(1, TOKENS):
        alone = ours(tokens[:, :count], ours.project(tokens[:, :count]))
        torch.testing.assert_close(whole[:, :count], alone, **TOLERANCE["float64"])
    maps = ours.maps(tokens, ours.project(tokens))
    torch.testing.assert_close(
        maps[0, :, 3, :4],
        ours.maps(tokens[:, :4], ours.project(tokens[:, :4]))[0, :, 3],
        **TOLERANCE["float64"],
    )


def test_the_page_on_log_scaling_prints_what_it_says(capsys):
    # Catches a page whose numbers are not those of its program.
    page = Path(__file__).resolve().parents[2] / "docs" / "theory" / "logit_scaling.md"
    text = page.read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    exec(compile(program, "page", "exec"), {})
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", ["softmax", "gated", "sink", "economical"])
def test_what_is_learned_from_queries_sees_them_unscaled(name):
    # Catches gates that saturate with the length: the factor belongs to the logits.
    log, plain = (
        block(mechanism=name, logit_scaling=scaling, position=False) for scaling in ("log", "none")
    )
    plain.query.weight.data = log.query.weight.data * math.log(TOKENS)
    tokens, queries = drawn(2, TOKENS, DIM), drawn(2, TOKENS, DIM, seed=2)
    found, expected = (each(queries, each.project(tokens)) for each in (log, plain))
    torch.testing.assert_close(found, expected, **TOLERANCE["float64"])


def test_tokens_in_another_order_with_their_places_read_the_same():
    # Catches a position code that is bound to the row of a token.
    ours, tokens, position = block(), drawn(2, TOKENS, DIM), drawn(TOKENS, DIM, seed=2)
    turned = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(0))
    queries = drawn(1, QUERIES, DIM, seed=4)
    first = ours(queries, ours.project(tokens, position))
    second = ours(queries, ours.project(tokens[:, turned], position[turned]))
    torch.testing.assert_close(first, second, **TOLERANCE["float64"])


def test_mistakes_are_refused_when_the_block_is_built():
    # Catches a wrong head count or name that shows after the features were read.
    with pytest.raises(InputError, match="dim=12 must be a multiple of heads=5"):
        MultiheadAttention(12, 5)
    with pytest.raises(UnknownNameError, match="did you mean 'softmax'"):
        MultiheadAttention(12, 3, mechanism="sotfmax")


def test_parameters_of_the_mechanism_reach_it():
    # Catches settings of a recipe that are stored and never used, or found wrong too late.
    with pytest.raises(UnknownNameError, match="no parameter 'heat'"):
        block(parameters={"heat": 3})
    tokens, queries = drawn(1, TOKENS, DIM), drawn(1, QUERIES, DIM, seed=2)
    bias = drawn(1, 1, QUERIES, TOKENS, seed=3)
    plain, biased = block(), block(parameters={"bias": bias})
    assert not torch.allclose(
        plain(queries, plain.project(tokens)), biased(queries, biased.project(tokens))
    )
    assert not torch.allclose(
        plain.maps(queries, plain.project(tokens)), biased.maps(queries, biased.project(tokens))
    )


def test_a_seed_gives_the_weights_that_it_always_gave():
    # Catches layers that are drawn in another order: published numbers would change by a refactor.
    torch.random.default_generator.manual_seed(3)
    made = MultiheadAttention(DIM, HEADS)
    torch.random.default_generator.manual_seed(3)
    layers = [nn.Linear(DIM, DIM, bias=number != 2) for number in range(5)]
    torch.testing.assert_close(made.key_position.weight, layers[2].weight, rtol=0, atol=0)
    torch.testing.assert_close(made.output.weight, layers[4].weight, rtol=0, atol=0)


def test_a_mask_of_padding_hides_tokens():
    # Catches padded tokens that are read.
    ours, tokens, queries = block(), drawn(2, TOKENS, DIM), drawn(2, QUERIES, DIM, seed=4)
    mask = torch.ones(2, 1, 1, TOKENS, dtype=torch.bool)
    mask[1, ..., 4:] = False
    found = ours(queries, ours.project(tokens), mask)
    short = ours(queries[1:], ours.project(tokens[1:, :4]))
    torch.testing.assert_close(found[1:], short, **TOLERANCE["float64"])
    whole = ours(queries, ours.project(tokens))
    torch.testing.assert_close(found[:1], whole[:1], **TOLERANCE["float64"])


@pytest.mark.parametrize("name", ["softmax", "economical", "probing", "mega", "delta", "gated"])
def test_blocks_run_in_mixed_precision(name):
    # Catches tokens that were not projected and stay in float32.
    with torch.random.fork_rng(devices=[]):
        made = MultiheadAttention(DIM, 1, mechanism=name)
    tokens = drawn(2, TOKENS, DIM).float()
    exact = made(tokens, made.project(tokens))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(tokens, made.project(tokens))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.1, atol=0.1)


def test_what_is_given_is_not_built():
    # Catches weights without a gradient, on which distributed training stops.
    assert block(mechanism="delta").learned is not None
    assert block(mechanism="delta", parameters={"beta": 0.5}).learned is None
    assert block(mechanism="gated_delta", parameters={"beta": 0.5}).learned is not None
    fixed = {"beta": 0.5, "alpha": 0.9}
    assert block(mechanism="gated_delta", parameters=fixed).learned is None


@pytest.mark.parametrize("name", ["economical", "probing"])
def test_a_mimetic_start_needs_all_projections(name):
    with pytest.raises(InputError, match=f"attention='{name}' has others"):
        MultiheadAttention(DIM, 1, mechanism=name, initialisation="mimetic")


@pytest.mark.parametrize("heads", [1, 3])
def test_a_mimetic_start_has_the_products_it_promises(heads):
    # Catches factors written into the wrong layer, and products of the wrong sign.
    layers = [nn.Linear(48, 48).double() for _ in range(4)]
    mimetic(*layers, heads=heads, generator=torch.Generator().manual_seed(1))
    query, key, value, output = (layer.weight.detach() for layer in layers)
    noise = torch.randn(48, 48, generator=torch.Generator().manual_seed(1)).double() / 48**0.5
    target = 0.7 * noise + 0.7 * torch.eye(48).double()
    product = query[: 48 // heads].T @ key[: 48 // heads]
    if heads == 1:
        torch.testing.assert_close(product, target, **TOLERANCE["float64"])
    tail = torch.linalg.svdvals(target)[48 // heads :].square().sum()
    missed = (product - target).square().sum()
    torch.testing.assert_close(missed, tail, rtol=1e-8, atol=1e-20)
    assert abs((output @ value).diagonal().mean() + 0.4) < 3 * 0.4 / 48
    with pytest.raises(InputError, match="mimetic"):
        MultiheadAttention(12, 3, token_dim=5, initialisation="mimetic")


@pytest.mark.parametrize(
    ("rows", "columns", "dim"), [(3, 5, 8), (1, 7, 4), (5, 1, 12), (14, 9, 64)]
)
def test_the_sine_code_equals_its_formula(rows, columns, dim):
    # Catches rows and columns exchanged, and sine and cosine not interleaved.
    code = sine_position(rows, columns, dim, temperature=100.0)
    assert code.shape == (rows * columns, dim)
    assert code.dtype == torch.float32
    half = dim // 2
    for row in range(rows):
        for column in range(columns):
            places = 2 * math.pi * (row + 1) / rows, 2 * math.pi * (column + 1) / columns
            expected = []
            for place in places:
                for channel in range(half):
                    phase = place / 100.0 ** (2 * (channel // 2) / half)
                    expected.append(math.cos(phase) if channel % 2 else math.sin(phase))
            found = code[row * columns + column].double()
            torch.testing.assert_close(
                found, torch.tensor(expected, dtype=torch.float64), **TOLERANCE["float32"]
            )


@pytest.mark.parametrize(("rows", "columns"), [(31, 31), (2, 3), (1, 1), (14, 7)])
def test_every_token_has_a_code_of_its_own(rows, columns):
    # Catches two places that attention cannot tell apart, such as both ends of a circle.
    code = sine_position(rows, columns, 16).double()
    apart = torch.cdist(code, code) + torch.eye(len(code))
    assert apart.min() > 0.05


def test_a_width_that_four_does_not_divide_is_refused():
    # Catches a code that is narrower than the keys.
    with pytest.raises(InputError, match="dim=6 must be a multiple of 4"):
        sine_position(2, 2, 6)
