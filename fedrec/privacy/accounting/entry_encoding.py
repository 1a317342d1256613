"""Encode, parse and check the entries of a ledger and their chain of hashes and signatures.

An entry's hash is SHA-256 over the previous hash and the entry's canonical JSON. The chain starts from the
merchant's first public key, and every hash is signed by the key of that time. Nothing here writes to disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

from fedrec.errors import LedgerError
from fedrec.privacy.accounting.entry_contents import Answer, Charge, Count
from fedrec.privacy.accounting.key_rotation import KeyRotation, Signer, Verifier, first_key, rotation_fault
from fedrec.privacy.accounting.ledger_entries import (
    AnswerEntry,
    ChargeEntry,
    CountEntry,
    Entry,
    Epsilons,
    NewEntry,
    RotationEntry,
)

SIGNING_CONTEXT = b"fedrec/ledger/1"
SELECT = "SELECT sequence, key, payload, hash, signature FROM entries ORDER BY sequence"

Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Verification:
    """Outcome of checking a ledger.

    Attributes:
        ok: whether all entries are valid.
        entries: number of valid entries before the first failure.
        first_failure: number of the first invalid entry, from 1; None if all are valid.
        reason: one sentence that explains the outcome.
    """

    ok: bool
    entries: int
    first_failure: int | None
    reason: str


def genesis(public: bytes) -> bytes:
    """Return the hash that the chain of a public key's ledger starts from."""
    return hashlib.sha256(b"fedrec/ledger/genesis/1" + public).digest()


def _chain(previous: bytes, payload: str) -> bytes:
    return hashlib.sha256(b"fedrec/ledger/entry/1" + previous + payload.encode()).digest()


def _key(entry: Entry) -> str:
    if isinstance(entry, AnswerEntry):
        return entry.answer.key
    return entry.rotation.key if isinstance(entry, RotationEntry) else entry.cost.key


def payload_of(entry: Entry) -> str:
    """Encode an entry as canonical JSON, the text that its hash covers.

    Args:
        entry: the entry.

    Returns:
        The JSON, with sorted keys and without spaces.

    Raises:
        ValueError: a number isn't finite.
    """
    body: dict[str, Any] = {"sequence": entry.sequence, "created_at": entry.created_at}
    if isinstance(entry, AnswerEntry):
        body |= {"kind": "answer", "answer": asdict(entry.answer)}
    elif isinstance(entry, RotationEntry):
        body |= {"kind": "rotation", "rotation": asdict(entry.rotation)}
    else:
        body |= {"accountants": entry.accountants, "epsilons": asdict(entry.epsilons)}
        if isinstance(entry, CountEntry):
            body |= {"kind": "count", "count": asdict(entry.count)}
        else:
            body |= {"kind": "charge", "charge": asdict(entry.charge), "data": entry.data}
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_row(entry: NewEntry, *, previous: bytes, signer: Signer) -> tuple[NewEntry, Row]:
    """Add an entry to the chain and sign it.

    Args:
        entry: the unsigned entry.
        previous: hash of the entry before it, 32 bytes.
        signer: the merchant's identity.

    Returns:
        The entry with hash and signature, and its database row.

    Raises:
        LedgerError: a field can't be encoded, for example because it isn't finite.
    """
    try:
        payload = payload_of(entry)
        digest = _chain(previous, payload)
        signature = signer.sign(digest, context=SIGNING_CONTEXT)
        row = (entry.sequence, _key(entry), payload, digest, signature)
        _from_row(row)
    except (ValueError, TypeError) as error:
        raise LedgerError(f"ledger: a field of the entry can't be encoded ({error}).") from error
    return replace(entry, hash=digest, signature=signature), row


def _parsed(kind: type[Any], values: Any) -> Any:
    """Build a flat dataclass from JSON; ``ValueError`` unless fields and types match exactly."""
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (float, int),
        "bool": (bool,),
        "float | None": (float, int, type(None)),
    }
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(kind)}:
        raise ValueError("the payload has missing or unknown fields")
    for field in fields(kind):
        value = values[field.name]
        # In Python a bool is an int; here the two are different types.
        if not isinstance(value, kinds[str(field.type)]) or isinstance(value, bool) != (field.type == "bool"):
            raise ValueError(f"field {field.name} has a wrong type")
    return kind(**values)


def read_entry(payload: str, *, digest: bytes, signature: bytes) -> Entry:
    """Parse an entry's payload; its place in the chain is not checked.

    Args:
        payload: what :func:`payload_of` returned.
        digest: the entry's hash.
        signature: the merchant's signature of it.

    Returns:
        The entry.

    Raises:
        ValueError: the payload is no entry, or a field is missing, unknown or of a wrong type.
    """
    body = json.loads(payload)
    if not isinstance(body, dict):
        raise ValueError("the payload is not an entry")
    sequence = body.get("sequence")
    if not isinstance(sequence, int) or isinstance(sequence, bool):
        raise ValueError("the payload has no number")
    position = (sequence, str(body.get("created_at")), digest, signature)
    kind = body.get("kind")
    if kind == "answer":
        return AnswerEntry(*position, answer=_parsed(Answer, body.get("answer")))
    if kind == "rotation":
        return RotationEntry(*position, rotation=_parsed(KeyRotation, body.get("rotation")))
    if kind not in ("charge", "count"):
        raise ValueError("its kind is unknown")
    accountants = str(body.get("accountants"))
    epsilons: Epsilons = _parsed(Epsilons, body.get("epsilons"))
    if kind == "count":
        count: Count = _parsed(Count, body.get("count"))
        return CountEntry(*position, count=count, accountants=accountants, epsilons=epsilons)
    charge: Charge = _parsed(Charge, body.get("charge"))
    return ChargeEntry(
        *position, charge=charge, data=str(body.get("data")), accountants=accountants, epsilons=epsilons
    )


def _from_row(row: Row) -> Entry:
    """Parse a row; raise ``ValueError`` unless columns and payload agree and all fields have their types."""
    sequence, key, payload, digest, signature = row
    entry = read_entry(payload, digest=bytes(digest), signature=bytes(signature))
    if entry.sequence != sequence or _key(entry) != key:
        raise ValueError("columns and payload differ")
    return entry


def check_rows(rows: Iterable[Row], *, public: bytes, verify: Verifier) -> tuple[Verification, list[Entry]]:
    """Check the chain row by row.

    Args:
        rows: the database rows, in order.
        public: the merchant's public key now, 32 bytes.
        verify: function that checks a signature.

    Returns:
        The outcome, and the entries before the first invalid one.
    """
    rows = list(rows)
    key = first_key(rows, public=public)
    previous, seen = genesis(key), {key}
    entries: list[Entry] = []
    for number, row in enumerate(rows, start=1):
        entry, reason = None, ""
        try:
            entry = _from_row(row)
            if entry.sequence != number:
                reason = f"an entry is missing before number {entry.sequence}"
            elif _chain(previous, row[2]) != entry.hash:
                reason = "its hash doesn't follow from the entry before it"
            elif not verify(key, entry.hash, entry.signature, context=SIGNING_CONTEXT):
                reason = "its signature is not this merchant's"
            elif isinstance(entry, RotationEntry):
                reason = rotation_fault(entry.rotation, key=key, seen=seen, verify=verify)
                key = bytes.fromhex(entry.rotation.new_key)
                seen.add(key)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            reason = f"it cannot be read: {error}"
        if entry is None or reason:
            return Verification(False, len(entries), number, f"entry {number}: {reason}"), entries
        entries.append(entry)
        previous = entry.hash
    if key != public:
        number = len(entries) + 1
        reason = "the ledger ends with another key than this merchant's: one of the two is an older copy"
        return Verification(False, len(entries), number, f"entry {number}: {reason}"), entries
    return Verification(True, len(entries), None, "every entry follows and is signed"), entries
