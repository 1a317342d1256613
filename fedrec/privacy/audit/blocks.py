"""The blocks that an audit's pages are made of: the HTML and the PDF lay out the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Line = tuple[tuple[float, float], ...]
"""Points of a curve: how far across the panel, 0 to 1, and the value."""


@dataclass(frozen=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; ``strong`` for the one that everything else explains, ``alarm`` for one that warns."""

    text: str
    strong: bool = False
    alarm: bool = False


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows below a row of column titles; the first column is words, the others figures unless ``words``."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


@dataclass(frozen=True)
class Panel:
    """One merchant's curves by name, the cap above them if there is one, and the last value as text."""

    name: str
    curves: Mapping[str, Line]
    cap: float | None
    last: str


@dataclass(frozen=True)
class Panels:
    """A panel for each merchant on common axes, so that any number of them can be told apart.

    ``x_ticks`` are (how far across, label); the value axis goes from 0 to the last of ``y_ticks``.
    """

    title: str
    x_title: str
    y_title: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[float, ...]
    panels: tuple[Panel, ...]
    note: str


def shortened(name: str, *, most: int) -> str:
    """Return a name of at most so many letters, with its middle left out where it is longer."""
    if len(name) <= most:
        return name
    half = (most - 3) // 2
    return f"{name[: most - 3 - half]}...{name[-half:]}"


Block = Heading | Text | Points | Table | Panels
