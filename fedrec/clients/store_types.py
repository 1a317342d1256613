"""Define the tables of a merchant's store and the types that it keeps and returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

from fedrec.clients.photo_counts import PhotoCounts
from fedrec.errors import RefusedError
from fedrec.protocol.plan import TrainingPlan

TAG_BYTES = 16
"""Length of the tag that identifies a record or a photo in the store."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS policy (hash TEXT PRIMARY KEY, rules TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS training (
    training_id TEXT PRIMARY KEY, plan BLOB NOT NULL, sealing_private BLOB, decryption_private BLOB,
    encryption_public BLOB, seeded INTEGER NOT NULL DEFAULT 0, closed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS reply (
    kind TEXT NOT NULL, training_id TEXT NOT NULL, round_number INTEGER NOT NULL,
    request_hash TEXT NOT NULL, body BLOB, PRIMARY KEY (kind, training_id, round_number)
) STRICT;
CREATE TABLE IF NOT EXISTS sent (
    training_id TEXT NOT NULL, kind TEXT NOT NULL, times INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (training_id, kind)
) STRICT;
CREATE TABLE IF NOT EXISTS seen (training_id TEXT PRIMARY KEY, at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS fixed_set (
    training_id TEXT PRIMARY KEY, tags BLOB NOT NULL, held BLOB NOT NULL, version TEXT NOT NULL, told TEXT
    NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS photo_counts (training_id TEXT PRIMARY KEY, counts TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS counted (
    number INTEGER PRIMARY KEY CHECK (number = 1), held BLOB NOT NULL, version TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS forgotten (tag BLOB PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS refusal (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, times INTEGER NOT NULL DEFAULT 1,
    kind TEXT NOT NULL, reason TEXT NOT NULL, plan BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS refused_after (
    number INTEGER PRIMARY KEY, uploads INTEGER NOT NULL, answers INTEGER NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class TrainingSecrets:
    """A merchant's keys of one training; None for a key that it doesn't need.

    Attributes:
        sealing_private: private key for sealed boxes.
        decryption_private: private key for sums.
        encryption_public: the public key of ``decryption_private``.
    """

    sealing_private: bytes | None = field(default=None, repr=False)
    decryption_private: bytes | None = field(default=None, repr=False)
    encryption_public: bytes | None = None


@dataclass(frozen=True)
class StoredTraining:
    """A training that this merchant joined.

    Attributes:
        plan: canonical bytes of the plan.
        secrets: the merchant's keys; the private ones are deleted when the training is closed.
        seeded: whether the merchant declared that its noise comes from a seed.
        closed: whether the training is closed.
    """

    plan: bytes
    secrets: TrainingSecrets
    seeded: bool
    closed: bool

    def read_plan(self) -> TrainingPlan:
        """Parse the plan; ``RefusedError`` if another version of this program stored it in another form."""
        try:
            return TrainingPlan.model_validate_json(self.plan)
        except ValueError:
            raise RefusedError(
                "the training was joined by another version of fedrec, whose plans this one can't read: "
                "plan it anew",
                code="training",
            ) from None


@dataclass(frozen=True)
class CountedSet:
    """Tags of all records that count as charged, and their dataset version."""

    held: frozenset[bytes]
    version: str


@dataclass(frozen=True)
class FixedSet:
    """The records that one training may use, fixed once.

    Attributes:
        tags: tags of the records that the training may use.
        held: tags of all records of the dataset that its charges refer to.
        version: that dataset version; empty if the folder could not be read.
        photo_summary: one line, for the merchant only: which photos are used, and which are left out.
    """

    tags: frozenset[bytes]
    held: frozenset[bytes]
    version: str
    photo_summary: str


def pack_tags(tags: Iterable[bytes]) -> bytes:
    """Encode tags for a column of the store."""
    return b"".join(sorted(tags))


def unpack_tags(data: bytes) -> frozenset[bytes]:
    """Decode what :func:`pack_tags` encoded."""
    return frozenset(data[start : start + TAG_BYTES] for start in range(0, len(data), TAG_BYTES))


def read_counted(db: sqlite3.Connection) -> CountedSet | None:
    """Read the records that count as charged; None before the first charge."""
    row = db.execute("SELECT held, version FROM counted").fetchone()
    return None if row is None else CountedSet(held=unpack_tags(row[0]), version=row[1])


def read_fixed_set(db: sqlite3.Connection, training_id: str) -> FixedSet | None:
    """Read the fixed set of a training; None before it is fixed and after the training is closed.

    Args:
        db: the store's file.
        training_id: the training.

    Returns:
        The set.
    """
    row = db.execute(
        "SELECT tags, held, version, told FROM fixed_set WHERE training_id = ?", (training_id,)
    ).fetchone()
    if row is None:
        return None
    tags, held, version, photo_summary = row
    return FixedSet(
        tags=unpack_tags(tags), held=unpack_tags(held), version=version, photo_summary=photo_summary
    )


def read_photo_counts(db: sqlite3.Connection, training_id: str) -> PhotoCounts | None:
    """Read what became of the photos in a training; None before its set is fixed.

    Args:
        db: the store's file.
        training_id: the training.

    Returns:
        The counts.
    """
    row = db.execute("SELECT counts FROM photo_counts WHERE training_id = ?", (training_id,)).fetchone()
    return None if row is None else PhotoCounts.model_validate_json(row[0])
