"""What the claims on flows rely on."""

from __future__ import annotations

import torch

from neuroattn.theory.flow.conservation import conserved, sinks_out


def test_normalised_flows_equal_loops_over_sinks_and_sources():
    # Catches the two sides exchanged.
    flow = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    incoming, outgoing = conserved(flow, "other")
    for i in range(3):
        assert torch.isclose(incoming[i], sum(flow[i, j] / flow[:, j].sum() for j in range(4)))
    for j in range(4):
        assert torch.isclose(outgoing[j], sum(flow[i, j] / flow[i].sum() for i in range(3)))
    assert torch.isclose(incoming.sum(), torch.tensor(4.0, dtype=torch.float64))
    assert abs(sinks_out(flow, 4) - 4 * outgoing.min()) < 1e-12
