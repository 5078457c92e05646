"""Our in-context network and the published one with the same weights; how far they are apart."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.published_braincorl import PublishedNetwork, Sizes, Subject, adapt_published
from neuroattn.encoders.incontext.blocks import block_size
from neuroattn.encoders.incontext.encoder import InContextEncoder
from neuroattn.encoders.incontext.network import SetTransformer
from neuroattn.encoders.incontext.published import published_state

QUICK = Sizes(
    embedding=48,
    width=40,
    heads=4,
    layers=4,
    feedforward=88,
    context=21,
    queries=101,
    voxels=24,
    batch=24,
)
SINGLE, DOUBLE, HALF = 1e-4, 1e-10, 5e-2  # the gates pass what differs by less
CPU_MEMORY = InContextEncoder().memory  # GiB for activations, the default of the encoder


def block_of(sizes: Sizes, memory: float, device: str = "cpu") -> int:
    """Return the voxels that the encoder reads at once."""
    return block_size(sizes.context, sizes.config, sizes.embedding, memory, device)


def networks(
    sizes: Sizes, dtype: torch.dtype = torch.float32
) -> tuple[SetTransformer, PublishedNetwork]:
    """Return ours and the published network with the same random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        ours, published = SetTransformer(sizes.config, sizes.embedding), PublishedNetwork(sizes)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in ours.parameters():  # biases and norms must matter, too
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.02)
    published.load_state_dict(published_state(ours))
    return ours.to(dtype).eval(), published.to(dtype).eval()


@torch.inference_mode()
def adapt_ours(
    network: SetTransformer, subject: Subject, block: int, device: str = "cpu", half: bool = False
) -> tuple[Tensor, Tensor]:
    """Return weights (voxel, E + 1) and predictions (voxel, queries) of all voxels, on the CPU.

    ``half`` runs the network in bfloat16; the predictions are in single precision all the same.
    """
    context, queries = subject.context.to(device), subject.queries.to(device)
    blocks = subject.response.to(device).split(block)
    with torch.autocast(device, torch.bfloat16, enabled=half):
        written = torch.cat([network(context, each).to(context.dtype) for each in blocks])
    predicted = torch.addmm(written[:, -1:], written[:, :-1], queries.T)
    return written.cpu(), predicted.cpu()


def difference(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Return the largest difference of a pair relative to its largest value, of all pairs."""
    return max(
        float((mine - theirs).abs().max() / theirs.abs().max())
        for mine, theirs in zip(found, expected, strict=True)
    )


def root_mean_square(found: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference relative to that of what was expected."""
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def parity(sizes: Sizes, dtype: torch.dtype, block: int) -> float:
    """Return how far both are apart at these sizes."""
    ours, published = networks(sizes, dtype)
    subject = Subject.drawn(sizes, dtype)
    return difference(
        adapt_ours(ours, subject, block), adapt_published(published, subject, sizes.batch)
    )
