"""Read products and their photos from a CSV file, which may hold anything."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath
from typing import Final

from pydantic import TypeAdapter, ValidationError

from fedrec._internal.csv_lines import CsvLines, Header, csv_reason, open_csv
from fedrec._internal.text import counted, listed, one_line
from fedrec._internal.validation_messages import first_problem
from fedrec.errors import DataError
from fedrec.recognition.catalogue.prices import PLAIN_NUMBER, Prices
from fedrec.recognition.catalogue.products import (
    LONGEST_TEXT,
    MOST_ATTRIBUTES,
    AttributeName,
    Name,
    PathText,
    Product,
)

_COLUMNS: Final = ("product", "photo", "title", "link", "price", "category")
_RESERVED: Final = frozenset({*_COLUMNS, "merchant", "class", "probability"})
_NAME: Final = TypeAdapter(Name)
_PATH: Final = TypeAdapter(PathText)
_ATTRIBUTE: Final = TypeAdapter(AttributeName)


@dataclass(frozen=True)
class Row:
    """A usable row.

    Attributes:
        line: where it begins, from 1.
        product: the product that it belongs to.
        photo: its photo's path, as it stands in the file.
    """

    line: int
    product: Product
    photo: str


@dataclass(frozen=True)
class BadRow:
    """A row that can't be used.

    Attributes:
        line: where it begins, from 1.
        reason: why not, in one line.
    """

    line: int
    reason: str


@dataclass
class _Seen:
    """What earlier rows say."""

    fields: dict[str, tuple[int, Mapping[str, str], Product]] = field(default_factory=dict)
    photos: dict[tuple[str, str], int] = field(default_factory=dict)
    prices: Prices = field(default_factory=Prices)


def count_lines(path: Path) -> int:
    """Return about how many rows a file has, for a progress bar; ``DataError`` if it can't be read."""
    with open_csv(path) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a CSV file: UTF-8 or UTF-16, a header; commas, semicolons, tabs or pipes.

    Columns product and photo are needed; title, link, price and category are known; each further one is an
    attribute. Rows of one product repeat its fields, or leave them empty after the first.

    Args:
        path: the file.

    Yields:
        Each row, usable or not, but for empty ones.

    Raises:
        DataError: the file can't be read, or its header can't be used.
    """
    with open_csv(path) as file:
        lines = CsvLines(file)
        first = lines.header(path)
        header = _header(path, first)
        reader = csv.reader(lines, delimiter=first.delimiter, strict=True)
        seen = _Seen()
        while True:
            line = lines.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(line, csv_reason(error))
                continue
            if any(cell.strip() for cell in cells):
                yield _row(line, first.fitted(cells) or cells, header, seen)


def _header(path: Path, header: Header) -> list[str]:
    names = []
    for position, cell in enumerate(header.cells, start=1):
        lowered = cell.strip().lower()
        try:
            names.append(lowered if lowered in _COLUMNS else _ATTRIBUTE.validate_python(cell))
        except ValidationError as error:
            problem = first_problem(error).text
            raise DataError(f"{path}: the header's column {position} {problem}") from None
    for needed in _COLUMNS[:2]:
        if needed not in names:
            raise DataError(
                f"{path} has no column {needed!r}; its header names {one_line(listed(names)) or 'nothing'}"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    taken = sorted((set(names) - set(_COLUMNS)) & _RESERVED)
    if twice or taken:
        why = "stands twice in the header" if twice else "is a name that filters use: rename it"
        raise DataError(f"{path}: column {(twice or taken)[0]!r} {why}")
    if len(names) > MOST_ATTRIBUTES + len(_COLUMNS):
        raise DataError(f"{path} has {len(names)} columns; at most {MOST_ATTRIBUTES} attributes are kept")
    return names


def _row(line: int, cells: list[str], header: list[str], seen: _Seen) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow(line, f"has {counted(len(cells), 'column')}, and the header {len(header)}")
    fields = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    for name, value in fields.items():
        if (reason := _unreadable(value)) is not None:
            return BadRow(line, f"{name} {reason}")
    photo = fields.pop("photo", "")
    if not photo:
        return BadRow(line, "names no photo")
    try:
        name = _checked(_NAME, "product", fields.pop("product", ""))
        photo = normpath(_checked(_PATH, "photo", photo))
        if "price" in fields:
            fields["price"] = seen.prices.read(fields["price"], line=line)
        known = seen.fields.get(name)
        if known is None:
            known = (line, fields, _product(name, fields))
    except ValueError as error:
        return BadRow(line, str(error))
    for column, value in fields.items():
        if (other := known[1].get(column)) != value:
            said = "nothing" if other is None else repr(one_line(other, most=40))
            own = repr(one_line(value, most=40))
            return BadRow(line, f"has {column} {own}, and line {known[0]} of the same product {said}")
    earlier = seen.photos.setdefault((name, photo), line)
    if earlier != line:
        return BadRow(line, f"repeats product and photo of line {earlier}")
    seen.fields[name] = known
    return Row(line, known[2], photo)


def _checked(kind: TypeAdapter[str], column: str, value: str) -> str:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{column} {first_problem(error).text}") from None


def _unreadable(value: str) -> str | None:
    if len(value) > LONGEST_TEXT:
        return f"is longer than {LONGEST_TEXT:,} characters"
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        return "is not in UTF-8: save the file as CSV UTF-8"
    return None


def _product(name: str, fields: Mapping[str, str]) -> Product:
    own = {column: value for column, value in fields.items() if column not in _COLUMNS}
    price = fields.get("price")
    try:
        return Product(
            name=name,
            title=fields.get("title", name),
            link=fields.get("link"),
            price=None if price is None else float(price),
            category=fields.get("category"),
            attributes={column: attribute_value(value) for column, value in own.items()},
        )
    except ValidationError as error:
        problem = first_problem(error)
        raise ValueError(f"{one_line(' '.join(problem.where))} {problem.text}") from None


def attribute_value(text: str) -> str | float:
    """Return a plain number such as 12 or 0.5 as a number, and anything else as it is."""
    return float(text) if PLAIN_NUMBER.fullmatch(text) else text
