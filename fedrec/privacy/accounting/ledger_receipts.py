"""Sign heads of a ledger for a server, and check the receipts that it returns for them."""

from __future__ import annotations

from fedrec.errors import LedgerError, ProtocolError
from fedrec.privacy.accounting.ledger_chain import LedgerChain
from fedrec.privacy.accounting.ledger_entries import key_after
from fedrec.privacy.accounting.ledger_head import check_receipt
from fedrec.protocol.statements import (
    LEDGER_HEAD_CONTEXT,
    RECEIPT_CONTEXT,
    HeadMoment,
    LedgerHead,
    Receipt,
    SignedLedgerHead,
)


def sign_head(
    chain: LedgerChain, *, training_id: str, round_number: int, merchant: str, moment: HeadMoment
) -> SignedLedgerHead:
    """Sign the head's hash for the server, which returns it in a receipt.

    Args:
        chain: the open ledger.
        training_id: the training that the head is signed for.
        round_number: the round.
        merchant: name of the merchant.
        moment: when in the round it is signed.

    Returns:
        The signed head.
    """
    statement = LedgerHead(
        training_id=training_id,
        round_number=round_number,
        merchant=merchant,
        moment=moment,
        head_hash=chain.head()[1].hex(),
    )
    signature = chain.signer.sign(statement.canonical_bytes(), context=LEDGER_HEAD_CONTEXT)
    return SignedLedgerHead(statement=statement, signature=signature.hex())


def accept_receipt(chain: LedgerChain, receipt: Receipt) -> None:
    """Check that the ledger contains the entry that a receipt confirms; keep the receipt if it is the newest.

    The receipt is valid for this merchant because the merchant signed the head in it. The server's signature
    makes it evidence for others. Once a receipt shows that the ledger is an older copy, the ledger refuses
    all further writing.

    Args:
        chain: the open ledger.
        receipt: the receipt.

    Raises:
        ProtocolError: this merchant didn't sign the head, or the server's signature is wrong.
        LedgerError: the ledger was restored to an older state, or the disk fails.
    """
    chain.check_open()
    head = receipt.head
    # A head is signed by the key after its entry. One that this ledger lacks may be of the present key alone:
    # whoever has an earlier key could otherwise make up a receipt that stops this ledger.
    after = _position(chain, receipt) or len(chain.history.entries)
    if not chain.verify(
        key_after(chain.history.entries, after, public=chain.signer.public),
        head.statement.canonical_bytes(),
        bytes.fromhex(head.signature),
        context=LEDGER_HEAD_CONTEXT,
    ):
        raise ProtocolError("a ledger receipt holds a head that this merchant didn't sign")
    if not chain.verify(
        bytes.fromhex(receipt.server_key),
        head.canonical_bytes(),
        bytes.fromhex(receipt.signature),
        context=RECEIPT_CONTEXT,
    ):
        raise ProtocolError("a ledger receipt is not signed by the key that it names")
    try:
        check_receipt(chain.path, receipt, chain.history.entries)
    except LedgerError as error:
        chain.stop_writing(str(error), receipt)
        raise
    if chain.receipt is None or _position(chain, receipt) > _position(chain, chain.receipt):
        chain.keep_receipt(receipt)


def _position(chain: LedgerChain, receipt: Receipt) -> int:
    """Return the number of the entry that a receipt confirms; 0 if there is none."""
    wanted = bytes.fromhex(receipt.head.statement.head_hash)
    entries = reversed(chain.history.entries)
    return next((entry.sequence for entry in entries if entry.hash == wanted), 0)
