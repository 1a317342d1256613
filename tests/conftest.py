"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fedrec.protocol.tls import Certificates

# Collecting imports some hundred modules whose objects live to the end. Searching them for cycles again and
# again takes as long as the imports themselves.
gc.disable()

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2**31


def pytest_configure() -> None:
    """Put the tests' folders in memory, where the system has room for them.

    Ledgers and stores write through to the disk at every step, and the tests would wait for it.
    """
    root = "PYTEST_DEBUG_TEMPROOT"
    if root not in os.environ and _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
        # Some tests run programs out of their folders.
        runs = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
        if runs and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
            os.environ[root] = str(_MEMORY)


def pytest_collection_finish() -> None:
    """Leave what was imported out of later searches for cycles."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and a server certificate on loopback, made once a process."""
    from tests.support.daemons import make_certificates

    return make_certificates(tmp_path_factory.mktemp("certificates"))
