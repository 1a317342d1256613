"""Dropouts to inject: who doesn't answer which request of a round."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Phase = Literal["train", "unmask"]


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
        text = f"fedrec/dropout/1:{self.seed}:{round_number}:{merchant}".encode()
        digest = hashlib.sha256(text).digest()
        drawn = int.from_bytes(digest[:8], "little") / 2**64
        when: Phase = "train" if digest[8] & 1 else "unmask"
        return drawn < self.probability and phase == when
