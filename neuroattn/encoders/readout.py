"""From tokens to voxels: the gathered readout of query tokens, and the static spatial readout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from neuroattn.encoders.queries import QueryMap


class GatheredReadout(nn.Module):
    """Each voxel reads its own query's token; nothing is computed for other queries.

    A voxel that belongs to several queries reads each of them through its one weight row and
    mixes the results with learned weights that sum to one. Memory is O(batch × voxels).

    Parameters
    ----------
    queries : QueryMap
        Memberships of voxels in queries.
    dim : int
        Width of the tokens.

    Attributes
    ----------
    owner : Tensor of int64 (voxels,)
        The first query of each voxel.
    """

    def __init__(self, queries: QueryMap, dim: int) -> None:
        super().__init__()
        voxel, query = torch.from_numpy(queries.voxel), torch.from_numpy(queries.query)
        memberships = torch.bincount(voxel)
        voxels = len(memberships)
        self.dim, self.voxels = dim, voxels
        # A voxel's row of `weight` stands with its first query, so that those reads are views.
        first_query = torch.full((voxels,), len(queries.names))
        first_query.scatter_reduce_(0, voxel, query, "amin")
        order = torch.argsort(first_query, stable=True)
        row = torch.empty_like(order)
        row[order] = torch.arange(voxels)
        self.sizes = torch.bincount(first_query, minlength=len(queries.names)).tolist()
        second = query != first_query[voxel]
        self.extra_query = [int(q) for q in query[second].unique()]
        self.extra_sizes = [int((query[second] == q).sum()) for q in self.extra_query]
        self.register_buffer("owner", first_query, persistent=False)
        self.register_buffer("row", row, persistent=False)
        self.register_buffer("extra_row", row[voxel[second]], persistent=False)
        self.weight = nn.Parameter(torch.empty(voxels, dim))
        self.bias = nn.Parameter(torch.zeros(voxels))
        # One logit a membership: of the first query in row order, then of the others.
        extra = int(second.sum())
        self.mixing = nn.Parameter(torch.zeros(voxels + extra)) if extra else None
        nn.init.normal_(self.weight, std=dim**-0.5)

    owner: Tensor
    row: Tensor
    extra_row: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Return predictions (batch, voxels) from tokens (batch, queries, dim)."""
        if self._one_each():
            read = torch.einsum("bvd,vd->bv", tokens, self.weight)
        else:
            read = _OwnToken.apply(tokens, self.weight, self.sizes)  # type: ignore[no-untyped-call]
        if self.mixing is not None:
            read = self._mix(read, tokens, self.mixing)
        return read[:, self.row] + self.bias

    def _one_each(self) -> bool:
        return not self.extra_query and self.sizes == [1] * self.voxels

    def _mix(self, read: Tensor, tokens: Tensor, logits: Tensor) -> Tensor:
        weights = self.weight[self.extra_row].split(self.extra_sizes)
        parts = [tokens[:, q] @ w.T for q, w in zip(self.extra_query, weights, strict=True)]
        first, other = logits[: self.voxels], logits[self.voxels :]
        top = first.detach().scatter_reduce(0, self.extra_row, other.detach(), "amax")
        first, other = (first - top).exp(), (other - top[self.extra_row]).exp()
        total = first.index_add(0, self.extra_row, other)
        extra = torch.cat(parts, dim=1) * (other / total[self.extra_row])
        return (read * (first / total)).index_add(1, self.extra_row, extra)


class _OwnToken(torch.autograd.Function):
    """Each row of the weight times its own query's token; both gradients fill one buffer each.

    Autograd's own backward of the same slices would hold the gradient of the weight twice and
    fill a whole gradient of the tokens for every query.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        ctx.sizes = sizes
        return torch.cat(
            [tokens[:, q] @ w.T for q, w in enumerate(weight.split(sizes)) if len(w)], dim=1
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        tokens, weight = ctx.saved_tensors
        # Mixed precision reads in fewer digits than the weight has.
        gradient, seen = gradient.to(weight.dtype), tokens.to(weight.dtype)
        to_tokens, to_weight = torch.zeros_like(tokens), torch.empty_like(weight)
        parts = zip(gradient.split(ctx.sizes, 1), weight.split(ctx.sizes), strict=True)
        for q, ((part, rows), out) in enumerate(
            zip(parts, to_weight.split(ctx.sizes), strict=True)
        ):
            to_tokens[:, q] = part @ rows
            torch.mm(part.T, seen[:, q], out=out)
        return to_tokens, to_weight, None


class SpatialReadout(nn.Module):
    """A static receptive field: one spatial map and one set of channel weights a voxel.

    ``prediction = bias + Σ_t map(t) Σ_c weight(c) token(t, c)`` with ``map`` a softmax over the
    tokens of free logits, the same for every image. Training adds :meth:`penalty`, a preference for
    smooth logits, without which far tokens fit noise.

    Parameters
    ----------
    voxels : int
        Number of voxels.
    grid : tuple of int
        Rows and columns of the tokens.
    channels : int
        Channels of the tokens.

    References
    ----------
    Klindt et al. (2017), Neural system identification for large populations separating "what"
    and "where", equation 3 and its smoothness regulariser; softmax maps as the spatial-feature
    baseline of Adeli et al. (2025).
    """

    #: Logits of a softmax over hundreds of tokens start flat and move slowly.
    rate_factor = 5.0
    #: Weight of the squared Laplacian, summed over tokens, against a voxel's mean squared error.
    #: On the simulated cortex a third and three times of it change early areas by less than .01.
    smoothness = 3e-5

    def __init__(self, voxels: int, grid: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.logits = nn.Parameter(torch.zeros(voxels, grid[0] * grid[1]))
        # From zero, a map first moves once the weights are right: random ones push some
        # maps to a wrong place, from which they never return.
        self.weight = nn.Parameter(torch.zeros(voxels, channels))
        self.bias = nn.Parameter(torch.zeros(voxels))

    def penalty(self) -> Tensor:
        """Return the smoothness penalty: the mean over voxels of the logits' squared Laplacian.

        Beyond the edge of the grid a logit counts as its nearest neighbour inside.
        """
        plane = self.logits.unflatten(1, self.grid)[:, None]
        wide = nn.functional.pad(plane, (1, 1, 1, 1), mode="replicate")
        beside = wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
        beside = beside + wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]
        roughness: Tensor = (beside - 4 * plane).square().sum() / len(self.logits)
        return self.smoothness * roughness

    def maps(self) -> Tensor:
        """Return the spatial maps (voxels, tokens), each summing to 1."""
        return self.logits.softmax(dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return predictions (batch, voxels) from tokens (batch, tokens, channels)."""
        seen = torch.matmul(self.maps(), tokens)
        return torch.einsum("bvc,vc->bv", seen, self.weight) + self.bias
