"""Names in Arabic or Hebrew inside a sentence: they must not turn the words around them."""

from __future__ import annotations

import unicodedata

_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"


def isolated(name: str) -> str:
    """Return a name to be put into a sentence: set apart if any of its letters run from right to left."""
    if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name):
        return f"{_FIRST_STRONG_ISOLATE}{name}{_POP_ISOLATE}"
    return name
