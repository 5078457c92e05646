"""Conservation of flow, read off the weights of the mechanism."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = "Wu et al. (2022), Flowformer: linearizing transformers with conservation flows"
DIM = 6
SIZES = ((8, 16), (16, 16), (24, 16), (48, 16), (16, 48))


def flows(lab: Lab, sinks: int, sources: int) -> dict[str, Tensor]:
    """Return flows of sigmoid features, and what the mechanism's weights hold of them.

    A weight is the flow over its sink's inflow, times one factor a sink and one a source.
    """
    query = lab.normal((1, 1, sinks, DIM), "sinks", sinks, sources)
    key = lab.normal((1, 1, sources, DIM), "sources", sinks, sources)
    eye = torch.eye(sources, dtype=torch.float64)[None, None]
    each = (query.sigmoid() @ key.sigmoid().mT)[0, 0]
    found = {"flow": each}
    for clamp in ("none", "core"):
        weights = lab.attend("flow", query, key, eye, clamp=clamp)[0, 0]
        factor = weights / (each / each.sum(1, keepdim=True))
        # Competition shares sum to the number of sources: the mean over them is the sink's factor.
        found[f"sink {clamp}"] = factor.mean(1)
        found[f"source {clamp}"] = (factor / factor.mean(1, keepdim=True)).mean(0)
        found[f"apart {clamp}"] = factor - torch.outer(
            found[f"sink {clamp}"], found[f"source {clamp}"]
        )
    return found


def conserved(flow: Tensor, side: str) -> tuple[Tensor, Tensor]:
    """Return flows into sinks and out of sources after the other side's normalisation."""
    incoming, outgoing = flow.sum(1), flow.sum(0)
    if side == "own":
        return (flow / incoming[:, None]).sum(1), (flow / outgoing).sum(0)
    return (flow / outgoing).sum(1), (flow / incoming[:, None]).sum(0)


def measure_conservation(
    lab: Lab, side: str = "other", ratio: str = "sinks"
) -> Iterator[Comparison]:
    """Sum what each sink takes in and each source gives out, at several sizes."""
    totals: dict[str, list[float]] = {"in": [], "out": []}
    growth: dict[str, Any] = {"growth": 64, "reason": "a logit is undone by its logarithm"}
    for sinks, sources in SIZES:
        found = lab.once(flows, sinks, sources)
        scale = sources / sinks if ratio == "sinks" else sinks / sources
        sunk = torch.logit(found["sink none"]) * scale
        incoming, outgoing = conserved(found["flow"], side)
        said = f"{sinks} sinks, {sources} sources"
        yield lab.equal(f"inflow of each sink, {said}", sunk, incoming, **growth)
        yield lab.equal(
            f"competition of each source, {said}",
            found["source none"],
            outgoing.softmax(0) * sources,
            **growth,
        )
        yield lab.near(
            f"what a sink and a source do not explain, {said}",
            found["apart none"],
            torch.zeros_like(found["flow"]),
            tolerance=lab.rounding(256) * sources,
            expected=lab.rounding(26) * sources,
            reason="rounding of shares that sum to the number of sources",
        )
        totals["in"].append(float(sunk.sum()))
        # The mechanism's logits are known up to a constant, which the least outflow gives.
        logs = found["source none"].log()
        totals["out"].append(float((logs - logs.min()).sum() + sinks_out(found["flow"], sources)))
    sources_axis = {"case: (8,16) (16,16) (24,16) (48,16) (16,48)": np.arange(len(SIZES))}
    yield lab.equal(
        "sum of inflows is the number of sources",
        totals["in"],
        [sources for _, sources in SIZES],
        axes=sources_axis,
        **growth,
    )
    yield lab.equal(
        "sum of outflows is the number of sinks",
        totals["out"],
        [sinks for sinks, _ in SIZES],
        axes=sources_axis,
        **growth,
    )


def sinks_out(flow: Tensor, sources: int) -> float:
    """Return the number of sources times the least outflow."""
    return sources * float((flow / flow.sum(1, keepdim=True)).sum(0).min())


def prove_conservation(proof: Proof) -> None:
    """Add up two sinks and three sources of one channel pair."""
    sinks = sympy.Matrix(2, 2, sympy.symbols("q1:3_1:3", positive=True))
    sources = sympy.Matrix(3, 2, sympy.symbols("k1:4_1:3", positive=True))
    flow = sinks * sources.T
    incoming = [sum(flow.row(i)) for i in range(2)]
    outgoing = [sum(flow.col(j)) for j in range(3)]
    proof.say("Flows between two sinks and three sources", flow)
    proof.equal("All that flows out flows in", sum(incoming), sum(outgoing))
    for i in range(2):
        row = sum(flow[i, j] / incoming[i] for j in range(3))
        proof.equal(f"Sink {i + 1}, normalised by its inflow, takes in one unit", row, 1)
    out = [sum(flow[i, j] / incoming[i] for i in range(2)) for j in range(3)]
    proof.equal("so that sources give out as many units as there are sinks", sum(out), 2)
    into = [sum(flow[i, j] / outgoing[j] for j in range(3)) for i in range(2)]
    proof.equal("and, normalised by outflow, sinks take in as many as sources", sum(into), 3)


def measure_clamp(lab: Lab, bound: float = 1.0) -> Iterator[Comparison]:
    """Count the sources whose logit the published clamp cuts, as sinks outnumber sources."""
    ratios, cut, even = [], [], []
    for sinks in (4, 8, 16, 24, 48):
        found = lab.once(flows, sinks, 16)
        outgoing = conserved(found["flow"], "other")[1]
        wanted = outgoing.clamp(max=bound).softmax(0) * 16
        yield lab.equal(
            f"competition under the clamp, {sinks} sinks, 16 sources",
            found["source core"],
            wanted,
            growth=64,
            reason="shares that sum to the number of sources",
        )
        ratios.append(sinks / 16)
        top = found["source core"].max()
        cut.append(float((found["source core"] > top * (1 - lab.rounding(4096))).double().mean()))
        even.append(float((outgoing >= 1).double().mean()))
    yield lab.near(
        "share of sources at the clamp",
        cut,
        np.maximum(even, 1 / 16),
        tolerance=1e-9,
        expected=1e-10,
        reason="a count",
        axes={"sinks a source": ratios},
    )
    yield lab.equal("share of sources at the clamp, three sinks a source", cut[-1], 1.0)


register(
    Claim(
        id="flow.conservation.sums",
        title="Inflows sum to the number of sources and outflows to the number of sinks",
        paper=PAPER,
        place="conservation of incoming and outgoing flow",
        statement=r"\sum I = \sum O, \quad \sum_i \hat I_i = S, \quad \sum_j \hat O_j = L",
        hypotheses=(
            "Features are positive (sigmoids).",
            "There is no mask and no causal order: L sinks see S sources.",
        ),
        finding="confirmed",
        found="Read off the mechanism's weights at five pairs of sizes. A weight is its share of "
        "the sink's flow, a factor of the sink and one of the source, and nothing else.",
        mechanisms=("flow",),
        prove=prove_conservation,
        measure=measure_conservation,
        mutants={
            "each side normalised by itself": {"side": "own"},
            "sinks over sources the wrong way": {"ratio": "sources"},
        },
    )
)
register(
    Claim(
        id="flow.conservation.clamp",
        title="The published clamp cuts the competition where conservation puts its mean",
        paper=PAPER,
        place="the clamp at 1 of the published code; derived here",
        statement=r"\frac{1}{S}\sum_j \hat O_j = \frac{L}{S} \quad\mathrm{against}\quad"
        r" \hat O_j \leq 1",
        hypotheses=("The clamp of the code's core, at 1 from above.", "No causal order."),
        finding="sharpened",
        found="As many sinks as sources make the mean logit exactly 1, where the clamp is: about "
        "half of the sources compete. At three sinks a source none is left to compete, and the "
        "mechanism's shares are all equal.",
        mechanisms=("flow",),
        measure=measure_clamp,
        mutants={
            "no clamp": {"bound": float("inf")},
            "the clamp of the language model, 5": {"bound": 5.0},
        },
    )
)
