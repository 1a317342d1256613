"""Keep a merchant's trainings on disk: plans, keys, policies, and the exact uploads and answers it has sent.

An upload or answer is stored, with an fsync, before it is sent. A second request gets the stored bytes if it
is identical to the first, else it is refused. The ledger's entry is always written first: a round is charged
before its upload is made, and an answer is recorded before it is computed. The body of a reply is deleted
when its round is over; the row stays.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

from fedrec._internal.moments import now_text
from fedrec.clients.photo_counts import PhotoCounts
from fedrec.clients.store_types import (
    SCHEMA,
    CountedSet,
    FixedSet,
    StoredTraining,
    TrainingSecrets,
    pack_tags,
    read_counted,
    read_fixed_set,
    read_photo_counts,
)
from fedrec.errors import LedgerError, RefusedError
from fedrec.protocol.schema import sha256_hex

Kind = Literal["upload", "answer"]

_KEPT_REFUSALS = 20
_LARGEST_KEPT_PLAN = 2**20
_SEEN_SECONDS = 3600.0
"""Resolution of a training's last request: one write, with its fsync, per hour is enough."""


class MerchantStore:
    """One SQLite file, mode 0600. Every write is durable when its method returns.

    Args:
        path: the file; created if it doesn't exist.

    Raises:
        LedgerError: the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600, exist_ok=True)
        path.chmod(0o600)
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            # For a new file. A large upload then takes a quarter of the pages, each of which costs time.
            self._db.execute("PRAGMA page_size=16384")
            # EXTRA also syncs the folder: a journal that reappears after a crash would undo a stored reply.
            self._db.execute("PRAGMA synchronous=EXTRA")
            self._db.execute("PRAGMA secure_delete=ON")
            # SQLite allocates a cache as a whole. Pages of a transaction beyond it stay in memory up to 2 MB.
            self._db.execute("PRAGMA cache_size=4")
            self._db.execute("PRAGMA cache_spill=128")
            # In one transaction: each takes several syncs of the disk.
            self._db.executescript(f"BEGIN;{SCHEMA}COMMIT;")
            self._db.execute("PRAGMA shrink_memory")
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"the merchant's store {path} can't be read: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def keep_policy(self, rules: str) -> None:
        """Store the text of a policy under its SHA-256, by which ledger entries identify it."""
        self._db.execute("INSERT OR IGNORE INTO policy VALUES (?, ?)", (sha256_hex(rules.encode()), rules))

    def policies(self) -> tuple[str, ...]:
        """Return the texts of all policies that charges were made under, the oldest first."""
        return tuple(row[0] for row in self._db.execute("SELECT rules FROM policy ORDER BY rowid"))

    def join(
        self,
        training_id: str,
        *,
        plan: bytes,
        seeded: bool,
        make_secrets: Callable[[], TrainingSecrets],
    ) -> StoredTraining:
        """Record that a training was joined, unless it was recorded before.

        Args:
            training_id: the training.
            plan: canonical bytes of its plan.
            seeded: whether the merchant's noise comes from a seed.
            make_secrets: makes the merchant's keys; called only if the training is new.

        Returns:
            The training as it was recorded first.
        """
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
        """Return whether a training was joined and closed."""
        found = self._find(training_id)
        return found is not None and found.closed

    def training(self, training_id: str) -> StoredTraining:
        """Return a joined training; raise ``RefusedError`` if it was never joined."""
        found = self._find(training_id)
        if found is None:
            raise RefusedError("this merchant has not joined that training", code="training")
        return found

    def note_refusal(self, *, kind: str, reason: str, plan: bytes | None = None) -> None:
        """Record a refusal. Only the last few are kept, and a very large plan is left out.

        A repetition of the last refusal only increases its count, because a server asks every few seconds.

        Args:
            kind: Flower's type of the request.
            reason: the reason.
            plan: canonical bytes of the refused plan, if the request was a join.
        """
        if plan is not None and len(plan) > _LARGEST_KEPT_PLAN:
            plan = None
        at = now_text()
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            counted = self._db.execute(
                "UPDATE refusal SET at = ?, times = times + 1"
                " WHERE number = (SELECT max(number) FROM refusal) AND kind = ? AND reason = ? AND plan IS ?",
                (at, kind, reason, plan),
            )
            if not counted.rowcount:
                self._db.execute(
                    "INSERT INTO refusal (at, kind, reason, plan) VALUES (?, ?, ?, ?)",
                    (at, kind, reason, plan),
                )
            # What came first can't be told from times, which are seconds, of a clock that may be set back.
            self._db.execute(
                "INSERT OR REPLACE INTO refused_after"
                " SELECT max(number), (SELECT total(times) FROM sent WHERE kind = 'upload'),"
                " (SELECT total(times) FROM sent WHERE kind = 'answer') FROM refusal"
            )
            for table in ("refusal", "refused_after"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE number <= (SELECT max(number) FROM refusal) - ?",  # noqa: S608 (ours)
                    (_KEPT_REFUSALS,),
                )

    def last_refusal(self) -> tuple[int, str, str, bytes | None] | None:
        """Return number, kind, reason and plan of the last refusal that differs from the one before it."""
        row: tuple[int, str, str, bytes | None] | None = self._db.execute(
            "SELECT number, kind, reason, plan FROM refusal ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return row

    def plans(self) -> list[bytes]:
        """Return the canonical plans of all joined trainings, the oldest first."""
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
        """Store the fixed set of a training, unless one was stored before of a folder that could be read.

        Args:
            training_id: the training.
            fixed: the set.

        Returns:
            The set that is stored.
        """
        self._db.execute(
            "INSERT INTO fixed_set VALUES (?, ?, ?, ?, ?) ON CONFLICT (training_id) DO UPDATE SET"
            " tags = excluded.tags, held = excluded.held, version = excluded.version, told = excluded.told"
            " WHERE version = ''",
            (training_id, pack_tags(fixed.tags), pack_tags(fixed.held), fixed.version, fixed.photo_summary),
        )
        return self.fixed_set(training_id) or fixed

    def fixed_set(self, training_id: str) -> FixedSet | None:
        """Return the fixed set of a training; None before it is fixed and after the training is closed."""
        return read_fixed_set(self._db, training_id)

    def put_photo_counts(self, training_id: str, counts: PhotoCounts) -> None:
        """Store what became of the photos in a training.

        Args:
            training_id: the training.
            counts: the numbers.
        """
        self._db.execute(
            "INSERT OR REPLACE INTO photo_counts VALUES (?, ?)", (training_id, counts.model_dump_json())
        )

    def photo_counts(self, training_id: str) -> PhotoCounts | None:
        """Return what became of the photos in a training; None before its set is fixed."""
        return read_photo_counts(self._db, training_id)

    def counted(self) -> CountedSet | None:
        """Return the records that count as charged; None before the first charge of a dataset version."""
        return read_counted(self._db)

    def put_counted(self, counted: CountedSet) -> None:
        """Replace the records that count as charged."""
        self._db.execute(
            "INSERT OR REPLACE INTO counted VALUES (1, ?, ?)", (pack_tags(counted.held), counted.version)
        )

    def forget_photos(self, tags: Iterable[bytes]) -> None:
        """Exclude the photos of these tags from all later steps."""
        self._db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", ((tag,) for tag in tags))

    def forgotten(self) -> frozenset[bytes]:
        """Return the tags of the excluded photos."""
        return frozenset(row[0] for row in self._db.execute("SELECT tag FROM forgotten"))

    def open_trainings(self) -> list[str]:
        """Return the ids of the joined trainings that aren't closed, in the order of joining."""
        rows = self._db.execute("SELECT training_id FROM training WHERE closed = 0 ORDER BY rowid")
        return [row[0] for row in rows]

    def finish_others(self, training_id: str) -> None:
        """Close every open training except this one."""
        for other in self.open_trainings():
            if other != training_id:
                self.finish(other)

    def mark_active(self, training_id: str, *, now: datetime) -> None:
        """Record, to the hour, the time of a training's last request.

        Args:
            training_id: the training.
            now: the time, with a time zone.
        """
        at = now.timestamp()
        seen = self._seen(training_id)
        if seen is None or abs(at - seen) >= _SEEN_SECONDS:
            self._db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (training_id, at))

    def _seen(self, training_id: str) -> float | None:
        row = self._db.execute("SELECT at FROM seen WHERE training_id = ?", (training_id,)).fetchone()
        return None if row is None else float(row[0])

    def finish_inactive(self, *, now: datetime, days: int) -> list[str]:
        """Close the open trainings without a request for too long.

        Args:
            now: the time, with a time zone.
            days: the number of days without a request after which a training is closed.

        Returns:
            The ids of the trainings that were closed.
        """
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
        """Close a training and delete its private keys and replies: the file then can't open anything."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "UPDATE training SET sealing_private = NULL, decryption_private = NULL, closed = 1"
                " WHERE training_id = ?",
                (training_id,),
            )
            self._db.execute("UPDATE reply SET body = NULL WHERE training_id = ?", (training_id,))
            self._db.execute("DELETE FROM fixed_set WHERE training_id = ?", (training_id,))
            self._db.execute("DELETE FROM photo_counts WHERE training_id = ?", (training_id,))

    def reply(self, kind: Kind, training_id: str, round_number: int, *, request_hash: str) -> bytes | None:
        """Return the reply that was stored for a request.

        Args:
            kind: ``upload`` or ``answer``.
            training_id: the training.
            round_number: the round.
            request_hash: hash of the request.

        Returns:
            The stored bytes; None if the round has no reply of this kind.

        Raises:
            RefusedError: another request was answered in this round, or the body was deleted because the
                round is over.
        """
        row = self._db.execute(
            "SELECT request_hash, body FROM reply WHERE kind = ? AND training_id = ? AND round_number = ?",
            (kind, training_id, round_number),
        ).fetchone()
        if row is None:
            return None
        if row[0] != request_hash:
            raise RefusedError(f"round {round_number} already has an {kind}, for a different request")
        if row[1] is None:
            raise RefusedError(f"round {round_number} is over: its {kind} was deleted")
        body: bytes = row[1]
        return body

    def put_upload(self, training_id: str, round_number: int, *, request_hash: str, body: bytes) -> None:
        """Store an upload before it is sent, and delete the bodies of earlier rounds.

        Args:
            training_id: the training.
            round_number: the round.
            request_hash: hash of the request.
            body: the encoded reply.

        Raises:
            RefusedError: the round already has an upload.
        """
        self._insert("upload", training_id, round_number, request_hash=request_hash, body=body)

    def put_answer(self, training_id: str, round_number: int, *, request_hash: str, body: bytes) -> None:
        """Store an answer before it is sent, and delete the bodies of earlier rounds.

        Args:
            training_id: the training.
            round_number: the round.
            request_hash: hash of the request.
            body: the encoded reply.

        Raises:
            RefusedError: the round already has an answer.
        """
        self._insert("answer", training_id, round_number, request_hash=request_hash, body=body)

    def replies(self) -> list[tuple[Kind, str, int]]:
        """Return kind, training and round of every reply ever stored, the oldest first."""
        return list(self._db.execute("SELECT kind, training_id, round_number FROM reply ORDER BY rowid"))

    def _insert(
        self, kind: Kind, training_id: str, round_number: int, *, request_hash: str, body: bytes
    ) -> None:
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                # First, so that the new body takes the pages of the old one.
                self._db.execute(
                    "UPDATE reply SET body = NULL"
                    " WHERE kind = ? AND training_id = ? AND round_number < ? AND body IS NOT NULL",
                    (kind, training_id, round_number),
                )
                # Written in place: the statement, which is kept, would keep a copy of a body bound to it.
                added = self._db.execute(
                    "INSERT INTO reply VALUES (?, ?, ?, ?, zeroblob(?))",
                    (kind, training_id, round_number, request_hash, len(body)),
                )
                with self._db.blobopen("reply", "body", added.lastrowid or 0) as blob:
                    blob.write(body)
                self._db.execute(
                    "INSERT INTO sent VALUES (?, ?, 1, ?) ON CONFLICT (training_id, kind)"
                    " DO UPDATE SET times = times + 1, bytes = bytes + excluded.bytes",
                    (training_id, kind, len(body)),
                )
        except sqlite3.IntegrityError:
            raise RefusedError(f"round {round_number} already has an {kind}") from None
        # The cache would keep the body's pages: a simulation has a thousand stores open.
        self._db.execute("PRAGMA shrink_memory")
