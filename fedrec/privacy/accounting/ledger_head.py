"""The head kept beside a ledger: how far it had come, so that an older copy put in its place is known.

A small signed JSON file, replaced atomically after every entry. It may lag one entry behind the ledger
(a crash between the two), never run ahead of it. It also keeps the last receipt: a head that this merchant
signed and the server gave back, which no backup of this machine can undo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from fedrec._internal.files import write_atomically
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.ledger_entries import Entry, Signer, Verifier, genesis
from fedrec.protocol.schema import Hash, Signature, Strict
from fedrec.protocol.statements import Receipt

HEAD_CONTEXT = b"fedrec/ledger-head-file/1"
LOST_LEDGER_HELP = (
    "A ledger is made once, by 'fedrec client init', and never anew: what the photos have cost would be "
    "forgotten. Put the newest backup of both files back; docs/ledger.md, 'A lost ledger', says what to do "
    "where there is none."
)
"""What to do about a ledger that isn't there: the way out never opens an empty one."""
_MAX_BYTES = 1 << 16


class Head(Strict):
    """The number of entries, the hash of the last one, and the last receipt."""

    entries: Annotated[int, Field(ge=0)]
    hash: Hash
    receipt: Receipt | None = None


class _SignedHead(Strict):
    head: Head
    signature: Signature


def head_path(ledger: Path) -> Path:
    """Return where the head of a ledger's file is kept."""
    return ledger.with_name(ledger.name + ".head")


def hash_at(entries: Sequence[Entry], count: int, *, public: bytes) -> bytes:
    """Return the chain's hash after ``count`` entries."""
    return entries[count - 1].hash if count else genesis(public)


def head_of(entries: Sequence[Entry], *, public: bytes, receipt: Receipt | None) -> Head:
    """Return the head of a chain."""
    return Head(
        entries=len(entries), hash=hash_at(entries, len(entries), public=public).hex(), receipt=receipt
    )


def write_head(
    path: Path, head: Head, *, signer: Signer, on_event: Callable[[str], None] = lambda event: None
) -> None:
    """Replace the head file, durably; raise :class:`LedgerError` when the disk fails."""
    signature = signer.sign(head.canonical_bytes(), context=HEAD_CONTEXT).hex()
    try:
        write_atomically(
            path, _SignedHead(head=head, signature=signature).canonical_bytes(), mode=0o600, on_event=on_event
        )
    except OSError as error:
        raise LedgerError(f"ledger: {path} cannot be written ({error.strerror}).") from error


def read_head(path: Path, *, public: bytes, verify: Verifier) -> Head | None:
    """Return the head kept at ``path``, None when there is no file.

    Raises:
        LedgerError: it can't be read, or this merchant hasn't signed it.

    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
        signed = _SignedHead.model_validate_json(data)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise LedgerError(f"ledger: the head file {path} cannot be read ({type(error).__name__}).") from error
    if not verify(
        public, signed.head.canonical_bytes(), bytes.fromhex(signed.signature), context=HEAD_CONTEXT
    ):
        raise LedgerError(f"ledger: the head file {path} is not signed by this merchant.")
    return signed.head


def check_head(path: Path, head: Head | None, entries: Sequence[Entry], *, public: bytes) -> None:
    """Raise :class:`LedgerError` when the ledger at ``path`` is older than its head, or another one."""
    if head is None:
        raise LedgerError(
            f"ledger: the head file beside {path} is missing, so nobody can tell whether the ledger is the "
            f"newest. {LOST_LEDGER_HELP}"
        )
    if len(entries) < head.entries:
        raise LedgerError(
            f"ledger: {path} was put back to an older state: it has {len(entries)} entries, its head says "
            f"{head.entries}; put the newest copy back."
        )
    if hash_at(entries, head.entries, public=public).hex() != head.hash:
        raise LedgerError(f"ledger: {path} is not the one that its head was kept for.")
    if head.receipt is not None:
        check_receipt(path, head.receipt, entries)


def check_receipt(path: Path, receipt: Receipt, entries: Sequence[Entry]) -> None:
    """Raise :class:`LedgerError` when the ledger lacks the head that a receipt is for."""
    wanted = bytes.fromhex(receipt.head.statement.head_hash)
    # A receipt is nearly always for one of the last heads.
    if all(entry.hash != wanted for entry in reversed(entries)):
        raise LedgerError(
            f"ledger: {path} was put back to an older state: it lacks the entry that the server's receipt of "
            f"round {receipt.head.statement.round_number} is for; put the newest copy back."
        )
