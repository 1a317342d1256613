"""What a ledger entry holds, and the chain of hashes and signatures that ties entries together.

An entry's hash is SHA-256 over the hash before it and its canonical JSON; the chain starts at the
merchant's public key, and every hash is signed. Nothing here writes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol

from fedrec.errors import LedgerError
from fedrec.privacy.accounting.events import Event

SIGNING_CONTEXT = b"fedrec/ledger/1"
SELECT = (
    "SELECT sequence, training_id, round_number, step, payload, hash, signature"
    " FROM entries ORDER BY sequence"
)

View = Literal["server", "aggregation_broken"]
Key = tuple[str, int, int]


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
class Charge:
    """What a merchant is about to spend; its key is (training_id, round_number, step).

    ``step`` numbers the charges of one round from 0, ``steps`` says how many noised steps this one
    covers. ``guaranteed_noise_multiplier`` is that of the server's view, ``broken_noise_multiplier``
    that of the merchant's own share alone; 0 means no guarantee. ``scale`` (grid steps in one ``clip``)
    and ``sensitivity`` are in grid units; the latter follows from scale, ``dimension`` (trainable
    parameters) and ``beta``. ``delta`` is the training's whole delta. ``run`` tells apart
    trainings of otherwise equal plans. ``code`` names the installed code, ``policy_hash`` the merchant's
    rules of the time, ``dataset_version`` the records (a keyed hash of their contents, empty if unknown),
    and ``size_bucket`` how many they are, rounded. Where the noise was ``seeded`` it hides nothing from
    whoever knows the seed: multipliers and epsilons are then those that unseeded noise would have had.
    """

    training_id: str
    round_number: int
    model_hash: str
    mode: str
    unit: str
    adjacency: str
    duplicate_policy: str
    sample_rate: float
    clip: float
    clipping: str
    planned_noise_multiplier: float
    guaranteed_noise_multiplier: float
    broken_noise_multiplier: float
    beta: float
    scale: int
    dimension: int
    sensitivity: float
    min_contributors: int
    colluders: int
    delta: float
    run: str
    model: str
    code: str
    policy_hash: str
    dataset_version: str
    size_bucket: int
    seeded: bool
    step: int = 0
    steps: int = 1

    @property
    def key(self) -> Key:
        """What this charge is known by: it is written once."""
        return self.training_id, self.round_number, self.step

    def event(self, view: View = "server") -> Event:
        """Return what this costs in one of the two views, for the accountants."""
        multiplier = self.guaranteed_noise_multiplier if view == "server" else self.broken_noise_multiplier
        return Event(self.sample_rate, multiplier, self.steps)


@dataclass(frozen=True)
class Epsilons:
    """Lifetime epsilon, server's view, before and after a charge; None where there is no guarantee.

    Both are taken at ``delta`` (the lifetime's if there is one, else the charge's) less the betas spent.
    ``pld`` is the headline; ``rdp`` is looser, and what the cap is held against. Both are proved.
    """

    pld_before: float | None
    pld_after: float | None
    rdp_before: float | None
    rdp_after: float | None
    delta: float


@dataclass(frozen=True)
class Entry:
    """A charge as it stands in the ledger; ``sequence`` counts from 1, ``created_at`` is UTC in seconds."""

    sequence: int
    charge: Charge
    created_at: str
    accountants: str
    epsilons: Epsilons
    hash: bytes
    signature: bytes
    already_charged: bool = False


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


def payload_of(entry: Entry) -> str:
    """Return an entry's canonical JSON, which its hash is over; ``ValueError`` if a field isn't finite."""
    body = {
        "sequence": entry.sequence,
        "created_at": entry.created_at,
        "accountants": entry.accountants,
        "epsilons": asdict(entry.epsilons),
        "charge": asdict(entry.charge),
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_row(entry: Entry, *, previous: bytes, signer: Signer) -> tuple[Entry, tuple[Any, ...]]:
    """Chain and sign an entry after the hash ``previous``; return it so, and its row.

    Raises:
        LedgerError: a field can't be written down, e.g. is not finite.

    """
    try:
        payload = payload_of(entry)
        digest = _chain(previous, payload)
        signature = signer.sign(digest, context=SIGNING_CONTEXT)
        row = (entry.sequence, *entry.charge.key, payload, digest, signature)
        return _from_row(row), row
    except (ValueError, TypeError) as error:
        raise LedgerError(f"ledger: a field of the charge can't be written down ({error}).") from error


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


def _from_row(row: tuple[Any, ...]) -> Entry:
    """Parse a row; raise ``ValueError`` unless columns and payload agree and all fields have their types."""
    sequence, training_id, round_number, step, payload, digest, signature = row
    body = json.loads(payload)
    if not isinstance(body, dict):
        raise ValueError("the payload is not an entry")
    charge: Charge = _parsed(Charge, body.get("charge"))
    epsilons: Epsilons = _parsed(Epsilons, body.get("epsilons"))
    if (body.get("sequence"), *charge.key) != (sequence, training_id, round_number, step):
        raise ValueError("columns and payload differ")
    return Entry(
        sequence=sequence,
        charge=charge,
        created_at=str(body.get("created_at")),
        accountants=str(body.get("accountants")),
        epsilons=epsilons,
        hash=bytes(digest),
        signature=bytes(signature),
    )


def check_rows(
    rows: Iterable[tuple[Any, ...]], *, public: bytes, verify: Verifier
) -> tuple[Verification, list[Entry]]:
    """Check the chain row by row; return the outcome and the entries before the first that fails."""
    previous = genesis(public)
    entries: list[Entry] = []
    for number, row in enumerate(rows, start=1):
        entry, reason = None, ""
        try:
            entry = _from_row(row)
            if entry.sequence != number:
                reason = f"an entry is missing before number {entry.sequence}"
            elif _chain(previous, row[4]) != entry.hash:
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
