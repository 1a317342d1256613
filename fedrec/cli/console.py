"""Print progress and errors on stderr; an error is one plain line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedrec.cli.heartbeat import Heartbeat
from fedrec.errors import DataError, FedrecError, InterruptedRunError, OperatingSystemError
from fedrec.observability.progress import Stage

BROKEN_PIPE = 141
"""Exit code that shells use for a program ended by SIGPIPE, when the reader of its output is gone."""
_ADVICE: Final = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there",
    errno.EACCES: "permit it, or choose another place",
    errno.EPERM: "permit it, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOMEM: "free memory",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOENT: "name another place",
    errno.ENOTDIR: "name another place",
    errno.EISDIR: "name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What to do about an error of the operating system."""
_AROUND = 20
"""Characters that are shown on each side of one that can't be encoded."""
_WIDE = 500
"""Width in characters of a table that nothing has to fit."""


def sane_environment() -> dict[str, str]:
    """Return the environment without a width or height of nothing, for which rich would print nothing."""
    sizes = ("COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if name not in sizes or value.strip("0 ")}


class _Console(Console):
    @property
    def is_terminal(self) -> bool:
        """Whether a terminal shows it: FORCE_COLOR draws no bar over and over into a log or a pipe."""
        try:
            return self.file.isatty()
        except (AttributeError, ValueError):
            # A stream that was closed, or one of another program's that has no such method.
            return False

    def on_broken_pipe(self) -> None:
        """Leave the exit code to :func:`run_reporting_errors`; rich would exit with 1."""
        raise BrokenPipeError


_environment = sane_environment()
stderr = _Console(stderr=True, highlight=False, _environ=_environment)
stdout = _Console(highlight=False, _environ=_environment)


def print_table(table: Table) -> None:
    """Print a table on stdout: fitted to a terminal, or at its full width where a program reads it."""
    (stdout if stdout.is_terminal else _Console(highlight=False, width=_WIDE)).print(table)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C inside the context: one line and an exit code.

    Commands with their own orderly shutdown, such as daemons, replace the handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        # None means that the former handler wasn't set from Python, so it can't be restored.
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run_reporting_errors(action: Callable[[], int]) -> int:
    """Run an action and return its exit code; on an error print one line and return the error's code."""
    try:
        code = action()
        # Otherwise buffered output would fail with a traceback when Python exits.
        sys.stdout.flush()
    except FedrecError as error:
        _print_error(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        _print_error("stopped")
        code = InterruptedRunError.exit_code
    except BrokenPipeError:
        code = BROKEN_PIPE
    except UnicodeEncodeError as error:
        # A path that an option named, and that a file has to keep: names of photos are never kept so.
        around = ascii(error.object[max(0, error.start - _AROUND) : error.end + _AROUND])
        _print_error(f"a name holds bytes that are no text, and a file has to keep it ({around}): rename it")
        code = DataError.exit_code
    except OSError as error:
        _print_error(
            f"{_reason(error)}: {_ADVICE.get(error.errno or 0, 'mend that')}, and run the command again"
        )
        code = OperatingSystemError.exit_code
    except sqlite3.OperationalError as error:
        # A full disk or a read-only one, where SQLite meets it; it doesn't name the file.
        _print_error(f"a database can't be read or written: {error}; run the command again once it can be")
        code = OperatingSystemError.exit_code
    _drop_unwritten()
    return code


def _reason(error: OSError) -> str:
    """Describe an error of the operating system: the file, if there is one, and the reason."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _print_error(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"fedrec: {' '.join(line.split())}\n")
        sys.stderr.flush()


def _drop_unwritten() -> None:
    """Discard output that can't be written, so that Python doesn't try again when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[Stage], None]]:
    """Show stages and rounds with accuracy, epsilon and remaining time.

    Without a terminal, print a stage's own lines, and one line at intervals while a stage lasts.

    Args:
        quiet: whether to show nothing.

    Yields:
        The function to call with each stage.
    """
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
    )
    if quiet:
        yield lambda stage: None
    elif not stderr.is_terminal:
        with Heartbeat(lambda line: stderr.print(line, soft_wrap=True, markup=False)) as heartbeat:
            yield heartbeat.tell
    else:
        with Progress(*columns, console=stderr) as progress:
            tasks: dict[str, TaskID] = {}

            def tell(stage: Stage) -> None:
                if not stage.total:
                    progress.console.print(stage.plain, markup=False)
                    return
                if stage.name not in tasks:
                    tasks[stage.name] = progress.add_task(stage.name, total=stage.total, note="")
                progress.update(
                    tasks[stage.name],
                    completed=stage.done,
                    total=stage.total,
                    note=stage.note,
                )

            yield tell
