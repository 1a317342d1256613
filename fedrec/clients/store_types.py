"""Define the types of a merchant's store: a training's keys, its fixed records, and the counted records."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

TAG_BYTES = 16
"""Length of the tag that identifies a record or a photo in the store."""


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
