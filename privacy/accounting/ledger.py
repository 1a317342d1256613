"""A merchant's lifetime ledger: one SQLite file, charged before anything leaves, never refunded.

Entries form a chain of SHA-256 hashes that starts at the merchant's public key; each hash is signed.
Triggers forbid changing or deleting rows, but what a reader can trust is the chain: whoever edits the
file by hand without the key is caught by :func:`verify_file`. A file put back whole to an older state is
not, except by whoever kept a later :meth:`Ledger.head`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np

from fedrec.errors import BudgetExceededError, LedgerError
from fedrec.privacy.accounting.accountants import (
    MIN_DELTA,
    ORDERS,
    Event,
    accountant_versions,
    epsilon_from_rdp,
    epsilon_pld,
    rdp_vector,
)

SIGNING_CONTEXT = b"fedrec/ledger/1"
_SCHEMA = """
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY, training_id TEXT NOT NULL, round_number INTEGER NOT NULL,
    step INTEGER NOT NULL, payload TEXT NOT NULL, hash BLOB NOT NULL, signature BLOB NOT NULL,
    UNIQUE (training_id, round_number, step));
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA user_version = 1;
"""
_COLUMNS = "sequence, training_id, round_number, step, payload, hash, signature"
_SELECT = f"SELECT {_COLUMNS} FROM entries ORDER BY sequence"  # noqa: S608 - constants only

View = Literal["server", "aggregation_broken"]


class Signer(Protocol):
    """What signs entries, as ``fedrec.privacy.identity.SigningIdentity`` does."""

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        """Sign ``message`` for ``context``."""


class Verifier(Protocol):
    """What checks a signature, as ``fedrec.privacy.identity.verify`` does."""

    def __call__(self, public: bytes, message: bytes, signature: bytes, *, context: bytes) -> bool:
        """Tell whether ``signature`` is that key's for ``message`` in ``context``."""


@dataclass(frozen=True)
class Charge:
    """What a merchant is about to spend; its key is (training_id, round_number, step).

    ``step`` numbers the charges of one round from 0, ``steps`` says how many noised steps this one
    covers. ``guaranteed_noise_multiplier`` is that of the server's view, ``broken_noise_multiplier``
    that of the merchant's own share alone; 0 means no guarantee. ``scale`` and ``sensitivity`` are in
    grid units, ``delta`` is the training's whole delta.
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
    planned_noise_multiplier: float
    guaranteed_noise_multiplier: float
    broken_noise_multiplier: float
    beta: float
    scale: int
    sensitivity: float
    min_contributors: int
    colluders: int
    delta: float
    step: int = 0
    steps: int = 1

    def event(self, view: View = "server") -> Event:
        """Return what this costs in one of the two views, for the accountants."""
        multiplier = self.guaranteed_noise_multiplier if view == "server" else self.broken_noise_multiplier
        return Event(self.sample_rate, multiplier, self.steps)


@dataclass(frozen=True)
class Entry:
    """A charge as it stands in the ledger.

    ``epsilon_rdp`` is that of everything up to and with this entry, at the lifetime delta if there is
    one, else the charge's; None where a step had no noise or nothing of delta is left.
    """

    sequence: int
    charge: Charge
    created_at: str
    accountants: str
    epsilon_rdp: float | None
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


def _genesis(public: bytes) -> bytes:
    return hashlib.sha256(b"fedrec/ledger/genesis/1" + public).digest()


def _chain(previous: bytes, payload: str) -> bytes:
    return hashlib.sha256(b"fedrec/ledger/entry/1" + previous + payload.encode()).digest()


def _to_payload(entry: Entry) -> str:
    body = {
        "sequence": entry.sequence,
        "created_at": entry.created_at,
        "accountants": entry.accountants,
        "epsilon_rdp": entry.epsilon_rdp,
        "charge": asdict(entry.charge),
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _from_row(row: tuple[Any, ...]) -> Entry:
    """Parse a row; raise ``ValueError`` unless columns and payload agree and all fields have their types."""
    sequence, training_id, round_number, step, payload, digest, signature = row
    body = json.loads(payload)
    if not isinstance(body, dict) or not isinstance(body.get("charge"), dict):
        raise ValueError("the payload is not an entry")
    values = body["charge"]
    if set(values) != {field.name for field in fields(Charge)}:
        raise ValueError("the payload has other fields")
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int)}
    for field in fields(Charge):
        if not isinstance(values[field.name], kinds[str(field.type)]):
            raise ValueError(f"field {field.name} has a wrong type")
    charge = Charge(**values)
    key = (body.get("sequence"), charge.training_id, charge.round_number, charge.step)
    if key != (sequence, training_id, round_number, step):
        raise ValueError("columns and payload differ")
    return Entry(
        sequence=sequence,
        charge=charge,
        created_at=str(body.get("created_at")),
        accountants=str(body.get("accountants")),
        epsilon_rdp=body.get("epsilon_rdp"),
        hash=bytes(digest),
        signature=bytes(signature),
    )


def _check_rows(
    rows: Iterable[tuple[Any, ...]], *, public: bytes, verify: Verifier
) -> tuple[Verification, list[Entry]]:
    previous = _genesis(public)
    entries: list[Entry] = []
    for number, row in enumerate(rows, start=1):
        reason = ""
        try:
            entry = _from_row(row)
            if entry.sequence != number:
                reason = f"an entry is missing before number {entry.sequence}"
            elif _chain(previous, row[4]) != entry.hash:
                reason = "its hash doesn't follow from the entry before it"
            elif not verify(public, entry.hash, entry.signature, context=SIGNING_CONTEXT):
                reason = "its signature is not this merchant's"
        except (ValueError, TypeError, AttributeError) as error:
            reason = f"it cannot be read: {error}"
        if reason:
            return Verification(False, len(entries), number, f"entry {number}: {reason}"), entries
        entries.append(entry)
        previous = entry.hash
    return Verification(True, len(entries), None, "every entry follows and is signed"), entries


def read_entries(path: Path, *, public: bytes, verify: Verifier) -> tuple[Verification, list[Entry]]:
    """Check a ledger file without opening it for writing, and return the entries that hold.

    Needs no lock; for auditors. The entries stop before the first that fails.

    Raises:
        LedgerError: the file is missing or no ledger.

    """
    if not path.is_file():
        raise LedgerError(f"ledger: {path} does not exist.")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            return _check_rows(connection.execute(_SELECT), public=public, verify=verify)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise LedgerError(f"ledger: {path} cannot be read as a ledger ({error}).") from error


def verify_file(path: Path, *, public: bytes, verify: Verifier) -> Verification:
    """Check chain and signatures of a ledger file, as :func:`read_entries`."""
    return read_entries(path, public=public, verify=verify)[0]


class Ledger:
    """The open ledger of one merchant: one writer at a time, across processes.

    Use as a context manager. Safe to use from several threads.

    Args:
        path: the SQLite file, made with mode 0600 if absent; ``path`` + ".lock" is held while open.
        signer: the merchant's identity.
        verify: checks signatures of entries already there.
        epsilon_lifetime: cap on the RDP epsilon of all entries together; needs ``delta_lifetime``.
        delta_lifetime: the delta at which the cap holds; every charge's beta * steps comes out of it.

    Raises:
        LedgerError: another process holds it, it is broken or of another merchant, or can't be written.

    """

    def __init__(
        self,
        path: Path,
        *,
        signer: Signer,
        verify: Verifier,
        epsilon_lifetime: float | None = None,
        delta_lifetime: float | None = None,
    ) -> None:
        if (epsilon_lifetime is None) != (delta_lifetime is None):
            raise LedgerError("ledger: a lifetime cap needs both epsilon and delta.")
        if epsilon_lifetime is not None and not epsilon_lifetime > 0:
            raise LedgerError(f"ledger: the lifetime epsilon {epsilon_lifetime} must be positive.")
        if delta_lifetime is not None and not 0 < delta_lifetime < 1:
            raise LedgerError(f"ledger: the lifetime delta {delta_lifetime} is outside (0, 1).")
        self._path = path
        self._signer = signer
        self._verify = verify
        self._epsilon_lifetime = epsilon_lifetime
        self._delta_lifetime = delta_lifetime
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._lock = self._take_lock()
        try:
            self._connection = self._connect()
            outcome, self._entries = _check_rows(
                self._connection.execute(_SELECT), public=signer.public, verify=verify
            )
            if not outcome.ok:
                raise LedgerError(f"ledger: {path} is broken or of another merchant: {outcome.reason}.")
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise LedgerError(f"ledger: {path} cannot be opened ({error}).") from error
        except BaseException:
            self.close()
            raise
        self._by_key = {_key(entry.charge): entry for entry in self._entries}
        self._rdp = np.zeros(ORDERS.shape)
        self._spent_beta = 0.0
        for entry in self._entries:
            self._count(entry.charge)

    def _take_lock(self) -> int:
        try:
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"ledger: {self._path} cannot be locked ({error}).") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise LedgerError(
                f"ledger: {self._path} is in use by another process; stop that one first."
            ) from error
        return lock

    def _connect(self) -> sqlite3.Connection:
        # Made before SQLite sees it, so that it is never readable by others, not even for an instant.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._path.chmod(0o600)
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = DELETE")
        # EXTRA also syncs the folder once the journal is gone: a commit that returned survives a power cut.
        connection.execute("PRAGMA synchronous = EXTRA")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        return connection

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of the lock; closing twice is harmless."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LedgerError(f"ledger: {self._path} is closed.")
        return self._connection

    def _count(self, charge: Charge) -> None:
        self._rdp = self._rdp + rdp_vector(charge.event())
        self._spent_beta += charge.beta * charge.steps

    def charge(self, charge: Charge) -> Entry:
        """Write a charge and return its entry, once it is on disk.

        Charging the very same thing again returns the entry that is there, with ``already_charged``
        set, and costs nothing.

        Raises:
            BudgetExceededError: the charge would pass the lifetime cap; nothing is written.
            LedgerError: something else stands under this key, a field is out of range, or the disk fails.

        """
        with self._mutex:
            connection = self._open_connection()
            found = self._by_key.get(_key(charge))
            if found is not None:
                if found.charge != charge:
                    raise LedgerError(
                        f"ledger: round {charge.round_number} step {charge.step} of training "
                        f"{charge.training_id[:12]} was charged with other values; it can't be charged again."
                    )
                return replace(found, already_charged=True)
            if charge.steps < 1 or charge.step < 0 or charge.round_number < 0 or not 0 <= charge.beta < 1:
                raise LedgerError("ledger: a charge needs steps >= 1, step and round >= 0, beta in [0, 1).")
            entry = self._sealed(charge, epsilon=self._epsilon_after(charge))
            row = (entry.sequence, *_key(charge), _to_payload(entry), entry.hash, entry.signature)
            try:
                connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.Error as error:
                raise LedgerError(f"ledger: {self._path} cannot be written ({error}).") from error
            self._entries.append(entry)
            self._by_key[_key(charge)] = entry
            self._count(charge)
            return entry

    def _epsilon_after(self, charge: Charge) -> float:
        """Epsilon by RDP with ``charge`` added; raise if that passes the cap."""
        rdp = self._rdp + rdp_vector(charge.event())
        whole = charge.delta if self._delta_lifetime is None else self._delta_lifetime
        delta = whole - self._spent_beta - charge.beta * charge.steps
        epsilon = epsilon_from_rdp(rdp, delta=delta) if delta >= MIN_DELTA else math.inf
        if self._epsilon_lifetime is not None and not epsilon <= self._epsilon_lifetime:
            raise BudgetExceededError(
                f"privacy budget: this step would bring the lifetime epsilon to {epsilon:.4g} at delta "
                f"{whole:.3g}, over the cap of {self._epsilon_lifetime:g}; the merchant stays out."
            )
        return epsilon

    def _sealed(self, charge: Charge, *, epsilon: float) -> Entry:
        """Make the next entry: numbered, dated, chained and signed."""
        entry = Entry(
            sequence=len(self._entries) + 1,
            charge=charge,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            accountants=accountant_versions(),
            epsilon_rdp=epsilon if math.isfinite(epsilon) else None,
            hash=b"",
            signature=b"",
        )
        try:
            payload = _to_payload(entry)
        except (ValueError, TypeError) as error:
            raise LedgerError(f"ledger: a field of the charge can't be written down ({error}).") from error
        digest = _chain(self.head()[1], payload)
        return replace(entry, hash=digest, signature=self._signer.sign(digest, context=SIGNING_CONTEXT))

    def head(self) -> tuple[int, bytes]:
        """Return the number of entries and the hash of the last (of the empty chain, if none)."""
        if not self._entries:
            return 0, _genesis(self._signer.public)
        return len(self._entries), self._entries[-1].hash

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries in order."""
        with self._mutex:
            return tuple(self._entries)

    def epsilon(self, *, delta: float, view: View = "server") -> float:
        """Epsilon by PLD of everything charged, at ``delta`` less what rounding uses; inf if none is left."""
        left = delta - self._spent_beta
        if left < MIN_DELTA:
            return math.inf
        return epsilon_pld([entry.charge.event(view) for entry in self.entries()], delta=left)

    def epsilon_rdp(self, *, delta: float) -> float:
        """Epsilon by integer-order RDP of everything charged, server's view: what the cap is held against."""
        left = delta - self._spent_beta
        return epsilon_from_rdp(self._rdp, delta=left) if left >= MIN_DELTA else math.inf

    def verify(self) -> Verification:
        """Check chain and signatures afresh from the disk, naming the first entry that fails.

        Raises:
            LedgerError: the ledger is closed or can't be read.

        """
        with self._mutex:
            try:
                rows = self._open_connection().execute(_SELECT).fetchall()
            except sqlite3.Error as error:
                raise LedgerError(f"ledger: {self._path} cannot be read ({error}).") from error
            outcome, _ = _check_rows(rows, public=self._signer.public, verify=self._verify)
            if outcome.ok and outcome.entries != len(self._entries):
                reason = f"{len(self._entries)} entries were written but {outcome.entries} are there"
                return Verification(False, outcome.entries, outcome.entries + 1, reason)
            return outcome


def _key(charge: Charge) -> tuple[str, int, int]:
    return charge.training_id, charge.round_number, charge.step
