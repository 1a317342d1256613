"""Read the lines of a CSV file that may hold anything: any size, any bytes, a missing quotation mark."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

from fedrec._internal.other_tables import why_no_csv
from fedrec._internal.text import one_line
from fedrec.errors import DataError

_LONGEST_LINE: Final = 1 << 20
_HEAD_BYTES: Final = 512
_DELIMITERS: Final = (",", ";", "\t")
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([,;|:\t])"?[ ,;\t]*', re.IGNORECASE)
"""What Excel writes and reads before the header, to say what separates columns."""


@dataclass(frozen=True)
class Header:
    """A table's header.

    Attributes:
        cells: the columns' names, without empty ones at the end, which spreadsheets add.
        delimiter: what separates columns.
    """

    cells: tuple[str, ...]
    delimiter: str

    def fitted(self, values: Sequence[str]) -> list[str] | None:
        """Return as many of a row's cells as the header has; None if it has fewer, or more that aren't empty.

        Args:
            values: the cells.
        """
        many = len(self.cells)
        if len(values) < many or any(value.strip() for value in values[many:]):
            return None
        return list(values[:many])


def open_csv(path: Path) -> BufferedReader:
    """Open a CSV file; ``DataError`` if it can't be read, or plainly holds something else."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, where a CSV file is needed")
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    reason = why_no_csv(file.peek(_HEAD_BYTES)[:_HEAD_BYTES])
    if reason is not None:
        file.close()
        raise DataError(f"{path} is {reason}")
    return file


class CsvLines:
    """The lines of a file as text, counted; an endless one is cut off, and then no row of it is usable.

    Text is in UTF-8, or in UTF-16, as Excel's "Unicode text" is. Bytes that are not UTF-8 become lone
    surrogates.

    Attributes:
        number: how many lines were read.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.number = 0
        encoding = _utf_16(file.peek(2)[:2])
        self._wide: io.TextIOWrapper | None = None
        if encoding is not None:
            # Lines end where a whole unit is a line end, and half a unit at the end is shown as numbers.
            self._wide = io.TextIOWrapper(file, encoding, errors="backslashreplace", newline="\n")

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text, whole = self._read()
        if not text:
            raise StopIteration
        if self.number == 0:
            text = text.removeprefix("\ufeff")
        self.number += 1
        while not whole:
            _, whole = self._read()
        return text

    def header(self, path: Path) -> Header:
        """Read the first line that isn't empty, and the line before it that names the separator.

        Args:
            path: the file, for messages.

        Returns:
            The header; without columns if the file has none.

        Raises:
            DataError: it can't be split.
        """
        given: str | None = None
        for line in self:
            text = line.strip("\r\n")
            separator = _SEPARATOR_LINE.fullmatch(text)
            if given is None and separator is not None:
                given = separator[1]
            elif text.strip(' ,;|"\t'):
                delimiter = given or _delimiter_of(text)
                return Header(_header_cells(path, line, delimiter=delimiter), delimiter)
        return Header((), given or ",")

    def _read(self) -> tuple[str, bool]:
        """Return text up to a line's end, or as much of it as is kept, and whether that is all."""
        if self._wide is not None:
            text = self._wide.readline(_LONGEST_LINE)
            return text, len(text) < _LONGEST_LINE or text.endswith("\n")
        data = self._file.readline(_LONGEST_LINE)
        return data.decode("utf-8", "surrogateescape"), len(data) < _LONGEST_LINE or data.endswith(b"\n")


def _utf_16(head: bytes) -> str | None:
    """Return the kind of UTF-16 by a mark at the beginning, or by a header that begins with an ASCII sign."""
    if head == b"\xff\xfe" or (head[1:] == b"\0" and head[:1] != b"\0"):
        return "utf-16-le"
    return "utf-16-be" if head == b"\xfe\xff" or (head[:1] == b"\0" and len(head) > 1) else None


def _delimiter_of(header: str) -> str:
    """Return what separates a header's cells.

    A pipe counts only where there is nothing else: in Chinese and Japanese encodings it is half a character.
    """
    found = max(_DELIMITERS, key=header.count)
    return "|" if found not in header and "|" in header else found


def _header_cells(path: Path, line: str, *, delimiter: str) -> tuple[str, ...]:
    try:
        cells = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise DataError(f"{path}: the header, which is one line: {csv_reason(error)}") from None
    while cells and not cells[-1].strip():
        cells.pop()
    return tuple(cells)


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
