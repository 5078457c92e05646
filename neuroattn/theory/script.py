"""The symbolic scripts: one a paper, each step of its proofs printed and checked."""

from __future__ import annotations

import sys
import textwrap
from functools import partial

from neuroattn.theory.caught import Raised, caught
from neuroattn.theory.claim import Claim, get, list_claims
from neuroattn.theory.proof import Proof


def main(*patterns: str) -> int:
    """Prove every claim that matches and has a proof, and print the steps.

    Parameters
    ----------
    *patterns : str
        See :func:`neuroattn.theory.list_claims`.

    Returns
    -------
    int
        0 if every step holds, 1 if one does not.
    """
    found = [get(id) for pattern in patterns for id in list_claims(pattern)]
    claims = [claim for claim in dict.fromkeys(found) if claim.prove is not None]
    failed = [claim.id for claim in claims if not _proved(claim)]
    steps = "proof" if len(claims) == 1 else "proofs"
    if failed or not claims:
        print(f"FAILED: {', '.join(failed) or 'nothing to prove'}", file=sys.stderr)
        return 1
    print(f"{len(claims)} {steps}, every step checked.")
    return 0


def _proved(claim: Claim) -> bool:
    print(f"{claim.id}\n{'=' * len(claim.id)}")
    print(_wrapped(claim.title))
    print(_wrapped(f"{claim.paper}; {claim.place}"))
    print(f"    {claim.statement}")
    for hypothesis in claim.hypotheses:
        print(_wrapped(f"given: {hypothesis}"))
    proof = Proof()
    told = None if claim.prove is None else caught(partial(claim.prove, proof))
    why = told.message if isinstance(told, Raised) else ""
    for number, step in enumerate(proof.steps, 1):
        mark = "checked" if step.checked else "stated"
        print(_wrapped(f"{number}. [{mark}] {step.text}"))
        if step.plain:
            print(_wrapped(step.plain, "       "))
    if not why and not any(step.checked for step in proof.steps):
        why = "no step is checked"
    print(f"  FAILED: {why}\n" if why else "  holds.\n")
    return not why


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent + "  ")
