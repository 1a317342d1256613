"""Countersign merchants' ledger heads, so that a ledger that was restored to an older state is found out.

A merchant whose machine was restored to an older state can't know it by itself. So the server keeps the last
head that each merchant signed, and sends its receipt with the next request, in any training. Every upload and
every answer brings a head. The head of a join counts only if there is no receipt yet, so that a merchant that
was put back can't replace a newer receipt by it. All receipts are kept: a merchant that continues from an
older ledger signs another head for the same place, and an auditor then finds that its ledger holds only one
of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import ValidationError

from fedrec._internal.validation_messages import problem_text
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
    """Every receipt ever given, in one SQLite file, for all trainings of a server.

    Receipts are read on demand, so that opening a book takes no longer the more it holds. The file is open
    only while it is used. Methods raise ``TrainingError`` for a file that can't be read.

    Args:
        path: the file; made if it is missing.
        identity: the server's key, which signs receipts.
    """

    def __init__(self, path: Path, *, identity: SigningIdentity) -> None:
        self._path = path
        self._identity = identity
        self._last: dict[str, Receipt | None] = {}
        with _opened(path) as db:
            db.executescript(_SCHEMA)

    @property
    def server_key(self) -> str:
        """The public key that verifies receipts, 64 hexadecimal digits, as in plans."""
        return self._identity.public.hex()

    def last(self, merchant: str) -> Receipt | None:
        """Return the newest receipt of a merchant, None if it has none."""
        if merchant not in self._last:
            with _opened(self._path) as db:
                row = db.execute(
                    "SELECT body FROM receipt WHERE merchant = ? ORDER BY number DESC LIMIT 1", (merchant,)
                ).fetchone()
            # The status reads it from another thread: a receipt that was kept meanwhile is newer.
            return self._last.setdefault(merchant, None if row is None else _read(self._path, row[0]))
        return self._last[merchant]

    def has(self, receipt: Receipt) -> bool:
        """Return whether a receipt was kept."""
        stated = receipt.head.statement
        with _opened(self._path) as db:
            rows = db.execute(
                "SELECT body FROM receipt WHERE training_id = ? AND moment = ? AND merchant = ?"
                " AND round_number = ?",
                (stated.training_id, stated.moment, stated.merchant, stated.round_number),
            )
            return (receipt.canonical_bytes().decode(),) in list(rows)

    def sign(
        self,
        head: SignedLedgerHead | None,
        *,
        plan: TrainingPlan,
        merchant: str,
        round_number: int,
        moment: HeadMoment,
    ) -> Receipt:
        """Check a ledger head, and countersign it.

        Args:
            head: the head that the merchant signed, if its reply brought one.
            plan: the training's plan.
            merchant: whose head it must be.
            round_number: its round; 0 at the join.
            moment: after which event it was signed.

        Returns:
            The receipt; it is not kept yet.

        Raises:
            ProtocolError: there is no head, it is of another training, round, merchant or moment, or its
                signature doesn't verify.
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
        """Store receipts durably, all or none."""
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
    """Yield the receipts of a book in the order in which they were given; none if there is no file.

    Raises:
        TrainingError: the file, or a receipt in it, can't be read.
    """
    if not path.exists():
        return
    with _opened(path) as db:
        for (body,) in db.execute("SELECT body FROM receipt ORDER BY number"):
            yield _read(path, body)


def rounds_with_receipt(path: Path, *, training_id: str) -> dict[str, int]:
    """Count the charged rounds of a training that each merchant has a receipt of.

    Args:
        path: the book's file.
        training_id: the training.

    Returns:
        The number of rounds, by merchant; empty if there is no file.
    """
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
            # EXTRA also syncs the folder: a journal that reappears would undo a round's receipts.
            db.execute("PRAGMA synchronous = EXTRA")
            yield db
    except sqlite3.Error as error:
        raise TrainingError(f"the receipts in {path} can't be used: {error}") from None


def _read(path: Path, body: str) -> Receipt:
    try:
        return Receipt.model_validate_json(body)
    except ValidationError as error:
        raise TrainingError(f"{path} holds an invalid receipt: {problem_text(error)}") from None
