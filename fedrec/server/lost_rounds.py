"""When a training stops because too many of its rounds are lost: each of them is charged to its merchants."""

from __future__ import annotations

from dataclasses import dataclass

_FORGIVEN = 0.1
"""What an opened round takes off: one lost round in eleven goes on for ever, more of them don't."""


@dataclass
class Losses:
    """A running count of lost rounds: one more for each, a tenth less for each that is opened.

    A merchant that spoils four rounds of five is counted as one that spoils them all, only later.
    """

    level: float = 0.0

    def opened(self) -> None:
        """Count a round that was opened."""
        self.level = max(0.0, self.level - _FORGIVEN)

    def lost(self) -> None:
        """Count a round that was lost."""
        self.level += 1.0
