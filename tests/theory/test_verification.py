"""Running claims: verdicts, mutants, errors, processes and a cluster."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neuroattn.errors import FileError, InputError, UnknownNameError
from neuroattn.theory import (
    Claim,
    Comparison,
    Lab,
    Proof,
    Settings,
    get,
    list_claims,
    register,
    verify,
)
from neuroattn.theory import claim as registry
from neuroattn.theory.claim_files import import_files
from neuroattn.theory.verdict import Verdict, run

#: A claim file as a user would write it.
MINE = """
from neuroattn.theory import Claim, register


def measure(lab, factor=2.0):
    drawn = lab.normal((30, 4), "x")
    yield lab.mean("mean", drawn, 0.0, axes={"coordinate": range(4)})
    yield lab.equal("double", drawn + drawn, factor * drawn)


for name in "abcd":
    register(
        Claim(
            id=f"mine.double.{name}", title="Twice", paper="Me (2026)", place="here",
            statement="x+x=2x", hypotheses=("x is a number",), finding="confirmed",
            found="It is so, and was so before.", measure=measure,
            mutants={"three times": {"factor": 3.0}},
        )
    )
"""


def measure(
    lab: Lab, wrong: float = 0.0, raises: type[BaseException] | None = None
) -> Iterator[Comparison]:
    if raises is not None:
        raise raises("oh")
    keys = lab.normal((1, 1, 3, 2), "k")
    read = lab.attend("linear", keys, keys, keys, feature_map="identity", normalize=False)
    yield lab.equal("read", read, keys @ (keys.mT @ keys) + wrong)


@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Claim]:
    """Register a claim for one test."""
    monkeypatch.setattr(registry, "_CLAIMS", dict(registry.loaded()))

    def made(**fields: Any) -> Claim:
        base = get("pavlovian.crosstalk.variance")
        plain = {"id": "my.claim", "measure": measure, "prove": None, "mechanisms": ("linear",)}
        plain["half"] = False
        return register(replace(base, **{**plain, "mutants": {"off": {"wrong": 1.0}}, **fields}))

    return made


def test_a_claim_that_holds_passes_and_kills_its_mutant(claim: Callable[..., Claim]) -> None:
    verdict = run(claim().id, Settings())
    assert (verdict.passed, verdict.proved, verdict.ok) == (True, None, True)
    assert verdict.comparisons[0].name == "read"
    assert "forms and backends of linear agree" in verdict.comparisons[1].name
    assert verdict.mutants[0].killed
    assert "parallel/reference" in verdict.paths["linear"]
    assert verdict.seconds > 0


def test_a_claim_that_does_not_hold_fails(claim: Callable[..., Claim]) -> None:
    """Catches a runner that never fails."""

    def wrong(lab: Lab, wrong: float = 0.5) -> Iterator[Comparison]:
        return measure(lab, wrong)

    verdict = run(claim(measure=wrong).id, Settings())
    assert (verdict.passed, verdict.ok) == (False, False)


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        ({"wrong": 0.0}, "every comparison passed"),
        ({"raises": ZeroDivisionError}, "raised instead of failing: ZeroDivisionError"),
        ({"wrong": math.nan}, "every comparison passed"),
        ({"raises": SystemExit}, "SystemExit at test_verification.py"),
    ],
)
def test_a_mutant_that_is_not_rejected_survives(
    claim: Callable[..., Claim], variant: dict[str, Any], why: str
) -> None:
    """Catches a mutant that counts as killed because it crashed or is undefined."""
    verdict = run(claim(mutants={"bad": variant, "good": {"wrong": 1.0}}).id, Settings())
    assert (verdict.passed, verdict.ok) == (True, False)
    assert [each.killed for each in verdict.mutants] == [False, True]
    assert why in verdict.mutants[0].by


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_claim_that_raises_has_failed_and_the_others_go_on(
    claim: Callable[..., Claim], error: type[BaseException]
) -> None:
    """Catches a run that ends at the first error, or, with sys.exit(0), as if all held."""

    def broken(lab: Lab, wrong: float = 0.0) -> Iterator[Comparison]:
        return measure(lab, raises=error)

    claim(measure=broken)
    claim(id="my.other")
    seen: list[str] = []
    verdicts = verify(["my.claim", "my.other"], seen=lambda each: seen.append(each.id))
    assert [each.passed for each in verdicts] == [False, True]
    assert f"{error.__name__} at test_verification.py" in verdicts[0].error
    assert seen == ["my.claim", "my.other"]


def test_a_proof_must_hold_and_check_something(claim: Callable[..., Claim]) -> None:
    """Catches a proof that only says what it means to show."""

    def false(proof: Proof) -> None:
        proof.equal("one", 1, 2)

    def empty(proof: Proof) -> None:
        proof.say("It is obvious.")

    def right(proof: Proof) -> None:
        proof.equal("one", 1, 1)

    found = [
        run(claim(id=f"my.p{n}", prove=each).id, Settings())
        for n, each in enumerate((false, empty, right))
    ]
    assert [each.proved for each in found] == [False, False, True]
    assert [each.passed for each in found] == [False, False, True]
    assert "the sides differ" in found[0].error


@pytest.mark.parametrize(("yielded", "said"), [((), "nothing"), ((3,), "a int")])
def test_a_claim_that_compares_nothing_does_not_hold(
    claim: Callable[..., Claim], yielded: tuple[object, ...], said: str
) -> None:
    verdict = run(claim(measure=lambda lab, wrong=0.0: yielded).id, Settings())
    assert verdict.passed is False
    assert f"measure yielded {said}" in verdict.error


def test_what_is_undefined_kills_no_mutant(claim: Callable[..., Claim]) -> None:
    """Catches a mutant that is rejected because its standard error is not a number."""

    def vague(lab: Lab, spread: float = 1.0, entries: int = 1) -> Iterator[Comparison]:
        yield lab.estimate("e", [0.0], [spread], [0.0])
        yield lab.equal("many", [1.0] * entries, [1.0] * entries)

    mutants = {"vague": {"spread": math.nan}, "empty": {"entries": 0}}
    verdict = run(claim(measure=vague, mutants=mutants).id, Settings())
    assert verdict.passed
    assert [each.killed for each in verdict.mutants] == [False, False]


def test_what_a_claim_prints_is_no_verdict(
    claim: Callable[..., Claim], capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches words among the JSON on stdout."""

    def talking(lab: Lab, wrong: float = 0.0) -> Iterator[Comparison]:
        print("hello")
        return measure(lab, wrong)

    run(claim(measure=talking).id, Settings())
    told = capsys.readouterr()
    assert told.out == ""
    assert "hello" in told.err


def test_what_cannot_be_held_is_left_out_with_a_reason(claim: Callable[..., Claim]) -> None:
    """Catches a backend or a dtype that is quietly not used."""
    claim()
    half = run("my.claim", Settings(dtype="bfloat16"))
    other = run("my.claim", Settings(backend="flex"))
    assert half.passed is other.passed is None
    assert half.ok
    assert "half precision" in half.error
    assert "backend='flex'" in other.error
    assert run("my.claim", Settings(backend="reference")).passed


def test_the_number_of_threads_is_given_back(claim: Callable[..., Claim]) -> None:
    """Catches a run that leaves torch on one thread, or that runs on many."""
    found = []

    def counted(lab: Lab, wrong: float = 0.0) -> Iterator[Comparison]:
        found.append(torch.get_num_threads())
        return measure(lab, wrong)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(claim(measure=counted).id, Settings())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(found) == {1}


def numbers(verdicts: list[Verdict]) -> str:
    plain = [{**each.summary(), "seconds": 0} for each in verdicts]
    return json.dumps([plain, [asdict(m) for v in verdicts for m in v.mutants]])


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "_CLAIMS", dict(registry.loaded()))
    path = tmp_path / "mine.py"
    path.write_text(MINE, "utf-8")
    return path


def test_a_pool_and_a_cluster_give_the_same_digits_as_a_serial_run(mine: Path) -> None:
    """Catches draws that depend on the order, the process or the number of threads."""
    from distributed import LocalCluster

    ids = [f"mine.double.{name}" for name in "abcd"]
    settings = Settings(seed=3)
    import_files([mine])
    serial = verify(ids, settings, files=[mine])
    assert all(each.ok for each in serial)
    # Each claim has draws of its own.
    assert len({each.comparisons[0].at_worst("measured") for each in serial}) == 4
    assert numbers(verify(ids, settings, files=[mine], jobs=2)) == numbers(serial)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        sent = verify(ids, settings, files=[mine], scheduler=cluster.scheduler_address)
    assert numbers(sent) == numbers(serial)
    assert numbers(verify(ids, Settings(seed=4), files=[mine])) != numbers(serial)


def test_an_edited_file_is_imported_again(mine: Path) -> None:
    """Catches a verdict on what a file said before."""
    ids = ["mine.double.a"]
    import_files([mine])
    assert verify(ids, files=[mine])[0].ok
    mine.write_text(MINE.replace("factor=2.0", "factor=2.5").replace('"abcd"', '"ab"'), "utf-8")
    assert not verify(ids, files=[mine])[0].passed
    assert list_claims("mine") == ["mine.double.a", "mine.double.b"]
    mine.write_text(MINE + "\nraise ValueError('half-way')", "utf-8")
    with pytest.raises(InputError, match="half-way"):
        import_files([mine])
    with pytest.raises(InputError, match="no claim matches"):
        list_claims("mine")
    mine.write_text(MINE, "utf-8")
    assert verify(["mine.double.d"], files=[mine])[0].ok


def test_threads_of_a_worker_import_a_file_once(mine: Path) -> None:
    """Catches a race between threads that register the same claims."""
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda name: run(f"mine.double.{name}", Settings(), [str(mine)]), "abcd")
        )
    assert all(each.ok for each in found)


def test_a_process_that_dies_costs_its_own_claim_only(mine: Path) -> None:
    """Catches a pool that condemns every claim for one that ran out of memory."""
    deadly = MINE.replace(
        "def measure(lab, factor=2.0):",
        "import functools, os\n\n\ndef measure(lab, factor=2.0):\n"
        "    if lab.claim.endswith('b'):\n        os._exit(1)",
    ).replace("measure=measure", "measure=functools.partial(measure)")
    mine.write_text(deadly, "utf-8")
    import_files([mine])
    # The deadly one comes first, so that the others run or wait when the pool breaks.
    found = verify([f"mine.double.{name}" for name in "bacd"], files=[mine], jobs=2)
    assert [each.passed for each in found] == [False, True, True, True]
    assert "its process died" in found[0].error


def test_an_error_is_told_with_the_line_of_the_claim(claim: Callable[..., Claim]) -> None:
    """Catches a place deep inside numpy or in neuroattn, which helps nobody."""

    def shapes(lab: Lab, wrong: float = 0.0) -> Iterator[Comparison]:
        yield lab.equal("x", [1.0, 2.0], [1.0, 2.0, 3.0])

    verdict = run(claim(measure=shapes).id, Settings())
    assert "ValueError at test_verification.py" in verdict.error


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """Catches verdicts of failure for claims that never ran."""
    script = tmp_path / "script.py"
    script.write_text(
        "from neuroattn.theory import list_claims, verify\n"
        "verify(list_claims('flow'), jobs=2)\nprint('through')",
        "utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "through" not in done.stdout
    assert "if __name__ == '__main__'" in done.stderr.splitlines()[-1]


def test_a_claim_of_this_process_cannot_be_sent_elsewhere(claim: Callable[..., Claim]) -> None:
    """Catches a failure deep inside a worker that knows no such claim."""
    claim()
    with pytest.raises(InputError, match="known to this process only"):
        verify(["my.claim", "pavlovian.crosstalk.variance"], jobs=2)


def test_impossible_settings_are_answered_at_once(tmp_path: Path) -> None:
    ids = ["pavlovian.crosstalk.variance"]
    with pytest.raises(UnknownNameError, match="did you mean"):
        verify(["pavlovian.crosstalk.varianc"])
    with pytest.raises(InputError, match=r"list_claims\('sdm'\)"):
        verify("sdm")
    with pytest.raises(InputError, match="jobs=0"):
        verify(ids, jobs=0)
    with pytest.raises(InputError, match="seed=-1"):
        verify(ids, Settings(seed=-1))
    with pytest.raises(UnknownNameError, match="did you mean 'float64'"):
        verify(ids, Settings(dtype="float61"))
    with pytest.raises(UnknownNameError, match="sdpa-flash"):
        verify(ids, Settings(backend="flash"))
    with pytest.raises(UnknownNameError, match="device='tpu'"):
        verify(ids, Settings(device="tpu"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            verify(ids, Settings(device="cuda"))
    with pytest.raises(InputError, match="cpu:7"):
        verify(ids, Settings(device="cpu:7"))
    with pytest.raises(FileError, match="does not exist"):
        verify(ids, files=[tmp_path / "none.py"])
    with pytest.raises(FileError, match="not a Python file"):
        verify(ids, files=[tmp_path])
    for source, said in (("x = 1", "registers no claim"), ("x = ", "SyntaxError at empty.py:1")):
        (tmp_path / "empty.py").write_text(source, "utf-8")
        with pytest.raises(InputError, match=said):
            verify(ids, files=[tmp_path / "empty.py"])
    bad = tmp_path / "bad.py"
    bad.write_text("import nothing_of_that_name", "utf-8")
    with pytest.raises(InputError, match=r"bad.py cannot be imported: ModuleNotFoundError"):
        verify(ids, files=[bad])
    with pytest.raises(FileError, match="does not answer"):
        verify(ids, scheduler="nonsense://127.0.0.1:1")


def test_a_verdict_becomes_plain_json(claim: Callable[..., Claim]) -> None:
    """Catches a NaN that no JSON reader takes, and a summary of another entry than the worst."""

    def several(lab: Lab, wrong: float = 0.0) -> Iterator[Comparison]:
        yield lab.near("wide", 1.0, 1.5, tolerance=10.0, expected=1.0, reason="given")
        yield lab.near(
            "tight", [1.0, 2.0], [1.0, 2.9 + wrong], tolerance=1.0, expected=1, reason="g"
        )
        yield lab.near("unknown", 1.0, 1.0, tolerance=1.0, expected=math.inf, reason="given")

    verdict = run(claim(measure=several).id, Settings())
    plain = json.loads(json.dumps(verdict.summary(), allow_nan=False))
    keys = ("id", "paper", "statement", "predicted", "measured", "error", "tolerance", "seconds")
    assert set(keys) | {"passed", "mutants", "z"} <= set(plain)
    assert (plain["predicted"], plain["measured"], plain["tolerance"]) == (2.9, 2.0, 1.0)
    assert plain["comparisons"][2]["expected_error"] is None
    assert plain["mutants"][0]["killed"] is True
    assert plain["z"] is None
