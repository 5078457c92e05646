"""Mega against its equations token by token, its functions, its blocks and its module."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.attention.linear.mega import laplace
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

FUNCTIONS = ("softmax", "laplace", "relu2")
FORMS = ("parallel", "recurrent")


def of_function(name, **more):
    def given(sizes, generator):
        shape = [sizes[each] for each in ("batch", "heads", "queries", "keys")]
        bias = torch.randn(shape, generator=generator, dtype=torch.float64)
        return {"function": name, "bias": bias, **more}

    return given


EXAMPLES = {
    "mega": [
        Example(label="softmax", lengths=(1, 2, 65, 257)),
        Example(of_function("laplace"), lengths=(2, 33), label="laplace"),
        Example(
            of_function("relu2", smooth_queries=False), lengths=(2, 33), label="relu2-raw-queries"
        ),
        Example(of_function("softmax", block=4), lengths=(1, 3, 4, 5, 9), label="blocks"),
    ]
}


def inputs(queries, keys, dim=3, value_dim=4, batch=2, heads=2, hidden=4, shared=5, seed=0):
    """Return query, key, value and all named tensors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    three = [normal(batch, heads, *each) for each in ((queries, dim), (keys, dim))]
    named = {name: normal(heads, dim, hidden).sigmoid() for name in ("gain", "damping")}
    named |= {name: normal(heads, dim, hidden) for name in ("spread", "readout")}
    named |= {"skip": normal(heads, dim), "shared_weight": normal(heads, shared, dim)}
    rest = ("shared_bias", "query_scale", "query_shift", "key_scale", "key_shift")
    named |= {name: normal(heads, shared) for name in rest}
    return [*three, normal(batch, heads, keys, value_dim)], named


def smoothed(tokens, named, head, kept=None, backward=False):
    """Return silu(average + skip) of one sequence (tokens, dim), token by token."""
    length, dim = tokens.shape
    hidden = named["gain"].shape[-1]
    first = hidden // 2 if backward else hidden
    out = torch.zeros_like(tokens)
    for c in range(dim):
        a, d, s, r = (named[each][head, c] for each in ("gain", "damping", "spread", "readout"))
        total = torch.zeros(length, dtype=torch.float64)
        state = torch.zeros(hidden, dtype=torch.float64)
        for t in range(length):
            x = tokens[t, c] if kept is None or kept[t] else 0.0
            state = a * s * x + (1 - a * d) * state
            total[t] += (r * state)[:first].sum()
        state = torch.zeros(hidden, dtype=torch.float64)
        for t in reversed(range(length)):
            if backward:
                total[t] += (r * state)[first:].sum()
            x = tokens[t, c] if kept is None or kept[t] else 0.0
            state = a * s * x + (1 - a * d) * state
        out[:, c] = total + named["skip"][head, c] * tokens[:, c]
    return out * out.sigmoid()


def by_loops(three, named, causal=False, function="softmax", kept=None, smooth=True, both=False):
    query, key, value = three
    read = torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):

            def z(tokens, head=h):
                mixed = tokens @ named["shared_weight"][head].T + named["shared_bias"][head]
                return mixed * mixed.sigmoid()

            same = kept if query.shape[2] == key.shape[2] else None
            asked = smoothed(query[b, h], named, h, same, both) if smooth else query[b, h]
            asked = named["query_scale"][h] * z(asked) + named["query_shift"][h]
            told = z(smoothed(key[b, h], named, h, kept, both))
            told = named["key_scale"][h] * told + named["key_shift"][h]
            shift = key.shape[2] - query.shape[2]
            for i in range(query.shape[2]):
                seen = [
                    j
                    for j in range(key.shape[2])
                    if (not causal or j <= i + shift) and (kept is None or kept[j])
                ]
                logits = [float(asked[i] @ told[j]) for j in seen]
                if function == "softmax":
                    powers = [math.exp(each / math.sqrt(asked.shape[-1])) for each in logits]
                    shares = [each / sum(powers) for each in powers]
                elif function == "relu2":
                    shares = [max(0.0, each / len(seen)) ** 2 for each in logits]
                else:
                    spread = math.sqrt(1 / (4 * math.pi)) * math.sqrt(2)
                    shares = [
                        (1 + math.erf((each / len(seen) - math.sqrt(0.5)) / spread)) / 2
                        for each in logits
                    ]
                for j, share in zip(seen, shares, strict=True):
                    read[b, h, i] += share * value[b, h, j]
    return read


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 6)])
def test_outputs_equal_a_loop_over_tokens(form, function, causal, queries, keys):
    # Catches averaged values, swapped readings of queries and keys, a length of all keys.
    three, named = inputs(queries, keys)
    found = attend("mega", *three, causal=causal, form=form, function=function, **named)
    wanted = by_loops(three, named, causal, function)
    torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_hidden_token_enters_no_average_and_no_length(form, function):
    # Catches padding that leaks through the average, also through that of the queries.
    three, named = inputs(6, 6)
    kept = [True, False, True, True, True, False]
    mask = torch.tensor(kept)[None, None, None]
    for causal in (False, True):
        given = {"causal": causal, "form": form, "function": function, "mask": mask, **named}
        found = attend("mega", *three, **given)
        wanted = by_loops(three, named, causal, function, kept)
        torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])
    # Hidden last tokens are as good as absent.
    short = [each[:, :, :5] for each in three]
    mask = torch.tensor([True] * 5 + [False])[None, None, None]
    found = attend("mega", *three, form=form, function=function, mask=mask, **named)
    wanted = attend("mega", *short, function=function, **named)
    torch.testing.assert_close(found[:, :, :5], wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize("form", FORMS)
def test_queries_from_elsewhere_are_not_averaged(form):
    # Catches an average over queries that have no order, which would depend on it.
    three, named = inputs(4, 6)
    given = {"form": form, "smooth_queries": False, **named}
    found = attend("mega", *three, **given)
    torch.testing.assert_close(found, by_loops(three, named, smooth=False), **TOLERANCE["float64"])
    turned = attend("mega", three[0].flip(2), *three[1:], **given)
    torch.testing.assert_close(turned.flip(2), found, **TOLERANCE["float64"])
    smooth = attend("mega", *three, form=form, **named)
    assert not torch.allclose(smooth, found)


@pytest.mark.parametrize("form", FORMS)
def test_half_of_the_hidden_units_can_run_backward(form):
    # Catches a backward half that counts the token twice.
    three, named = inputs(5, 5)
    found = attend("mega", *three, form=form, bidirectional=True, **named)
    torch.testing.assert_close(found, by_loops(three, named, both=True), **TOLERANCE["float64"])
    with pytest.raises(InputError, match="not causal; set bidirectional=False"):
        attend("mega", *three, form=form, bidirectional=True, causal=True, **named)
    three, named = inputs(5, 5, hidden=3)
    with pytest.raises(InputError, match="even number of hidden units; gain has 3"):
        attend("mega", *three, form=form, bidirectional=True, **named)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [10, 6])
def test_blocks_are_attention_inside_each_block(function, causal, queries):
    # Catches an average that restarts at each block, and blocks counted from the queries' start.
    three, named = inputs(queries, 10)
    given = {"causal": causal, "function": function, **named}
    found = attend("mega", *three, block=4, **given)
    matrix = weights("mega", *three[:2], block=4, **given)
    for i in range(queries):
        token = i + 10 - queries
        start, stop = token // 4 * 4, min(10, token // 4 * 4 + 4)
        assert (matrix[:, :, i, :start] == 0).all()
        assert (matrix[:, :, i, stop:] == 0).all()
        if causal:
            stop = token + 1
        # A mask of the block, given all at once, divides by the block's keys too.
        inside = torch.zeros(10, dtype=torch.bool)
        inside[start:stop] = True
        row = plain(three, named, i, inside, function)
        torch.testing.assert_close(found[:, :, i], row, **TOLERANCE["float64"])


def plain(three, named, i, inside, function):
    """Return the read of query i of the tokens ``inside``, the averages being over all."""
    rows = []
    query, key, value = three
    for b in range(2):
        for h in range(2):
            read = []
            for tokens, side in ((query[b, h], "query"), (key[b, h], "key")):
                mixed = smoothed(tokens, named, h) @ named["shared_weight"][h].T
                mixed = mixed + named["shared_bias"][h]
                mixed = mixed * mixed.sigmoid()
                read.append(mixed * named[f"{side}_scale"][h] + named[f"{side}_shift"][h])
            logits = read[1][inside] @ read[0][i]
            if function == "softmax":
                shares = (logits / math.sqrt(logits.new_tensor(read[0].shape[-1]))).softmax(0)
            else:
                logits = logits / int(inside.sum())
                shares = laplace(logits) if function == "laplace" else logits.relu() ** 2
            rows.append(shares @ value[b, h][inside])
    return torch.stack(rows).unflatten(0, (2, 2))


@pytest.mark.parametrize("causal", [False, True])
def test_convolution_equals_the_recurrence(causal):
    # Catches a transform that wraps around, so that the last token reaches the first average.
    three, named = inputs(257, 257)
    found, wanted = (attend("mega", *three, causal=causal, form=each, **named) for each in FORMS)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)
    three[1][:, :, -1] += 100.0
    moved = attend("mega", *three, causal=causal, form="parallel", **named)
    if causal:
        torch.testing.assert_close(moved[:, :, :-1], found[:, :, :-1], rtol=1e-9, atol=1e-10)
    else:
        assert not torch.allclose(moved, found)


def test_a_constant_is_amplified_by_one_over_the_damping():
    # Catches (1 - gain) · damping in place of 1 - gain · damping.
    three, named = inputs(3000, 3000, dim=1, batch=1, heads=1, hidden=1, shared=1)
    three[0][:], three[1][:] = 1.0, 1.0
    ones = {name: torch.ones_like(named[name]) for name in ("spread", "readout", "shared_weight")}
    zeros = [name for name in named if name in ("skip", "shared_bias") or name.endswith("_shift")]
    scales = {"query_scale": torch.ones(1, 1).double(), "key_scale": torch.ones(1, 1).double()}
    named |= {**ones, **scales, **{name: torch.zeros_like(named[name]) for name in zeros}}
    # relu² with one key undoes to what is compared: z² of the amplified constant.
    for form in FORMS:
        given = {"function": "relu2", "form": form, **named}
        found = attend("mega", *three[:2], torch.ones_like(three[2]), block=1, **given)

        def silu(x):
            return x / (1 + math.exp(-x))

        z = silu(silu(1 / named["damping"].item()))
        assert math.sqrt(found[0, 0, -1, 0].item()) == pytest.approx(z**2, rel=1e-9)


def test_laplace_meets_relu_squared_in_value_and_slope():
    # Catches a standard deviation taken for a variance.
    at = torch.tensor(math.sqrt(0.5), dtype=torch.float64, requires_grad=True)
    for function in (laplace, lambda x: x.relu().square()):
        value = function(at)
        (slope,) = torch.autograd.grad(value, at)
        assert value.item() == pytest.approx(0.5, abs=1e-15)
        assert slope.item() == pytest.approx(math.sqrt(2), abs=1e-14)
    ends = laplace(torch.tensor([-50.0, 50.0]))
    assert ends.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_scale_multiplies_the_logits_of_every_function(function):
    # Catches a scale that one of the functions leaves out.
    three, named = inputs(4, 4)
    doubled = {**named, "key_scale": 2 * named["key_scale"], "key_shift": 2 * named["key_shift"]}
    base = 5**-0.5 if function == "softmax" else 1.0
    found = attend("mega", *three, function=function, scale=2 * base, **named)
    wanted = attend("mega", *three, function=function, **doubled)
    torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])


def test_the_bias_is_added_to_the_logits_of_its_block():
    # Catches a bias that is cut at the wrong place.
    three, named = inputs(6, 6)
    bias = torch.zeros(1, 1, 6, 6).double()
    bias[..., 4, 2] = 90.0  # of another block
    without = attend("mega", *three, block=3, **named)
    found = attend("mega", *three, bias=bias, block=3, **named)
    torch.testing.assert_close(found, without, **TOLERANCE["float64"])
    bias[..., 4, 5] = 60.0
    found = attend("mega", *three, bias=bias, block=3, **named)
    torch.testing.assert_close(found[:, :, 4], three[2][:, :, 5], rtol=0, atol=1e-3)


def block_of(**parameters):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MultiheadAttention(12, 3, mechanism="mega", parameters=parameters)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_block_learns_everything_and_reads_tokens_as_they_come(function, bidirectional):
    # Catches a parameter that no gradient reaches, and a query projection that Mega lacks.
    block = block_of(hidden=6, function=function, shared=5, bidirectional=bidirectional)
    assert block.query is None
    assert block.key is None
    assert block.learned.gain.shape == (3, 4, 12 if bidirectional else 6)
    assert block.learned.shared_weight.shape == (3, 5, 4)
    with torch.no_grad():
        for each in (block.learned.query_scale, block.learned.key_scale):
            each.add_(1.0)
        block.learned.shared_weight.mul_(50)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 9, 12, generator=generator)
    wanted = tokens.roll(1, dims=1)
    optimiser = torch.optim.Adam(block.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = (block(tokens, block.project(tokens)) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, each in block.learned.named_parameters():
        assert each.grad.abs().sum() > 0, name


def test_the_module_starts_as_the_authors_code():
    # Catches a readout that is not divided by the root of the hidden units.
    learned = block_of(hidden=16).learned
    named = learned.of_tokens(torch.zeros(1, 1, 12))
    assert named["readout"].std().item() == pytest.approx(1 / 4, rel=0.2)
    assert named["gain"].mean().item() == pytest.approx(0.5, abs=0.02)
    signs = named["spread"].sign()[0, 0]
    assert signs.tolist() == [1.0, -1.0] * 8
    assert (named["query_shift"] == 0).all()
    assert named["key_scale"].abs().max() < 0.1


def test_a_fixed_tensor_is_not_learned():
    # Catches what a block learns winning over what the user gave.
    skip = torch.zeros(3, 4)
    block = block_of(skip=skip)
    tokens = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(0))
    block(tokens, block.project(tokens)).sum().backward()
    assert block.learned.skip.grad is None
