"""Run a merchant's page in a process of its own, beside the daemon: its failure stops nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen


@contextmanager
def page_beside(folder: Path, *, port: int | None) -> Iterator[None]:
    """Serve a merchant's page while the block runs.

    Args:
        folder: the merchant's folder.
        port: the port on this machine, 0 for any free one; None for no page.

    Yields:
        None, at once: the page prints its address when it is served.
    """
    if port is None:
        yield
        return
    options = ("--home", str(folder), "--port", str(port), "--until-input-ends")
    command = [sys.executable, "-m", "fedrec.cli", "client", "page", *options]
    # The page ends with this process, however it ends: then the pipe is closed.
    with Popen(command, stdin=PIPE) as process:  # noqa: S603 (this very program)
        try:
            yield
        finally:
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
            process.terminate()
