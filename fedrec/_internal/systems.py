"""The operating systems that fedrec runs on, and the one line for every other."""

from __future__ import annotations

import sys

from fedrec.errors import UnsupportedSystemError

SUPPORTED = ("linux", "darwin")
"""As ``sys.platform`` names Linux and macOS."""


def require_supported_system() -> None:
    """Raise ``UnsupportedSystemError`` on a system whose file locks can't keep a ledger to one process."""
    if sys.platform not in SUPPORTED:
        raise UnsupportedSystemError(
            f"fedrec runs on Linux and macOS, not on '{sys.platform}': a privacy ledger needs their file "
            "locks. On Windows, run it in WSL 2 or in a Linux container"
        )
