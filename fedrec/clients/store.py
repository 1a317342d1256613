"""What a merchant keeps on disk about its trainings: plans, the exact uploads and answers it gave, its rules.

An upload or answer is stored, with an fsync, before it is sent; a second request gets the stored
bytes if it is identical to the first, and nothing otherwise. What is here comes after an entry of the
ledger: a round is charged before its upload is made, and an answer written down there before it is computed.
Bodies are deleted when their round is over; that there was one stays.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fedrec.clients.store_types import (
    CountedSet,
    FixedSet,
    StoredTraining,
    TrainingSecrets,
    packed,
    read_counted,
    unpacked,
)
from fedrec.errors import LedgerError, RefusedError
from fedrec.protocol.schema import sha256_hex

Kind = Literal["upload", "answer"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS policy (hash TEXT PRIMARY KEY, rules TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS training (
    training_id TEXT PRIMARY KEY, plan BLOB NOT NULL, sealing_private BLOB, decryption_private BLOB,
    encryption_public BLOB, seeded INTEGER NOT NULL DEFAULT 0, closed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS reply (
    kind TEXT NOT NULL, training_id TEXT NOT NULL, round_number INTEGER NOT NULL,
    request_hash TEXT NOT NULL, body BLOB, PRIMARY KEY (kind, training_id, round_number)
) STRICT;
CREATE TABLE IF NOT EXISTS seen (training_id TEXT PRIMARY KEY, at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS fixed_set (
    training_id TEXT PRIMARY KEY, tags BLOB NOT NULL, held BLOB NOT NULL, version TEXT NOT NULL, told TEXT
    NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS counted (
    number INTEGER PRIMARY KEY CHECK (number = 1), held BLOB NOT NULL, version TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS forgotten (tag BLOB PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS refusal (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, times INTEGER NOT NULL DEFAULT 1,
    kind TEXT NOT NULL, reason TEXT NOT NULL, plan BLOB
) STRICT;
"""
_KEPT_REFUSALS = 20
_LARGEST_KEPT_PLAN = 2**20
_SEEN_SECONDS = 3600.0
"""How exactly the last request of a training is remembered: a write, with its fsync, an hour is enough."""


class MerchantStore:
    """One SQLite file, mode 0600, every write durable when the method returns."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600, exist_ok=True)
        path.chmod(0o600)
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            # EXTRA also syncs the folder: a journal that came back would take a stored reply away.
            self._db.execute("PRAGMA synchronous=EXTRA")
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"the merchant's store {path} can't be read: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def keep_policy(self, rules: str) -> None:
        """Keep the text of a policy under its SHA-256, by which ledger entries name it."""
        self._db.execute("INSERT OR IGNORE INTO policy VALUES (?, ?)", (sha256_hex(rules.encode()), rules))

    def policies(self) -> tuple[str, ...]:
        """Return the texts of all policies that were ever charged under, the oldest first."""
        return tuple(row[0] for row in self._db.execute("SELECT rules FROM policy ORDER BY rowid"))

    def join(
        self,
        training_id: str,
        *,
        plan: bytes,
        seeded: bool,
        make_secrets: Callable[[], TrainingSecrets],
    ) -> StoredTraining:
        """Record that this training was joined, with fresh secrets; a second call returns the first's."""
        if self._find(training_id) is None:
            secrets = make_secrets()
            self._db.execute(
                "INSERT OR IGNORE INTO training"
                " (training_id, plan, sealing_private, decryption_private, encryption_public, seeded)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    training_id,
                    plan,
                    secrets.sealing_private,
                    secrets.decryption_private,
                    secrets.encryption_public,
                    seeded,
                ),
            )
        return self.training(training_id)

    def is_closed(self, training_id: str) -> bool:
        """Return whether a training was joined and is over."""
        found = self._find(training_id)
        return found is not None and found.closed

    def training(self, training_id: str) -> StoredTraining:
        """Return a joined training; ``RefusedError`` when it was never joined."""
        found = self._find(training_id)
        if found is None:
            raise RefusedError("this merchant has not joined that training", code="training")
        return found

    def note_refusal(self, *, kind: str, reason: str, plan: bytes | None = None) -> None:
        """Keep what was refused and why, the last few alone; a plan that is very large is left out.

        The same again only counts: a server asks every few seconds.
        """
        if plan is not None and len(plan) > _LARGEST_KEPT_PLAN:
            plan = None
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            counted = self._db.execute(
                "UPDATE refusal SET at = ?, times = times + 1"
                " WHERE number = (SELECT max(number) FROM refusal) AND kind = ? AND reason = ? AND plan IS ?",
                (at, kind, reason, plan),
            )
            if counted.rowcount:
                return
            added = self._db.execute(
                "INSERT INTO refusal (at, kind, reason, plan) VALUES (?, ?, ?, ?)", (at, kind, reason, plan)
            )
            self._db.execute(
                "DELETE FROM refusal WHERE number <= ?", ((added.lastrowid or 0) - _KEPT_REFUSALS,)
            )

    def plans(self) -> list[bytes]:
        """Return the canonical plans of all trainings that were ever joined."""
        return [row[0] for row in self._db.execute("SELECT plan FROM training ORDER BY rowid")]

    def _find(self, training_id: str) -> StoredTraining | None:
        row = self._db.execute(
            "SELECT plan, seeded, closed, sealing_private, decryption_private, encryption_public"
            " FROM training WHERE training_id = ?",
            (training_id,),
        ).fetchone()
        if row is None:
            return None
        plan, seeded, closed, sealing, decryption, encryption = row
        secrets = TrainingSecrets(
            sealing_private=sealing, decryption_private=decryption, encryption_public=encryption
        )
        return StoredTraining(plan=plan, secrets=secrets, seeded=bool(seeded), closed=bool(closed))

    def put_fixed_set(self, training_id: str, fixed: FixedSet) -> FixedSet:
        """Keep the set of a training, once; returns the one that is kept."""
        self._db.execute(
            "INSERT OR IGNORE INTO fixed_set VALUES (?, ?, ?, ?, ?)",
            (training_id, packed(fixed.tags), packed(fixed.held), fixed.version, fixed.photo_summary),
        )
        return self.fixed_set(training_id) or fixed

    def fixed_set(self, training_id: str) -> FixedSet | None:
        """Return the set of a training, None before it is fixed or once the training is over."""
        row = self._db.execute(
            "SELECT tags, held, version, told FROM fixed_set WHERE training_id = ?", (training_id,)
        ).fetchone()
        if row is None:
            return None
        tags, held, version, photo_summary = row
        return FixedSet(
            tags=unpacked(tags), held=unpacked(held), version=version, photo_summary=photo_summary
        )

    def counted(self) -> CountedSet | None:
        """Return the records that count as charged, None before the first charge that names a version."""
        return read_counted(self._db)

    def put_counted(self, counted: CountedSet) -> None:
        """Keep the records that count as charged from now on."""
        self._db.execute(
            "INSERT OR REPLACE INTO counted VALUES (1, ?, ?)", (packed(counted.held), counted.version)
        )

    def forget_photos(self, tags: Iterable[bytes]) -> None:
        """Leave photos of these tags out of every step to come."""
        self._db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", ((tag,) for tag in tags))

    def forgotten(self) -> frozenset[bytes]:
        """Return the tags of the photos that the merchant has forgotten."""
        return frozenset(row[0] for row in self._db.execute("SELECT tag FROM forgotten"))

    def open_trainings(self) -> list[str]:
        """Return the trainings that were joined and not finished, in the order of joining."""
        rows = self._db.execute("SELECT training_id FROM training WHERE closed = 0 ORDER BY rowid")
        return [row[0] for row in rows]

    def finish_others(self, training_id: str) -> None:
        """Finish every open training but this one."""
        for other in self.open_trainings():
            if other != training_id:
                self.finish(other)

    def mark_active(self, training_id: str, *, now: datetime) -> None:
        """Remember, to the hour, that the server asked something of a training at ``now``."""
        at = now.timestamp()
        seen = self._seen(training_id)
        if seen is None or abs(at - seen) >= _SEEN_SECONDS:
            self._db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (training_id, at))

    def _seen(self, training_id: str) -> float | None:
        row = self._db.execute("SELECT at FROM seen WHERE training_id = ?", (training_id,)).fetchone()
        return None if row is None else float(row[0])

    def finish_inactive(self, *, now: datetime, days: int) -> list[str]:
        """Finish the open trainings of which the server has asked nothing for so many days; return them."""
        finished = []
        for training_id in self.open_trainings():
            seen = self._seen(training_id)
            if seen is None:
                self.mark_active(training_id, now=now)
            elif now.timestamp() - seen > days * 86400:
                self.finish(training_id)
                finished.append(training_id)
        return finished

    def finish(self, training_id: str) -> None:
        """Delete the training's private keys and all bodies; later theft of this file then opens nothing."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "UPDATE training SET sealing_private = NULL, decryption_private = NULL, closed = 1"
                " WHERE training_id = ?",
                (training_id,),
            )
            self._db.execute("UPDATE reply SET body = NULL WHERE training_id = ?", (training_id,))
            self._db.execute("DELETE FROM fixed_set WHERE training_id = ?", (training_id,))

    def reply(self, kind: Kind, training_id: str, round_number: int, *, request_hash: str) -> bytes | None:
        """Return the reply stored for this very request, None when none was stored yet.

        Raises ``RefusedError`` when another request was answered in this round, or this one was and its body
        is gone: the round is over.
        """
        row = self._db.execute(
            "SELECT request_hash, body FROM reply WHERE kind = ? AND training_id = ? AND round_number = ?",
            (kind, training_id, round_number),
        ).fetchone()
        if row is None:
            return None
        if row[0] != request_hash:
            raise RefusedError(f"round {round_number} already has an {kind}, to a different request")
        if row[1] is None:
            raise RefusedError(f"round {round_number} is over: its {kind} is given no more")
        body: bytes = row[1]
        return body

    def put_upload(self, training_id: str, round_number: int, *, request_hash: str, body: bytes) -> None:
        """Store an upload before it is sent, and delete the bodies of earlier rounds.

        Raises ``RefusedError`` when this round already has one.
        """
        self._insert("upload", training_id, round_number, request_hash=request_hash, body=body)

    def put_answer(self, training_id: str, round_number: int, *, request_hash: str, body: bytes) -> None:
        """Store an answer before it is sent, as :meth:`put_upload` does."""
        self._insert("answer", training_id, round_number, request_hash=request_hash, body=body)

    def replies(self) -> list[tuple[Kind, str, int]]:
        """Return (kind, training, round) of every reply that was ever stored."""
        return list(self._db.execute("SELECT kind, training_id, round_number FROM reply ORDER BY rowid"))

    def _insert(
        self, kind: Kind, training_id: str, round_number: int, *, request_hash: str, body: bytes
    ) -> None:
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute(
                    "INSERT INTO reply VALUES (?, ?, ?, ?, ?)",
                    (kind, training_id, round_number, request_hash, body),
                )
                self._db.execute(
                    "UPDATE reply SET body = NULL"
                    " WHERE kind = ? AND training_id = ? AND round_number < ? AND body IS NOT NULL",
                    (kind, training_id, round_number),
                )
        except sqlite3.IntegrityError:
            raise RefusedError(f"round {round_number} already has an {kind}") from None
