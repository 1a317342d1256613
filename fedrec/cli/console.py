"""Progress and errors on stderr: one plain line for what went wrong, and its exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedrec.cli.heartbeat import Heartbeat
from fedrec.errors import FedrecError, InterruptedRunError, OperatingSystemError
from fedrec.observability.progress import Stage

BROKEN_PIPE = 141
"""What a shell gives for a program that SIGPIPE ended: whoever read its output has stopped reading."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave the exit code to :func:`run_reporting_errors`; rich would end with 1."""
        raise BrokenPipeError


stderr = _Console(stderr=True, highlight=False)
stdout = _Console(highlight=False)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end what is done inside as Ctrl-C does, with one line and an exit code.

    Commands that end in order by themselves, as daemons do, replace the handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        # None stands for a handler that wasn't set from Python, which can't be put back.
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run_reporting_errors(action: Callable[[], int]) -> int:
    """Run an action and return its code; print an error as one line, and return the error's."""
    try:
        code = action()
        # What is still buffered would otherwise fail, with a traceback, when Python ends.
        sys.stdout.flush()
    except FedrecError as error:
        _tell(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        _tell("stopped")
        code = InterruptedRunError.exit_code
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OSError as error:
        _tell(f"{_refusal(error)}: free or allow what is missing, and run the command again")
        code = OperatingSystemError.exit_code
    _drop_unwritten()
    return code


def _refusal(error: OSError) -> str:
    """Say what the operating system refused: the file, where there is one, and why."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _tell(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"fedrec: {' '.join(line.split())}\n")
        sys.stderr.flush()


def _drop_unwritten() -> None:
    """Give up output that can't be written, so that Python doesn't try again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[Stage], None]]:
    """Show stages and rounds with accuracy, epsilon and time left; yields the function to tell them to.

    Where there is no terminal, a stage has its own lines, and one every so often while it goes on.
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
        with Heartbeat(stderr.print) as heartbeat:
            yield heartbeat.tell
    else:
        with Progress(*columns, console=stderr) as progress:
            tasks: dict[str, int] = {}

            def tell(stage: Stage) -> None:
                if stage.name not in tasks:
                    tasks[stage.name] = progress.add_task(stage.name, total=stage.total, note="")
                progress.update(tasks[stage.name], completed=stage.done, note=stage.note)  # type: ignore[arg-type]

            yield tell
