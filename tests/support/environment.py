"""What of a person's environment tests must not depend on."""

from __future__ import annotations

from collections.abc import MutableMapping

_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})


def forget_proxies(environment: MutableMapping[str, str]) -> None:
    """Remove a machine's proxies: tests' servers are on the loopback address, and no proxy leads there."""
    for name in [name for name in environment if name.lower() in _PROXIES]:
        del environment[name]
