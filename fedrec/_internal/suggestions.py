"""Suggest the word that somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def alike(word: str, known: Iterable[str]) -> str:
    """Quote the known words that an unknown one is like.

    Args:
        word: the word.
        known: the words that there are.

    Returns:
        ``"'a' or 'b'"``, or nothing if none is alike.
    """
    exact = {name.casefold(): name for name in known}
    return " or ".join(repr(exact[name]) for name in get_close_matches(word.casefold(), exact))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word.

    Args:
        word: the word.
        known: the words that there are.

    Returns:
        ``": did you mean 'a' or 'b'?"``, or nothing if none is alike.
    """
    found = alike(word, known)
    return f": did you mean {found}?" if found else ""
