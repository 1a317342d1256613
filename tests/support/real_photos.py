"""Real photos, where ``FEDREC_TEST_DATA`` names a folder of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def clothing_photos(split: str) -> list[Path]:
    """Return the files of a split of ``clothing-small`` in order; skip the test without them."""
    folder = os.environ.get("FEDREC_TEST_DATA")
    if not folder:
        pytest.skip("FEDREC_TEST_DATA is not set")
    found = sorted((Path(folder) / "clothing-small" / split).glob("*/*"))
    assert found, "the folder of FEDREC_TEST_DATA holds no clothing-small"
    return found
