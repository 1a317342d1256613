"""Progress and errors on stderr: one plain line for what went wrong, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedrec.errors import FedrecError
from fedrec.progress import Stage

stderr = Console(stderr=True, highlight=False)


def run_reporting_errors(action: Callable[[], None]) -> int:
    """Run an action; return 0, or print a fedrec error as one line and return its exit code."""
    try:
        action()
    except FedrecError as error:
        sys.stderr.write(f"fedrec: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("fedrec: stopped\n")
        return 130
    except BrokenPipeError:
        return 141
    return 0


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[Stage], None]]:
    """Show stages and rounds with accuracy, epsilon and time left; yields the function to tell them to."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=stderr, disable=quiet or not stderr.is_terminal) as progress:
        tasks: dict[str, int] = {}

        def tell(stage: Stage) -> None:
            if stage.name not in tasks:
                tasks[stage.name] = progress.add_task(stage.name, total=stage.total, note="")
            progress.update(tasks[stage.name], completed=stage.done, note=stage.note)  # type: ignore[arg-type]
            if not quiet and not stderr.is_terminal and stage.plain:
                stderr.print(stage.plain)

        yield tell
