"""Hosts: the loopback address, and international names as the network has them, in ASCII."""

from __future__ import annotations

import ipaddress
from typing import Final

import idna

LOOPBACK: Final = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ascii_host(host: str) -> str:
    """Return a host's name in ASCII, as in ``xn--bcher-kva.example`` for ``bücher.example``.

    Args:
        host: a name in any script, or an address.

    Returns:
        The name, unchanged where it is in ASCII already.

    Raises:
        ValueError: it is no name that a host can have.
    """
    if host.isascii():
        return host
    return idna.encode(host, uts46=True).decode("ascii")
