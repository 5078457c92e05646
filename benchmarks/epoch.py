"""An epoch from the store against an epoch that runs the frozen backbone at every step.

The backbone has the shapes of DINOv2 ViT-B/14 (12 blocks, 768 wide, 434 x 434 pixels, 961
patches) and random weights, so that nothing is downloaded. Both sides train the same decoder on
the same images, batch 16, 39,548 vertices. The epochs are **extrapolated** to 8,857 images (90 %
of 9,841) from single steps, each timed in turn; the fill of the store, once, is told beside them.
``python -m benchmarks.epoch`` takes some three minutes on two cores; ``--quick`` some seconds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import Target, conclude, gate, options, paired_runs, run
from benchmarks.published_decoder import Sizes, our_decoder, ownership
from neuroattn.features.huggingface import HuggingFaceVision
from neuroattn.features.store import FeatureStore
from neuroattn.features.towers import quiet
from neuroattn.images import ImageArray
from neuroattn.training.dataset import ImageResponses
from neuroattn.training.optimisation import Optimisation

EPOCH_IMAGES = 8857
QUICK = Sizes(rows=8, columns=8, dim=96, heads=4, feedforward=128, left=500, right=500, batch=4)


def backbone(folder: Path, sizes: Sizes, blocks: int) -> HuggingFaceVision:
    """Save a randomly initialised DINOv2 and return it as a feature basis."""
    from transformers import Dinov2Config, Dinov2Model

    side = 14 * sizes.rows
    config = Dinov2Config(
        hidden_size=sizes.dim,
        num_hidden_layers=blocks,
        num_attention_heads=sizes.dim // 64 or 1,
        image_size=side,
        patch_size=14,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        with quiet():
            Dinov2Model(config).save_pretrained(folder)
    return HuggingFaceVision(str(folder), source="queries", image_size=side, local_files_only=True)


def main() -> None:
    chosen = options(__doc__)
    sizes, blocks = (QUICK, 2) if chosen.quick else (Sizes(), 12)
    draw = np.random.default_rng(0)
    side = 14 * sizes.rows
    images = ImageArray(draw.integers(0, 256, (sizes.batch, side, side, 3), dtype=np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        basis = backbone(Path(folder) / "backbone", sizes, blocks)
        basis.key()  # loads the weights
        start = time.perf_counter()
        store = FeatureStore(Path(folder) / "store")
        features = store.fill(basis, images, batch_size=sizes.batch, progress=False)
        filled = time.perf_counter() - start
        responses = draw.standard_normal((sizes.batch, sizes.voxels), np.float32)
        data = ImageResponses(features, features["image"].values, responses)
        step = trained_step(sizes, torch.from_numpy(responses))
        everything = range(sizes.batch)

        def stored() -> torch.Tensor:
            return data.__getitems__(everything)["tokens"]

        def computed() -> torch.Tensor:
            return torch.from_numpy(basis.extract_images(images, everything)["tokens"])

        online = computed()
        difference = float((stored().float() - online).abs().max() / online.abs().max())
        gate("features of the store are the backbone's, to float16", difference < 1e-3, difference)
        step(stored())
        timing, _, _ = paired_runs(
            lambda: step(stored()), lambda: step(computed()), min(chosen.repeats, 2)
        )
    steps = EPOCH_IMAGES / sizes.batch
    payload = {
        "size": vars(sizes) | {"backbone_blocks": blocks, "voxels": sizes.voxels},
        "largest_relative_feature_difference": difference,
        "step": timing,
        "extrapolated_epoch": {
            "images": EPOCH_IMAGES,
            "from_store_s": steps * timing["ours_s"],
            "with_backbone_s": steps * timing["theirs_s"],
            "fill_once_s": steps * filled,
        },
    }
    targets = [Target("epoch from the store, times faster", timing["ratio"], least=10)]
    conclude("epoch", payload, targets, chosen)


def trained_step(sizes: Sizes, responses: torch.Tensor) -> Callable[[torch.Tensor], None]:
    """Return a call that trains our decoder on a batch of tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        network = our_decoder(sizes, ownership(sizes))
    optimizer = Optimisation(learning_rate=1e-4).optimizer(network)

    def step(tokens: torch.Tensor) -> None:
        network.zero_grad()
        network.loss(tokens, responses).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    run(main)
