"""Run the claims and write one page a family, so that no page can say what no run has shown."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.application import Sphinx
from sphinx.util import logging

if TYPE_CHECKING:
    from neuroattn.theory import Claim, Verdict

ROOT = Path(__file__).resolve().parents[2]
#: What `neuroattn verify --slow PATTERN ... --out` kept of the claims that take minutes.
SLOW = ROOT / "docs" / "results" / "slow" / "verdicts.json"
WATCHED = ("neuroattn/theory", "neuroattn/attention", "neuroattn/report/claims.py", "docs/_ext")
SPECIAL = re.compile(r"([\\`*_<>\[\]|$#])")
log = logging.getLogger(__name__)


def write(app: Sphinx) -> None:
    """Write the pages beneath ``docs/theory/families``, unless nothing they stand on changed."""
    folder = Path(app.srcdir) / "theory" / "families"
    key, stamp = _key(), folder / ".key"
    if stamp.exists() and stamp.read_text("utf-8") == key:
        return
    from neuroattn.theory import get, list_claims, verify
    from neuroattn.theory.families import FAMILIES

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Not the one that a tutorial registers.
    ids = [id for id in list_claims(slow=False) if get(id).family in FAMILIES]
    log.info("running %d claims for the theory pages ...", len(ids))
    verdicts = verify(ids, jobs=os.cpu_count() or 1)
    failed = [each.id for each in verdicts if not each.ok]
    if failed:
        log.warning("claims that fail, or whose mutants survive: %s", ", ".join(failed))
    known = {each.id: each for each in verdicts}
    kept = json.loads(SLOW.read_text("utf-8"))["claims"] if SLOW.exists() else []
    slow = {each["id"]: each for each in kept}
    for family, title in FAMILIES.items():
        claims = [get(id) for id in list_claims(family)]
        text = _page(family, title, claims, known, slow, folder)
        (folder / f"{family}.md").write_text(text, "utf-8")
    everything = [get(id) for family in FAMILIES for id in list_claims(family)]
    table = _table(everything, known, slow)
    (folder / "table.txt").write_text(table, "utf-8")
    stamp.write_text(key, "utf-8")


def _key() -> str:
    digest = hashlib.sha256()
    for place in WATCHED:
        found = ROOT / place
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    digest.update(SLOW.read_bytes() if SLOW.exists() else b"")
    return digest.hexdigest()


def _page(
    family: str,
    title: str,
    claims: Sequence[Claim],
    known: dict[str, Verdict],
    slow: dict[str, Any],
    folder: Path,
) -> str:
    import importlib
    import inspect

    room = importlib.import_module(f"neuroattn.theory.{family}")
    lines = [f"# {title}", "", inspect.getdoc(room) or "", ""]
    lines += [f"Run this page yourself: `neuroattn verify {family}`.", ""]
    for claim in claims:
        lines += _claim(claim, known.get(claim.id), slow.get(claim.id), folder)
    return "\n".join(lines)


def _claim(claim: Claim, verdict: Verdict | None, kept: Any, folder: Path) -> list[str]:
    from neuroattn.report.claims import settable

    lines = [f"({claim.id})=", f"## {plain(claim.title)}", ""]
    lines += [f"`{claim.id}` · **{claim.finding}**", "", "$$", settable(claim.statement), "$$", ""]
    lines += [f"*{plain(claim.paper)}; {plain(claim.place)}.*", "", "Given:", ""]
    lines += [f"- {plain(each)}" for each in claim.hypotheses] + [""]
    lines += [plain(claim.found), ""]
    if verdict is not None:
        lines += _measured(claim, verdict, folder)
    elif kept is not None:
        lines += [f"Trained in {kept['seconds']:.0f} s, kept from `neuroattn verify --slow`:", ""]
        lines += [*_rows(kept["comparisons"]), ""]
        lines += _mutants(kept["mutants"])
    else:
        lines += [f"It takes minutes: `neuroattn verify {claim.id} --slow` runs it.", ""]
    return lines


def _measured(claim: Claim, verdict: Verdict, folder: Path) -> list[str]:
    from neuroattn.report.claims import claim_figure
    from neuroattn.report.style import png

    lines: list[str] = []
    figure = claim_figure(verdict)
    if figure is not None:
        (folder / f"{claim.id}.png").write_bytes(png(figure))
        lines += [f"![{plain(claim.title)}]({claim.id}.png)", ""]
    summary = verdict.summary()
    lines += [*_rows(summary["comparisons"]), ""]
    if verdict.steps:
        lines += ["**Derivation**, every equation checked by sympy:", ""]
        lines += _steps(verdict)
    lines += _mutants(summary["mutants"])
    if verdict.paths:
        links = [
            f"[{name}](../../attention/mechanisms/{name}.md) ({', '.join(each)})"
            for name, each in verdict.paths.items()
        ]
        lines += [f"Ran through {'; '.join(links)}.", ""]
    return lines


def _rows(comparisons: Sequence[dict[str, Any]]) -> list[str]:
    from neuroattn.report.claims import compact

    def cell(value: float | None) -> str:
        return "–" if value is None else compact(value)

    lines = [
        "| compared | predicted | measured | error | tolerance | z |",
        "|---|---|---|---|---|---|",
    ]
    for each in comparisons:
        numbers = [cell(each[key]) for key in ("predicted", "measured", "error", "tolerance")]
        z = "" if each["z"] is None else f"{each['z']:.1f}"
        numbers[0] = {"=": "", "<=": "≤ ", ">=": "≥ "}[each["relation"]] + numbers[0]
        name = each["name"] + (f", at {each['at']}" if each["at"] else "")
        lines.append("| " + " | ".join([plain(name), *numbers, z]) + " |")
    return lines


def _steps(verdict: Verdict) -> list[str]:
    from neuroattn.report.claims import formula, settable

    lines = []
    for number, step in enumerate(verdict.steps, 1):
        lines.append(f"{number}. {plain(step.text)}")
        if step.latex and formula(step.latex):
            lines += ["", "   $$", f"   {settable(step.latex)}", "   $$", ""]
        elif step.plain:
            lines += ["", "   ```text", f"   {step.plain}", "   ```", ""]
    return [*lines, ""]


def _mutants(mutants: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["Mutants, which the check must reject:", ""]
    for each in mutants:
        fate = "rejected" if each["killed"] else "**survives**"
        lines.append(f"- {plain(each['name'])}: {fate} ({plain(each['by'])})")
    return [*lines, ""]


def _table(claims: Sequence[Claim], known: dict[str, Verdict], slow: dict[str, Any]) -> str:
    from neuroattn.report.claims import state

    lines = ["| Claim | Finding | Verdict | Mutants |", "|---|---|---|---|"]
    for claim in claims:
        verdict, kept = known.get(claim.id), slow.get(claim.id)
        if verdict is not None:
            said = state(verdict)
            killed = sum(each.killed for each in verdict.mutants), len(verdict.mutants)
        elif kept is not None:
            said = "holds (slow)" if kept["passed"] else "FAILED (slow)"
            killed = sum(each["killed"] for each in kept["mutants"]), len(kept["mutants"])
        else:
            said, killed = "slow: not run here", (0, 0)
        link = f"[{plain(claim.title)}](#{claim.id}) `{claim.id}`"
        cells = [link, claim.finding, said, f"{killed[0]} of {killed[1]}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Return text in which no character means anything to Markdown."""
    return SPECIAL.sub(r"\\\1", text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
