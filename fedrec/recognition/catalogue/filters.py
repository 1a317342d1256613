"""Read conditions on products, such as ``price<50``, and turn them into SQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fedrec._internal.text import listed, one_line
from fedrec.errors import ConfigError
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.products import clean_text

_FORM: Final = re.compile(r"([^<>=!]+)(<=|>=|!=|=|<|>)(.*)", re.DOTALL)
_OPERATORS: Final = frozenset({"<", "<=", ">", ">=", "=", "!="})
_TEXTS: Final = {
    "product": "product.name",
    "title": "product.title",
    "category": "product.category",
    "merchant": "product.merchant",
    "class": "vector.label",
}
_NUMBERS: Final = {"price": "product.price", "probability": "vector.probability"}


@dataclass(frozen=True)
class Filter:
    """A condition on a product; one that has no such value doesn't fulfil it.

    Attributes:
        name: what is compared.
        operator: < <= > >= = or !=.
        value: what it is compared with.
    """

    name: str
    operator: str
    value: str

    @property
    def number(self) -> float | None:
        """The value as a number; None if it is none."""
        try:
            found = float(self.value)
        except ValueError:
            return None
        return found if abs(found) < float("inf") else None


@dataclass(frozen=True)
class Condition:
    """Part of a WHERE clause over the tables product, photo and vector.

    Attributes:
        text: SQL with placeholders; it holds no input.
        values: the placeholders' values.
    """

    text: str
    values: tuple[object, ...]


def parse_filter(text: str) -> Filter:
    """Read a filter such as ``price<50``; ``ConfigError`` if it is none."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--filter {one_line(text, most=60)!r} is no condition such as price<50 or category=dress"
        )
    name, operator, value = (str(clean_text(part)) for part in found.groups())
    if not name or not value:
        raise ConfigError(f"--filter {one_line(text, most=60)!r} lacks a name or a value")
    return Filter(name, operator, value)


def to_conditions(catalogue: Catalogue, filters: Sequence[Filter]) -> list[Condition]:
    """Turn filters into SQL.

    Args:
        catalogue: tells which attributes there are.
        filters: the filters.

    Returns:
        A condition for each.

    Raises:
        ConfigError: a name is unknown, or text is compared as a number.
    """
    return [_condition(catalogue, wanted) for wanted in filters]


def _condition(catalogue: Catalogue, wanted: Filter) -> Condition:
    if wanted.operator not in _OPERATORS:
        raise ConfigError(f"--filter: {wanted.operator!r} compares nothing")
    number = wanted.number
    if wanted.name in _NUMBERS:
        if number is None:
            raise ConfigError(f"--filter: {wanted.name} is compared with a number, not {wanted.value!r}")
        return Condition(f"{_NUMBERS[wanted.name]} {wanted.operator} ?", (number,))
    ordered = wanted.operator not in {"=", "!="}
    if wanted.name in _TEXTS:
        if ordered:
            raise ConfigError(f"--filter: {wanted.name} is text, which is compared by = or !=")
        return Condition(f"{_TEXTS[wanted.name]} {wanted.operator} ?", (wanted.value,))
    _check_attribute(catalogue, wanted.name)
    has = "EXISTS (SELECT 1 FROM attribute WHERE product_id = product.id AND name = ? AND "
    if ordered:
        if number is None:
            raise ConfigError(f"--filter: {wanted.operator} compares with a number, not {wanted.value!r}")
        return Condition(f"{has}number {wanted.operator} ?)", (wanted.name, number))
    equal = "(text IS ? OR (? IS NOT NULL AND number IS ?))"
    same = equal if wanted.operator == "=" else f"NOT {equal}"
    return Condition(f"{has}{same})", (wanted.name, wanted.value, number, number))


def _check_attribute(catalogue: Catalogue, name: str) -> None:
    if not catalogue.rows("SELECT 1 FROM attribute WHERE name = ? LIMIT 1", (name,)):
        others = [
            row[0] for row in catalogue.rows("SELECT DISTINCT name FROM attribute ORDER BY name LIMIT 60")
        ]
        known = listed([*_NUMBERS, *_TEXTS, *others], most=20)
        raise ConfigError(f"--filter: no product has {one_line(name, most=60)!r}; there are {known}")
