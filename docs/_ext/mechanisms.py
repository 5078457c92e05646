"""Write one page a mechanism, and the table of all, from the registry and the benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]


def write(app: Sphinx) -> None:
    """Write the pages beneath ``docs/attention/mechanisms``; unchanged ones stay as they are."""
    from neuroattn.attention import get, list_mechanisms
    from neuroattn.attention.describe import page
    from neuroattn.attention.registry import FAMILIES

    result = ROOT / "benchmarks" / "results" / "attention.json"
    measured = json.loads(result.read_text("utf-8"))["rows"] if result.exists() else []
    folder = Path(app.srcdir) / "attention" / "mechanisms"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {}
    for name in list_mechanisms():
        rows = [row for row in measured if row["name"] == name]
        wanted[f"{name}.md"] = page(get(name), rows)
    table = ["# All mechanisms", ""]
    for family in FAMILIES:
        names = list_mechanisms(family=family)
        table += [f"## The {family} family", "", "| Name | What it does | Forms | State | Cost |"]
        table += ["|---|---|---|---|---|"]
        for name in names:
            spec = get(name)
            cells = [
                f"[{name}]({name}.md)",
                spec.summary,
                ", ".join(spec.forms),
                "yes" if spec.recurrent else "",
                spec.cost,
            ]
            table.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        table += ["", "```{toctree}", ":hidden:", "", *names, "```", ""]
    wanted["index.md"] = "\n".join(table)
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
