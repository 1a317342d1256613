"""A merchant's part of an audit bundle, read for the pages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrec._internal import number_format
from fedrec.protocol.schema import sha256_hex

NO_BOUND = "no bound"

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class LedgerView:
    """A merchant's part of a bundle, with the entries that cost something parsed."""

    name: str
    key: str
    summary: Mapping[str, Any]
    costs: tuple[Entry, ...]
    policies: Mapping[str, Mapping[str, Any]]
    receipts: int

    @classmethod
    def read(cls, merchant: Mapping[str, Any]) -> LedgerView:
        """Parse a merchant of a bundle's body."""
        return cls(
            name=merchant["merchant"],
            key=merchant["public_key"],
            summary=merchant["summary"],
            costs=tuple(
                entry
                for row in merchant["entries"]
                if (entry := json.loads(row["payload"]))["kind"] != "answer"
            ),
            policies={sha256_hex(text.encode()): json.loads(text) for text in merchant["policies"]},
            receipts=len(merchant["receipts"]),
        )

    @property
    def charges(self) -> tuple[Entry, ...]:
        """The entries that are rounds' charges."""
        return tuple(entry for entry in self.costs if entry["kind"] == "charge")

    @property
    def last(self) -> Mapping[str, Any]:
        """What was charged last, a round or a count."""
        found: Mapping[str, Any] = self.costs[-1][self.costs[-1]["kind"]]
        return found

    @property
    def policy_hash(self) -> str:
        """The policy that the last charge was made under."""
        return str(self.last["policy_hash"])

    @property
    def cap(self) -> float | None:
        """The lifetime cap of that policy, if that is here."""
        rules = self.policies.get(self.policy_hash)
        found = None if rules is None else rules["lifetime_epsilon"]
        return None if found is None else float(found)


def shown_epsilon(value: float | None) -> str:
    """Return an epsilon for people, rounded up; None has no bound."""
    return NO_BOUND if value is None else number_format.epsilon(value)


def or_infinite(value: float | None) -> float:
    """Return an epsilon to compare: None, which has no bound, is above all others."""
    return math.inf if value is None else value


def largest(values: Sequence[float | None]) -> float | None:
    """Return the largest epsilon; None, without a bound, is above all others."""
    return max(values, key=or_infinite)
