"""The server may open as many files as the system grants: each merchant keeps a connection."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from fedrec.server.open_files import allow_open_files


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_low_limit_is_raised_and_a_high_one_is_kept(limits: tuple[int, int]) -> None:
    soft, hard = limits
    low = min(soft, 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    told = allow_open_files()
    now, kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (told, kept) == (now, hard) and now > low
    assert allow_open_files() == now
