"""Allow the server's process as many open files as the system grants it."""

from __future__ import annotations

import sys
from typing import Final

_MOST: Final = 65_536
"""More than a server with 10,000 merchants needs: each keeps a connection, and has up to a few more."""


def allow_open_files() -> int | None:
    """Raise the limit on open files from the usual 1,024, which about a thousand connections reach.

    Returns:
        The limit; None on a system without one.
    """
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            # macOS has a lower limit of its own.
            return soft
        return wanted
    return soft
