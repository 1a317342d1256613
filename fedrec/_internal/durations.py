"""Read and write lengths of time in the form "7d", "12h" or "30m"."""

from __future__ import annotations

import re

_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_FORM = re.compile(r"([1-9][0-9]{0,5})([mhd])")


def parse_duration(text: str) -> int:
    """Return the seconds of a length of time; ``ValueError`` for a text of another form."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("must be a whole number of minutes, hours or days, as in '30m', '12h' or '7d'")
    return int(found[1]) * _SECONDS[found[2]]


def duration_text(seconds: int) -> str:
    """Return a length of time in the largest unit that holds it as a whole number; seconds if none does."""
    for unit in ("d", "h", "m"):
        if seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"
