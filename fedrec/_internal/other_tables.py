"""Tell what people give in place of a CSV file, by its first bytes or its name, and what to do."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

_SAVE: Final = "save its table as 'CSV UTF-8', and give that file"
_SPREADSHEET: Final = f"a spreadsheet: {_SAVE}"
_SPREADSHEET_NAMES: Final = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods", ".numbers")
_ARCHIVED_SPREADSHEETS: Final = (b"[Content_Types].xml", b"opendocument.spreadsheet", b"xl/", b"Index/")
_JSON: Final = (
    "JSON: write a CSV file with the columns path and label from it ('fedrec data table' does from JSON "
    "lines), and give that file"
)
_PAGE: Final = "a web page: a server that wanted you to sign in may have sent it; download the file again"
_COLUMNS_PACKED: Final = f"a file of packed records: {_SAVE}"
_JSON_NAMES: Final = (".json", ".jsonl", ".ndjson", ".geojson")
_PACKED_NAMES: Final = (
    ".parquet",
    ".arrow",
    ".feather",
    ".h5",
    ".hdf5",
    ".npz",
    ".npy",
    ".mat",
    ".lmdb",
    ".mdb",
)


def why_no_csv(head: bytes) -> str | None:
    """Say what a file that is called CSV is, by its first bytes.

    Args:
        head: some hundred bytes.

    Returns:
        What it is and what to do, as in "a spreadsheet: save ..."; None if it may be a CSV file.
    """
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return f"in UTF-32: {_SAVE}"
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return _SPREADSHEET
    if head.startswith(b"PK\3\4"):
        inside = any(mark in head for mark in _ARCHIVED_SPREADSHEETS)
        return _SPREADSHEET if inside else "an archive: unpack it, and give what is in it"
    if head.startswith(b"PAR1"):
        return _COLUMNS_PACKED
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"{", b"[{", b'["')):
        return _JSON
    return _PAGE if text[:1] == b"<" and b">" in text else None


def why_no_csv_name(path: PurePath) -> str | None:
    """Say what a file is by its name alone, where names of CSV files are expected.

    Args:
        path: the file.

    Returns:
        As :func:`why_no_csv`; None for any other name.
    """
    ending = path.suffix.lower()
    if ending in _SPREADSHEET_NAMES:
        return _SPREADSHEET
    if ending in _JSON_NAMES:
        return _JSON
    return _COLUMNS_PACKED if is_packed(path) else None


def is_packed(path: PurePath) -> bool:
    """Return whether a file's name is one of a file that holds many records, which may be pictures."""
    return path.suffix.lower() in _PACKED_NAMES or ".tfrecord" in path.name.lower()
