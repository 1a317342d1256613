"""Write international host names as the network does, in ASCII."""

from __future__ import annotations

import idna


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
