"""List the photos that a CSV file names, with their class, product, merchant and split."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import Final

from fedrec._internal.csv_lines import CsvLines, csv_reason, open_csv
from fedrec._internal.text import listed, one_line
from fedrec.errors import DataError
from fedrec.vision.folders import Layout
from fedrec.vision.listing.doubtful_names import (
    in_folders_of_other_splits,
    mixed_alphabets,
    named_like_other_splits,
)
from fedrec.vision.listing.file_contents import unread
from fedrec.vision.listing.folder_names import FolderNames, decoded, folder_names
from fedrec.vision.listing.folder_tree import NOT_REGULAR, LeftOut
from fedrec.vision.listing.legacy_text import raw_name
from fedrec.vision.listing.photo_listing import Listing, PhotoListing, Picture, Unusable
from fedrec.vision.listing.split_names import Split, split_of
from fedrec.vision.listing.table_columns import COLUMNS, read_header
from fedrec.vision.listing.table_paths import (
    HOSTILE,
    ON_THE_INTERNET,
    TablePaths,
    exists,
    is_on_the_internet,
    leads_out,
    plain_path,
)

TABLE_ENDINGS: Final = (".csv", ".tsv", ".tab", ".psv", ".txt")
"""Endings of the names of tables. Excel's "Unicode text" ends in txt."""
_ONE_LINE: Final = "each line is one row: save the table without line ends in its cells"


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    path: str
    label: str
    product: str
    split: str
    merchant: str


def is_table(place: Path) -> bool:
    """Return whether a path names a CSV file rather than a folder."""
    return place.suffix.lower() in TABLE_ENDINGS and not place.is_dir()


def list_table(
    table: Path,
    *,
    layout: Layout = "class",
    one_merchant: bool = False,
    names_encoding: str | None = None,
) -> PhotoListing:
    """Find the photos that a CSV file names in columns path and label, and perhaps product, split, merchant.

    Paths are relative to the file's folder, or absolute and in it, with slashes or backslashes. A row without
    a split is to be trained on. Text that is not in UTF-8 is decoded as folder names are. A row is one line:
    a cell can't continue in the next one, so that a missing quotation mark is the fault of its own row and of
    no other.

    Args:
        table: the file: UTF-8 or UTF-16, a header, separated by commas, semicolons, tabs or pipes.
        layout: "product" to read the products.
        one_merchant: all photos belong to one merchant.
        names_encoding: encoding of text that is not in UTF-8; None if none was set.

    Returns:
        The photos, and every other row with the reason why it isn't used.

    Raises:
        DataError: the file can't be read, or lacks a column.
    """
    rows, wrong, header, unused = _read(table, encoding=names_encoding)
    names = folder_names(_texts(rows), encoding=names_encoding)
    if layout == "product" and "product" not in header:
        raise DataError(f"{table} has no column 'product', which products as the unit need")
    notes = list(names.notes)
    if unused:
        notes.append(f"columns of {table.name} that are not used: {listed(unused)}")
    if "merchant" in header and one_merchant:
        notes.append(f"the column of merchants in {table.name} is not used: all photos are yours")
    reader = _Reader(table, layout, one_merchant, names, TablePaths(table.parent))
    splits = reader.read(rows)
    trained = [picture.path for picture in splits["train"].pictures]

    def shown(path: Path) -> str:
        return names.shown(path, table.parent)

    doubts = in_folders_of_other_splits(trained, root=table.parent, shown=shown)
    doubts += mixed_alphabets({picture.label for picture in splits["train"].pictures})
    doubts += named_like_other_splits(trained, "train", shown=shown)
    return PhotoListing(
        root=table.parent,
        splits=splits,
        left_out=tuple(LeftOut(table.parent / f"{table.name} line {line}", why, True) for line, why in wrong),
        folders=0,
        names=names,
        notes=tuple(notes),
        doubts=tuple(doubts),
    )


def table_texts(table: Path) -> Iterator[str]:
    """Yield the names in a table, as the file has them; ``DataError`` if it can't be read."""
    return _texts(_read(table, encoding=None)[0])


def _texts(rows: Iterable[_Row]) -> Iterator[str]:
    return (text for row in rows for text in (row.path, row.label, row.product, row.merchant))


def _read(
    table: Path, *, encoding: str | None
) -> tuple[list[_Row], list[tuple[int, str]], Sequence[str], list[str]]:
    """Return the rows, those that are none with the reason, the known columns, and the names of others."""
    rows: list[_Row] = []
    wrong: list[tuple[int, str]] = []
    with open_csv(table) as file:
        lines = CsvLines(file)
        first = lines.header(table)
        header, unused = read_header(table, first.cells, encoding=encoding)
        for text in lines:
            line = lines.number
            try:
                # Each line by itself: rows are units of privacy, and none may decide about another.
                # People put a space after each comma, and at the end; a quotation mark may follow the first.
                values = next(
                    csv.reader(
                        [text.rstrip(" \r\n")],
                        delimiter=first.delimiter,
                        strict=True,
                        skipinitialspace=True,
                    ),
                    [],
                )
            except csv.Error as error:
                wrong.append((line, f"{csv_reason(error)} ({_ONE_LINE})"))
                continue
            if not any(value.strip() for value in values):
                continue
            fitted = first.fitted(values)
            if fitted is None:
                wrong.append((line, f"has {len(values)} columns, and the header {len(header)}"))
                continue
            found = {name: value.strip(" \t\r\n") for name, value in zip(header, fitted, strict=True)}
            rows.append(_Row(line, **{name: found.get(name, "") for name in COLUMNS}))
    return rows, wrong, tuple(filter(None, header)), unused


@dataclass(frozen=True)
class _Reader:
    table: Path
    layout: Layout
    one_merchant: bool
    names: FolderNames
    paths: TablePaths

    def read(self, rows: list[_Row]) -> dict[Split, Listing]:
        """List the rows by split."""
        said: dict[tuple[str, ...], set[tuple[str, Split | None]]] = {}
        for row in rows:
            if row.label and _split(row) is not None:
                said.setdefault(self._unit(row), set()).add((self._text(row.label), _split(row)))
        first: dict[tuple[str, ...], int] = {}
        pictures: dict[Split, list[Picture]] = {"train": []}
        unusable: dict[Split, list[Unusable]] = {}
        for row in rows:
            merchant = None if self.one_merchant else self._text(row.merchant) or None
            product = self._text(row.product) if self.layout == "product" else None
            path, split = self._path(row), _split(row)
            unit = self._unit(row)
            reason = self._wrong(row, path, product=product, split=split)
            if reason is None and len(said[unit]) > 1:
                reason = "other rows give it another class or split"
            elif reason is None:
                earlier = first.setdefault((*unit, merchant or ""), row.line)
                reason = None if earlier == row.line else f"repeats line {earlier}"
            file = self._file(row, path) if reason is None else self._line(row)
            entry = self._unread(file) if reason is None else LeftOut(file, reason, True)
            if entry is None and split is not None:
                label = self._text(row.label)
                pictures.setdefault(split, []).append(Picture(file, label, merchant, product))
            elif entry is not None:
                unusable.setdefault(split or "train", []).append(Unusable(entry, merchant))
        return {
            split: Listing(
                tuple(sorted(pictures.get(split, ()), key=lambda picture: picture.path.as_posix())),
                tuple(sorted(unusable.get(split, ()), key=lambda file: file.entry.path)),
            )
            for split in dict.fromkeys((*pictures, *unusable))
        }

    def _unit(self, row: _Row) -> tuple[str, ...]:
        """Return what rows are about that are held against each other: a photo, or a photo in a product.

        A product is protected with all its photos, so that rows of another one decide nothing about it.
        """
        path = self._path(row)
        if self.layout == "class":
            return (path,)
        return (path, self._text(row.label), self._text(row.product))

    def _text(self, cell: str) -> str:
        return self.names.text(cell)

    def _path(self, row: _Row) -> str:
        """Return a row's path with slashes; empty if there is none."""
        raw = raw_name(row.path)
        # Numbers in place of bytes have backslashes, which are none of the path's.
        text = row.path if raw is None else decoded(raw, self.names.encoding) or row.path
        return self.paths.below(plain_path(text))

    def _wrong(self, row: _Row, path: str, *, product: str | None, split: Split | None) -> str | None:
        """Return why a row can't be used whatever its file holds."""
        if not path or path == ".":
            return "names no photo"
        if is_on_the_internet(path):
            return f"{one_line(path, most=80)!r} {ON_THE_INTERNET}"
        if leads_out(path):
            return f"its path {one_line(path, most=80)!r} {HOSTILE}"
        if any(unicodedata.category(sign) == "Cc" for sign in path):
            return "its path has a control character"
        if not row.label:
            return "names no class"
        if any(unicodedata.category(sign) == "Cc" for sign in row.label + row.product):
            return "its class or product has a control character"
        if product == "":
            return "names no product"
        if split is None:
            return f"its split {one_line(row.split, most=40)!r} is not understood"
        return None

    def _line(self, row: _Row) -> Path:
        return self.table.parent / f"{self.table.name} line {row.line}"

    def _file(self, row: _Row, path: str) -> Path:
        """Return the file of a row: its name may be in another Unicode form, or in the table's encoding."""
        spellings = (path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")))
        raw = normpath(row.path.replace("\\", "/"))
        for spelling in dict.fromkeys((*spellings, row.path, raw)):
            file = self.table.parent / _file_name(spelling)
            if not leads_out(spelling) and exists(file):
                return file
        return self.table.parent / path

    def _unread(self, file: Path) -> LeftOut | None:
        try:
            if not file.exists():
                return LeftOut(file, self.paths.why_missing(file), True)
            if not file.is_file():
                return LeftOut(file, NOT_REGULAR, True)
        except OSError as error:
            return LeftOut(file, f"can't be opened ({error.strerror})", True)
        return unread(file)


def _file_name(spelling: str) -> str:
    """Return a name as bytes in UTF-8 have it, whatever encoding this process takes file names for."""
    try:
        return os.fsdecode(spelling.encode("utf-8", "surrogateescape"))
    except UnicodeError:
        # Windows has no names of other bytes.
        return spelling


def _split(row: _Row) -> Split | None:
    return split_of(row.split) if row.split else "train"
