"""Check a product's fields, whoever wrote them: a merchant's own file, or another merchant's."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MOST_ATTRIBUTES: Final = 64
LONGEST_NAME: Final = 200
LONGEST_TEXT: Final = 2000
_HIGHEST_PRICE: Final = 1e12
_FORBIDDEN: Final = frozenset({"Cc", "Cs", "Co", "Cn"})
# Marks that turn the direction of text: a title could show another title's letters.
_TURNS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_OPERATORS: Final = frozenset("<>=!")


def clean_text(text: object) -> object:
    """Return text in NFC form with single spaces; anything but text is returned as it is."""
    return " ".join(unicodedata.normalize("NFC", text).split()) if isinstance(text, str) else text


def _readable(text: str, *, most: int) -> str:
    if not text:
        raise ValueError("is empty")
    if len(text) > most:
        raise ValueError(f"has more than {most:,} characters")
    for sign in text:
        if unicodedata.category(sign) in _FORBIDDEN or sign in _TURNS:
            raise ValueError(f"holds the character U+{ord(sign):04X}, which can't be shown")
    return text


def _name(text: str) -> str:
    return _readable(text, most=LONGEST_NAME)


def _text(text: str) -> str:
    return _readable(text, most=LONGEST_TEXT)


def _web_address(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.username is None
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be a web address such as https://shop.example/mug, without a user's name")
    if any(not sign.isprintable() or sign in ' <>"\\^`{|}' for sign in text):
        raise ValueError("holds a character that a web address can't hold")
    return text


def _attribute_name(text: str) -> str:
    if _OPERATORS & set(text):
        raise ValueError(f"{text!r} holds one of < > = !, which stand between name and value in a filter")
    return text


Name = Annotated[str, BeforeValidator(clean_text), Field(strict=True), AfterValidator(_name)]
"""The name of a product or of a category."""

Text = Annotated[str, BeforeValidator(clean_text), Field(strict=True), AfterValidator(_text)]
PathText = Annotated[str, Field(strict=True), AfterValidator(_text)]
"""The path of a photo, whose spaces count."""
Link = Annotated[str, Field(strict=True, max_length=LONGEST_TEXT), AfterValidator(_web_address)]
Price = Annotated[float, Field(strict=True, ge=0, le=_HIGHEST_PRICE, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
AttributeName = Annotated[Name, AfterValidator(_attribute_name)]


class Product(BaseModel):
    """A product as a shop shows it.

    Attributes:
        name: the merchant's own name of it, such as an article number; unique among the merchant's products.
        title: what shoppers read.
        link: web address of its page.
        price: without a currency; one catalogue has one.
        category: as filters name it.
        attributes: further values by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    title: Text
    link: Link | None = None
    price: Price | None = None
    category: Name | None = None
    attributes: Annotated[Mapping[AttributeName, Number | Text], Field(max_length=MOST_ATTRIBUTES)] = Field(
        default_factory=dict
    )
