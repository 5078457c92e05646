"""The symbolic scripts print each step, and exit with 1 when one fails."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from neuroattn.theory import Claim, Proof, get, list_claims, register
from neuroattn.theory import claim as registry
from neuroattn.theory.script import main
from tests.rules.source import ROOT

SCRIPTS = sorted((ROOT / "theory").glob("*.py"))


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Claim]:
    monkeypatch.setattr(registry, "_CLAIMS", dict(registry.loaded()))
    base = get("pavlovian.crosstalk.variance")
    return lambda prove: register(replace(base, id="my.proof", prove=prove))


def test_the_steps_of_a_proof_are_printed(
    proved: Callable[..., Claim], capsys: pytest.CaptureFixture[str]
) -> None:
    def prove(proof: Proof) -> None:
        proof.say("Let one be", 1)
        proof.equal("twice one is two", 2 * 1, 2)

    proved(prove)
    assert main("my") == 0
    told = capsys.readouterr().out
    for line in ("my.proof", "1. [stated] Let one be", "2. [checked] twice one is two", "       2"):
        assert line in told
    assert "1 proof, every step checked." in told


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (lambda proof: proof.equal("one", 1, 2), "one: the sides differ"),
        (lambda proof: proof.say("obvious"), "no step is checked"),
        (lambda proof: {}["key"], "KeyError"),
    ],
)
def test_a_proof_that_fails_is_told_and_exits_with_1(
    proved: Callable[..., Claim], capsys: pytest.CaptureFixture[str], steps: Any, why: str
) -> None:
    """Catches a script that is green whatever it proves."""
    proved(steps)
    assert main("my") == 1
    told = capsys.readouterr()
    assert why in told.out
    assert "FAILED: my.proof" in told.err


def test_nothing_to_prove_is_a_failure(proved: Callable[..., Claim]) -> None:
    """Catches a pattern that matches claims without proofs."""
    proved(None)
    assert main("my") == 1


def patterns(source: str) -> list[str]:
    """Return the patterns that a script proves."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = [call for call in calls if ast.unparse(call.func) == "main"]
    return [each.value for call in found for each in call.args if isinstance(each, ast.Constant)]


def test_every_proof_is_in_a_script() -> None:
    """Catches a proof that `tox run -e theory` never runs."""
    wanted = {id for id in list_claims() if get(id).prove is not None}
    covered = [list_claims(each) for path in SCRIPTS for each in patterns(path.read_text("utf-8"))]
    assert wanted <= {id for ids in covered for id in ids}
    assert len(SCRIPTS) >= 6
