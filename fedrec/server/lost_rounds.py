"""Count lost rounds, to stop a training that loses too many: merchants are charged for each of them."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import NonNegativeFloat

_FORGIVEN = 0.1
"""What an opened round subtracts: a training that loses one round in eleven can go on for ever."""


@dataclass
class Losses:
    """A running count of lost rounds: plus one for each lost round, less a tenth for each opened one.

    A merchant that spoils four rounds of five reaches the limit as one that spoils all of them, only later.
    """

    level: NonNegativeFloat = 0.0

    def opened(self) -> None:
        """Count a round that was opened."""
        self.level = max(0.0, self.level - _FORGIVEN)

    def lost(self) -> None:
        """Count a round that was lost."""
        self.level += 1.0
