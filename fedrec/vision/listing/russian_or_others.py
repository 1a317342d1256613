"""Tell Russian text from other text whose bytes are valid in its encodings.

KOI8-R's small letters are CP1251's capitals, and pairs of them are Chinese characters in GBK. Which of them
are meant follows from which letters follow each other in Russian, and from how frequent the characters are.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Final

from fedrec.vision.listing.korean_or_chinese import chinese_likelihood, korean_likelihood

_WORDS: Final = (
    "платье юбка брюки рубашка куртка пальто свитер футболка шорты джинсы костюм пиджак жилет халат "
    "пижама бельё носки колготки чулки шапка кепка шляпа шарф платок перчатки варежки ремень галстук "
    "обувь туфли ботинки сапоги кроссовки кеды тапочки сандалии босоножки сумка сумки рюкзак чемодан "
    "кошелёк портфель часы кольцо кольца серьги браслет цепочка подвеска брошь очки зонт украшения "
    "бижутерия кружка чашка стакан тарелка ложка вилка нож кастрюля сковорода чайник посуда скатерть "
    "полотенце одеяло подушка простыня покрывало штора ковёр мебель стол стул кресло диван кровать шкаф "
    "полка комод лампа люстра светильник зеркало ваза свеча картина рамка игрушка игрушки кукла мяч "
    "машинка конструктор книга книги тетрадь ручка карандаш краски телефон планшет ноутбук компьютер "
    "клавиатура мышь наушники колонка телевизор холодильник пылесос утюг фен велосипед самокат лыжи "
    "коньки палатка удочка инструмент молоток отвёртка дрель краска обои плитка цветы растения семена "
    "корм ошейник аквариум мыло шампунь крем духи помада тушь лак косметика парфюмерия хлеб молоко сыр "
    "масло мясо рыба овощи фрукты яблоки конфеты шоколад печенье чай кофе вода сок вино женская мужская "
    "детская женские мужские детские одежда для дома сада спорта прочее разное другое новинки распродажа "
    "скидки товары продукты аксессуары подарки зимняя летняя красный белый чёрный синий зелёный большой "
    "маленький новый старый без категории все остальное"
)
"""Names of products, by which it is counted which letters follow each other."""
_ALPHABET: Final = 34
_SMOOTHING: Final = 0.1
_CASES: Final = (math.log(0.5), math.log(0.4), math.log(0.1))
"""Small letters, a capital and small letters, capitals alone."""
_MIXED_CASE: Final = -8.0
_NO_LETTER: Final = -12.0
_RARE: Final = math.log(60)
"""How much less likely KOI8-R is than the others, before anything is seen."""


@cache
def _pairs() -> tuple[Counter[str], Counter[str]]:
    pairs: Counter[str] = Counter()
    firsts: Counter[str] = Counter()
    for word in _WORDS.split():
        for before, after in zip(f"^{word}", f"{word}$", strict=True):
            pairs[before + after] += 1
            firsts[before] += 1
    return pairs, firsts


def _likelihood(text: str) -> float:
    """Return the logarithm of how likely a text is, were it Russian."""
    pairs, firsts = _pairs()
    total = 0.0
    for word in re.findall(r"[А-Яа-яЁё]+", text):
        small = word.lower()
        for before, after in zip(f"^{small}", f"{small}$", strict=True):
            share = (pairs[before + after] + _SMOOTHING) / (firsts[before] + _SMOOTHING * _ALPHABET)
            total += math.log(share)
        cases = (small, small.capitalize(), small.upper())
        total += _CASES[cases.index(word)] if word in cases else _MIXED_CASE
    others = re.findall(r"[^\x00-\x7fА-Яа-яЁё]", text)
    return total + _NO_LETTER * len(others)


def is_chinese(raws: Iterable[bytes]) -> bool:
    """Return whether texts are more likely Chinese in GBK than Russian in CP1251.

    Args:
        raws: the texts.
    """
    texts = list(raws)
    russian = sum(_likelihood(raw.decode("cp1251", "replace")) for raw in texts)
    return chinese_likelihood(texts) > russian


def is_koi8(raws: Iterable[bytes]) -> bool:
    """Return whether texts are more likely Russian in KOI8-R than in CP1251, CP866, Chinese or Korean.

    Args:
        raws: the texts.
    """
    texts = list(raws)
    own = sum(_likelihood(raw.decode("koi8_r")) for raw in texts) - _RARE
    others = [
        sum(_likelihood(raw.decode(encoding, "replace")) for raw in texts) for encoding in ("cp1251", "cp866")
    ]
    others += [chinese_likelihood(texts), korean_likelihood(texts)]
    return own > max(others)
