"""The registry of claims: ids, patterns, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from neuroattn.errors import InputError, UnknownNameError
from neuroattn.theory import Claim, get, list_claims, register
from neuroattn.theory import claim as registry

ID = "pavlovian.crosstalk.variance"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register what no other test sees."""
    monkeypatch.setattr(registry, "_CLAIMS", dict(registry.loaded()))


def changed(**fields: Any) -> Claim:
    return replace(get(ID), **{"id": "mine.own.claim", **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": "Mine.Claim"}, "lower case"),
        ({"id": "mine"}, "family.topic"),
        ({"id": "mine.a_b"}, "hyphens"),
        ({"id": ID}, "already"),
        ({"mutants": {}}, "no mutant"),
        ({"hypotheses": ()}, "no hypotheses"),
        ({"hypotheses": "one sentence"}, "tuple of sentences"),
        ({"mutants": {"m": {"formla": 1}}}, "did you mean 'formula'"),
        ({"finding": "confirmd"}, "'confirmed'"),
    ],
)
@pytest.mark.usefixtures("known")
def test_what_is_not_a_claim_is_refused(fields: dict[str, Any], said: str) -> None:
    """Catches a claim that cannot fail, and one that hides another."""
    with pytest.raises(InputError, match=said):
        register(changed(**fields))


@pytest.mark.usefixtures("known")
def test_a_claim_of_ones_own_is_found_and_listed_last() -> None:
    """Catches a registry that knows only its own families."""
    mine = register(changed())
    assert get("mine.own.claim") is mine
    assert list_claims("mine") == ["mine.own.claim"]
    assert list_claims()[-1] == "mine.own.claim"
    assert mine.family == "mine"


def test_patterns_find_a_family_a_claim_or_what_they_spell() -> None:
    """Catches a family that matches as a mere prefix: memory is not memorization."""
    everything = list_claims()
    assert list_claims(ID) == [ID]
    assert ID in list_claims("pavlovian")
    assert all(id.startswith("memory.") for id in list_claims("memory"))
    assert all(id.startswith("pavlovian.crosstalk.") for id in list_claims("pavlovian.crosstalk"))
    assert list_claims("*.variance") == [id for id in everything if id.endswith(".variance")]
    assert sorted(list_claims(slow=True) + list_claims(slow=False)) == sorted(everything)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("sdn", "did you mean 'sdm'"),
        ("pavlovian.crosstalks", "pavlovian.crosstalk'"),
        ("*zzz*", "Families"),
    ],
)
def test_a_pattern_that_matches_nothing_is_answered(pattern: str, said: str) -> None:
    """Catches a run of no claims that passes."""
    with pytest.raises(InputError, match=said):
        list_claims(pattern)


def test_an_unknown_id_is_answered_with_the_closest() -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{ID}'"):
        get("pavlovian.crosstalk.varianse")
    with pytest.raises(InputError, match="must be the id"):
        get(7)  # type: ignore[arg-type]
