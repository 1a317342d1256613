"""A merchant's catalogue: a folder with one SQLite file, and files that are derived from it."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedrec._internal.file_locks import HeldLock, LockedElsewhereError, take_lock
from fedrec.errors import ConfigError, DataError
from fedrec.recognition.catalogue.places import DATABASE, is_catalogue
from fedrec.recognition.catalogue.schema import create_database, open_database

OWN = ""
"""The merchant of a catalogue's own products; those of merged files have the name of theirs."""


@dataclass(frozen=True)
class UsedModel:
    """The model that a catalogue's vectors are of.

    Attributes:
        embedding_id: hash of all that determines a photo's vector.
        dimension: length of a vector.
        path: the model's folder; None for the packaged backbone alone.
        labels_of: hash of what gives photos their class; None without classes.
        description: which one it is, for people.
    """

    embedding_id: str
    dimension: int
    path: str | None
    labels_of: str | None
    description: str

    def settings(self) -> dict[str, str]:
        """Return what a catalogue keeps of it."""
        return {
            "embedding_id": self.embedding_id,
            "dimension": str(self.dimension),
            "model": self.path or "",
            "labels_of": self.labels_of or "",
            "description": self.description,
        }


class Catalogue:
    """An open catalogue. Use it as a context manager; it is safe to use from several threads.

    Args:
        folder: the folder that :meth:`create` made.
        write: whether to write: one process at a time can.

    Attributes:
        folder: the folder.

    Raises:
        ConfigError: there is no catalogue, or another process writes.
        DataError: its file is damaged or of another version.
    """

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        if not is_catalogue(folder):
            raise ConfigError(f"{folder} holds no catalogue: make one with 'fedrec catalogue import'")
        self.folder = folder
        self._mutex = threading.RLock()
        self._lock = _take_lock(folder) if write else None
        try:
            self._connection = open_database(folder / DATABASE)
        except BaseException:
            self._release()
            raise

    @staticmethod
    def create(folder: Path, model: UsedModel) -> None:
        """Make an empty catalogue; one that is there stays as it is.

        Args:
            folder: the folder, which only its owner can enter.
            model: the model that its vectors will be of.

        Raises:
            ConfigError: the folder holds other files, or another process makes it.
        """
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file; a catalogue is a folder")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = [path.name for path in folder.iterdir() if not path.name.startswith("catalogue.")]
        if foreign and not (folder / DATABASE).exists():
            raise ConfigError(f"{folder} holds other files, such as {foreign[0]}: name a new folder")
        lock = _take_lock(folder)
        try:
            if not (folder / DATABASE).exists():
                fresh = {"catalogue": secrets.token_hex(8), "content": secrets.token_hex(8)}
                create_database(folder / DATABASE, {**fresh, **model.settings()})
        finally:
            lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let other processes write."""
        self.close_connection()
        self._release()

    def close_connection(self) -> None:
        """Close the file, and keep other processes from writing until :meth:`close`."""
        with self._mutex, suppress(sqlite3.Error):
            self._connection.close()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def identifier(self) -> str:
        """A random name of this catalogue, for files that are derived from it."""
        return self._setting("catalogue")

    @property
    def content_key(self) -> str:
        """A random key that is new after each change of photos, vectors or products."""
        return self._setting("content")

    @property
    def server(self) -> str | None:
        """The address of the server that has the vectors; None where an index on this machine has them."""
        rows = self.rows("SELECT value FROM setting WHERE name = 'server'")
        return str(rows[0][0]) if rows else None

    @server.setter
    def server(self, address: str | None) -> None:
        with self.transaction() as connection:
            connection.execute("DELETE FROM setting WHERE name = 'server'")
            if address is not None:
                connection.execute("INSERT INTO setting VALUES ('server', ?)", (address,))

    @property
    def model(self) -> UsedModel:
        """The model that its vectors are of."""
        found = dict(self.rows("SELECT name, value FROM setting"))
        try:
            if int(found["dimension"]) < 1:
                raise ValueError("no length of a vector")
            return UsedModel(
                embedding_id=found["embedding_id"],
                dimension=int(found["dimension"]),
                path=found["model"] or None,
                labels_of=found["labels_of"] or None,
                description=found["description"],
            )
        except (KeyError, ValueError):
            raise DataError(f"{self.folder}: the catalogue's settings are damaged") from None

    def model_folder(self) -> Path | None:
        """Return the folder of its model; None for the packaged backbone alone.

        Raises:
            ConfigError: the folder is gone.
        """
        path = self.model.path
        if path is not None and not Path(path).is_dir():
            raise ConfigError(
                f"the model of {self.folder} isn't at {path} any more: name where it is now with "
                f"'fedrec catalogue reindex {shlex.quote(str(self.folder))} --model FOLDER'"
            )
        return None if path is None else Path(path)

    def check_model(self, model: UsedModel, *, labels: bool) -> None:
        """Check that a model's vectors can be compared with the catalogue's.

        Args:
            model: the model.
            labels: whether its classes have to be the catalogue's, too.

        Raises:
            ConfigError: they can't.
        """
        own = self.model
        same = (model.embedding_id, model.dimension) == (own.embedding_id, own.dimension)
        if not same or (labels and model.labels_of != own.labels_of):
            what = "classes" if same else "vectors"
            raise ConfigError(
                f"the {what} in {self.folder} are those of another model ({own.description}) than this one "
                f"({model.description}): compute them again with 'fedrec catalogue reindex "
                f"{shlex.quote(str(self.folder))}"
                + ("'" if model.path is None else f" --model {shlex.quote(model.path)}'")
            )

    def _setting(self, name: str) -> str:
        rows = self.rows("SELECT value FROM setting WHERE name = ?", (name,))
        if not rows:
            raise DataError(f"{self.folder}: the catalogue's settings are damaged")
        return str(rows[0][0])

    def rows(self, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """Run one query.

        Args:
            query: the SQL text, which never holds anybody's input.
            values: the values of its placeholders.

        Returns:
            All rows.

        Raises:
            DataError: the file is damaged, or was locked for too long.
        """
        with self._mutex, self._reporting():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let several queries of one thread see the same state.

        Raises:
            DataError: the file is damaged, or was locked for too long.
        """
        with self._mutex, self._reporting():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Change the catalogue, wholly or not at all; it is on disk when the block has ended.

        Yields:
            The connection.

        Raises:
            ConfigError: the catalogue isn't open for writing.
            DataError: the file is damaged, or was locked for too long.
            OSError: the disk is full.
        """
        if self._lock is None:
            raise ConfigError(f"{self.folder} is open for reading only")
        with self._mutex, self._reporting():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute(
                    "UPDATE setting SET value = ? WHERE name = 'content'", (secrets.token_hex(8),)
                )
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder)) from error
            raise DataError(f"{self.folder}: the catalogue can't be used ({error})") from error


def _take_lock(folder: Path) -> HeldLock:
    try:
        return take_lock(folder / "catalogue.lock")
    except LockedElsewhereError:
        raise ConfigError(f"{folder} is being changed by another process: wait for it") from None
