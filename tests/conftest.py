"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Return the folder of public fMRI data, or skip and say where it was looked for."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NEUROATTN_REALDATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set NEUROATTN_REALDATA to the folder that has it")
    return folder
