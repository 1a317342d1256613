"""Make text safe and short for one line: text from other parties, long lists of names, counted nouns."""

from __future__ import annotations

from collections.abc import Collection


def one_line(text: object, *, most: int = 200) -> str:
    """Return ``str(text)`` without line ends or control characters, truncated.

    Text from another party then can't start a new line of a log or move the cursor of a terminal.

    Args:
        text: any object.
        most: characters to keep.

    Returns:
        The text, with a space in place of each unprintable character.
    """
    return "".join(sign if sign.isprintable() else " " for sign in str(text)[:most])


def listed(names: Collection[str], *, most: int = 10) -> str:
    """Join names with commas; shorten a long list.

    Args:
        names: the names, in the order to show.
        most: names to show.

    Returns:
        The first ``most`` names and the number of the others, as in "a, b and 3 more".
    """
    more = len(names) - most
    return ", ".join(list(names)[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str, *, plural: str | None = None) -> str:
    """Return a number and its noun, as in "1 round" and "2,000 rounds".

    Args:
        number: how many there are.
        noun: what one of them is called.
        plural: what several are called; by default the noun with an s.

    Returns:
        Both, with thousands separated.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
