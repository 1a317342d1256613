"""Isolate right-to-left names (Arabic, Hebrew), so that they don't reorder the text around them."""

from __future__ import annotations

import unicodedata

_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"


def isolated(name: str) -> str:
    """Return a name for use in a sentence, in Unicode isolates if it has right-to-left letters."""
    if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name):
        return f"{_FIRST_STRONG_ISOLATE}{name}{_POP_ISOLATE}"
    return name
