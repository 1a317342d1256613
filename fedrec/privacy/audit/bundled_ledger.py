"""A merchant's part of an audit bundle, parsed for the pages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedrec._internal import number_format
from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.entry_contents import Charge, Count
from fedrec.privacy.accounting.entry_encoding import read_entry
from fedrec.privacy.accounting.ledger_entries import (
    ChargeEntry,
    CountEntry,
    SpendingEntry,
    charges,
    finite,
    spending,
)
from fedrec.privacy.accounting.privacy_spend import PrivacySpend
from fedrec.privacy.audit.ledger_summary import LedgerSummary
from fedrec.protocol.schema import sha256_hex

NO_BOUND = "no bound"


@dataclass(frozen=True)
class BundledTraining:
    """What a merchant was charged for one training.

    Attributes:
        training_id: the hash of its plan.
        charges: its entries, in order.
        spend: all its steps, and the counts that the merchant declared.
        epsilon: of that, proved, as the training's own report has it; None has no bound.
    """

    training_id: str
    charges: tuple[ChargeEntry, ...]
    spend: PrivacySpend
    epsilon: float | None

    @property
    def delta(self) -> float:
        """The training's own delta, all of it."""
        return self.spend.delta


@dataclass(frozen=True)
class BundledLedger:
    """A merchant's part of a bundle.

    Attributes:
        name: the merchant.
        key: its public signing key, hexadecimal.
        summary: its figures, from its entries.
        costs: parsed entries that cost something: charges and counts.
        policies: parsed policies by hash.
        receipts: number of servers' receipts.
    """

    name: str
    key: str
    summary: LedgerSummary
    costs: tuple[SpendingEntry, ...]
    policies: Mapping[str, Mapping[str, Any]]
    receipts: int

    @classmethod
    def read(cls, merchant: Mapping[str, Any]) -> BundledLedger:
        """Parse a merchant of a bundle's body; raise ``ValueError`` where its form is wrong."""
        entries = [
            read_entry(
                row["payload"],
                digest=bytes.fromhex(row["hash"]),
                signature=bytes.fromhex(row["signature"]),
            )
            for row in merchant["entries"]
        ]
        return cls(
            name=merchant["merchant"],
            key=merchant["public_key"],
            summary=LedgerSummary.model_validate(merchant["summary"]),
            costs=tuple(spending(entries)),
            policies={sha256_hex(text.encode()): json.loads(text) for text in merchant["policies"]},
            receipts=len(merchant["receipts"]),
        )

    @property
    def charges(self) -> tuple[ChargeEntry, ...]:
        """The entries that charge a round."""
        return tuple(charges(self.costs))

    @cached_property
    def trainings(self) -> tuple[BundledTraining, ...]:
        """What was charged, by training."""
        found: dict[str, list[ChargeEntry]] = {}
        for entry in self.charges:
            found.setdefault(entry.charge.training_id, []).append(entry)
        return tuple(_training(key, mine, self.counts) for key, mine in found.items())

    @property
    def counts(self) -> tuple[CountEntry, ...]:
        """The entries of noised counts that were declared."""
        return tuple(entry for entry in self.costs if isinstance(entry, CountEntry))

    @property
    def worst(self) -> BundledTraining | None:
        """The training that cost most; None where no round was charged."""
        return max(self.trainings, key=lambda training: or_infinite(training.epsilon), default=None)

    @property
    def training_epsilon(self) -> float | None:
        """What the training cost that cost most; 0 where no round was charged, None without a bound."""
        return 0.0 if self.worst is None else self.worst.epsilon

    @property
    def last(self) -> Charge | Count:
        """What was spent last, on a round or on a count."""
        return self.costs[-1].cost

    @property
    def policy_hash(self) -> str:
        """The hash of the policy that the last charge was made under."""
        return self.last.policy_hash

    @property
    def cap(self) -> float | None:
        """The lifetime cap of that policy; None without a cap, or if the bundle lacks the policy."""
        rules = self.policies.get(self.policy_hash)
        found = None if rules is None else rules["lifetime_epsilon"]
        return None if found is None else float(found)


def _training(
    training_id: str, entries: Sequence[ChargeEntry], counts: Sequence[CountEntry]
) -> BundledTraining:
    parts = [
        [entry.charge for entry in entries if entry.charge.is_of_figures == figures]
        for figures in (False, True)
    ]
    main, *figures = [_spend(part) for part in parts if part]
    spend = main.with_figures(figures[0] if figures else None).with_releases(
        *(count_event(entry.count.sigma) for entry in counts)
    )
    unbounded = entries[-1].epsilons.own_epsilon is None
    return BundledTraining(training_id, tuple(entries), spend, None if unbounded else finite(spend.epsilon()))


def _spend(alike: Sequence[Charge]) -> PrivacySpend:
    """Return what charges that are all alike spend together."""
    return alike[0].spend.with_steps(sum(charge.steps for charge in alike))


def shown_epsilon(value: float | None) -> str:
    """Format an epsilon for people, rounded up; None means that there is no bound."""
    return NO_BOUND if value is None else number_format.epsilon(value)


def or_infinite(value: float | None) -> float:
    """Return an epsilon for comparison: infinity for None, which has no bound."""
    return math.inf if value is None else value


def largest(values: Sequence[float | None]) -> float | None:
    """Return the largest epsilon; None, without a bound, is above all others."""
    return max(values, key=or_infinite)
