"""Hosts: the loopback address, and international names as the network has them, in ASCII."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import idna

LOOPBACK: Final = "127.0.0.1"
_LABEL: Final = re.compile(r"\w([\w-]{0,61}\w)?", re.ASCII)
_MOST_LETTERS: Final = 253


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


def is_host(host: str) -> bool:
    """Return whether a network can have a host of this name or address.

    Args:
        host: a name in ASCII, an IPv4 address, or an IPv6 one in brackets.
    """
    try:
        if host.startswith("["):
            return host.endswith("]") and bool(ipaddress.IPv6Address(host[1:-1]))
        labels = host.removesuffix(".").split(".")
        # A name never ends in a number, and an address with a part of 300 is neither.
        if labels[-1].isdigit():
            return bool(ipaddress.IPv4Address(host))
    except ValueError:
        return False
    return len(host) <= _MOST_LETTERS and all(map(_LABEL.fullmatch, labels))
