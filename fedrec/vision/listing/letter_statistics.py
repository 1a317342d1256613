"""Weigh how likely names' bytes are in an encoding, by how often languages use their letters.

The rules of ``legacy_text`` know the encodings that most shops meet. This model knows more of them, and
compares all by one measure: the logarithm of the chance of the bytes in the language that fits them best. An
encoding that the rules don't know is taken only if it is far likelier than all that they know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Final

FURTHER: Final = {
    "cp1250": "CP1250 (central European)",
    "cp852": "CP852 (central European DOS)",
    "cp1254": "CP1254 (Turkish)",
    "cp857": "CP857 (Turkish DOS)",
    "cp1257": "CP1257 (Baltic)",
    "cp1253": "CP1253 (Greek)",
    "cp737": "CP737 (Greek DOS)",
    "cp1255": "CP1255 (Hebrew)",
    "cp862": "CP862 (Hebrew DOS)",
    "cp1256": "CP1256 (Arabic)",
    "cp720": "CP720 (Arabic DOS)",
    "cp874": "CP874, TIS-620 (Thai)",
    "cp1125": "CP1125 (Ukrainian DOS)",
    "cp949": "CP949 (Korean)",
    "euc_jp": "EUC-JP (Japanese)",
    "iso8859_2": "ISO-8859-2 (central European)",
    "iso8859_5": "ISO-8859-5 (Cyrillic)",
    "mac_roman": "Mac Roman (western European)",
    "mac_latin2": "Mac Latin 2 (central European)",
    "mac_romanian": "Mac Romanian",
    "mac_turkish": "Mac Turkish",
    "mac_greek": "Mac Greek",
    "mac_cyrillic": "Mac Cyrillic",
}
"""Encodings that the rules don't know, with their names for people."""

_RARE: Final = frozenset(
    {"iso8859_2", "iso8859_5", "mac_roman", "mac_latin2", "mac_romanian", "mac_turkish", "mac_greek"}
    | {"mac_cyrillic"}
)
"""Encodings that archives of this century hardly have."""
_SELDOM: Final = 3.0
_MARGIN: Final = 6.0
_MOST_NAMES: Final = 2000
"""Of more names, some are weighed."""
_MIXED: Final = math.log(0.01)
"""For a word that mixes Latin letters with others."""
_UNREAD: Final = math.log(1e-6)
"""For a byte that an encoding lacks, and a sign that a language doesn't use."""

# Letters beyond ASCII, the most frequent first.
_WESTERN: Final = ("üäöß", "éèêàçâîôûëïœù", "óíñáéúü", "ãçáéóõíêúâôà", "äöå", "øåæ", "àèìòùé")
_CENTRAL: Final = ("ąęłóżśćńź", "íáéěýžšřčůúňťďó", "áíéúýčšžťľňôóďäĺŕ", "áéöőóüíúű", "ăîâşţșț", "čšžćđ")
_TURKISH: Final = "ışüöğçâ"
_GREEK: Final = "αοιετσνηυρπκμλςωδγχθφάίόέήβξζύώψϊϋ"
_RUSSIAN: Final = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё"
_UKRAINIAN: Final = "оаинвітерсклудмпзябьгчхйцжїюєфшщґ"
_ARABIC: Final = "اليمونرتبةعدسفهكقأحجشطصىخإذثضغءزئظؤآپچگژ"
_SMALL_KANA: Final = "ﾝｲﾄｼｽﾙﾞｸｰﾀｶﾗﾃｺﾘﾅｷﾌﾟﾏｱｻﾆﾚﾛﾊｯﾉﾋﾐﾑﾓｳｴｵｹｾｿﾁﾂﾔﾕﾖﾜﾇﾈﾍﾎﾒｬｭｮｧｨｩｪｫｦ"
_THAI: Final = "านรอกเงว่มยัลที้ดะตสคบิแปุพชหไจ์ขโใูืผถ็ณซศธำภญฟฉฐฎฝ"
_LETTERS: Final[Mapping[str, tuple[str, ...]]] = {
    "cp1252": _WESTERN,
    "cp850": _WESTERN,
    "cp1250": _CENTRAL,
    "cp852": _CENTRAL,
    "cp1254": (_TURKISH,),
    "cp857": (_TURKISH,),
    "cp1257": ("ėšįųūžąčę", "āīšēņļžūģķč"),
    "cp1251": (_RUSSIAN, _UKRAINIAN),
    "cp866": (_RUSSIAN,),
    "cp1125": (_UKRAINIAN,),
    "koi8_r": (_RUSSIAN,),
    "cp1253": (_GREEK,),
    "cp737": (_GREEK,),
    "cp1255": ("יוהלארתמבשנדחפקםעכטןצסגזץךף",),
    "cp862": ("יוהלארתמבשנדחפקםעכטןצסגזץךף",),
    "cp1256": (_ARABIC,),
    "cp720": (_ARABIC,),
    "cp874": (_THAI,),
    "iso8859_2": _CENTRAL,
    "iso8859_5": (_RUSSIAN, _UKRAINIAN),
    "mac_roman": _WESTERN,
    "mac_latin2": _CENTRAL,
    "mac_romanian": ("ășțîâ",),
    "mac_turkish": (_TURKISH,),
    "mac_greek": (_GREEK,),
    "mac_cyrillic": (_RUSSIAN, _UKRAINIAN),
}
_LATIN: Final = frozenset(
    {"cp1252", "cp850", "cp1250", "cp852", "cp1254", "cp857", "cp1257", "iso8859_2"}
    | {"mac_roman", "mac_latin2", "mac_romanian", "mac_turkish"}
)


def further_encoding(raws: Iterable[bytes], *, guess: str | None) -> str | None:
    """Return a further encoding if names are far likelier in it than in any that the rules know.

    Args:
        raws: names that are not in UTF-8.
        guess: what the rules found; it stays unless a further encoding is far likelier.

    Returns:
        The encoding; ``guess`` where none is.
    """
    names = sorted(set(raws))
    if not names:
        return guess
    names = names[:: -(-len(names) // _MOST_NAMES)]
    ruled = [(encoding, _weight(names, encoding, model)) for encoding, model in _models(_KNOWN)]
    likeliest, known = max(ruled, key=lambda found: found[1])
    others = [
        (encoding, _weight(names, encoding, model) - (_SELDOM if encoding in _RARE else 0.0))
        for encoding, model in _models(FURTHER)
    ]
    # The rules know Shift-JIS, but not names in its small kana alone, as old programs write them.
    others.append(("cp932", _weight(names, "cp932", _by_letters(_Letters(_SMALL_KANA, latin=False)))))
    best, weight = max(others, key=lambda found: found[1])
    if weight > known + _MARGIN:
        return best
    own = max((weight for encoding, weight in ruled if encoding == guess), default=0.0)
    return likeliest if known > own + _MARGIN else guess


def _models(encodings: Iterable[str]) -> Iterator[tuple[str, Callable[[str], float]]]:
    for encoding in encodings:
        for letters in _LETTERS.get(encoding, ()):
            yield encoding, _by_letters(_Letters(letters, latin=encoding in _LATIN))
        if encoding in _CODES:
            yield encoding, _by_codes(_CODES[encoding], encoding)


def _weight(names: list[bytes], encoding: str, model: Callable[[str], float]) -> float:
    texts = {raw: _text(raw, encoding) for raw in names}
    return sum(_UNREAD * len(raw) if text is None else model(text) for raw, text in texts.items())


def _text(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


class _Letters:
    def __init__(self, letters: str, *, latin: bool) -> None:
        shares = [1 / (place + 3) for place in range(len(letters))]
        mass = (0.12 if latin else 0.92) / sum(shares)
        self.latin = latin
        self.plain = math.log(0.88 if latin else 0.08)
        self.signs = {sign: math.log(share * mass) for sign, share in zip(letters, shares, strict=True)}


def _by_letters(model: _Letters) -> Callable[[str], float]:
    def weigh(text: str) -> float:
        total, before = 0.0, " "
        for sign in text:
            if sign.isascii():
                total += model.plain if sign.isalpha() else 0.0
            else:
                total += model.signs.get(sign, model.signs.get(sign.lower(), _UNREAD))
            if not model.latin and sign.isalpha() and before.isalpha() and sign.isascii() != before.isascii():
                total += _MIXED
            if sign.isupper():
                # Capitals begin words, or follow each other.
                total += math.log(0.005 if before.islower() else 0.3 if before.isupper() else 0.2)
            elif sign.isalpha() and not sign.isascii() and not before.isalpha() and sign in _FINAL:
                total += math.log(0.01)
            before = sign
        return total

    return weigh


_FINAL: Final = frozenset("ςםןץךףىةъьыăąęűőňﾞﾟｰｯｬｭｮｧｨｩｪｫｦ")
"""Letters that no word begins with, or hardly one."""


def _by_codes(chance_of: Callable[[str, bytes], float], encoding: str) -> Callable[[str], float]:
    def weigh(text: str) -> float:
        total = 0.0
        for sign in text:
            if sign.isascii():
                total += math.log(0.08) if sign.isalpha() else 0.0
            else:
                total += _code_weight(sign, chance_of, encoding)
        return total

    return weigh


@cache
def _code_weight(sign: str, chance_of: Callable[[str, bytes], float], encoding: str) -> float:
    code = sign.encode(encoding)
    chance = chance_of(sign, code)
    return math.log(chance) if chance else _UNREAD * len(code)


def _simplified(sign: str, code: bytes) -> float:
    del sign
    if len(code) == 2 and code[0] >= 0xA1 and code[1] >= 0xA1:
        if 0xB0 <= code[0] <= 0xD7:
            return 0.9 / 3755
        if 0xD8 <= code[0] <= 0xF7:
            return 0.05 / 3008
        return 0.01 / 846
    return 0.03 / 20000 if len(code) == 2 else 0.0


def _traditional(sign: str, code: bytes) -> float:
    del sign
    if len(code) != 2:
        return 0.0
    return 0.95 / 5401 if 0xA4 <= code[0] <= 0xC6 else 0.01 / 8000


def _hangul(sign: str, code: bytes) -> float:
    if not "\uac00" <= sign <= "\ud7a3":
        return 0.01 / 4888 if len(code) == 2 else 0.0
    return 0.95 / 2350 if code[1] >= 0xA1 and code[0] >= 0xB0 else 0.03 / 8822


def _japanese(sign: str, code: bytes) -> float:
    if "\uff61" <= sign <= "\uff9f":
        return 0.005 / 63
    if "\u3041" <= sign <= "\u30ff":
        return 0.5 / 150
    try:
        jis = sign.encode("euc_jp")
    except UnicodeEncodeError:
        return 0.001 / 1000
    if len(jis) == 2 and jis[0] >= 0xB0:
        return 0.45 / 2965 if jis[0] <= 0xCF else 0.03 / 3390
    return 0.01 / 500 if len(code) == 2 else 0.0


_CODES: Final[Mapping[str, Callable[[str, bytes], float]]] = {
    "gbk": _simplified,
    "big5": _traditional,
    "euc_kr": _hangul,
    "cp949": _hangul,
    "cp932": _japanese,
    "euc_jp": _japanese,
}
_KNOWN: Final = ("gbk", "cp932", "cp1252", "cp850", "big5", "euc_kr", "cp1251", "cp866", "koi8_r")
