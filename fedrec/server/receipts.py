"""Receipts: merchants' ledger heads, countersigned and given back, so that an older ledger is found out.

A merchant whose machine was put back to an older state has no way of its own to know. The server keeps the
last head that each merchant signed, and sends it with the next request, in any training. A head comes with
every upload and every answer; that of a join counts only where there is no receipt yet, so that a merchant
that was put back can't replace a newer one by it. Every one is kept, also of earlier rounds: a merchant that
goes on from an older ledger signs another head, and an auditor then finds that not both stand in its ledger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import ValidationError

from fedrec.errors import ProtocolError, TrainingError
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import (
    LEDGER_HEAD_CONTEXT,
    RECEIPT_CONTEXT,
    HeadMoment,
    Receipt,
    SignedLedgerHead,
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS receipt (
    number INTEGER PRIMARY KEY, merchant TEXT NOT NULL, training_id TEXT NOT NULL,
    round_number INTEGER NOT NULL, moment TEXT NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS receipt_merchant ON receipt (merchant, number);
CREATE INDEX IF NOT EXISTS receipt_training ON receipt (training_id, moment, merchant, round_number);
"""


class ReceiptBook:
    """Every receipt ever given, in one SQLite file; one book serves all trainings of a server.

    Nothing is read before it is asked for, so that a book opens as fast whatever its length. The file is open
    only while it is used. Methods raise ``TrainingError`` for a file that can't be read.
    """

    def __init__(self, path: Path, *, identity: SigningIdentity) -> None:
        self._path = path
        self._identity = identity
        self._last: dict[str, Receipt | None] = {}
        with _opened(path) as db:
            db.executescript(_SCHEMA)

    @property
    def server_key(self) -> str:
        """The public key that signs, as plans name it."""
        return self._identity.public.hex()

    def last(self, merchant: str) -> Receipt | None:
        """Return the newest receipt of a merchant."""
        if merchant not in self._last:
            with _opened(self._path) as db:
                row = db.execute(
                    "SELECT body FROM receipt WHERE merchant = ? ORDER BY number DESC LIMIT 1", (merchant,)
                ).fetchone()
            self._last[merchant] = None if row is None else _read(self._path, row[0])
        return self._last[merchant]

    def sign(
        self,
        head: SignedLedgerHead | None,
        *,
        plan: TrainingPlan,
        merchant: str,
        round_number: int,
        moment: HeadMoment,
    ) -> Receipt:
        """Check a head and countersign it.

        Raises ``ProtocolError`` when it isn't this merchant's, of this moment of this round (0 at the join).
        """
        if head is None:
            raise ProtocolError("the reply comes without a signed ledger head")
        stated = head.statement
        if (stated.training_id, stated.round_number, stated.merchant, stated.moment) != (
            plan.training_id,
            round_number,
            merchant,
            moment,
        ):
            raise ProtocolError("the ledger head is of another training, round, merchant or moment")
        signature = bytes.fromhex(head.signature)
        if not verify(
            plan.key_of(merchant), stated.canonical_bytes(), signature, context=LEDGER_HEAD_CONTEXT
        ):
            raise ProtocolError("the ledger head is not signed by its merchant")
        countersigned = self._identity.sign(head.canonical_bytes(), context=RECEIPT_CONTEXT).hex()
        return Receipt(head=head, server_key=self.server_key, signature=countersigned)

    def keep(self, receipts: list[Receipt]) -> None:
        """Write receipts down, all or none, durably."""
        if not receipts:
            return
        rows = [
            (
                stated.merchant,
                stated.training_id,
                stated.round_number,
                stated.moment,
                receipt.canonical_bytes().decode(),
            )
            for receipt in receipts
            for stated in (receipt.head.statement,)
        ]
        with _opened(self._path) as db, db:
            db.executemany(
                "INSERT INTO receipt (merchant, training_id, round_number, moment, body)"
                " VALUES (?, ?, ?, ?, ?)",
                rows,
            )
        self._last |= {receipt.head.statement.merchant: receipt for receipt in receipts}


def read_receipts(path: Path) -> Iterator[Receipt]:
    """Yield the receipts of a book one by one, in the order in which they were given; none without a file.

    Raises ``TrainingError`` for anything that isn't a receipt.
    """
    if not path.exists():
        return
    with _opened(path) as db:
        for (body,) in db.execute("SELECT body FROM receipt ORDER BY number"):
            yield _read(path, body)


def rounds_with_receipt(path: Path, *, training_id: str) -> dict[str, int]:
    """Return of how many charged rounds of a training each merchant has a receipt, by name."""
    if not path.exists():
        return {}
    with _opened(path) as db:
        return dict(
            db.execute(
                "SELECT merchant, count(DISTINCT round_number) FROM receipt"
                " WHERE training_id = ? AND moment = 'charged' GROUP BY merchant",
                (training_id,),
            )
        )


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path)) as db:
            # EXTRA also syncs the folder: a journal that came back would take a round's receipts away.
            db.execute("PRAGMA synchronous = EXTRA")
            yield db
    except sqlite3.Error as error:
        raise TrainingError(f"the receipts in {path} can't be used: {error}") from None


def _read(path: Path, body: str) -> Receipt:
    try:
        return Receipt.model_validate_json(body)
    except ValidationError as error:
        first = str(error).splitlines()[0]
        raise TrainingError(f"{path} holds a receipt that is none: {first}") from None
