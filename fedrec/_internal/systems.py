"""Name the supported operating systems and refuse the others."""

from __future__ import annotations

import sys
from typing import Final

from fedrec.errors import UnsupportedSystemError

SUPPORTED: Final = ("linux", "darwin", "win32")
"""Linux, macOS and Windows, as in ``sys.platform``."""
POSIX_COMMANDS: Final = ("server", "simulate", "backbone add")
"""Commands that run on Linux and macOS alone: they start processes and look into them as POSIX has it."""


def require_supported_system() -> None:
    """Raise ``UnsupportedSystemError`` on a system that nobody has written fedrec for."""
    if sys.platform not in SUPPORTED:
        raise UnsupportedSystemError(
            f"fedrec runs on Linux and macOS, and a merchant's part on Windows, not on '{sys.platform}'"
        )


def require_system_for(command: str) -> None:
    """Check that a command of the command line runs here.

    Args:
        command: its first word, or both where not all of a group's commands need POSIX.

    Raises:
        UnsupportedSystemError: it doesn't.
    """
    require_supported_system()
    if sys.platform == "win32" and command in POSIX_COMMANDS:
        raise UnsupportedSystemError(
            f"'fedrec {command}' runs on Linux and macOS, not on Windows: run it in WSL 2 or in a container"
        )
