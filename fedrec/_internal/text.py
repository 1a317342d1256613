"""Text made fit for a line: somebody else's words, and long lists of names."""

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
