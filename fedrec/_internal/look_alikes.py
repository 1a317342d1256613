"""Find names that people can't tell apart, or take for the same word: Hat, hat, and hat with a space."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

# Letters that are drawn like a Latin one, or like another one of their own script. Names all of one script
# stay apart: only a name that equals another one after this step looks like it. Small letters alone: what is
# drawn alike in capitals, too, must have one form, or names of another case would stay apart.
_DRAWN_ALIKE: Final = str.maketrans(
    # Cyrillic; Greek; Armenian; Latin letters of phonetic alphabets.
    "авеѕіјкмнорстухһӏѵԁԛԝ" "αβεζηικμνορτυχωϲϳ" "հոսց" "ıɡɑɩʟᴄᴏᴠᴡᴢꜱƅꞁ"
    # Japanese signs like Chinese ones, and hiragana like katakana; Arabic letters of another keyboard.
    "エロカニタトハへべぺー" "کیىە",
    "abesijkmhopctyxhlvdqw" "abezhikmvoptuxwcj" "hnug" "igailcovwzsbl"
    "工口力二夕卜八ヘベペ一" "كييه",
)  # fmt: skip
_DRAWN_ALIKE_MIXED: Final = str.maketrans("ΝΥςЬьбпги", "NYcbb6nru")
"""What counts, too, in a word that mixes Latin letters with ones of these scripts."""
_WORD: Final = re.compile(r"[^\W\d_]+")
_LATIN: Final = re.compile(r"[A-Za-zÀ-ɏ]")
# Greek, Cyrillic, Armenian, Cherokee and Lisu, which have letters that are drawn like Latin ones.
_LIKE_LATIN: Final = re.compile(r"[\u0370-\u03ff\u0400-\u058f\u13a0-\u13ff\uab70-\uabbf\ua4d0-\ua4ff]")
_LIGATURES: Final = str.maketrans({"œ": "oe", "æ": "ae", "\u0307": "", "\u0640": ""})
"""Two letters in one sign; the dot that a Turkish capital leaves; what lengthens an Arabic word."""
_DRAWN_AS_NOTHING: Final = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U00013441\U00013442\U00016fe4"
)
_ONE_STROKE: Final = str.maketrans({"I": "l", "1": "l", "|": "l", "O": "o", "0": "o"})
"""What is drawn alike in many fonts, and stands for different things in codes of products."""
_LEADING_ZEROS: Final = re.compile(r"(?<!\d)0+(?=\d)")
_SHORT: Final = 64
_QUOTES: Final = str.maketrans("‘’‛`´ʼ“”„‟", "''''''\"\"\"\"")


def skeleton(name: str) -> str:
    """Return the form that names which look alike have in common.

    Case, kinds and numbers of spaces, scripts of digits, invisible characters, full-width and other
    compatibility forms, ligatures, kinds of dashes and quotes, and letters of other scripts that are drawn
    alike make no difference. Accents do.

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
    plain = unicodedata.normalize("NFKC", name).translate(_QUOTES)
    if _LIKE_LATIN.search(plain):
        plain = _WORD.sub(_drawn_in_a_mixed_word, plain)
    plain = unicodedata.normalize("NFKC", plain.casefold()).translate(_LIGATURES).translate(_DRAWN_ALIKE)
    kept = []
    for sign in plain:
        category = unicodedata.category(sign)
        if category == "Pd":
            kept.append("-")
        elif sign.isspace():
            kept.append(" ")
        elif category == "Nd":
            kept.append(str(unicodedata.decimal(sign)))
        elif category[0] not in "ZC" and not invisible(sign):
            kept.append(sign)
    return " ".join("".join(kept).split()).rstrip(". ")


def mixed_words(name: str) -> list[str]:
    """Return the words of a name that mix Latin letters with ones of an alphabet that has letters like them.

    Args:
        name: any text.
    """
    return [word for word in _WORD.findall(name) if _is_mixed(word)]


def _is_mixed(word: str) -> bool:
    # Two searches: one pattern for both would look at the rest of a word again from each of its letters.
    return bool(_LIKE_LATIN.search(word) and _LATIN.search(word))


def _drawn_in_a_mixed_word(found: re.Match[str]) -> str:
    return found[0].translate(_DRAWN_ALIKE_MIXED) if _is_mixed(found[0]) else found[0]


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


def easily_confused(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Group distinct names that differ in l, I and 1, in O and 0, or in zeros before a number alone.

    They are told, and never refused: B10 and BIO may well be two things.

    Args:
        names: any names; repeated ones count once.

    Returns:
        Groups of two or more that :func:`look_alikes` keeps apart, each sorted.
    """
    groups: dict[str, dict[str, str]] = {}
    for name in sorted(set(names)):
        alike = skeleton(_LEADING_ZEROS.sub("", unicodedata.normalize("NFKC", name)).translate(_ONE_STROKE))
        groups.setdefault(alike, {}).setdefault(skeleton(name), name)
    return sorted(tuple(group.values()) for group in groups.values() if len(group) > 1)


def shown(name: str) -> str:
    r"""Quote a name so that spaces and invisible characters in it are seen, as in 'hat\\xa0'."""
    return repr(name)
