"""Folders of a test's own for networks from files."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from fedrec.vision.backbones import adding
from fedrec.vision.backbones.trial import try_here


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's data and cache folder of the test's own; returns that of the backbones."""
    monkeypatch.setattr(platformdirs, "user_data_path", lambda name: tmp_path / "data" / name)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "data" / "fedrec" / "backbones"


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try networks in this process, which saves seconds for each file."""
    monkeypatch.setattr(adding, "try_network", try_here)
