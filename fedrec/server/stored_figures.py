"""Define what the server stores of the round of site figures."""

from __future__ import annotations

from fedrec.protocol.schema import Strict
from fedrec.protocol.training_report.round_line import RoundRecord


class StoredFigures(Strict):
    """The round of site figures, which is run once at most.

    Attributes:
        record: what is known of the round; None before its end.
        values: the opened sum, counts by class, correct ones and losses in grid units; None if it wasn't
            opened.
    """

    record: RoundRecord | None = None
    values: tuple[int, ...] | None = None
