"""Decode names and tables that are not in UTF-8: find the encoding, or take the one that is given.

An archive made on a Chinese Windows names its files in GBK, one made on a German one in CP850 or CP1252. On
Linux such names are bytes that are no UTF-8. They are decoded without any loss, so that different names stay
different, and by a rule that gives the same names on every machine.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fedrec.errors import ConfigError
from fedrec.vision.listing.korean_or_chinese import is_korean
from fedrec.vision.listing.letter_statistics import FURTHER
from fedrec.vision.listing.russian_or_others import is_chinese, is_koi8

SHOWN_AS: Final = {
    "gbk": "GBK (simplified Chinese)",
    "cp932": "Shift-JIS (Japanese)",
    "cp1252": "CP1252, Latin-1 (western European)",
    "cp850": "CP850 (western European DOS)",
    "big5": "Big5 (traditional Chinese)",
    "euc_kr": "EUC-KR (Korean)",
    "cp1251": "CP1251 (Cyrillic)",
    "cp866": "CP866 (Cyrillic DOS)",
    "koi8_r": "KOI8-R (Cyrillic)",
    **FURTHER,
    "latin-1": "Latin-1, for want of a better guess",
}
"""Encodings that are tried, in this order where two fit equally well, with their names for people."""

_RARE: Final = 4.0
"""How much better than others an encoding that is hardly used must fit."""


def checked_encoding(name: str, *, option: str = "--names-encoding") -> str:
    """Return the codec's own name for an encoding of names.

    Args:
        name: any spelling of it.
        option: how the setting is called, for the message.

    Returns:
        The codec's name.

    Raises:
        ConfigError: there is no such encoding, or it writes ASCII otherwise, and slashes with it.
    """
    try:
        found = codecs.lookup(name).name
        known = all(bytes([sign]).decode(found) == chr(sign) for sign in range(32, 127))
    except (LookupError, ValueError):
        found, known = "", False
    if not known:
        raise ConfigError(
            f"{option} {name} is no encoding: give one such as gbk, big5, shift-jis, euc-kr, cp1252, "
            "cp850 or cp1251"
        )
    return found


def raw_name(name: str) -> bytes | None:
    """Return the bytes of a file's name that is not in UTF-8; None for any other name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        pass
    else:
        return None
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Windows has names with half a character.
        return name.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Decoded:
    """Texts of bytes that are not in UTF-8.

    Attributes:
        texts: the text of each.
        encodings: the encoding of each.
    """

    texts: Mapping[bytes, str]
    encodings: Mapping[bytes, str]


def decode_all(raws: Iterable[bytes]) -> Decoded:
    """Decode names of one folder, or fields of one file, whose encoding is not known.

    The encoding that fits all of them best is tried first for each, then the next one: names of several
    sources may lie next to each other.

    Args:
        raws: the names; their order doesn't matter.

    Returns:
        A text for each; different bytes in one encoding have different texts.
    """
    distinct = sorted(set(raws))
    order = _ranking(distinct)
    texts: dict[bytes, str] = {}
    encodings: dict[bytes, str] = {}
    seen: set[str] = set()
    for raw in distinct:
        encodings[raw] = next((name for name in order if _score(raw, name) > 0), "latin-1")
        # Control characters can't be shown; their numbers can.
        text = raw.decode(encodings[raw])
        texts[raw] = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)
        if texts[raw] in seen:
            # Some encodings have two codes for one character.
            texts[raw] = raw.decode("utf-8", "backslashreplace")
        seen.add(texts[raw])
    return Decoded(texts, encodings)


def _ranking(raws: list[bytes]) -> list[str]:
    totals = {name: sum(max(_score(raw, name), -6.0) for raw in raws) for name in _SCORES}
    # Its small letters are the bytes of frequent Chinese characters, and hardly anybody uses it.
    totals["koi8_r"] -= _RARE
    if raws and all(_score(raw, "koi8_r") > 0 for raw in raws) and is_koi8(raws):
        totals["koi8_r"] = max(totals.values()) + 1
    elif raws and max(totals, key=lambda name: totals[name]) == "cp1251" and is_chinese(raws):
        totals["gbk"] = totals["cp1251"] + 1
    if totals["euc_kr"] >= totals["gbk"] - 1e-9 and is_korean(raws):
        totals["euc_kr"] += 1
    return sorted(totals, key=lambda name: -totals[name])


def _decoded(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


def _score(raw: bytes, encoding: str) -> float:
    """Say how much a name looks like text of an encoding: above 0 for a fit, far below 0 if it is invalid."""
    text = _decoded(raw, encoding)
    if text is None or not any(sign >= "\x80" for sign in text):
        return -6.0
    return _SCORES[encoding](text, encoding)


def _by_pairs(frequent: Callable[[int, int], float]) -> Callable[[str, str], float]:
    def score(text: str, encoding: str) -> float:
        total = 0.0
        for before, sign, after in _neighbours(text):
            code = sign.encode(encoding)
            if len(code) == 2 and _letter(chr(code[1])) and (_letter(before) or _letter(after)):
                total -= 1.0  # an accented letter and the letter after it, in the middle of a word
            elif len(code) == 2:
                total += frequent(*code)
            elif code[0] >= 0x80:
                total -= 1
        return total

    return score


def _neighbours(text: str) -> Iterator[tuple[str, str, str]]:
    return zip(" " + text, text, text[1:] + " ", strict=False)


def _letter(sign: str) -> bool:
    return sign.isascii() and sign.isalpha()


def _gbk(lead: int, trail: int) -> float:
    if trail < 0xA1 or lead < 0xA1:
        return -1.5  # the extension: rare characters
    if lead <= 0xA9:
        return 1.0 if lead == 0xA3 else 0.0  # full-width letters; symbols
    if lead < 0xB0:
        return -1.5
    return 2.0 if lead <= 0xD7 else 0.3  # the 3,755 frequent characters; the others


def _big5(lead: int, trail: int) -> float:
    if lead < 0xA4:
        return 0.5 if lead == 0xA2 else 0.0
    return 1.9 if lead <= 0xC6 else 0.3 if 0xC9 <= lead <= 0xF9 else -1.5


def _euc_kr(lead: int, trail: int) -> float:
    if 0xB0 <= lead <= 0xC8:
        return 2.0
    return 0.0 if lead < 0xB0 else -1.0


def _shift_jis(text: str, encoding: str) -> float:
    total = 0.0
    for sign in text:
        code = sign.encode(encoding)
        lead = code[0]
        if "\u3041" <= sign <= "\u30ff":
            total += 2.0
        elif len(code) == 1:
            total -= 1.0 if lead >= 0x80 else 0.0  # half-width katakana: seldom in names
        elif 0x88 <= lead <= 0x98:
            total += 1.9
        elif lead >= 0xF0:
            total -= 2.0
        else:
            total += 0.2 if lead >= 0x99 else 0.0
    return total


def _western(text: str, encoding: str) -> float:
    """Score single accented letters among plain ones of the same case."""
    total = 0.0
    plain = sum(map(_letter, text))
    accented = sum(sign >= "\x80" and sign.isalpha() for sign in text)
    for before, sign, after in _neighbours(text):
        if sign < "\x80":
            continue
        if not sign.isalpha() or sign in "ªºµƒˆıˉ":
            total -= 0.0 if sign in "®™°€£–—·´" else 2.0
        elif (sign.isupper() and before.islower() and before.isascii()) or (
            sign.islower() and before.isupper() and after.isupper()
        ):
            total -= 1.5
        else:
            total += 1.0
    # Words have more plain letters than accented ones, but for a few such as "été".
    if accented > plain + 1:
        return min(total, 0.0) - accented
    return total * (0.95 if encoding == "cp850" else 1.0) * (0.8 if accented > plain else 1.0)


_FREQUENCY: Final = (
    dict.fromkeys("оеаинтсрвлк", 0.15) | dict.fromkeys("ъэщфцюшхж", -0.3) | dict.fromkeys("ђћљњџјѓќѕ", -0.6)
)


def _cyrillic(text: str, encoding: str) -> float:
    total = 0.0
    if 2 * sum(sign >= "\x80" for sign in text) < sum(map(_letter, text)):
        return -1.0
    for before, sign, _ in _neighbours(text):
        if sign < "\x80":
            continue
        if not "\u0400" <= sign <= "\u045f":
            total -= 2.0
        elif _letter(before):
            total -= 2.0  # scripts are not mixed within a word
        elif before.isalpha() and sign.isupper() and not before.isupper():
            total -= 2.0
        else:
            total += 0.8 if sign.isupper() and before.isalpha() else 1.2
            # One encoding's small letters are another one's capitals: how frequent they are decides.
            total += _FREQUENCY.get(sign.lower(), 0.0)
    return total


_SCORES: Final[Mapping[str, Callable[[str, str], float]]] = {
    "gbk": _by_pairs(_gbk),
    "cp932": _shift_jis,
    "cp1252": _western,
    "cp850": _western,
    "big5": _by_pairs(_big5),
    "euc_kr": _by_pairs(_euc_kr),
    "cp1251": _cyrillic,
    "cp866": _cyrillic,
    "koi8_r": _cyrillic,
}


def meant_by(name: str) -> str | None:
    """Return what a garbled name may have been before a program decoded it wrongly; None for others.

    Programs that unpack archives take names for CP437 or Latin-1 where they aren't told: the names are then
    in UTF-8, and distinct, but nobody can read them.

    Args:
        name: a name in UTF-8.
    """
    for wrong in ("cp437", "latin-1", "cp1252"):
        try:
            raw = name.encode(wrong)
        except UnicodeEncodeError:
            continue
        if raw.isascii():
            return None
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            found = decode_all([raw])
        drawn = any("\u2500" <= sign <= "\u259f" for sign in name)
        # Short names may be French or German; these encodings have two bytes a character.
        foreign = found.encodings[raw] in ("gbk", "cp932", "big5") and sum(sign > 127 for sign in raw) > 3
        if found.encodings[raw] != "latin-1" and (drawn or (wrong != "cp437" and foreign)):
            return found.texts[raw]
    return None
