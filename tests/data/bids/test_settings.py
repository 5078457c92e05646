from __future__ import annotations

from argparse import Namespace

import pytest

from neuroattn.data.bids import BIDS, Glm, Trials
from neuroattn.data.bids.settings import settings_of
from neuroattn.errors import InputError


@pytest.mark.parametrize("given", [Glm(model="lss"), {"model": "lss"}, Namespace(model="lss")])
def test_options_are_a_dataclass_a_mapping_or_of_a_parser(given):
    # Catches a command line whose options do not reach the reader.
    assert settings_of(Glm, "glm", given) == Glm(model="lss")
    assert settings_of(Trials, "trials", None) == Trials()


def test_unknown_options_are_told():
    # Catches a misspelt option that is silently a default.
    with pytest.raises(InputError, match=r"glm option='mode'.*did you mean 'model'"):
        settings_of(Glm, "glm", {"mode": "lss"})
    with pytest.raises(InputError, match=r"trials is str; needed: Trials or a mapping"):
        settings_of(Trials, "trials", "merge")


def test_a_readers_options_make_it_again():
    # Catches options that are no plain data, or lose a setting on the way to conversion.json.
    reader = BIDS("x", 1, entities={"run": "1"}, glm=Glm(hrf="glover"), trials=Trials(merge=2.0))
    plain = reader.options()
    assert plain["glm"]["hrf"] == "glover"
    assert type(plain["entities"]) is dict
    assert BIDS(**plain).options() == plain
