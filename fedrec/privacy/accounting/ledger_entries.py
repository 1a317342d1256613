"""Define the entries of a ledger, and queries about a list of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from fedrec.privacy.accounting.entry_contents import Answer, Charge, Count
from fedrec.privacy.accounting.key_rotation import KeyRotation


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


def finite(epsilon: float) -> float | None:
    """Return ``epsilon``, or None if it is infinite, which JSON can't represent."""
    return epsilon if math.isfinite(epsilon) else None
