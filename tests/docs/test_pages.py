"""README and pages: every command, file and name that they mention is there, and the code runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import neuroattn
from neuroattn.attention import attend, registry
from neuroattn.cli.main import COMMANDS
from neuroattn.encoders import SetTransformerConfig
from neuroattn.encoders.incontext.network import SetTransformer
from neuroattn.encoders.incontext.published import published_state
from tests.attention import test_contract
from tests.attention.contract import Example
from tests.features import tiny_clip

ROOT = Path(__file__).resolve().parents[2]
ATTENTION = sorted((ROOT / "docs" / "attention").glob("*.md"))
THEORY = sorted((ROOT / "docs" / "theory").glob("*.md"))
DATASETS = sorted((ROOT / "docs" / "datasets").glob("*.md"))
GUIDES = [*sorted((ROOT / "docs").glob("*.md")), *DATASETS]
PAGES = [ROOT / "README.md", *GUIDES, *ATTENTION, *THEORY]
PAGES_BY_NAME = [pytest.param(page, id=f"{page.parent.name}-{page.stem}") for page in PAGES]
FAMILY = str(ROOT / "neuroattn" / "theory") + r"/\1/__init__.py"
# Made by a run or by the user, not part of the project.
ABSENT = ("encoders/NAME.yaml",)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def code(page: Path) -> str:
    """Return everything that is set as code: fenced blocks and inline."""
    text = page.read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


def run(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch, cortices: int = 1) -> None:
    """Run Python of a page in an empty folder, on fewer scenes than a reader would take."""
    monkeypatch.chdir(folder)
    small, count = re.subn(r"scenes=\d+", "scenes=40", source)
    assert count == cortices
    exec(compile(small, "page", "exec"), {})


def test_the_readme_program_runs_and_prints_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a renamed argument or a changed call that leaves the README behind."""
    program, attention, subject, theory = blocks(ROOT / "README.md", "python")
    exec(compile(theory, "page", "exec"), {})
    printed = [float(each) for each in capsys.readouterr().out.split()]
    # The constants of the paper's two capacities, and least squares' beta.
    assert printed == pytest.approx([17.0, 10.987425, 14.411605], abs=1e-6)
    found: dict[str, Any] = {}
    exec(compile(attention, "page", "exec"), found)
    assert found["read"].shape == (1, 4, 1000, 64)
    assert torch.isfinite(found["read"]).all()
    # The new subject's program goes on from the first one; its 50 images are 20 here.
    fewer = subject.replace("[:50]", "[:20]").replace('"components": 32', '"components": 8')
    run(program + fewer, tmp_path, monkeypatch, cortices=2)
    printed = capsys.readouterr().out
    assert "<Score of TransformerEncoder: explained_variance over 8 images" in printed
    assert "<Score of EmpiricalBayesEncoder: explained_variance over 8 images" in printed
    assert [line.split()[0] for line in printed.splitlines()[-2:]] == ["food", "all"]
    assert len(program.strip().splitlines()) <= 14


def test_the_quickstart_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a step that needs something which no step before it defined."""
    run("\n".join(blocks(ROOT / "docs/quickstart.md", "python")), tmp_path, monkeypatch)
    assert "transformer" in capsys.readouterr().out
    assert (tmp_path / "fitted" / "weights.safetensors").exists()


#: What the test of the guide makes smaller: fewer scenes, steps and voxels, a tiny CLIP.
SMALLER = {
    r"scenes=\d+": "scenes=160",
    r"subjects=5, seed=0": "subjects=5, voxels=(3, 3), repeats=2, seed=0",
    r'"components": \d+': '"components": 8',
    r'"queries": 64, "steps": \d+': '"queries": 8, "steps": 3',
    r'"width": 48, "heads": 4, "layers": 2, "feedforward": 48': '"width": 8, "heads": 2, '
    '"layers": 1, "feedforward": 8',
    r'"epochs": \d+': '"epochs": 1',
    r"prior.sample\(\d+": "prior.sample(20",
}


def test_the_guide_to_new_subjects_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a renamed argument, and stages, published weights or texts that do not fit."""
    pytest.importorskip("transformers")
    source = "\n".join(blocks(ROOT / "docs/in_context.md", "python"))
    for pattern, less in SMALLER.items():
        source, count = re.subn(pattern, less, source)
        assert count, pattern
    tiny_clip.clip(tmp_path / "clip", width=12)
    source = source.replace("openai/clip-vit-base-patch32", str(tmp_path / "clip"))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        network = SetTransformer(SetTransformerConfig(width=20, layers=2, feedforward=8), 12)
    torch.save(published_state(network), tmp_path / "CLIP_trained_on_s125.pth")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(compile(source, "page", "exec"), found)
    printed = capsys.readouterr().out
    assert "<Score of InContextEncoder: explained_variance over 32 images" in printed
    assert all((tmp_path / name / "config.json").exists() for name in found["stages"])
    assert set(neuroattn.load(tmp_path / "adapted").context_) == set(found["context"])
    assert found["curve"]["encoder"].values.tolist()[-3:] == [
        "ridge",
        "empirical Bayes",
        "in-context",
    ]
    assert set(found["accuracy"]["category"].values) == set(found["selectivity"]["category"].values)


@pytest.mark.parametrize("page", ["index", "forms"])
def test_the_programs_about_attention_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a renamed mechanism or argument, and a claim about states that is not true."""
    programs = blocks(ROOT / "docs" / "attention" / f"{page}.md", "python")
    assert programs
    for program in programs:
        exec(compile(program, page, "exec"), {})
    assert "False" not in capsys.readouterr().out


def test_the_programs_about_theory_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a claim or a function that was renamed, and a claim of the page that fails."""
    (program,) = blocks(ROOT / "docs" / "theory" / "index.md", "python")
    exec(compile(program, "page", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("0.515625\n")
    assert "('pavlovian.crosstalk.variance', True)" in printed
    assert "False" not in printed
    (program,) = blocks(ROOT / "docs" / "theory" / "capacity.md", "python")
    exec(compile(program, "page", "exec"), {})


def test_the_mechanism_that_the_docs_write_keeps_the_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a page about own mechanisms that leaves out what the contract asks for."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._loaded()))
    (program,) = blocks(ROOT / "docs" / "attention" / "new_mechanism.md", "python")
    exec(compile(program, "page", "exec"), {})
    assert registry.get("cosine").family == "softmax"
    example = Example()
    test_contract.test_the_reference_passes_gradcheck("cosine", example)
    test_contract.test_a_later_token_never_reaches_an_earlier_query("cosine", example)
    test_contract.test_explicit_weights_read_what_attend_reads("cosine", example)
    test_contract.test_every_parameter_refuses_what_is_out_of_its_range("cosine")
    x = torch.randn(1, 1, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attend("cosine", x, 7 * x, x), attend("cosine", x, x, x))


@pytest.mark.parametrize("page", PAGES_BY_NAME)
def test_every_command_that_a_page_shows_exists(page: Path) -> None:
    """Catches a page that promises a command which nobody wrote."""
    shown = re.findall(r"(?:^|[`\s(])neuroattn ([a-z]+)\b", code(page))
    assert set(shown) <= set(COMMANDS), page.name


@pytest.mark.parametrize("page", PAGES_BY_NAME)
def test_every_file_that_a_page_links_or_names_exists(page: Path) -> None:
    """Catches a recipe that was renamed and a link to a page that was not written."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"encoders/\w+\.yaml", text)) - set(ABSENT)
    missing = {name for name in named if not (ROOT / name).exists()}
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text)
    # A tutorial's page is made by the build from the gallery's script, a mechanism's from the
    # registry.
    sources = [re.sub(r"tutorials/(\w+)\.rst", r"gallery/\1.py", link) for link in links]
    # A family's page is made from its claims.
    sources = [link for link in sources if not re.search(r"\bmechanisms/", link)]
    sources = [re.sub(r"families/(\w+)\.md", FAMILY, link) for link in sources]
    missing |= {link for link in sources if not (page.parent / link).exists()}
    assert not missing, page.name


@pytest.mark.parametrize("page", PAGES_BY_NAME)
def test_every_dotted_name_of_neuroattn_resolves(page: Path) -> None:
    """Catches a class path in YAML, or a reference, that no longer leads anywhere."""
    names = set(re.findall(r"\bneuroattn(?:\.[A-Za-z_]\w*)+", code(page)))
    for name in sorted(names):
        parts = name.split(".")
        found = importlib.import_module(parts[0])
        for index, part in enumerate(parts[1:], start=1):
            # A module is found by importing it, anything else by asking the one before.
            if not hasattr(found, part):
                found = importlib.import_module(".".join(parts[: index + 1]))
            else:
                found = getattr(found, part)
        assert found is not None, name


def test_the_readme_gives_the_two_commands_and_every_subcommand() -> None:
    """Catches a README that lost the commands on which strangers and the CI rely."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "python -m pip install tox && python -m tox run -e demo" in text
    assert re.search(r"^python -m pip install tox && python -m tox run(?! -e)", text, re.MULTILINE)
    told = set(re.findall(r"`(?:neuroattn )?([a-z]+)(?: [^`]*)?`", text))
    assert set(COMMANDS) <= told
