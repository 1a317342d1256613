"""Create and open the SQLite file of a catalogue."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from fedrec._internal.files import OPEN_FLAGS, sync_folder
from fedrec.errors import DataError

_VERSION: Final = 2
_MODE: Final = 0o600
_APPLICATION: Final = 0x66656463
_WAIT_SECONDS: Final = 30.0
_MAPPED_BYTES: Final = 1 << 31
_LARGEST_VALUE: Final = 16 << 20
"""Bytes of one value; a vector takes a few thousand."""
_TABLES: Final = (
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # Merchants whose published files a platform has merged; the catalogue's own products have merchant ''.
    "CREATE TABLE merchant (name TEXT PRIMARY KEY, public BLOB NOT NULL UNIQUE, published TEXT)"
    " WITHOUT ROWID",
    # AUTOINCREMENT: a number is never given again, so that what still names a deleted photo finds nothing.
    "CREATE TABLE product (id INTEGER PRIMARY KEY AUTOINCREMENT, merchant TEXT NOT NULL, name TEXT NOT NULL,"
    " title TEXT NOT NULL, link TEXT, price REAL, category TEXT, digest BLOB, UNIQUE (merchant, name))",
    "CREATE TABLE attribute (product_id INTEGER NOT NULL REFERENCES product ON DELETE CASCADE,"
    " name TEXT NOT NULL, text TEXT, number REAL, PRIMARY KEY (product_id, name)) WITHOUT ROWID",
    "CREATE INDEX attribute_by_name ON attribute (name)",
    "CREATE TABLE photo (id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " product_id INTEGER NOT NULL REFERENCES product ON DELETE CASCADE, name TEXT NOT NULL, path TEXT,"
    " sha256 BLOB, UNIQUE (product_id, name))",
    # A photo has a second vector while another model's are computed.
    "CREATE TABLE vector (photo_id INTEGER NOT NULL REFERENCES photo ON DELETE CASCADE,"
    " embedding_id TEXT NOT NULL, vector BLOB NOT NULL, labels_of TEXT, label TEXT, probability REAL,"
    " PRIMARY KEY (photo_id, embedding_id))",
    # What copies are found by; see fedrec.recognition.copies.kept_prints.
    "CREATE TABLE print (photo_id INTEGER PRIMARY KEY REFERENCES photo ON DELETE CASCADE,"
    " content BLOB NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)

_MADE: Final = (
    "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
)


def create_database(path: Path, settings: dict[str, str]) -> None:
    """Create the file (mode 0600) with its settings, whole or not at all.

    Args:
        path: the file; no other process may create it at the same time.
        settings: what the catalogue remembers.

    Raises:
        OSError: the disk fails.
    """
    scratch = path.with_name(f"{path.name}.new")
    scratch.unlink(missing_ok=True)
    # Created before SQLite opens it, so that other users can never read it.
    os.close(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, _MODE))
    with closing(_connect(scratch)) as connection:
        # A vector of 1,280 values takes 2,560 bytes: three fit a page.
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            connection.execute(statement)
        connection.executemany("INSERT INTO setting VALUES (?, ?)", settings.items())
        connection.execute("COMMIT")
    scratch.replace(path)
    sync_folder(path.parent)


def open_database(path: Path) -> sqlite3.Connection:
    """Open the file that :func:`create_database` made.

    Args:
        path: the file.

    Returns:
        The connection, without transactions of its own.

    Raises:
        DataError: the file isn't one, is of another version, or holds other tables.
        OSError: its mode can't be set.
    """
    connection: sqlite3.Connection | None = None
    try:
        # On a disk that is mounted for reading alone, a catalogue can be searched all the same.
        if stat.S_IMODE(path.stat().st_mode) != _MODE:
            path.chmod(_MODE)
        connection = _connect(path)
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        made = {sql for (sql,) in connection.execute(_MADE)}
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise DataError(f"{path} can't be opened as a catalogue ({error})") from None
    if (application, version) != (_APPLICATION, _VERSION):
        connection.close()
        what = f"a catalogue of format {version}" if application == _APPLICATION else "no catalogue"
        raise DataError(
            f"{path} is {what}; this version of fedrec reads format {_VERSION}: import into a new folder"
        )
    # A view may have rows without end, and a trigger may change what nobody asked for.
    if made != {statement for statement in _TABLES if statement.startswith("CREATE")}:
        connection.close()
        raise DataError(f"{path} holds other tables than a catalogue's: it was changed by another program")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_WAIT_SECONDS,
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
    for setting in (
        "foreign_keys = ON",
        # EXTRA also syncs the folder once the journal is gone: a commit survives a power cut.
        "synchronous = EXTRA",
        # What is removed is overwritten: a vector is as telling as its photo.
        "secure_delete = ON",
        "trusted_schema = OFF",
        # A search reads a few dozen vectors anywhere in the file.
        f"mmap_size = {_MAPPED_BYTES}",
    ):
        connection.execute(f"PRAGMA {setting}")
    return connection
