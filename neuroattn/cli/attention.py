"""``neuroattn attention list|show NAME``: the registry of attention mechanisms."""

from __future__ import annotations

from collections.abc import Sequence

from neuroattn.cli.results import PlainParser
from neuroattn.names import check_name


def main(command: str, arguments: Sequence[str]) -> None:
    """List the mechanisms, or show one."""
    parser = PlainParser(prog="neuroattn attention")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=PlainParser)
    listing = actions.add_parser("list", help="names, one a line")
    listing.add_argument("--family", help="only this family")
    actions.add_parser("show", help="what is known of one").add_argument("name")
    given = parser.parse_args(list(arguments))
    from neuroattn.attention import get, list_mechanisms

    if given.action == "list":
        if given.family is not None:
            check_name("--family", given.family, {get(name).family for name in list_mechanisms()})
        for name in list_mechanisms(family=given.family):
            print(f"{name:<16} {get(name).paper}")
        return
    spec = get(given.name)
    rows = {
        "name": spec.name,
        "family": spec.family,
        "paper": spec.paper,
        "forms": ", ".join(spec.forms),
        "backends": ", ".join(spec.backends),
        "causal": spec.causal,
        "cross-attention": spec.cross,
        "explicit weights": spec.weights is not None,
        "cost": spec.cost,
        "parameters": ", ".join(spec.parameters) or "none",
    }
    for key, value in rows.items():
        print(f"{key:<18}{value}")
