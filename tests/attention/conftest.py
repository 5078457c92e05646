"""Blocks draw their first weights from torch's own generator: the same ones in every run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def same_weights() -> Iterator[None]:
    """Seed torch's generator for one test, and give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        yield
