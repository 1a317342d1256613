"""Record durably which sum a witness opens in each round, before it uses a key: a witness has no ledger.

A round has one row, for one request, for ever. A row is written and synced before an answer is computed, so
that after a crash or a failure no other set of the round can be answered, and neither can the same one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path

from fedrec._internal.file_locks import HeldLock, LockedElsewhereError, is_locked, take_lock
from fedrec._internal.moments import iso_text
from fedrec.errors import LedgerError, RefusedError

_SCHEMA = """
CREATE TABLE opening (
    training_id TEXT NOT NULL, round_number INTEGER NOT NULL, request_hash TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (training_id, round_number)
) STRICT;
"""

LOST = (
    "without it this witness could open two sums of one round; delete the folder, create another with "
    "'fedrec witness init', and have it enrolled in this one's place"
)
"""What a witness without its record must do."""

_IN_USE = (
    "the witness's record of openings {} is in use by another process, such as 'fedrec witness start': stop "
    "that first"
)


class Openings:
    """One SQLite file, mode 0600, which only grows. Every write is durable when its method returns.

    Args:
        path: the file that :meth:`create` made.

    Raises:
        LedgerError: the file is gone, or can't be read.
    """

    @classmethod
    def create(cls, path: Path) -> None:
        """Begin a record; nothing else does, so that a record that is lost isn't begun anew."""
        path.touch(mode=0o600, exist_ok=False)
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous=EXTRA")
            database.executescript(_SCHEMA)

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise LedgerError(f"the witness's record of openings {path} is gone: {LOST}")
        path.chmod(0o600)
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            # EXTRA also syncs the folder: a journal that reappears after a crash would undo a row.
            self._db.execute("PRAGMA synchronous=EXTRA")
            self._db.execute("SELECT count(*) FROM opening")
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"the witness's record of openings {path} can't be read: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def mark(self, training_id: str, round_number: int, *, request_hash: str, now: datetime) -> None:
        """Record that the sum of a request is opened.

        Args:
            training_id: the training.
            round_number: the round.
            request_hash: hash of the request.
            now: the time, with a time zone.

        Raises:
            RefusedError: a request of this round was recorded before, be it the same one.
        """
        try:
            self._db.execute(
                "INSERT INTO opening VALUES (?, ?, ?, ?)",
                (training_id, round_number, request_hash, now.timestamp()),
            )
        except sqlite3.IntegrityError:
            raise RefusedError(
                f"an answer of round {round_number} was begun before; none is given a second time"
            ) from None

    def has(self, training_id: str, round_number: int) -> bool:
        """Return whether a round has a row.

        Args:
            training_id: the training.
            round_number: the round.

        Returns:
            Whether there is one.
        """
        found = self._db.execute(
            "SELECT 1 FROM opening WHERE training_id = ? AND round_number = ?", (training_id, round_number)
        )
        return found.fetchone() is not None

    def on_day(self, now: datetime) -> int:
        """Count the openings of all trainings since the start of the day of ``now``, in its time zone."""
        start = datetime.combine(now.date(), time(), tzinfo=now.tzinfo)
        found = self._db.execute("SELECT count(*) FROM opening WHERE at >= ?", (start.timestamp(),))
        return int(found.fetchone()[0])


def lock_openings(path: Path) -> HeldLock:
    """Lock a record for the daemon, or for whoever may not work beside one.

    Rows keep two processes from answering one round twice, with the lock or without it.

    Args:
        path: the file.

    Returns:
        The lock.

    Raises:
        LedgerError: another process holds it.
    """
    try:
        return take_lock(_lock_of(path))
    except LockedElsewhereError:
        raise LedgerError(_IN_USE.format(path)) from None


def in_use(path: Path) -> bool:
    """Tell whether a process holds the lock of a record of openings."""
    return is_locked(_lock_of(path))


def check_not_in_use(path: Path) -> None:
    """Raise ``LedgerError`` if a process holds the lock of a record: before anything slow is begun."""
    if in_use(path):
        raise LedgerError(_IN_USE.format(path))


@dataclass(frozen=True)
class OpeningCounts:
    """How many sums a witness opened.

    Attributes:
        by_training: number of sums by the training's id.
        today: of all trainings since the start of the day, UTC.
        last_at: time of the last one, UTC; None if there is none.
    """

    by_training: Mapping[str, int]
    today: int
    last_at: str | None


def read_counts(path: Path, *, now: datetime) -> OpeningCounts:
    """Count the openings of a record, even while a daemon writes to it.

    Args:
        path: the file.
        now: the time, with a time zone.

    Returns:
        The counts.

    Raises:
        LedgerError: the file is gone, or can't be read.
    """
    midnight = datetime.combine(now.astimezone(UTC).date(), time(), tzinfo=UTC).timestamp()
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT training_id, count(*), max(at), sum(at >= ?) FROM opening GROUP BY training_id",
                (midnight,),
            ).fetchall()
    except sqlite3.Error as error:
        raise LedgerError(f"the witness's record of openings {path} can't be read: {error}") from None
    last = max((at for _, _, at, _ in rows), default=None)
    return OpeningCounts(
        by_training={training: count for training, count, _, _ in rows},
        today=sum(today for *_, today in rows),
        last_at=None if last is None else iso_text(datetime.fromtimestamp(last, UTC)),
    )


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
