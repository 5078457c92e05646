"""Streaming metrics of 39,548 vertices x 1,000 images, and random batches of the store.

The store holds about 1 GB of float16 tokens (961 x 768), read once beforehand so that it lies in
the page cache; a batch is what training reads, through the same dataset and batch sampler. In
order means the same batches unshuffled; a plain copy of consecutive rows stands beside it.
``python -m benchmarks.streaming`` takes about a minute on two cores, ``--quick`` some seconds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch

from benchmarks.common import Target, conclude, gate, options, paired_runs, run
from benchmarks.random_store import fill
from neuroattn.metrics import PairMoments
from neuroattn.training.batches import EpochBatches
from neuroattn.training.dataset import ImageResponses

BATCH = 16


def two_pass(prediction: np.ndarray, response: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics by their textbook formulae, float64, everything in memory."""
    p, y = prediction.astype(np.float64), response.astype(np.float64)
    total = ((y - y.mean(0)) ** 2).sum(0)
    product = ((p - p.mean(0)) * (y - y.mean(0))).sum(0)
    return {
        "pearson": product / np.sqrt(((p - p.mean(0)) ** 2).sum(0) * total),
        "explained_variance": 1 - (y - p).var(0) / y.var(0),
        "r2": 1 - ((y - p) ** 2).sum(0) / total,
    }


def metrics(images: int, voxels: int, repeats: int) -> dict[str, Any]:
    """Check and time the metrics over batches of an epoch's size."""
    draw = np.random.default_rng(0)
    response = draw.standard_normal((images, voxels), np.float32) + 3
    prediction = response + draw.standard_normal((images, voxels), np.float32)

    def streamed() -> dict[str, np.ndarray]:
        moments = PairMoments()
        for start in range(0, images, BATCH):
            rows = slice(start, start + BATCH)
            moments.update(torch.from_numpy(prediction[rows]), torch.from_numpy(response[rows]))
        return {name: moments.metric(name) for name in ("pearson", "explained_variance", "r2")}

    timing, found, expected = paired_runs(streamed, lambda: two_pass(prediction, response), repeats)
    difference = max(float(np.abs(found[name] - expected[name]).max()) for name in expected)
    gate("streamed metrics equal the two-pass formulae", difference < 1e-10, difference)
    return {"images": images, "voxels": voxels, "largest_difference": difference, **timing}


def store(images: int, side: int, channels: int, repeats: int) -> dict[str, Any]:
    """Return rates in bytes/s: shuffled batches, batches in order, and plain copies in order."""
    with tempfile.TemporaryDirectory() as folder:
        features = fill(folder, images, side, side, channels)
        data = ImageResponses(features, features["image"].values)
        shuffled = data.__getitems__([images - 1, 0, images // 2])["tokens"].numpy()
        expected = features["tokens"].values[[images - 1, 0, images // 2]]
        gate("a shuffled batch holds its images", np.array_equal(shuffled, expected), "other rows")
        runs = []
        for repeat in range(repeats + 1):  # the first fills the page cache
            start = time.perf_counter()
            _read(data, EpochBatches(images, BATCH, shuffle=True, seed=repeat))
            middle = time.perf_counter()
            _read(data, EpochBatches(images, BATCH, shuffle=False))
            end = time.perf_counter()
            for first in range(0, images, BATCH):
                np.array(data.tokens[first : first + BATCH])
            runs.append((middle - start, end - middle, time.perf_counter() - end))
        size = data.tokens.nbytes
    rates = [tuple(size / seconds for seconds in run_) for run_ in runs[1:]]
    names = ("shuffled", "in_order", "plain_copy_in_order")
    columns = zip(names, zip(*rates, strict=True), strict=True)
    medians = {name: statistics.median(column) for name, column in columns}
    return {
        "bytes": size,
        "batch": BATCH,
        "bytes_per_s": medians,
        "share_of_in_order": statistics.median(r[0] / r[1] for r in rates),
        "share_of_plain_copy": statistics.median(r[0] / r[2] for r in rates),
    }


def _read(data: ImageResponses, batches: EpochBatches) -> None:
    for _ in data.loader(batches):
        pass


def main() -> None:
    chosen = options(__doc__)
    quick = chosen.quick
    found = metrics(*((200, 2000) if quick else (1000, 39_548)), chosen.repeats)
    rates = store(*((64, 12, 96) if quick else (672, 31, 768)), chosen.repeats)
    targets = [
        Target("streaming metrics, seconds", found["ours_s"], most=1),
        Target("random batches, share of the rate in order", rates["share_of_in_order"], 0.7),
    ]
    conclude("streaming", {"metrics": found, "store": rates}, targets, chosen)


if __name__ == "__main__":
    run(main)
