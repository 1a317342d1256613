"""Name the supported operating systems and refuse the others."""

from __future__ import annotations

import sys

from fedrec.errors import UnsupportedSystemError

SUPPORTED = ("linux", "darwin")
"""Linux and macOS, as in ``sys.platform``."""


def require_supported_system() -> None:
    """Raise ``UnsupportedSystemError`` on a system without the file locks that a ledger needs."""
    if sys.platform not in SUPPORTED:
        raise UnsupportedSystemError(
            f"fedrec runs on Linux and macOS, not on '{sys.platform}': a privacy ledger needs their file "
            "locks. On Windows, run it in WSL 2 or in a Linux container"
        )
