"""Put the measured capacities into the page of their definition, from the result file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "capacity.json"
#: What stands in the page where the tables belong.
PLACE = "<!-- capacities -->"


def insert(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the mark in a page by the tables, or by how to measure them."""
    if PLACE in source[0]:
        found = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else None
        source[0] = source[0].replace(PLACE, tables(found) if found else _MISSING)


def draw(app: Sphinx) -> None:
    """Draw the figure of the page from the same file."""
    from neuroattn.report import capacity_figure, png
    from neuroattn.theory.capacity import Capacity

    if RESULT.exists():
        rows = [Capacity(**row) for row in json.loads(RESULT.read_text("utf-8"))["rows"]]
        (Path(app.srcdir) / "theory" / "capacity.png").write_bytes(png(capacity_figure(rows)))


_MISSING = "The result file is not there; `neuroattn attention bench --capacity` measures it."


def tables(found: Mapping[str, Any]) -> str:
    """Return both cases, what was given, and what could not be asked, in Markdown."""
    from neuroattn.cli.capacity import cell, power
    from neuroattn.theory.capacity import Capacity, Exponent

    rows = [Capacity(**row) for row in found["rows"]]
    fits = {
        (each["mechanism"], each["case"]): Exponent(**{**each, "dims": tuple(each["dims"])})
        for each in found["exponents"]
    }
    facts = found["facts"]
    dims = sorted({row.dim for row in rows})
    names = list(dict.fromkeys(row.mechanism for row in rows))
    parts = [
        f"Measured in {facts['seconds']:.0f} s on {facts['device']} ({facts['device_name']}), "
        f"{facts['dtype']}, torch {facts['torch']}, seed {facts['seed']}, {facts['draws']} draws.",
        "![Associations held over the width of a key](capacity.png)",
    ]
    for case in ("average", "worst"):
        lines = []
        for name in names:
            here = [row for row in rows if (row.mechanism, row.case) == (name, case)]
            if any(row.capacity is not None for row in here):
                cells = [cell(row) for row in sorted(here, key=lambda row: row.dim)]
                lines.append([f"`{name}`", *cells, power(fits[name, case])])
        header = ["Mechanism", *(f"dim {dim}" for dim in dims), "Exponent"]
        parts += [f"### {case.capitalize()} case", _table(header, lines)]
    taken = {row.mechanism: row.taken for row in rows if row.taken and not row.reason}
    reasons = {(row.mechanism, row.reason): "" for row in rows if row.reason}
    parts += ["### What was given", _table(["Mechanism", ""], _pairs(taken.items()))]
    parts += ["### What could not be asked", _table(["Mechanism", "It"], _pairs(reasons))]
    return "\n\n".join(parts)


def _pairs(items: Any) -> list[list[str]]:
    return [[f"`{name}`", words] for name, words in items]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row).replace("*", r"\*") + " |" for row in rows]
    return "\n".join(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", draw)
    app.connect("source-read", insert)
    return {"parallel_read_safe": True}
