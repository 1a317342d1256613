"""Read prices as shops and spreadsheets write them, where there is one way to read them."""

from __future__ import annotations

import re
from typing import Final

from fedrec._internal.text import one_line

# No leading zero and no exponent: 007 and 1e5 are names of things as often as numbers.
PLAIN_NUMBER: Final = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,9})?")
# As much of Europe writes it. A comma before three digits may stand for thousands.
_WITH_COMMA: Final = re.compile(r"(0|[1-9]\d{0,14}),\d{1,2}")
_AMBIGUOUS: Final = re.compile(r"[1-9]\d{0,2},\d{3}")
_SPACES: Final = " \u00a0\u202f'\u2019"
# The form of a number with signs for thousands, these signs, and the sign before the decimals.
_GROUPED: Final = (
    (re.compile(r"[1-9]\d{0,2}(,\d{3}){1,4}\.\d{1,2}|[1-9]\d{0,2}(,\d{3}){2,4}"), ",", "."),
    (re.compile(r"[1-9]\d{0,2}(\.\d{3}){1,4},\d{1,2}|[1-9]\d{0,2}(\.\d{3}){2,4}"), ".", ","),
    (re.compile(rf"[1-9]\d{{0,2}}([{_SPACES}]\d{{3}}){{1,4}}([.,]\d{{1,2}})?"), _SPACES, ","),
)
_CURRENCY: Final = r"[A-Z]{0,3}[$€£¥￥₹₽₩₺₫₴₦฿₱₪]|[A-Z]{3}|kr|zł|元|円"
_WITH_CURRENCY: Final = re.compile(rf"({_CURRENCY})?\s*(-?\d[\d.,{_SPACES}]*?)\s*({_CURRENCY})?")


class Prices:
    """The prices of one file, which have one currency at most."""

    def __init__(self) -> None:
        self._currency: tuple[str, int] | None = None

    def read(self, text: str, *, line: int) -> str:
        """Read a price.

        Args:
            text: as it stands in the file.
            line: where.

        Returns:
            The number, with a point before the decimals; the currency is left out.

        Raises:
            ValueError: it is no number, could be two, or is in another currency than one above.
        """
        shown = one_line(text, most=40)
        found = _WITH_CURRENCY.fullmatch(text)
        before, number, after = found.groups() if found else (None, text, None)
        if _AMBIGUOUS.fullmatch(number):
            whole = number.replace(",", "")
            raise ValueError(
                f"price {shown!r} may be {whole} or {number.replace(',', '.')}: write {whole}.00"
            )
        plain = _plain(number)
        if plain is None or (before and after):
            raise ValueError(f"price {shown!r} is no number such as 12.50")
        currency = before or after
        if currency:
            first, where = self._currency = self._currency or (currency, line)
            if currency != first:
                raise ValueError(f"price {shown!r} is in {currency}, and line {where} has {first}: use one")
        return plain


def _plain(number: str) -> str | None:
    """Return a number with a point before the decimals and no sign for thousands; None if it is none."""
    if PLAIN_NUMBER.fullmatch(number):
        return number
    if _WITH_COMMA.fullmatch(number):
        return number.replace(",", ".")
    for form, thousands, decimal in _GROUPED:
        if form.fullmatch(number):
            return number.translate(dict.fromkeys(map(ord, thousands))).replace(decimal, ".")
    return None
