"""Text of somebody else's, made fit for a line of a log."""

from __future__ import annotations


def one_line(text: object, *, most: int = 200) -> str:
    """Return ``str(text)`` without line ends or control signs, cut off after ``most`` characters.

    A line of a log is then the writer's own: nobody else can begin another, or move the cursor.
    """
    return "".join(sign if sign.isprintable() else " " for sign in str(text)[:most])
