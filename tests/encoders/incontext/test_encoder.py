"""The in-context encoder: against its oracle, in blocks, in half precision, on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from sklearn.base import clone

import neuroattn
from neuroattn.encoders.incontext import SetTransformerConfig, published_state
from neuroattn.encoders.incontext import encoder as encoder_module
from neuroattn.encoders.incontext.blocks import block_size
from neuroattn.encoders.incontext.encoder import InContextEncoder
from neuroattn.encoders.oracle import excess_risk
from neuroattn.errors import FileError, InputError, MismatchError, UnknownNameError
from tests.encoders.incontext import taught
from tests.encoders.incontext.drawn import redrawn

GIVEN = taught.features()
NEW = taught.responses(GIVEN, range(20), 9, 5)


@pytest.fixture(scope="module")
def random() -> InContextEncoder:
    """An encoder whose network was barely trained, and whose every weight matters."""
    made = taught.fitted()
    redrawn(made.network_, 0.3)
    return made


@pytest.fixture(scope="module")
def learned() -> tuple[xr.Dataset, InContextEncoder]:
    """Trained in seconds on three subjects at 10 to 40 images, beside its features."""
    given = taught.features(400)
    made = taught.encoder(
        network={"width": 24, "feedforward": 24, "input_activation": False},
        episodes={"least": 10, "most": 40, "queries": 32, "steps": 80, "spacing": "log"},
        optimisation={"epochs": 5, "batch_size": 32, "learning_rate": 0.006},
    )
    return given, made.fit(given, [taught.responses(given, range(300), 120, s) for s in range(3)])


def test_a_trained_encoder_comes_near_the_bayes_oracle(learned):
    # Catches a training whose loss falls and whose encoders are of no use. Measured excess over
    # the oracle, as a share of the signal: 0.03 at 40 images; at 80, a length twice the longest of
    # the training, 0.03.
    given, made = learned
    shown, asked = taught.embedded(given)[:300], taught.embedded(given)[300:]
    found = excess_risk(made, taught.prior(given), shown, asked, (10, 20, 40, 80), 400)
    risk = found["risk"].values
    assert risk[0] < 0.5
    assert (np.diff(risk) < 0).all(), risk
    assert found["excess"].values[2] < 0.07
    assert found["excess"].values[3] < 0.08
    assert (found["excess"].values > -3 * found["error"].values).all()


def test_a_new_subject_is_predicted_better_than_by_its_mean(learned):
    # Catches rows, voxels or units lost between adapt, predict and score.
    given, made = learned
    unseen = taught.responses(given, range(300, 400), 60, 7, noise=1)
    made.adapt(given, taught.responses(given, range(30), 60, 7))
    explained = made.score(given, unseen, metric="r2").dataset["raw"].values
    # The prior has 0.2 to 0.8 of the variance explicable, on average half.
    assert explained.mean() > 0.3
    assert explained.mean() > 5 * explained.std() / np.sqrt(60)
    others = taught.responses(given, range(300, 400), 60, 8, noise=1)
    others = others.assign_coords(unseen["voxel"].coords)
    assert made.score(given, others, metric="r2").dataset["raw"].values.mean() < 0
    expected = taught.embedded(given).numpy() @ made.weights_.T + made.intercept_
    np.testing.assert_allclose(made.predict(given), expected, rtol=1e-5, atol=1e-5)


def test_what_is_written_is_what_the_network_writes(random):
    # Catches responses transposed, images in another order, and an intercept among the weights.
    random.adapt(GIVEN, NEW)
    shown = taught.embedded(GIVEN)[:20]
    with torch.no_grad():
        expected = random.network_(shown, torch.from_numpy(NEW["response"].values.T.copy()))
    written = random.written()
    np.testing.assert_allclose(written["weights"], expected[:, :-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(written["intercept"], expected[:, -1], rtol=1e-5, atol=1e-6)
    assert written["vertex"].values.tolist() == NEW["vertex"].values.tolist()


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_the_memory_changes_no_result(random, monkeypatch, size):
    # Catches voxels that read each other, a lost last block, and blocks in another order.
    whole = random.adapt(GIVEN, NEW).weights_
    one = block_size(20, random.network_.config, taught.CHANNELS, 1.0)
    assert one >= 9
    seen = []
    network = random.network_.forward

    def forward(context, response):
        seen.append(len(response))
        return network(context, response)

    voxel = 4 * 4 * (10 + 12) * 22 / 2**30
    voxel = max(voxel, 4 * (taught.CHANNELS + 8 * 12) * 22 / 2**30)
    narrow = clone(random).set_params(memory=(size + 0.5) * voxel)
    for name, value in vars(random).items():
        if name.endswith("_"):
            setattr(narrow, name, value)
    monkeypatch.setattr(random.network_, "forward", forward)
    narrow.adapt(GIVEN, NEW)
    assert max(seen) == size
    assert sum(seen) == 9
    np.testing.assert_allclose(narrow.weights_, whole, rtol=1e-5, atol=1e-6)


def test_blocks_are_of_the_network_that_is_there(random):
    # Catches sizes from a constructor parameter, which may be a mapping or have been set anew.
    assert isinstance(random.network, dict)
    before = random.adapt(GIVEN, NEW).weights_
    network = random.network
    random.network = {**network, "width": 20_000, "heads": 1, "feedforward": 2_000_000}
    try:
        np.testing.assert_array_equal(random.adapt(GIVEN, NEW).weights_, before)
    finally:
        random.network = network


def test_too_little_memory_is_told(random):
    random.memory = 1e-6
    try:
        with pytest.raises(InputError, match="too little for one voxel of 20 context images"):
            random.adapt(GIVEN, NEW)
    finally:
        random.memory = 1.0


def test_half_precision_is_near_to_single(learned):
    # Catches half precision in the statistics of a pair, and one that is accepted and ignored.
    given, made = learned
    new = taught.responses(given, range(40), 50, 8)
    single = made.adapt(given, new).predict(given).values
    try:
        made.precision = "bfloat16"
        half = made.adapt(given, new).predict(given).values
        made.precision = "float32"
        np.testing.assert_array_equal(made.adapt(given, new).predict(given).values, single)
    finally:
        made.precision = "auto"
    error = np.sqrt(np.mean((half - single) ** 2) / single.var())
    assert 1e-5 < error < 0.03
    assert half.dtype == single.dtype == np.float32


def test_a_wrong_precision_is_refused_before_the_training():
    with pytest.raises(UnknownNameError, match="precision"):
        taught.fitted(precision="float16")


@pytest.mark.parametrize("layer", [-1, 0])
def test_attention_is_that_of_the_network_for_the_voxels_asked(random, layer):
    # Catches voxels in another order, images outside the context, and another layer.
    random.adapt(GIVEN, NEW, images=[f"im{number:03d}" for number in range(3, 15)])
    found = random.context_attention(GIVEN, NEW, [6, 0, 2], layer)
    assert found.dims == ("voxel", "head", "image")
    assert found["image"].values.tolist() == [f"im{number:03d}" for number in range(3, 15)]
    assert found["vertex"].values.tolist() == [506, 500, 502]
    response = torch.from_numpy(NEW["response"].values[3:15, [6, 0, 2]].T.copy())
    with torch.no_grad():
        expected = random.network_.readout_attention(taught.embedded(GIVEN)[3:15], response, layer)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert found.dtype == np.float32
    total = found.sum("image").values
    assert (total < 1).all()
    assert (total > 0.2).all()
    everyone = random.context_attention(GIVEN, NEW, layer=layer)
    np.testing.assert_allclose(everyone[[6, 0, 2]], found, rtol=1e-5, atol=1e-7)
    assert everyone.sizes["voxel"] == 9


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        ([0, -1], "voxels names -1, but there are 9"),
        ([9, 3], "voxels names 9, but there are 9"),
        ([], "one at least"),
        ([True] * 9, "positions of voxels"),
        ([1.5], "positions of voxels"),
    ],
)
def test_wrong_voxels_are_refused(random, voxels, message):
    random.adapt(GIVEN, NEW)
    with pytest.raises(InputError, match=message):
        random.context_attention(GIVEN, NEW, voxels)


def test_attention_is_refused_for_other_responses_than_those_of_the_context(random):
    # Catches weights of responses that wrote nothing.
    random.adapt(GIVEN, NEW)
    with pytest.raises(MismatchError, match="have no response"):
        random.context_attention(GIVEN, NEW.isel(presentation=range(10)))
    with pytest.raises(MismatchError, match="8 voxels"):
        random.context_attention(GIVEN, NEW.isel(voxel=range(8)))
    with pytest.raises(MismatchError, match="zscored='none'"):
        random.context_attention(GIVEN, NEW.assign_attrs(zscored="none"))
    with pytest.raises(MismatchError, match="key k2"):
        random.context_attention(taught.features(key="k2"), NEW)
    with pytest.raises(InputError, match="layer=2"):
        random.context_attention(GIVEN, NEW, layer=2)
    with pytest.raises(InputError, match="NaN"):
        random.context_attention(GIVEN, NEW.assign(response=NEW["response"] * np.nan))
    with pytest.raises(InputError, match="adapt"):
        taught.fitted().context_attention(GIVEN, NEW)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("attention", ["softmax", "sigmoid_attention", "linear"])
def test_an_encoder_survives_saving_bit_for_bit(tmp_path, attention, adapted):
    # Catches input statistics, a mechanism or its learned parameters that are not saved.
    made = taught.fitted(network={"attention": attention})
    if adapted:
        made.adapt(GIVEN, NEW)
    made.save(tmp_path)
    again = neuroattn.load(tmp_path)
    assert isinstance(again, InContextEncoder)
    before, after = made.network_.state_dict(), again.network_.state_dict()
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not again.network_.training
    assert again.get_params() == made.get_params()
    assert again.context_ == made.context_
    np.testing.assert_array_equal(again.weights_, made.weights_)
    if adapted:
        xr.testing.assert_identical(again.predict(GIVEN), made.predict(GIVEN))
    other = taught.responses(GIVEN, range(30), 4, 6)
    for each in (made, again):
        each.adapt(GIVEN, other)
    np.testing.assert_array_equal(again.weights_, made.weights_)
    np.testing.assert_array_equal(again.intercept_, made.intercept_)


def test_the_seed_decides_what_is_learned():
    before = torch.random.get_rng_state()
    one, same, other = taught.fitted(), taught.fitted(), taught.fitted(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    states = [
        torch.cat([v.flatten() for v in e.network_.state_dict().values()])
        for e in (one, same, other)
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    counted = taught.fitted(seed=np.int64(1)).network_.state_dict().values()
    assert torch.equal(torch.cat([v.flatten() for v in counted]), states[2])


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_whatever_the_precision_of_the_training_the_encoder_writes_in_float32(precision):
    # Catches a network in double or half precision that refuses the embeddings afterwards.
    made = taught.fitted(optimisation={"precision": precision}).adapt(GIVEN, NEW)
    assert {each.dtype for each in made.network_.state_dict().values()} == {torch.float32}
    assert np.isfinite(made.weights_).all()


def test_without_validation_images_are_held_out_for_all_sets_alike(monkeypatch):
    # Catches an image that trains one subject and validates another.
    seen = []
    monkeypatch.setattr(encoder_module, "train_on", lambda module, data, *rest: seen.append(data))
    taught.fitted(optimisation={"validation_fraction": 0.3})
    (data,) = seen
    training, held = ([set(each.images) for each in sets] for sets in (data.sets, data.validation))
    names = GIVEN["image"].values.tolist()
    assert [one | other for one, other in zip(training, held, strict=True)] == [
        set(names[:50]),
        set(names[10:]),
    ]
    assert not (training[0] | training[1]) & (held[0] | held[1])
    assert len(held[0] | held[1]) == 18
    given = taught.responses(GIVEN, range(10, 60), 5, 1)
    part = data.validation[1]
    rows = [given["image"].values.tolist().index(image) for image in part.images]
    np.testing.assert_array_equal(part.response, given["response"].values[rows])
    np.testing.assert_array_equal(part.embedded, GIVEN["tokens"].values[np.array(rows) + 10, 0])
    assert part.voxels["subject"].values.tolist() == ["s1"] * 5


def test_validation_that_is_given_is_what_is_watched(monkeypatch):
    seen = []
    monkeypatch.setattr(encoder_module, "train_on", lambda module, data, *rest: seen.append(data))
    parts = [taught.responses(GIVEN, rows, 7) for rows in (range(40), range(40, 60))]
    taught.encoder().fit(GIVEN, *parts)
    assert InContextEncoder.watches_validation
    assert [len(seen[0].sets[0].images), len(seen[0].validation[0].images)] == [40, 20]


def test_validation_of_other_voxels_or_the_same_images_is_refused():
    # Catches a best epoch chosen by what was trained on.
    train = taught.responses(GIVEN, range(40), 7)
    with pytest.raises(InputError, match="2 images of validation set 0 are also in its training"):
        taught.encoder().fit(GIVEN, train, taught.responses(GIVEN, range(38, 60), 7))
    with pytest.raises(MismatchError, match="other voxels"):
        taught.encoder().fit(GIVEN, train, taught.responses(GIVEN, range(40, 60), 6))


def test_wrong_parameters_are_refused_by_fit():
    with pytest.raises(InputError, match="validation_fraction=0"):
        taught.fitted(optimisation={"validation_fraction": 0.0})
    with pytest.raises(InputError, match="seed=-1"):
        taught.fitted(seed=-1)
    with pytest.raises(InputError, match="episodes has no field 'query'"):
        taught.fitted(episodes={"query": 3})
    lone = [taught.responses(GIVEN, range(58), 7), taught.responses(GIVEN, [58, 59], 5, 1)]
    with pytest.raises(InputError, match=r"has (no|\d) image"):
        taught.encoder().fit(GIVEN, lone)


def test_published_weights_are_ready_to_adapt(tmp_path):
    # Catches heads, input statistics or double precision that change what those weights write.
    config = SetTransformerConfig(width=20, heads=10, layers=2, feedforward=9)
    with torch.random.fork_rng(devices=[]):
        network = encoder_module.SetTransformer(config, taught.CHANNELS)
    redrawn(network, 0.3)
    state = published_state(network)
    save_file({name: value.double() for name, value in state.items()}, tmp_path / "w.safetensors")
    made = InContextEncoder.from_published(
        tmp_path / "w.safetensors", GIVEN, taught.RAW, memory=0.5
    )
    assert (made.memory, made.zscored_, made.context_) == (0.5, "session", ())
    made.adapt(GIVEN, NEW)
    response = torch.from_numpy(NEW["response"].values.T.copy())
    with torch.no_grad():
        expected = network(taught.embedded(GIVEN)[:20], response)
    np.testing.assert_allclose(made.weights_, expected[:, :-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.intercept_, expected[:, -1], rtol=1e-4, atol=1e-5)
    made.save(tmp_path / "saved")
    again = neuroattn.load(tmp_path / "saved").adapt(GIVEN, NEW)
    np.testing.assert_array_equal(again.weights_, made.weights_)
    wide = GIVEN.pad(channel=(0, 1), constant_values=0.5)
    with pytest.raises(MismatchError, match="width 5, but these features give 6"):
        InContextEncoder.from_published(tmp_path / "w.safetensors", wide, taught.RAW)
    with pytest.raises(MismatchError, match="key k2"):
        made.adapt(taught.features(key="k2"), NEW)
    with pytest.raises(FileError, match="nowhere"):
        InContextEncoder.from_published(tmp_path / "nowhere.pth", GIVEN)


def test_nothing_is_printed_unless_asked(capfd):
    # Catches bars of the trainer or of the blocks where nobody looks.
    made = taught.encoder().set_params(progress=None)
    made.fit(GIVEN, taught.responses(GIVEN, range(50))).adapt(GIVEN, NEW)
    assert capfd.readouterr() == ("", "")
    made.set_params(progress=True).adapt(GIVEN, NEW)
    assert "voxels" in capfd.readouterr().err


def test_parameters_are_those_of_the_constructor():
    made = taught.encoder(seed=3, memory=2.0, precision="float32", start="runs/first")
    copied = clone(made)
    assert copied.get_params() == made.get_params()
    names = {"network", "embedding", "episodes", "optimisation", "start", "seed"}
    assert set(made.get_params()) == names | {"memory", "precision", "progress"}
    assert not hasattr(copied, "network_")
