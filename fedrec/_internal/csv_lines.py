"""Read the lines of a CSV file that may hold anything: any size, any bytes, a missing quotation mark."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from fedrec._internal.text import one_line
from fedrec.errors import DataError

_LONGEST_LINE: Final = 1 << 20
_DELIMITERS: Final = (",", ";", "\t")
_OTHER_ENCODINGS: Final = (b"\xff\xfe", b"\xfe\xff")


def open_csv(path: Path) -> BinaryIO:
    """Open a CSV file; ``DataError`` if it can't be read, or is in UTF-16."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, where a CSV file is needed")
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    if file.peek(2)[:2] in _OTHER_ENCODINGS:
        file.close()
        raise DataError(f"{path} is in UTF-16: save it as CSV UTF-8")
    return file


class CsvLines:
    """The lines of a file as text, counted; an endless one is cut off, and then no row of it is usable.

    Bytes that are not UTF-8 become lone surrogates.

    Attributes:
        number: how many lines were read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        data = self._file.readline(_LONGEST_LINE)
        if not data:
            raise StopIteration
        if self.number == 0:
            data = data.removeprefix(b"\xef\xbb\xbf")
        self.number += 1
        rest = data
        while len(rest) == _LONGEST_LINE and not rest.endswith(b"\n"):
            rest = self._file.readline(_LONGEST_LINE)
        return data.decode("utf-8", "surrogateescape")


def delimiter_of(header: str) -> str:
    """Return the comma, semicolon or tab that a header is separated by."""
    return max(_DELIMITERS, key=header.count)


def header_cells(path: Path, line: str) -> list[str]:
    """Split a header.

    Args:
        path: the file, for the message.
        line: its first line.

    Returns:
        The cells.

    Raises:
        DataError: it can't be split.
    """
    try:
        return next(csv.reader([line], delimiter=delimiter_of(line), strict=True), [])
    except csv.Error as error:
        raise DataError(f"{path}: the header: {csv_reason(error)}") from None


def csv_reason(error: csv.Error) -> str:
    """Return what is wrong with a row, in one line."""
    text = str(error)
    if "field larger" in text:
        return "a field is far too long: is a quotation mark missing?"
    if "unexpected end" in text:
        return "a quotation mark is never closed"
    if "new-line character" in text:
        return "its lines end as old Mac programs end them: save it as CSV UTF-8"
    return f"this is no row of a CSV file ({one_line(text)})"
