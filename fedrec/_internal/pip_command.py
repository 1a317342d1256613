"""Name the command that installs a package where this program runs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys


def pip_command(*requirements: str) -> str:
    """Return a command line that installs packages for the interpreter that runs this.

    A bare ``pip`` may be another interpreter's. Of an extra of an installed package, pip installs what is
    missing, without looking for the package itself.

    Args:
        requirements: arguments of ``pip install``, such as ``fedrec[ray]``.

    Returns:
        The line, quoted for the system's shell.
    """
    words = [sys.executable, "-m", "pip", "install", *requirements]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
