"""Report the progress of a long job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """The progress of one stage.

    Attributes:
        name: name of the stage.
        done: finished steps.
        total: all steps.
        note: short text beside the progress bar.
        plain: line to print where there is no terminal.
    """

    name: str
    done: int
    total: int
    note: str = ""
    plain: str = ""


def message(text: str) -> Stage:
    """Return a stage without steps, whose text is shown as a line of its own, also in a terminal."""
    return Stage("message", 0, 0, plain=text)


Tell = Callable[[Stage], None]
