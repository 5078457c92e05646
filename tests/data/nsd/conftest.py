"""One mini data set for all that only read; a copy for each test that damages it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.nsd_mini import Mini, nsd_mini


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    return nsd_mini(tmp_path_factory.mktemp("nsd"))


@pytest.fixture
def own(mini: Mini, tmp_path: Path) -> Mini:
    return replace(mini, root=Path(shutil.copytree(mini.root, tmp_path / "nsd")))
