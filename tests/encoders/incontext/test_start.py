"""First weights of a stage: where they may come from, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neuroattn.encoders import EmpiricalBayesEncoder
from neuroattn.encoders.incontext import published_state
from neuroattn.encoders.incontext.encoder import InContextEncoder
from neuroattn.encoders.incontext.episode_data import EpisodeData
from neuroattn.encoders.incontext.episodes import EpisodeConfig
from neuroattn.encoders.incontext.module import InContextModule
from neuroattn.encoders.incontext.start import learned_before
from neuroattn.errors import FileError, MismatchError
from neuroattn.training.optimisation import Optimisation
from tests.encoders.incontext import taught

GIVEN = taught.features()
#: Small steps, so that a stage ends near where it started.
NEAR = {"learning_rate": 1e-7, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """The folder of a first stage."""
    folder = tmp_path_factory.mktemp("stage") / "first"
    taught.fitted().save(folder)
    return folder


def other(**changes) -> dict:
    return {"network": {**taught.NETWORK, **changes}}


def weights(encoder: InContextEncoder) -> torch.Tensor:
    return torch.cat([each.flatten() for each in encoder.network_.state_dict().values()])


def test_a_stage_goes_on_where_the_one_before_ended(first):
    # Catches a start that is read and then overwritten, and input statistics of the new images.
    before = InContextEncoder.from_directory(first)
    after = taught.fitted(start=str(first), optimisation=NEAR)
    assert not torch.equal(weights(after), weights(before))
    torch.testing.assert_close(weights(after), weights(before), rtol=0, atol=1e-5)
    fresh = taught.fitted(optimisation=NEAR)
    assert (weights(fresh) - weights(before)).abs().max() > 0.01
    few = [taught.responses(GIVEN, range(20), 4, 2)]
    moved = taught.encoder(start=str(first), optimisation=NEAR).fit(GIVEN, few)
    assert torch.equal(moved.network_.mean, before.network_.mean)


def test_a_chain_of_three_stages(first, tmp_path):
    second = taught.fitted(start=str(first), episodes={"least": 3, "most": 12})
    second.save(tmp_path / "second")
    third = taught.fitted(start=str(tmp_path / "second"), seed=5, optimisation=NEAR)
    torch.testing.assert_close(weights(third), weights(second), rtol=0, atol=1e-5)
    assert third.get_params()["start"] == str(tmp_path / "second")


def test_a_stage_knows_whom_all_stages_before_it_learned_from(first, tmp_path):
    # Catches a third stage that is tested on a subject of the first.
    taught.encoder(start=str(first), optimisation=NEAR).fit(
        GIVEN, taught.responses(GIVEN, range(20), 4, 7)
    ).save(tmp_path / "second")
    before = learned_before(str(first))
    after = learned_before(str(tmp_path / "second"))
    assert set(before["subjects"]) < set(after["subjects"])
    new = set(after["subjects"]) - set(before["subjects"])
    assert [each.split(" of ")[0] for each in new] == ["s7"]
    assert set(before["images"]) <= set(after["images"])
    assert learned_before(None) == learned_before(str(tmp_path / "removed"))
    assert not any(learned_before(None).values())


def test_the_encoder_of_a_recipe_knows_them_too(first):
    # Catches a stage of a recipe that forgets the stages before it.
    own = taught.as_set(GIVEN, taught.responses(GIVEN, range(20), 4, 8))
    after = taught.as_set(GIVEN, taught.responses(GIVEN, range(30, 40), 4, 8))
    embedding = InContextEncoder.from_directory(first).embedding_
    data = EpisodeData(embedding, [own], [after], EpisodeConfig(**taught.EPISODES))
    module = InContextModule(taught.NETWORK, start=str(first))
    module.prepare_from(data)
    found = InContextEncoder.from_training(module, data, GIVEN).learned_from_
    before = learned_before(str(first))
    assert {each.split(" of ")[0] for each in found["subjects"]} == {"s0", "s1", "s8"}
    assert set(found["images"]) == {*before["images"], *own.images, *after.images}


def test_an_adapted_encoder_may_start_a_stage_too(first, tmp_path):
    # Catches the weights of voxels, which lie beside those of the network.
    before = InContextEncoder.from_directory(first)
    before.adapt(GIVEN, taught.responses(GIVEN, range(8), 3, 4)).save(tmp_path / "adapted")
    after = taught.fitted(start=str(tmp_path / "adapted"), optimisation=NEAR)
    torch.testing.assert_close(weights(after), weights(before), rtol=0, atol=1e-5)


def test_published_weights_may_start_a_stage(tmp_path):
    # Catches the wrong number of heads, and input statistics that those weights never had.
    network = taught.fitted().network_
    network.mean.zero_()
    network.scale.fill_(1)
    save_file(published_state(network), tmp_path / "weights.safetensors")
    after = taught.fitted(start=str(tmp_path / "weights.safetensors"), optimisation=NEAR)
    expected = torch.cat([each.flatten() for each in network.state_dict().values()])
    torch.testing.assert_close(weights(after), expected, rtol=0, atol=1e-5)
    assert (after.network_.mean == 0).all()
    with pytest.raises(MismatchError, match="logit_scaling is 'log' in it and 'none'"):
        taught.fitted(start=str(tmp_path / "weights.safetensors"), **other(logit_scaling="none"))


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(FileError, match="nowhere"):
        taught.fitted(start=str(tmp_path / "nowhere"))
    with pytest.raises(FileError, match="no fitted encoder"):
        taught.fitted(start=str(tmp_path))


def test_an_encoder_of_another_class_is_refused(tmp_path):
    bayes = EmpiricalBayesEncoder(embedding=taught.RAW)
    bayes.fit(GIVEN, taught.responses(GIVEN, range(50), 30)).save(tmp_path / "bayes")
    with pytest.raises(MismatchError, match="holds a EmpiricalBayesEncoder, not an InContext"):
        taught.fitted(start=str(tmp_path / "bayes"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 14}, "width is 12 in it and 14"),
        ({"layers": 1}, "layers is 2 in it and 1"),
        ({"registers": 3}, "registers is 2 in it and 3"),
        # These networks have the same shapes, but compute something else.
        ({"heads": 3}, "heads is 2 in it and 3"),
        ({"input_activation": False}, "input_activation is True in it and False"),
        ({"logit_scaling": "none"}, "logit_scaling is 'log' in it and 'none'"),
        ({"attention": "sigmoid_attention"}, "attention is 'softmax' in it"),
    ],
)
def test_another_network_is_refused(first, change, message):
    with pytest.raises(MismatchError, match=f"of another network: {message}"):
        taught.fitted(start=str(first), **other(**change))


def test_another_dropout_is_no_other_network(first):
    after = taught.fitted(start=str(first), optimisation=NEAR, **other(dropout=0.2))
    before = InContextEncoder.from_directory(first)
    torch.testing.assert_close(weights(after), weights(before), rtol=0, atol=1e-5)


def test_tensors_of_other_shapes_are_refused(first):
    # Catches a configuration that fits weights which do not: another width of the embedding.
    wide = GIVEN.pad(channel=(0, 1), constant_values=0.5)
    encoder = taught.encoder(start=str(first))
    with pytest.raises(MismatchError, match=r"another embedding|another network"):
        encoder.fit(wide, taught.responses(GIVEN, range(50)))


def test_another_embedding_is_refused(first, tmp_path):
    # Catches two embeddings of one width: normalised or not, other components.
    normed = taught.encoder(start=str(first)).set_params(
        embedding={**taught.RAW, "normalise": True}
    )
    with pytest.raises(MismatchError, match=r"normalise=False.* and not .*normalise=True"):
        normed.fit(GIVEN, taught.responses(GIVEN, range(50)))
    plan = {"view": "pca", "components": 3}
    one = taught.encoder().set_params(embedding=plan)
    one.fit(GIVEN, taught.responses(GIVEN, range(50))).save(tmp_path / "pca")
    again = taught.encoder(start=str(tmp_path / "pca")).set_params(embedding=plan)
    again.fit(GIVEN, taught.responses(GIVEN, range(50)))
    with pytest.raises(MismatchError, match=r"another embedding \(embedding_view_"):
        again.fit(GIVEN, taught.responses(GIVEN, range(20, 60)))


def test_features_of_another_basis_are_refused(first):
    # Catches weights that were trained on CLIP and read DINO, whose width is the same.
    theirs = taught.features(key="k2")
    with pytest.raises(MismatchError, match="basis 'basis-k1' with key k1, these have key k2"):
        taught.encoder(start=str(first)).fit(theirs, taught.responses(theirs, range(50)))


def test_a_recipe_of_another_basis_is_refused(first):
    from tests.encoders.incontext.test_module import data

    episodes = data()
    made = InContextModule(None, Optimisation(), str(first))
    episodes.key = "k2"
    with pytest.raises(MismatchError, match="with key k1, these have key k2"):
        made.prepare_from(episodes)
