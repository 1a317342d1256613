"""Faults to inject: who doesn't answer a request of a round, who crashes at which point, and who lies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Phase = Literal["train", "unmask"]
CrashPoint = Literal["charged", "stored", "sent"]
Lie = Literal["key", "share"]
_POINTS: tuple[CrashPoint, ...] = ("charged", "stored", "sent")


@dataclass(frozen=True)
class Dropouts:
    """Each merchant drops out of each round with ``probability``: before its upload, or after it.

    Which of the two is a fair coin. Decisions are a hash of (seed, round, merchant), so that they
    don't depend on the order of events.
    """

    probability: float
    seed: int

    def drops(self, *, merchant: int, round_number: int, phase: Phase) -> bool:
        """Tell whether this merchant fails to answer this request."""
        drawn, digest = _draw(f"fedrec/dropout/1:{self.seed}:{round_number}:{merchant}")
        when: Phase = "train" if digest[8] & 1 else "unmask"
        return drawn < self.probability and phase == when


@dataclass(frozen=True)
class Crashes:
    """Each merchant crashes in its step of each round with ``probability``, at one of three points.

    All three are as likely: its ledger is charged and nothing else done; its upload is stored and not
    sent; its upload is sent. Decisions are a hash of (seed, round, merchant).
    """

    probability: float
    seed: int

    def point(self, *, merchant: int, round_number: int) -> CrashPoint | None:
        """Return where this merchant crashes in this round, None where it doesn't."""
        drawn, digest = _draw(f"fedrec/crash/1:{self.seed}:{round_number}:{merchant}")
        return _POINTS[digest[8] % len(_POINTS)] if drawn < self.probability else None


@dataclass(frozen=True)
class Saboteur:
    """One merchant spoils every sum that it can, but for every ``honest_each``th round (none with 0).

    With ``lie`` "key" it uploads under another key than it deals, which no member can see; with "share" it
    answers as a member of the committee with a wrong share.
    """

    merchant: int
    lie: Lie
    honest_each: int = 0

    def lies(self, lie: Lie, *, merchant: int, round_number: int) -> bool:
        """Tell whether this merchant lies so in this round."""
        honest = self.honest_each > 0 and round_number % self.honest_each == 0
        return (merchant, lie) == (self.merchant, self.lie) and not honest


class InjectedCrashError(RuntimeError):
    """A merchant crashed because it was asked to; its process answers nothing more in this round."""


def _draw(text: str) -> tuple[float, bytes]:
    """Hash a decision's name to a number in [0, 1), and the digest that further choices come from."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64, digest
