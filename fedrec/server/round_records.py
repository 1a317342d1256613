"""Answer questions about the rounds of a training, and name a place in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedrec.protocol.training_report.round_line import RoundLine


def place_in_round(round_number: int, merchant: str) -> str:
    """Return the key under which a note about a merchant in a round is kept.

    Args:
        round_number: the round.
        merchant: the merchant's name.

    Returns:
        The key, in words.
    """
    return f"round {round_number}, {merchant}"


def lost_rounds(finished: Iterable[tuple[int, bool]]) -> int:
    """Count the rounds up to the last finished one that came to nothing.

    Those are the ones whose sums weren't opened, and those that have no record, since the server ended while
    they were under way: merchants are charged for both.

    Args:
        finished: the number of each finished round, and whether its sum was opened.

    Returns:
        The number.
    """
    opened = dict(finished)
    return max(opened, default=0) - sum(opened.values())


def any_opened(lines: Iterable[RoundLine]) -> bool:
    """Return whether the sum of any of these rounds was opened: without one there is no trained model."""
    return any(line.opened for line in lines)


def last_round(lines: Sequence[RoundLine]) -> int:
    """Return the number of the last finished round; 0 before the first."""
    return lines[-1].round if lines else 0
