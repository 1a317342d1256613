"""Fixtures that several folders of tests share."""

from __future__ import annotations

import pytest

from fedrec.protocol.tls import Certificates
from tests.support.daemons import make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and a server certificate on loopback, made once a process."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))
