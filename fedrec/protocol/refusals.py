"""Define what a merchant tells the server when it refuses: a code from a fixed list and a detail.

A refusal depends only on the plan, the merchant's policy, ledger and keys, and the request. What depends on
its photos is shown only to the merchant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fedrec.errors import (
    AggregationError,
    FedrecError,
    ProtocolError,
    RefusalCode,
    RefusedError,
)
from fedrec.protocol.schema import MAX_REASON, Reason, Strict

CATALOGUE: Final[Mapping[RefusalCode, str]] = {
    "policy": "a rule of the merchant's policy doesn't allow it",
    "plan": "the plan can't be carried out as it is",
    "model": "the plan's model isn't on the merchant's machine; its own log says what to do",
    "budget": "policy 'lifetime_epsilon': the merchant's lifetime budget would be passed",
    "paused": "the merchant takes part in no new round for now",
    "training": "the training was never joined here, or is over",
    "request": "the request doesn't fit the training or its round, or another one was answered before",
    "message": "the message is malformed, or not what its training asks for",
    "failed": "the merchant can't answer; its own log says why",
}
"""The meaning of each code."""
_WITHOUT_DETAIL: Final[tuple[RefusalCode, ...]] = ("budget", "model")
"""Codes that say all that the server is told: the rest tells of the ledger's state, or of the machine."""


class Refusal(Strict):
    """A refusal: its code, and a detail such as the rule that the plan violates."""

    code: RefusalCode
    detail: Reason = ""

    def __str__(self) -> str:
        return self.detail or CATALOGUE[self.code]


def refusal_of(error: FedrecError) -> Refusal:
    """Convert an error to a refusal that reveals nothing about the budget's state, the machine or photos."""
    if isinstance(error, RefusedError):
        if error.code in _WITHOUT_DETAIL:
            return Refusal(code=error.code)
        return Refusal(code=error.code, detail=str(error)[:MAX_REASON])
    if isinstance(error, ProtocolError | AggregationError):
        return Refusal(code="message", detail=str(error)[:MAX_REASON])
    return Refusal(code="failed")
