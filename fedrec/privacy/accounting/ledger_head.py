"""Read, write and check the head file beside a ledger, which reveals a ledger replaced by an older copy.

The head file is a small signed JSON file with the number of entries and the last hash. It is replaced
atomically after every entry. After a crash it may be one entry behind the ledger, but never ahead of it. It
also keeps the last receipt: a head that this merchant signed and the server returned, which restoring a
backup of this machine can't undo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from fedrec._internal.files import write_atomically
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.entry_encoding import genesis
from fedrec.privacy.accounting.key_rotation import Signer, Verifier
from fedrec.privacy.accounting.ledger_entries import Entry, key_after
from fedrec.protocol.schema import Hash, Signature, Strict
from fedrec.protocol.statements import Receipt

HEAD_CONTEXT = b"fedrec/ledger-head-file/1"
LOST_LEDGER_HELP = (
    "A ledger is created once, by 'fedrec client init', and never replaced by an empty one, which would "
    "forget the privacy already spent. Put the newest backup of both files back; docs/ledger.md, 'A lost "
    "ledger', says what to do where there is none."
)
"""Advice for a missing ledger."""
_MAX_BYTES = 1 << 16


class Head(Strict):
    """The state of a ledger.

    Attributes:
        entries: number of entries.
        hash: hash of the last entry, 64 hexadecimal digits.
        receipt: the last receipt; None before the first.
    """

    entries: Annotated[int, Field(ge=0)]
    hash: Hash
    receipt: Receipt | None = None


class _SignedHead(Strict):
    head: Head
    signature: Signature


def head_path(ledger: Path) -> Path:
    """Return the path of the head file of a ledger file."""
    return ledger.with_name(ledger.name + ".head")


def hash_at(entries: Sequence[Entry], count: int, *, public: bytes) -> bytes:
    """Return the chain's hash after its first entries.

    Args:
        entries: the chain.
        count: number of entries.
        public: the merchant's public key, 32 bytes.

    Returns:
        The hash, 32 bytes.
    """
    return entries[count - 1].hash if count else genesis(public)


def head_of(entries: Sequence[Entry], *, public: bytes, receipt: Receipt | None) -> Head:
    """Build the head of a chain.

    Args:
        entries: the chain.
        public: the merchant's public key, 32 bytes.
        receipt: the last receipt; None before the first.

    Returns:
        The head.
    """
    return Head(
        entries=len(entries), hash=hash_at(entries, len(entries), public=public).hex(), receipt=receipt
    )


def write_head(
    path: Path, head: Head, *, signer: Signer, on_event: Callable[[str], None] = lambda event: None
) -> None:
    """Replace the head file atomically and durably.

    Args:
        path: the head file.
        head: the new head.
        signer: the merchant's identity.
        on_event: called with the name of each step of writing; tests interrupt writing there.

    Raises:
        LedgerError: the disk fails.
    """
    signature = signer.sign(head.canonical_bytes(), context=HEAD_CONTEXT).hex()
    try:
        write_atomically(
            path, _SignedHead(head=head, signature=signature).canonical_bytes(), mode=0o600, on_event=on_event
        )
    except OSError as error:
        raise LedgerError(f"ledger: {path} cannot be written ({error.strerror}).") from error


def read_head(path: Path, *, public: bytes, verify: Verifier, entries: Sequence[Entry] = ()) -> Head | None:
    """Read a head file and check its signature, by the merchant's key after the last entry of the head.

    Args:
        path: the head file.
        public: the merchant's public key now, 32 bytes.
        verify: function that checks a signature.
        entries: the ledger's entries, with the merchant's earlier keys.

    Returns:
        The head; None if there is no file.

    Raises:
        LedgerError: the file can't be read, or this merchant didn't sign it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
        signed = _SignedHead.model_validate_json(data)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise LedgerError(f"ledger: the head file {path} cannot be read ({type(error).__name__}).") from error
    key = key_after(entries, signed.head.entries, public=public)
    if not verify(key, signed.head.canonical_bytes(), bytes.fromhex(signed.signature), context=HEAD_CONTEXT):
        raise LedgerError(f"ledger: the head file {path} is not signed by this merchant.")
    return signed.head


def check_head(path: Path, head: Head | None, entries: Sequence[Entry], *, public: bytes) -> None:
    """Check that a ledger is neither older than its head nor another ledger.

    Args:
        path: the ledger file, for messages.
        head: its head; None if the head file is missing.
        entries: the ledger's entries.
        public: the merchant's public key, 32 bytes.

    Raises:
        LedgerError: the head is missing or doesn't fit the entries.
    """
    if head is None:
        raise LedgerError(
            f"ledger: the head file beside {path} is missing, so it is unknown whether the ledger is the "
            f"newest. {LOST_LEDGER_HELP}"
        )
    if len(entries) < head.entries:
        raise LedgerError(
            f"ledger: {path} was restored to an older state: it has {len(entries)} entries, its head says "
            f"{head.entries}; put the newest copy back."
        )
    if hash_at(entries, head.entries, public=public).hex() != head.hash:
        raise LedgerError(
            f"ledger: {path} and its head file belong to different ledgers; put both back from one backup."
        )
    if head.receipt is not None:
        check_receipt(path, head.receipt, entries)


def check_receipt(path: Path, receipt: Receipt, entries: Sequence[Entry]) -> None:
    """Check that a ledger contains the entry that a receipt confirms.

    Args:
        path: the ledger file, for messages.
        receipt: the receipt.
        entries: the ledger's entries.

    Raises:
        LedgerError: the entry is missing, so the ledger is an older copy.
    """
    wanted = bytes.fromhex(receipt.head.statement.head_hash)
    # A receipt is nearly always for one of the last entries.
    if all(entry.hash != wanted for entry in reversed(entries)):
        raise LedgerError(
            f"ledger: {path} was restored to an older state: it lacks the entry that the server's receipt of "
            f"round {receipt.head.statement.round_number} is for; put the newest copy back."
        )
