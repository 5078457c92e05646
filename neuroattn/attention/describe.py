"""A mechanism in words: the rows of ``neuroattn attention show`` and its page in the docs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neuroattn.attention.backends import BACKENDS
from neuroattn.attention.parameters import Parameter
from neuroattn.attention.registry import Mechanism

FORMS = {
    "parallel": "all pairs at once",
    "recurrent": "token by token, with a state",
    "chunked": "blocks of tokens, as matrix products",
}
MASKS = {
    "any": "any, (batch, heads, queries, keys)",
    "keys": "of keys, (batch, heads, 1, keys): a hidden key is not written",
    "none": "none",
}
CAUSAL = {
    (False, True): "with and without",
    (False,): "never: every query reads all keys",
    (True,): "always",
}


#: What LaTeX allows and the site's renderer does not know, and what says the same.
_DIALECT = (
    (r"\\[bB]igg?[lr]?(?![A-Za-z])", ""),
    (r"\\[lr]Vert(?![A-Za-z])", r"\\Vert"),
    (r"\\tfrac(?![A-Za-z])", r"\\frac"),
    (r"\\le(?![A-Za-z])", r"\\leq"),
    (r"\\ge(?![A-Za-z])", r"\\geq"),
    (r"\\frac ?([^\s{}\\])([^\s{}\\])", r"\\frac{\1}{\2}"),
    (r"\\frac ?([^\s{}\\])\{", r"\\frac{\1}{"),
)


def settable(formula: str) -> str:
    """Return LaTeX in the dialect that the site's renderer, matplotlib's mathtext, can set."""
    for pattern, same in _DIALECT:
        formula = re.sub(pattern, same, formula)
    return formula


def facts(spec: Mechanism) -> dict[str, str]:
    """Return what is known of a mechanism, label to words."""
    runs: dict[str, list[str]] = {}
    for run in spec.runs:
        runs.setdefault(run.form, []).append(run.backend)
    return {
        "name": spec.name,
        "family": spec.family,
        "summary": spec.summary,
        "paper": spec.paper,
        "formula": spec.formula,
        "shapes": "query (batch, heads, queries, dim), key (batch, heads, keys, dim), value "
        "(batch, heads, keys, value_dim), to (batch, heads, queries, value_dim)"
        + ("" if spec.cross else "; as many queries as keys"),
        "cost": spec.cost,
        **{f"form {form}": f"{FORMS[form]}; on {', '.join(on)}" for form, on in runs.items()},
        "causal": CAUSAL[tuple(sorted(spec.causal))],
        "cross-attention": "yes" if spec.cross else "no, its own tokens only",
        "queries": "each by itself" if spec.queries_apart else "they compete: read all at once",
        "masks": MASKS[spec.mask],
        "explicit weights": "yes" if spec.weights is not None else "no",
        "scale": spec.scale or "none",
        "state": "yes, of fixed size" if spec.recurrent else "no",
        "learned": "yes, by MultiheadAttention" if spec.module is not None else "nothing",
        "block projects": ", ".join(spec.projections) or "nothing",
    }


def parameters(spec: Mechanism) -> list[tuple[str, str, str, str]]:
    """Return name, default, what is allowed and meaning of every parameter and option."""
    rows = [(name, each, "") for name, each in spec.parameters.items()]
    rows += [
        (name, each, "option of what is learned; ")
        for name, each in spec.options.items()
        if name not in spec.parameters
    ]
    return [
        (name, _default(each), each.allowed, prefix + each.sentence) for name, each, prefix in rows
    ]


def _default(parameter: Parameter) -> str:
    return "learned" if parameter.required else str(parameter.default)


def page(spec: Mechanism, measured: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the mechanism's page of the docs, in MyST Markdown.

    Parameters
    ----------
    spec : Mechanism
        The mechanism.
    measured : sequence of mapping
        Rows of the benchmark's result that belong to it: ``form``, ``backend``, ``lengths``,
        ``seconds``, ``slope``.
    """
    known = facts(spec)
    parts = [
        f"# {spec.name}",
        spec.summary,
        f"$$\n{settable(spec.formula)}\n$$",
        f"**From** {spec.paper}.",
    ]
    labels = [label for label in known if label not in ("name", "summary", "paper", "formula")]
    parts.append(_table(("", ""), ((label, known[label]) for label in labels)))
    rows = parameters(spec)
    if rows:
        header = ("Parameter", "Default", "Allowed", "What it does")
        parts += ["## Parameters", _table(header, ((f"`{row[0]}`", *row[1:]) for row in rows))]
    if spec.symbols:
        symbols = ((theirs, ours) for theirs, ours in spec.symbols.items())
        parts += ["## The paper's symbols", _table(("Paper", "Here"), symbols)]
    laws = ((law, f"`{test}`") for test, law in spec.laws.items())
    parts += [
        "## Laws",
        "What the tests hold it to, beside what they hold every mechanism to "
        "(`tests/attention/test_contract.py`).",
        _table(("Law", "Test"), laws),
    ]
    if measured:
        parts += ["## Measured", _measured(measured)]
    backends = ((f"`{name}`", BACKENDS[name]) for name in spec.backends)
    parts += ["## Backends", _table(("", ""), backends)]
    return "\n\n".join(parts) + "\n"


def _measured(rows: Sequence[Mapping[str, Any]]) -> str:
    lengths = sorted({length for row in rows for length in row["lengths"]})
    header = ("Form / backend", *(f"{length:,}" for length in lengths), "slope")
    body = []
    for row in rows:
        seconds = dict(zip(row["lengths"], row["seconds"], strict=True))
        cells = [f"{1000 * seconds[n]:.3g}" if n in seconds else "" for n in lengths]
        slope = "–" if row["slope"] is None else f"{row['slope']:.2f}"
        body.append((f"{row['form']} / {row['backend']}", *cells, slope))
    return (
        "Milliseconds a forward read by number of tokens, and the slope of the logarithms over "
        "the longest four (`python -m benchmarks.attention`, dim 64, one head).\n\n"
        + _table(header, body)
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
