"""Receipts: merchants' ledger heads, countersigned and given back, so that an older ledger is found out.

A merchant whose machine was put back to an older state has no way of its own to know. The server keeps
the last head that each merchant signed, and sends it with the next request, in any training. A head comes
with every upload and every answer; that of a join counts only where there is no receipt yet, so that a
merchant that was put back can't replace a newer one by it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fedrec._internal.files import append_lines, read_lines
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


class ReceiptBook:
    """Every receipt ever given, one JSON document a line, and the last one of each merchant.

    One book serves all trainings of a server. Raises ``TrainingError`` for a file that can't be read.
    """

    def __init__(self, path: Path, *, identity: SigningIdentity) -> None:
        self._path = path
        self._identity = identity
        self._last = {receipt.head.statement.merchant: receipt for receipt in read_receipts(path)}

    @property
    def server_key(self) -> str:
        """The public key that signs, as plans name it."""
        return self._identity.public.hex()

    def last(self, merchant: str) -> Receipt | None:
        """Return the newest receipt of a merchant."""
        return self._last.get(merchant)

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
        """Write receipts down, durably."""
        if not receipts:
            return
        append_lines(self._path, (receipt.canonical_bytes() for receipt in receipts))
        self._last |= {receipt.head.statement.merchant: receipt for receipt in receipts}


def read_receipts(path: Path) -> list[Receipt]:
    """Read a book, in the order of its lines; there is none where there is no file.

    A last line that a crash cut off is left out; anything else that isn't a receipt raises
    ``TrainingError``.
    """
    try:
        return [Receipt.model_validate_json(line) for line in read_lines(path)]
    except ValidationError as error:
        first = str(error).splitlines()[0]
        raise TrainingError(f"{path} holds a line that is no receipt: {first}") from None
