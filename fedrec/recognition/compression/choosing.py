"""Decide which compressed graphs are worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedrec.recognition.bundle.manifest import CompressionRow

LEAST_AGREEMENT: Final = 0.97
_SAME_TIME: Final = 0.05
"""Times that differ by less are the same: they were measured."""
_LEAST_GAIN: Final = 0.1
"""What a graph has to save of the original's size or time, as a part: less isn't worth another answer."""


def dominates(one: CompressionRow, other: CompressionRow) -> bool:
    """Test whether a graph is in nothing worse than another, and better in something.

    Args:
        one: the first graph's row.
        other: the second graph's row.

    Returns:
        Whether the first dominates.
    """
    no_worse = (
        one.bytes <= other.bytes
        and one.milliseconds <= other.milliseconds * (1 + _SAME_TIME)
        and one.agreement >= other.agreement
        and (one.accuracy or 0.0) >= (other.accuracy or 0.0)
    )
    better = (
        one.bytes < other.bytes
        or one.milliseconds < other.milliseconds * (1 - _SAME_TIME)
        or one.agreement > other.agreement
        or (one.accuracy or 0.0) > (other.accuracy or 0.0)
    )
    return no_worse and better


def _saves(row: CompressionRow, original: CompressionRow) -> bool:
    kept = 1 - _LEAST_GAIN
    return row.bytes <= kept * original.bytes or row.milliseconds <= kept * original.milliseconds


def judged(rows: Sequence[CompressionRow]) -> tuple[CompressionRow, ...]:
    """Say of each candidate whether it is kept.

    Args:
        rows: the original first, then the candidates.

    Returns:
        The rows with verdicts.
    """
    found = [rows[0].model_copy(update={"verdict": "original"})]
    sound = [row for row in rows[1:] if row.agreement >= LEAST_AGREEMENT]
    for row in rows[1:]:
        if row not in sound:
            verdict = f"refused: agrees in less than {LEAST_AGREEMENT:.0%}"
        elif not _saves(row, rows[0]):
            verdict = f"refused: saves less than {_LEAST_GAIN:.0%} of size and of time"
        elif any(dominates(other, row) for other in (rows[0], *sound) if other is not row):
            verdict = "not on the front: another is in nothing worse"
        else:
            verdict = "kept"
        found.append(row.model_copy(update={"verdict": verdict}))
    return tuple(found)


def best(rows: Sequence[CompressionRow]) -> CompressionRow | None:
    """Return the fastest of the kept graphs, None if none is."""
    kept = [row for row in rows if row.verdict == "kept"]
    return min(kept, key=lambda row: (row.milliseconds, row.bytes), default=None)
