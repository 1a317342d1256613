"""What a merchant's store holds of a training: its secrets, and the records that it uses and has counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

TAG_BYTES = 16
"""Length of the tag by which a record or a photo is known here."""


@dataclass(frozen=True)
class TrainingSecrets:
    """A merchant's keys of one training: to open sealed boxes, or to decrypt sums (with its public half)."""

    sealing_private: bytes | None = field(default=None, repr=False)
    decryption_private: bytes | None = field(default=None, repr=False)
    encryption_public: bytes | None = None


@dataclass(frozen=True)
class StoredTraining:
    """A training that this merchant joined, seeded or not; its secrets are gone once it's closed."""

    plan: bytes
    secrets: TrainingSecrets
    seeded: bool
    closed: bool


@dataclass(frozen=True)
class CountedSet:
    """Tags of all records that count as charged, and the name of the dataset version that they were in."""

    held: frozenset[bytes]
    version: str


@dataclass(frozen=True)
class FixedSet:
    """The records that one training may use, fixed once.

    Attributes:
        tags: tags of the records that the training may use.
        held: tags of all records of the dataset that its charges refer to.
        version: name of that dataset version; empty if the folder could not be read.
        photo_summary: one line for the merchant alone: which photos are used, and which are left out.

    """

    tags: frozenset[bytes]
    held: frozenset[bytes]
    version: str
    photo_summary: str


def packed(tags: Iterable[bytes]) -> bytes:
    """Return tags as the store's column holds them."""
    return b"".join(sorted(tags))


def unpacked(data: bytes) -> frozenset[bytes]:
    """Read what :func:`packed` wrote."""
    return frozenset(data[start : start + TAG_BYTES] for start in range(0, len(data), TAG_BYTES))


def read_counted(db: sqlite3.Connection) -> CountedSet | None:
    """Return the records that count as charged, None before there are any."""
    row = db.execute("SELECT held, version FROM counted").fetchone()
    return None if row is None else CountedSet(held=unpacked(row[0]), version=row[1])
