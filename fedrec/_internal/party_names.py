"""Say which names merchants and witnesses may have: of any script, and safe in a terminal."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final

from fedrec._internal.look_alikes import invisible, skeleton

LONGEST: Final = 64
LONGEST_BYTES: Final = 200
"""A file system's limit for a name is 255 bytes."""
_SIGNS: Final = " ._-'’&+,()·・"
_NOT_FIRST: Final = "-+."
"""Programs take such words for options, formulas and hidden files."""
_JOINERS: Final = "\u200c\u200d"
_JOINING: Final = (range(0x0600, 0x0E00), range(0x1000, 0x10A0), range(0x1780, 0x18B0))
"""Arabic and its neighbours, scripts of India, Myanmar, Khmer, Mongolian: joiners change their letters."""
_MOST_MARKS: Final = 5

RULE: Final = (
    f"a name has at most {LONGEST} letters and digits of any script, spaces between words, and signs such as "
    "dots, hyphens and underscores, none of which is invisible; it begins with no hyphen, plus or dot"
)


def name_problem(name: str) -> str | None:
    """Say why a text can't be a party's name.

    Args:
        name: the text, from an untrusted party.

    Returns:
        The reason, without any part of the text; None for a name.
    """
    if not 1 <= len(name) <= LONGEST or len(name.encode("utf-8", "surrogatepass")) > LONGEST_BYTES:
        return f"is empty, or longer than {LONGEST} characters or {LONGEST_BYTES} bytes"
    return _problem_of_short(name)


# The same names come in every message of a training, and a process may host a thousand merchants, each of
# which checks a plan of a thousand names. What is kept is bounded, since the names are short.
@lru_cache(maxsize=4096)
def _problem_of_short(name: str) -> str | None:
    """Say why a text of an allowed length can't be a party's name; None for a name."""
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode's form NFC"
    categories = [unicodedata.category(sign)[0] for sign in name]
    if name.strip(" ") != name or "  " in name or categories[0] == "M":
        return "begins or ends with a space or a mark, or has two spaces in a row"
    if name[0] in _NOT_FIRST:
        return "begins with a hyphen, a plus or a dot"
    if any(map(invisible, name)):
        return "has an invisible character"
    # Some letters stand for a space with marks.
    if not any(unicodedata.category(sign)[0] in "LN" for sign in skeleton(name)):
        return "has no letter and no digit"
    marks = 0
    for place, (sign, category) in enumerate(zip(name, categories, strict=True)):
        marks = marks + 1 if category == "M" else 0
        if marks > _MOST_MARKS:
            return "has too many marks on one letter"
        if category in "LMN" or sign in _SIGNS:
            continue
        if sign in _JOINERS and 0 < place < len(name) - 1 and _joined(name, categories, place):
            continue
        return "has a character that names can't have"
    return None


def _joined(name: str, categories: list[str], place: int) -> bool:
    """Return whether a joiner stands between letters of a script that has such characters."""
    around = (place - 1, place + 1)
    return all(
        categories[at] in "LM" and any(ord(name[at]) in script for script in _JOINING) for at in around
    )
