"""Every claim that does not train: it holds, and its mutants are rejected."""

from __future__ import annotations

import re

import pytest
from matplotlib.mathtext import MathTextParser

from neuroattn.report.claims import settable
from neuroattn.theory import Settings, get, list_claims
from neuroattn.theory.families import FAMILIES
from neuroattn.theory.verdict import run

#: Not the command's default, and not the seed that the claims were written with.
SEED = 11


@pytest.mark.parametrize("id", list_claims(slow=False))
def test_the_claim_holds_and_rejects_its_mutants(id: str) -> None:
    """Catches a mechanism that no longer does what is said of it, and a check that cannot fail."""
    verdict = run(id, Settings(seed=SEED))
    failed = [
        (x.name, x.at_worst("measured"), x.strain) for x in verdict.comparisons if not x.passed
    ]
    assert not verdict.error
    assert failed == []
    assert verdict.passed
    assert [each for each in verdict.mutants if not each.killed] == []
    # What it runs is what its page and --backend say it runs.
    assert set(verdict.paths) == set(get(id).mechanisms)
    for each in verdict.comparisons:
        wide = each.at_worst("tolerance") > 10 * each.expected * (1 + 1e-9)
        assert not wide or len(each.reason.split()) > 2, each.name


@pytest.mark.parametrize("id", list_claims())
def test_the_claim_is_cited_stated_and_can_be_set(id: str) -> None:
    """Catches a statement that breaks the site, and a claim that nobody can look up."""
    claim = get(id)
    assert re.search(r"\b(19|20)\d\d\b", claim.paper)
    assert claim.family in FAMILIES
    assert claim.place
    assert len(claim.found.split()) > 5
    MathTextParser("path").parse(f"${settable(claim.statement)}$")


def test_there_are_enough_claims_of_every_family() -> None:
    """Catches a family whose module is no longer found."""
    ids = list_claims()
    assert len(ids) >= 80
    assert {id.split(".")[0] for id in ids} == set(FAMILIES)
