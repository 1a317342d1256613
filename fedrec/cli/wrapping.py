"""Print text for people: on a terminal, long lines are broken between words."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from typing import Final

import typer
from rich.cells import cell_len

_LABEL: Final = re.compile(r" *\S+?(?: \S+?)*? {2,}|(?:WRONG|fingerprint) ")
"""What stands before a line's text, in a column of its own."""
_WIDEST_LABEL: Final = 14
_NARROWEST: Final = 40


def say(text: str) -> None:
    """Print text on standard output; a program that reads it gets each line in one piece.

    Args:
        text: one line or several.
    """
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        text = "\n".join(part for line in text.split("\n") for part in wrapped(line, width=width))
    typer.echo(text)


def wrapped(line: str, *, width: int) -> Iterator[str]:
    """Break one line between words; further parts begin below the first one's text.

    A word that is longer than a line, such as a path, stays in one piece, so that it can be copied.

    Args:
        line: the line.
        width: columns of the terminal. Chinese characters take two.

    Yields:
        The parts.
    """
    if width < _NARROWEST or cell_len(line) <= width:
        yield line
        return
    found = _LABEL.match(line)
    label = "" if found is None or cell_len(found[0]) > _WIDEST_LABEL else found[0]
    indent = " " * cell_len(label)
    words = line[len(label) :].split(" ")
    part = label + words[0]
    for word in words[1:]:
        if cell_len(part) + 1 + cell_len(word) > width:
            yield part.rstrip()
            part = indent + word
        else:
            part += f" {word}"
    yield part
