"""Commands of fedrec in this process, where it is of no interest that each is a program."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from fedrec.cli import app as cli


def command_here(*arguments: object, fails: int = 0) -> str:
    """Run a command to its end; ``fedrec.simulations.federation.run_command`` starts a process for it.

    Args:
        *arguments: of the command.
        fails: the expected exit code.

    Returns:
        What it printed.
    """
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(shown), redirect_stderr(shown):
        patch.setattr(sys, "argv", ["fedrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert int(ended.value.code or 0) == fails, shown.getvalue()
    return shown.getvalue()
