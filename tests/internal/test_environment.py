"""Tests reach their own servers on a machine that has proxies too."""

from __future__ import annotations

import os

from tests.support.environment import forget_proxies


def test_proxies_are_forgotten_however_they_are_spelt() -> None:
    environment = {"HTTPS_PROXY": "http://proxy:3128", "http_proxy": "x", "All_Proxy": "y", "PATH": "/bin"}
    forget_proxies(environment)
    assert environment == {"PATH": "/bin"}
    assert not {name for name in os.environ if name.lower().endswith("s_proxy")}
