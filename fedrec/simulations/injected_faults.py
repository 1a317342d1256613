"""Inject faults: merchants that drop out of a round, crash at a given point, or cheat."""

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
    """Each merchant drops out of each round with ``probability``, before or after its upload by a fair coin.

    Decisions are a hash of (seed, round, merchant), so that they don't depend on the order of events. Only
    the first ``cohort`` parties are merchants; None for all. Witnesses don't drop out.
    """

    probability: float
    seed: int
    cohort: int | None = None

    def drops(self, *, merchant: int, round_number: int, phase: Phase) -> bool:
        """Decide whether a merchant leaves a request unanswered.

        Args:
            merchant: its index.
            round_number: the round.
            phase: the phase of the request.

        Returns:
            Whether it drops out.
        """
        if self.cohort is not None and merchant >= self.cohort:
            return False
        drawn, digest = _draw(f"fedrec/dropout/1:{self.seed}:{round_number}:{merchant}")
        when: Phase = "train" if digest[8] & 1 else "unmask"
        return drawn < self.probability and phase == when


@dataclass(frozen=True)
class Crashes:
    """Each merchant crashes in each round with ``probability``, at one of three equally likely points.

    The points: its ledger is charged and nothing else is done; its upload is stored and not sent; its upload
    is sent. Decisions are a hash of (seed, round, merchant).
    """

    probability: float
    seed: int

    def point(self, *, merchant: int, round_number: int) -> CrashPoint | None:
        """Decide where a merchant crashes.

        Args:
            merchant: its index.
            round_number: the round.

        Returns:
            The point, or None if it doesn't crash.
        """
        drawn, digest = _draw(f"fedrec/crash/1:{self.seed}:{round_number}:{merchant}")
        return _POINTS[digest[8] % len(_POINTS)] if drawn < self.probability else None


@dataclass(frozen=True)
class Saboteur:
    """One merchant that spoils every sum, except every ``honest_each``th round (0 for no exception).

    With ``lie`` "key" it encrypts under another key than the one it deals, which no member can detect; with
    "share" it answers with a wrong share as a committee member.
    """

    merchant: int
    lie: Lie
    honest_each: int = 0

    def lies(self, lie: Lie, *, merchant: int, round_number: int) -> bool:
        """Decide whether a merchant cheats in a given way.

        Args:
            lie: the way.
            merchant: its index.
            round_number: the round.

        Returns:
            Whether it does.
        """
        honest = self.honest_each > 0 and round_number % self.honest_each == 0
        return (merchant, lie) == (self.merchant, self.lie) and not honest


class InjectedCrashError(RuntimeError):
    """A merchant crashed by injection; its process answers nothing more in this round."""


def _draw(text: str) -> tuple[float, bytes]:
    """Hash the name of a decision to a number in [0, 1); also return the digest, for further choices."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64, digest
