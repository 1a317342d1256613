"""Encode, parse and check the entries of a ledger and their chain of hashes and signatures.

An entry's hash is SHA-256 over the previous hash and the entry's canonical JSON. The chain starts from the
merchant's first public key, and every hash is signed by the key of that time. Nothing here writes to disk.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from fedrec.errors import LedgerError
from fedrec.privacy.accounting.entry_contents import Answer, Charge, Count
from fedrec.privacy.accounting.key_rotation import KeyRotation, Verifier, first_key, rotation_fault

__all__ = [
    "SELECT",
    "SIGNING_CONTEXT",
    "AnswerEntry",
    "ChargeEntry",
    "CountEntry",
    "Entry",
    "Epsilons",
    "NewEntry",
    "RotationEntry",
    "Row",
    "Signer",
    "SpendingEntry",
    "Verification",
    "Verifier",
    "charges",
    "check_rows",
    "finite",
    "genesis",
    "key_after",
    "last_count",
    "payload_of",
    "rotations",
    "spending",
    "to_row",
]

SIGNING_CONTEXT = b"fedrec/ledger/1"
SELECT = "SELECT sequence, key, payload, hash, signature FROM entries ORDER BY sequence"

Row: TypeAlias = tuple[Any, ...]


class Signer(Protocol):
    """Interface of an object that signs entries, such as ``fedrec.privacy.identity.SigningIdentity``."""

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        ...

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        """Sign a message.

        Args:
            message: the bytes to sign.
            context: domain separation: what the signature is for.

        Returns:
            The signature.
        """
        ...


@dataclass(frozen=True)
class Epsilons:
    """The epsilons recorded with a cost, in the server's view; None where there is no guarantee.

    Attributes:
        spent_before: epsilon by the lifetime filter before the cost.
        spent_after: epsilon by the lifetime filter with the cost.
        own_epsilon: proved epsilon (PLD) of the entry's training so far, with its site figures if they were
            charged, or of the release alone, at its own delta less the betas spent.
        cap_epsilon: the cap of the policy at that time; nominal where it set none.
        delta: the delta of that cap; the cost's own delta where it set none.
    """

    spent_before: float | None
    spent_after: float | None
    own_epsilon: float | None
    cap_epsilon: float
    delta: float


@dataclass(frozen=True)
class _Link:
    """A position in the chain.

    Attributes:
        sequence: number of the entry, from 1.
        created_at: UTC time in ISO 8601, to the second.
        hash: SHA-256 over the previous hash and the payload.
        signature: the merchant's signature of the hash.
    """

    sequence: int
    created_at: str
    hash: bytes
    signature: bytes


@dataclass(frozen=True)
class ChargeEntry(_Link):
    """Entry of a round's charge.

    Attributes:
        charge: the charge.
        data: commitment to the dataset version (:mod:`fedrec.privacy.accounting.data_commitment`).
        accountants: names and versions of the accountants.
        epsilons: the epsilons before and after.
        already_charged: whether the charge was in the ledger before; not written.
    """

    charge: Charge
    data: str
    accountants: str
    epsilons: Epsilons
    already_charged: bool = False

    @property
    def cost(self) -> Charge:
        """What was spent."""
        return self.charge


@dataclass(frozen=True)
class CountEntry(_Link):
    """Entry of a released count."""

    count: Count
    accountants: str
    epsilons: Epsilons

    @property
    def cost(self) -> Count:
        """What was spent."""
        return self.count


@dataclass(frozen=True)
class AnswerEntry(_Link):
    """Entry of a committee member's answer, written before the answer is computed."""

    answer: Answer


@dataclass(frozen=True)
class RotationEntry(_Link):
    """Entry of an exchange of the merchant's key, the last one that the old key signs."""

    rotation: KeyRotation


Entry: TypeAlias = ChargeEntry | CountEntry | AnswerEntry | RotationEntry
SpendingEntry: TypeAlias = ChargeEntry | CountEntry
NewEntry = TypeVar("NewEntry", ChargeEntry, CountEntry, AnswerEntry, RotationEntry)


def charges(entries: Iterable[Entry]) -> list[ChargeEntry]:
    """Return the entries of charges, in order."""
    return [entry for entry in entries if isinstance(entry, ChargeEntry)]


def spending(entries: Iterable[Entry]) -> list[SpendingEntry]:
    """Return the entries that cost privacy, in order."""
    return [entry for entry in entries if isinstance(entry, ChargeEntry | CountEntry)]


def rotations(entries: Iterable[Entry]) -> list[KeyRotation]:
    """Return the exchanges of the merchant's key, in order."""
    return [entry.rotation for entry in entries if isinstance(entry, RotationEntry)]


def key_after(entries: Sequence[Entry], count: int, *, public: bytes) -> bytes:
    """Return the merchant's key after the first entries of a checked chain, which signs what comes next.

    Args:
        entries: the chain.
        count: number of entries.
        public: the merchant's key after all entries, 32 bytes.

    Returns:
        The public key, 32 bytes.
    """
    later = rotations(entries[count:])
    return bytes.fromhex(later[0].old_key) if later else public


def last_count(entries: Sequence[Entry]) -> Count | None:
    """Return the last released count, which is the valid one; None in an empty chain."""
    return next((entry.count for entry in reversed(entries) if isinstance(entry, CountEntry)), None)


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


def finite(epsilon: float) -> float | None:
    """Return ``epsilon``, or None if it is infinite, which JSON can't represent."""
    return epsilon if math.isfinite(epsilon) else None


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


def _from_row(row: Row) -> Entry:
    """Parse a row; raise ``ValueError`` unless columns and payload agree and all fields have their types."""
    sequence, key, payload, digest, signature = row
    body = json.loads(payload)
    if not isinstance(body, dict):
        raise ValueError("the payload is not an entry")
    if body.get("sequence") != sequence:
        raise ValueError("columns and payload differ")
    position = (int(sequence), str(body.get("created_at")), bytes(digest), bytes(signature))
    kind = body.get("kind")
    entry: Entry
    if kind == "answer":
        entry = AnswerEntry(*position, answer=_parsed(Answer, body.get("answer")))
    elif kind == "rotation":
        entry = RotationEntry(*position, rotation=_parsed(KeyRotation, body.get("rotation")))
    elif kind in ("charge", "count"):
        accountants = str(body.get("accountants"))
        epsilons: Epsilons = _parsed(Epsilons, body.get("epsilons"))
        if kind == "count":
            entry = CountEntry(
                *position, count=_parsed(Count, body.get("count")), accountants=accountants, epsilons=epsilons
            )
        else:
            charge: Charge = _parsed(Charge, body.get("charge"))
            data = str(body.get("data"))
            entry = ChargeEntry(
                *position, charge=charge, data=data, accountants=accountants, epsilons=epsilons
            )
    else:
        raise ValueError("its kind is unknown")
    if _key(entry) != key:
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
