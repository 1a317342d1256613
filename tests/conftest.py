"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fedrec.protocol.tls import Certificates

# Collecting imports some hundred modules whose objects live to the end. Searching them for cycles again and
# again takes as long as the imports themselves.
gc.disable()


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
