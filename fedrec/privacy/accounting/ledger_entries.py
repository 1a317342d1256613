"""The entries of a ledger, and the chain of hashes and signatures that ties them together.

An entry's hash is SHA-256 over the hash before it and its canonical JSON; the chain starts at the
merchant's public key, and every hash is signed. Nothing here writes.
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

SIGNING_CONTEXT = b"fedrec/ledger/1"
SELECT = "SELECT sequence, key, payload, hash, signature FROM entries ORDER BY sequence"

Row: TypeAlias = tuple[Any, ...]


class Signer(Protocol):
    """What signs entries, as ``fedrec.privacy.identity.SigningIdentity`` does."""

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        ...

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        """Sign ``message`` for ``context``."""
        ...


class Verifier(Protocol):
    """What checks a signature, as ``fedrec.privacy.identity.verify`` does."""

    def __call__(self, public: bytes, message: bytes, signature: bytes, *, context: bytes) -> bool:
        """Tell whether ``signature`` is that key's for ``message`` in ``context``."""
        ...


@dataclass(frozen=True)
class Epsilons:
    """What a cost brings a ledger to, server's view; None where there is no guarantee.

    ``spent_before`` and ``spent_after`` are what the lifetime filter counts against a cap of
    (``cap_epsilon``, ``delta``): the policy's of the time, or where it sets none a nominal one at the cost's
    own delta. ``own_epsilon`` is the proved epsilon (PLD) of the entry's training so far, or of the release,
    by itself, at its own delta less the betas spent.
    """

    spent_before: float | None
    spent_after: float | None
    own_epsilon: float | None
    cap_epsilon: float
    delta: float


@dataclass(frozen=True)
class _Link:
    """A place in the chain; ``sequence`` counts from 1, ``created_at`` is UTC in seconds."""

    sequence: int
    created_at: str
    hash: bytes
    signature: bytes


@dataclass(frozen=True)
class ChargeEntry(_Link):
    """A round's charge; ``data`` commits to the dataset version, see ``data_commitment.py``."""

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
    """A released count."""

    count: Count
    accountants: str
    epsilons: Epsilons

    @property
    def cost(self) -> Count:
        """What was spent."""
        return self.count


@dataclass(frozen=True)
class AnswerEntry(_Link):
    """An answer, written before it is computed."""

    answer: Answer


Entry: TypeAlias = ChargeEntry | CountEntry | AnswerEntry
SpendingEntry: TypeAlias = ChargeEntry | CountEntry
NewEntry = TypeVar("NewEntry", ChargeEntry, CountEntry, AnswerEntry)


def charges(entries: Iterable[Entry]) -> list[ChargeEntry]:
    """Return the rounds' charges among entries, in order."""
    return [entry for entry in entries if isinstance(entry, ChargeEntry)]


def spending(entries: Iterable[Entry]) -> list[SpendingEntry]:
    """Return the entries that cost something, in order."""
    return [entry for entry in entries if not isinstance(entry, AnswerEntry)]


def last_count(entries: Sequence[Entry]) -> Count | None:
    """Return the release that holds; None in an empty chain."""
    return next((entry.count for entry in reversed(entries) if isinstance(entry, CountEntry)), None)


@dataclass(frozen=True)
class Verification:
    """Outcome of checking a ledger: how many entries hold, and the first that doesn't (counted from 1)."""

    ok: bool
    entries: int
    first_failure: int | None
    reason: str


def genesis(public: bytes) -> bytes:
    """Return the hash that the chain of this public key's ledger starts from."""
    return hashlib.sha256(b"fedrec/ledger/genesis/1" + public).digest()


def finite(epsilon: float) -> float | None:
    """Return ``epsilon``, or None for an infinite one, which JSON can't hold."""
    return epsilon if math.isfinite(epsilon) else None


def _chain(previous: bytes, payload: str) -> bytes:
    return hashlib.sha256(b"fedrec/ledger/entry/1" + previous + payload.encode()).digest()


def _key(entry: Entry) -> str:
    return entry.answer.key if isinstance(entry, AnswerEntry) else entry.cost.key


def payload_of(entry: Entry) -> str:
    """Return an entry's canonical JSON, which its hash is over; ``ValueError`` if a field isn't finite."""
    body: dict[str, Any] = {"sequence": entry.sequence, "created_at": entry.created_at}
    if isinstance(entry, AnswerEntry):
        body |= {"kind": "answer", "answer": asdict(entry.answer)}
    else:
        body |= {"accountants": entry.accountants, "epsilons": asdict(entry.epsilons)}
        if isinstance(entry, CountEntry):
            body |= {"kind": "count", "count": asdict(entry.count)}
        else:
            body |= {"kind": "charge", "charge": asdict(entry.charge), "data": entry.data}
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_row(entry: NewEntry, *, previous: bytes, signer: Signer) -> tuple[NewEntry, Row]:
    """Chain and sign an entry after the hash ``previous``; return it so, and its row.

    Raises:
        LedgerError: a field can't be written down, e.g. is not finite.

    """
    try:
        payload = payload_of(entry)
        digest = _chain(previous, payload)
        signature = signer.sign(digest, context=SIGNING_CONTEXT)
        row = (entry.sequence, _key(entry), payload, digest, signature)
        _from_row(row)
    except (ValueError, TypeError) as error:
        raise LedgerError(f"ledger: a field of the entry can't be written down ({error}).") from error
    return replace(entry, hash=digest, signature=signature), row


def _parsed(kind: type[Any], values: Any) -> Any:
    """Build a flat dataclass from JSON; ``ValueError`` unless it has just its fields, of their types."""
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (float, int),
        "bool": (bool,),
        "float | None": (float, int, type(None)),
    }
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(kind)}:
        raise ValueError("the payload has other fields")
    for field in fields(kind):
        value = values[field.name]
        # To Python a bool is an int; here it is none.
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
    place = (int(sequence), str(body.get("created_at")), bytes(digest), bytes(signature))
    kind = body.get("kind")
    entry: Entry
    if kind == "answer":
        entry = AnswerEntry(*place, answer=_parsed(Answer, body.get("answer")))
    elif kind in ("charge", "count"):
        told = str(body.get("accountants"))
        epsilons: Epsilons = _parsed(Epsilons, body.get("epsilons"))
        if kind == "count":
            entry = CountEntry(
                *place, count=_parsed(Count, body.get("count")), accountants=told, epsilons=epsilons
            )
        else:
            charge: Charge = _parsed(Charge, body.get("charge"))
            data = str(body.get("data"))
            entry = ChargeEntry(*place, charge=charge, data=data, accountants=told, epsilons=epsilons)
    else:
        raise ValueError("it is of an unknown kind")
    if _key(entry) != key:
        raise ValueError("columns and payload differ")
    return entry


def check_rows(rows: Iterable[Row], *, public: bytes, verify: Verifier) -> tuple[Verification, list[Entry]]:
    """Check the chain row by row; return the outcome and the entries before the first that fails."""
    previous = genesis(public)
    entries: list[Entry] = []
    for number, row in enumerate(rows, start=1):
        entry, reason = None, ""
        try:
            entry = _from_row(row)
            if entry.sequence != number:
                reason = f"an entry is missing before number {entry.sequence}"
            elif _chain(previous, row[2]) != entry.hash:
                reason = "its hash doesn't follow from the entry before it"
            elif not verify(public, entry.hash, entry.signature, context=SIGNING_CONTEXT):
                reason = "its signature is not this merchant's"
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            reason = f"it cannot be read: {error}"
        if entry is None or reason:
            return Verification(False, len(entries), number, f"entry {number}: {reason}"), entries
        entries.append(entry)
        previous = entry.hash
    return Verification(True, len(entries), None, "every entry follows and is signed"), entries
