"""Define what a merchant tells the server when it refuses: a code from a fixed list and a detail.

A refusal depends only on the plan, the merchant's policy, ledger and keys, and the request. What depends on
its photos is shown only to the merchant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fedrec.errors import (
    AggregationError,
    BudgetExceededError,
    FedrecError,
    ProtocolError,
    RefusalCode,
    RefusedError,
)
from fedrec.protocol.schema import MAX_REASON, Reason, Strict

CATALOGUE: Final[Mapping[RefusalCode, str]] = {
    "policy": "a rule of the merchant's policy doesn't allow it",
    "plan": "the plan can't be carried out as it is",
    "budget": "policy 'lifetime_epsilon': the merchant's lifetime budget would be passed",
    "paused": "the merchant takes part in no new round for now",
    "training": "the training was never joined here, or is over",
    "request": "the request doesn't fit the training or its round, or another one was answered before",
    "message": "the message is malformed, or not what its training asks for",
    "failed": "the merchant can't answer; its own log says why",
}
"""The meaning of each code."""


class Refusal(Strict):
    """A refusal: its code, and a detail such as the rule that the plan violates."""

    code: RefusalCode
    detail: Reason = ""

    def __str__(self) -> str:
        return self.detail or CATALOGUE[self.code]


def refusal_of(error: FedrecError) -> Refusal:
    """Convert an error to a refusal that reveals neither the budget's state nor anything about photos."""
    if isinstance(error, BudgetExceededError):
        return Refusal(code="budget")
    if isinstance(error, RefusedError):
        return Refusal(code=error.code, detail=str(error)[:MAX_REASON])
    if isinstance(error, ProtocolError | AggregationError):
        return Refusal(code="message", detail=str(error)[:MAX_REASON])
    return Refusal(code="failed")
