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
from fedrec.privacy.accounting.ledger_entries import finite
from fedrec.privacy.accounting.privacy_spend import PrivacySpend
from fedrec.protocol.schema import sha256_hex

NO_BOUND = "no bound"

Entry = Mapping[str, Any]


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
    charges: tuple[Entry, ...]
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
        summary: its figures, from :func:`fedrec.privacy.audit.bundle.summarise`.
        costs: parsed entries that cost something: charges and counts.
        policies: parsed policies by hash.
        receipts: number of servers' receipts.
    """

    name: str
    key: str
    summary: Mapping[str, Any]
    costs: tuple[Entry, ...]
    policies: Mapping[str, Mapping[str, Any]]
    receipts: int

    @classmethod
    def read(cls, merchant: Mapping[str, Any]) -> BundledLedger:
        """Parse a merchant of a bundle's body."""
        return cls(
            name=merchant["merchant"],
            key=merchant["public_key"],
            summary=merchant["summary"],
            costs=tuple(
                entry
                for row in merchant["entries"]
                if (entry := json.loads(row["payload"]))["kind"] in ("charge", "count")
            ),
            policies={sha256_hex(text.encode()): json.loads(text) for text in merchant["policies"]},
            receipts=len(merchant["receipts"]),
        )

    @property
    def charges(self) -> tuple[Entry, ...]:
        """The entries that charge a round."""
        return tuple(entry for entry in self.costs if entry["kind"] == "charge")

    @cached_property
    def trainings(self) -> tuple[BundledTraining, ...]:
        """What was charged, by training."""
        found: dict[str, list[Entry]] = {}
        for entry in self.charges:
            found.setdefault(entry["charge"]["training_id"], []).append(entry)
        return tuple(_training(key, mine, self.counts) for key, mine in found.items())

    @property
    def counts(self) -> tuple[Entry, ...]:
        """The entries of noised counts that were declared."""
        return tuple(entry for entry in self.costs if entry["kind"] == "count")

    @property
    def worst(self) -> BundledTraining | None:
        """The training that cost most; None where no round was charged."""
        return max(self.trainings, key=lambda training: or_infinite(training.epsilon), default=None)

    @property
    def training_epsilon(self) -> float | None:
        """What the training cost that cost most; 0 where no round was charged, None without a bound."""
        return 0.0 if self.worst is None else self.worst.epsilon

    @property
    def last(self) -> Mapping[str, Any]:
        """The last charge, of a round or of a count."""
        found: Mapping[str, Any] = self.costs[-1][self.costs[-1]["kind"]]
        return found

    @property
    def policy_hash(self) -> str:
        """The hash of the policy that the last charge was made under."""
        return str(self.last["policy_hash"])

    @property
    def cap(self) -> float | None:
        """The lifetime cap of that policy; None without a cap, or if the bundle lacks the policy."""
        rules = self.policies.get(self.policy_hash)
        found = None if rules is None else rules["lifetime_epsilon"]
        return None if found is None else float(found)


def _training(training_id: str, charges: Sequence[Entry], counts: Sequence[Entry]) -> BundledTraining:
    parts = [
        [entry["charge"] for entry in charges if is_of_figures(entry) == figures] for figures in (False, True)
    ]
    main, *figures = [_spend(part) for part in parts if part]
    spend = main.with_figures(figures[0] if figures else None).with_releases(
        *(count_event(entry["count"]["sigma"]) for entry in counts)
    )
    unbounded = charges[-1]["epsilons"]["own_epsilon"] is None
    return BundledTraining(training_id, tuple(charges), spend, None if unbounded else finite(spend.epsilon()))


def is_of_figures(entry: Entry) -> bool:
    """Return whether a charge's entry is of site figures, whose round follows the training's last one."""
    return bool(entry["charge"]["round_number"] == entry["charge"]["rounds"] + 1)


def _spend(charges: Sequence[Mapping[str, Any]]) -> PrivacySpend:
    """Return what charges that are all alike spend together."""
    first = charges[0]
    return PrivacySpend(
        sample_rate=first["sample_rate"],
        multiplier=first["guaranteed_noise_multiplier"],
        broken_multiplier=first["broken_noise_multiplier"],
        steps=sum(charge["steps"] for charge in charges),
        beta=first["beta"],
        delta=first["delta"],
    )


def shown_epsilon(value: float | None) -> str:
    """Format an epsilon for people, rounded up; None means that there is no bound."""
    return NO_BOUND if value is None else number_format.epsilon(value)


def or_infinite(value: float | None) -> float:
    """Return an epsilon for comparison: infinity for None, which has no bound."""
    return math.inf if value is None else value


def largest(values: Sequence[float | None]) -> float | None:
    """Return the largest epsilon; None, without a bound, is above all others."""
    return max(values, key=or_infinite)
