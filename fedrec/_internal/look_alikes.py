"""Find names that people can't tell apart, or take for the same word: Hat, hat, and hat with a space."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

# Letters of other scripts that are drawn like a Latin one. Names all of one script stay apart: only a name
# that equals another one after this step looks like it.
_DRAWN_ALIKE: Final = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеѕіјорсухѵԁԛԝ" "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧανορυχ" "ı",
    "ABESIJKMHOPCTYXaesijopcyxvdqw" "ABEZHIKMNOPTYXavopux" "i",
)  # fmt: skip
_DRAWN_AS_NOTHING: Final = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U00013441\U00013442\U00016fe4"
)
_SHORT: Final = 64
_QUOTES: Final = str.maketrans("‘’‛`´ʼ“”„‟", "''''''\"\"\"\"")


def skeleton(name: str) -> str:
    """Return the form that names which look alike have in common.

    Case, kinds and numbers of spaces, invisible characters, full-width and other compatibility forms, kinds
    of dashes and quotes, and letters of other scripts that are drawn like Latin ones make no difference.
    Accents do.

    Args:
        name: any text.
    """
    return _kept_skeleton(name) if len(name) <= _SHORT else _skeleton(name)


# A plan of 1,000 merchants is checked by each of them, several times, and one process may host them all. What
# is kept is bounded, since the texts are short.
@lru_cache(maxsize=4096)
def _kept_skeleton(name: str) -> str:
    return _skeleton(name)


def _skeleton(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).translate(_DRAWN_ALIKE).translate(_QUOTES).casefold()
    plain = unicodedata.normalize("NFKC", plain).translate(_DRAWN_ALIKE)
    kept = []
    for sign in plain:
        category = unicodedata.category(sign)
        if category == "Pd":
            kept.append("-")
        elif sign.isspace():
            kept.append(" ")
        elif category[0] not in "ZC" and not invisible(sign):
            kept.append(sign)
    return " ".join("".join(kept).split()).rstrip(". ")


def invisible(sign: str) -> bool:
    """Return whether a character that counts as a letter or mark is drawn as nothing."""
    return sign in _DRAWN_AS_NOTHING or ("\ufe00" <= sign <= "\ufe0f" or "\U000e0100" <= sign <= "\U000e01ef")


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Group distinct names that look alike.

    Args:
        names: any names; repeated ones count once.

    Returns:
        Groups of two or more, each sorted, in the order of their first names.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(skeleton(name), []).append(name)
    return sorted(tuple(group) for group in groups.values() if len(group) > 1)


def shown(name: str) -> str:
    r"""Quote a name so that spaces and invisible characters in it are seen, as in 'hat\\xa0'."""
    return repr(name)
