"""The network of the transformer encoder: blocks of queries, losses, gates and attention maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from neuroattn.encoders.decoder import GATE_PRIOR, BrainDecoder, DecoderConfig
from neuroattn.encoders.queries import QueryMap
from neuroattn.errors import InputError, UnknownNameError
from tests.tolerances import TOLERANCE

ROWS, COLUMNS, CHANNELS, BATCH = 3, 5, 7, 4
QUERIES = QueryMap(
    ("a", "b", "c", "d", "e"),
    np.array([1, 4, 0, 3, 4, 2, 5, 6, 0]),
    np.array([0, 0, 1, 1, 1, 2, 3, 3, 4]),
)
PLAIN = DecoderConfig(dim=8, heads=2, layers=2, feedforward=9, dropout=0.0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def decoder(config: DecoderConfig = PLAIN, queries: QueryMap = QUERIES) -> BrainDecoder:
    with torch.random.fork_rng(devices=[]):
        made = BrainDecoder(config, queries, (ROWS, COLUMNS), CHANNELS).double()
    for number, (_, parameter) in enumerate(sorted(made.named_parameters())):
        parameter.data = drawn(*parameter.shape, seed=number + 1) / 2
    made.mean.copy_(drawn(CHANNELS, seed=97))
    made.scale.copy_(drawn(CHANNELS, seed=98).abs() + 0.5)
    return made


def images(seed: int = 50, batch: int = BATCH) -> torch.Tensor:
    return drawn(batch, ROWS * COLUMNS, CHANNELS, seed=seed)


def gradients(made: BrainDecoder, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*made.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("block", [1, 2, 4])
def test_blocks_of_queries_give_what_one_block_gives(block):
    # Catches a lost, doubled or reordered block, and a recomputation that differs.
    whole, parts = decoder(), decoder(replace(PLAIN, query_block=block))
    tokens, response = images(), drawn(BATCH, 7, seed=51)
    torch.testing.assert_close(parts(tokens), whole(tokens), **TOLERANCE["float64"])
    first = gradients(whole, whole.loss(tokens, response))
    second = gradients(parts, parts.loss(tokens, response))
    for name, expected in first.items():
        torch.testing.assert_close(second[name], expected, **TOLERANCE["float64"])
    assert first["query"].abs().amin(1).max() > 0


def test_it_equals_the_published_layer_order_written_out():
    # Catches a residual, norm or query that stands in another place than in the paper's runs.
    made = decoder(replace(PLAIN, layers=1))
    tokens = (images() - made.mean) / made.scale
    layer = made.layers[0]
    state = torch.zeros(BATCH, 5, 8, dtype=torch.float64)
    read = layer.attention.project(tokens, made.position)
    state = state + layer.attention(layer.norm_attention(state) + made.query, read)
    hidden = layer.expand(layer.norm_feedforward(state)).clamp_min(0)
    expected = made.norm(state + layer.contract(hidden))
    torch.testing.assert_close(made.decode(tokens), expected, **TOLERANCE["float64"])
    torch.testing.assert_close(made(images()), made.readout(expected), **TOLERANCE["float64"])


def test_queries_do_not_hear_each_other():
    # Catches self-attention among the queries, which would bind their blocks together.
    made, tokens = decoder(), images()
    before = made.decode(tokens)
    made.query.data[2] += 1.0
    after = made.decode(tokens)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(after[:, others], before[:, others], **TOLERANCE["float64"])
    assert not torch.allclose(after[:, 2], before[:, 2])


def test_images_do_not_hear_each_other():
    # Catches statistics over the batch: a prediction would depend on its neighbours.
    made, tokens = decoder(replace(PLAIN, static_branch=True)), images()
    turned = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(made(tokens[turned]), made(tokens)[turned], **TOLERANCE["float64"])
    torch.testing.assert_close(made(tokens[:1]), made(tokens)[:1], **TOLERANCE["float64"])


def test_tokens_are_standardised_in_the_networks_own_precision():
    # Catches features of half precision that are centred before they are widened.
    made = decoder().float()
    half = (300 + images()).half()
    made.mean.fill_(300.0)
    found = made.standardise(half)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (half.float() - 300) / made.scale)


def test_the_loss_is_the_sum_of_the_branches_own_losses():
    # Catches one branch trained on what the other leaves over.
    made = decoder(replace(PLAIN, static_branch=True))
    made.static.logits.data.copy_(drawn(*made.static.logits.shape, seed=52))
    tokens, response = images(), drawn(BATCH, 7, seed=51)
    routed, fixed = made.branches(tokens)
    expected = F.mse_loss(routed, response) + F.mse_loss(fixed, response) + made.static.penalty()
    torch.testing.assert_close(made.loss(tokens, response), expected, **TOLERANCE["float64"])
    alone = decoder()
    torch.testing.assert_close(
        alone.loss(tokens, response), F.mse_loss(alone(tokens), response), **TOLERANCE["float64"]
    )


def test_the_gate_mixes_the_branches():
    # Catches a gate turned round, or one that the prediction does not use.
    made, tokens = decoder(replace(PLAIN, static_branch=True)), images()
    routed, fixed = made.branches(tokens)
    torch.testing.assert_close(made(tokens), (routed + fixed) / 2, **TOLERANCE["float64"])
    made.gate.copy_(torch.linspace(0, 1, 7))
    expected = routed * (1 - made.gate) + fixed * made.gate
    torch.testing.assert_close(made(tokens), expected, **TOLERANCE["float64"])
    torch.testing.assert_close(made(tokens)[:, 6], fixed[:, 6], **TOLERANCE["float64"])


def gated(queries: QueryMap = QUERIES) -> BrainDecoder:
    return decoder(replace(PLAIN, static_branch=True), queries)


def calibrated(made: BrainDecoder, response: torch.Tensor, *batches: torch.Tensor) -> torch.Tensor:
    """Calibrate on batches whose statistics are summed, as the training does."""
    total: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for tokens, target in zip(batches, response.split(BATCH), strict=True):
            for name, value in made.statistics(tokens, target).items():
                total[name] = total.get(name, 0) + value
        made.calibrate(total)
    return made.gate


def test_with_a_query_for_each_voxel_the_gate_is_the_least_squares_mix():
    # Catches a solution that minimises anything but the error of the mixture.
    seven = QueryMap(tuple("abcdefg"), np.arange(7), np.arange(7))
    made, batches = gated(seven), [images(60), images(61)]
    tokens = torch.cat(batches)
    with torch.no_grad():
        routed, fixed = made.branches(tokens)
    response = routed + drawn(7, seed=3) * (fixed - routed) + 0.3 * drawn(8, 7, seed=4)
    gate = calibrated(made, response, *batches)
    for voxel in range(7):
        apart = (fixed - routed)[:, voxel, None].numpy()
        target = (response - routed)[:, voxel].numpy()
        solved = np.linalg.lstsq(apart, target, rcond=None)[0][0]
        assert gate[voxel].item() == pytest.approx(np.clip(solved, 0, 1), rel=1e-9)
    assert ((gate > 0) & (gate < 1)).any()
    assert (gate.eq(0) | gate.eq(1)).any()


def test_a_mixture_that_all_voxels_share_is_recovered():
    # Catches a prior that pulls towards one half or zero.
    made, batches = gated(), [images(60), images(61)]
    with torch.no_grad():
        routed, fixed = made.branches(torch.cat(batches))
    gate = calibrated(made, routed + 0.3 * (fixed - routed), *batches)
    torch.testing.assert_close(gate, torch.full_like(gate, 0.3), **TOLERANCE["float64"])


def test_a_voxels_gate_is_shrunk_towards_that_of_its_query():
    # Catches a prior that is not in units of average voxels, or that is shared by all queries.
    made, batches = gated(), [images(60), images(61)]
    with torch.no_grad():
        routed, fixed = made.branches(torch.cat(batches))
    true = torch.linspace(0.1, 0.9, 7).double()
    gate = calibrated(made, routed + true * (fixed - routed), *batches)
    power = (fixed - routed).square().sum(0)
    for query in range(5):
        own = [v for v in range(7) if made.readout.owner[v] == query]
        if not own:
            continue
        shared = sum(power[v] * true[v] for v in own) / sum(power[v] for v in own)
        weight = GATE_PRIOR * sum(power[v] for v in own) / len(own)
        for v in own:
            expected = (power[v] * true[v] + weight * shared) / (power[v] + weight)
            assert gate[v].item() == pytest.approx(expected.item(), rel=1e-9)


def test_branches_that_agree_leave_a_finite_gate():
    # Catches 0 / 0 for a voxel whose branches are equal, or for all of them.
    made = gated()
    none = torch.zeros(7, dtype=torch.float64)
    made.calibrate({"explained": none, "apart": none})
    assert torch.isfinite(made.gate).all()
    one = torch.ones(7, dtype=torch.float64)
    one[3] = 0.0
    made.calibrate({"explained": one / 2, "apart": one})
    assert made.gate[3].item() == pytest.approx(0.5)


def test_without_a_static_branch_there_is_nothing_to_calibrate():
    # Catches statistics that cost a second forward pass for nothing.
    assert decoder().statistics(images(), drawn(BATCH, 7)) == {}
    assert "gate" not in decoder().state_dict()


@pytest.mark.parametrize("layer", [0, 1, -1, -2])
def test_attention_maps_are_the_weights_that_the_decoder_read_with(layer):
    # Catches maps of another layer, of unstandardised tokens, or without the position.
    made, tokens, seen = decoder(), images(), {}
    attention = made.layers[layer].attention
    hook = attention.register_forward_hook(lambda *call: seen.update(read=call[2]))
    made(tokens)
    hook.remove()
    maps = made.attention_maps(tokens, layer)
    assert maps.shape == (BATCH, 5, 2, ROWS * COLUMNS)
    torch.testing.assert_close(
        maps.sum(-1), torch.ones(BATCH, 5, 2).double(), **TOLERANCE["float64"]
    )
    values = attention.value(made.standardise(tokens)).unflatten(-1, (2, 4))
    read = torch.einsum("bqht,bthd->bqhd", maps, values).flatten(2)
    torch.testing.assert_close(attention.output(read), seen["read"], **TOLERANCE["float64"])


@pytest.mark.parametrize("layer", [2, -3, 7])
def test_a_layer_that_is_not_there_is_refused(layer):
    # Catches a layer number taken modulo the number of layers.
    with pytest.raises(InputError, match=f"layer={layer} is not one of the 2 layers"):
        decoder().attention_maps(images(), layer)


def test_dropout_is_drawn_in_training_only():
    # Catches predictions that differ from call to call.
    made, tokens = decoder(replace(PLAIN, dropout=0.5)), images()
    made.eval()
    torch.testing.assert_close(made(tokens), decoder()(tokens), rtol=0, atol=0)
    made.train()
    with torch.random.fork_rng(devices=[]):
        assert not torch.allclose(made(tokens), made(tokens))


def test_sizes_out_of_range_are_refused_by_name():
    # Catches a shape error from deep inside torch.
    for name in ("dim", "heads", "layers", "feedforward", "query_block"):
        with pytest.raises(InputError, match=f"{name}=0 must be at least 1"):
            DecoderConfig(**{name: 0})
    for dropout in (-0.1, 1.0):
        with pytest.raises(InputError, match=f"dropout={dropout} must lie within"):
            DecoderConfig(dropout=dropout)
    with pytest.raises(UnknownNameError, match="did you mean 'softmax'"):
        decoder(replace(PLAIN, attention="sotfmax"))
