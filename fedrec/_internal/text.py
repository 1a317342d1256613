"""Text made fit for a line: somebody else's words, long lists of names, and nouns that are counted."""

from __future__ import annotations

from collections.abc import Collection


def one_line(text: object, *, most: int = 200) -> str:
    """Return ``str(text)`` without line ends or control signs, cut off after ``most`` characters.

    A line of a log is then the writer's own: nobody else can begin another, or move the cursor.
    """
    return "".join(sign if sign.isprintable() else " " for sign in str(text)[:most])


def listed(names: Collection[str], *, most: int = 10) -> str:
    """Return names in their order, the first ``most`` of them, and how many more there are."""
    more = len(names) - most
    return ", ".join(list(names)[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str, *, plural: str | None = None) -> str:
    """Return a number and its noun, as in "1 round" and "2,000 rounds".

    Args:
        number: how many there are.
        noun: what one of them is called.
        plural: what several are called, where that is other than the noun with an s.

    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
