"""The record of a round, as the server keeps it and as the report shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from fedrec.protocol.training_report.round_line import ReportedRound


def place_in_round(round_number: int, merchant: str) -> str:
    """Return the key under which a note about a merchant in a round is kept.

    Args:
        round_number: the round.
        merchant: the merchant's name.

    Returns:
        The key, in words.
    """
    return f"round {round_number}, {merchant}"


@dataclass(frozen=True)
class RoundRecord:
    """What the server knows of a finished round.

    Attributes:
        round: its number.
        opened: whether its sum was opened.
        contributors: how many uploads are in its sum.
        dropouts: how many merchants of the cohort contributed nothing.
        seconds: how long it took.
        seconds_train: how long the collection of uploads took.
        seconds_unmask: how long the opening took.
        bytes_up: bytes from merchants.
        bytes_down: bytes to merchants.
        upload_bytes: bytes of the largest upload.
        reason: why it was lost.
        merchants: names of the contributors, in the roster's order.
        noise_kept: deviation of the honest contributors' noise in the opened sum, divided by the one that is
            guaranteed; None of a lost round, and where the noise isn't shared out.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    round: int
    opened: bool
    contributors: int
    dropouts: int
    seconds: float
    seconds_train: float
    seconds_unmask: float
    bytes_up: int
    bytes_down: int
    upload_bytes: int
    reason: str | None = None
    merchants: tuple[str, ...] = ()
    noise_kept: float | None = None


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


_RECORDS = TypeAdapter(RoundRecord)
_AFTER_A_ROUND = ("accuracy", "f1_macro", "epsilon")
"""What a line has beside the fields of the record."""


def record_json(record: RoundRecord) -> bytes:
    """Return a record as JSON."""
    return _RECORDS.dump_json(record)


def read_record(raw: bytes) -> RoundRecord:
    """Read what :func:`record_json` returned; raise ``ValueError`` for anything else."""
    return _RECORDS.validate_json(raw)


@dataclass(frozen=True)
class RoundLine:
    """One line of ``rounds``: the server's record, with accuracy, macro F1 and epsilon after the round."""

    record: RoundRecord
    accuracy: float | None
    epsilon: float | None
    f1_macro: float | None = None

    def reported(self) -> ReportedRound:
        """Return the line as the report and ``rounds.jsonl`` have it."""
        after = {name: getattr(self, name) for name in _AFTER_A_ROUND}
        return ReportedRound.model_validate({**vars(self.record), **after})

    @classmethod
    def of(cls, line: ReportedRound) -> RoundLine:
        """Return what :meth:`reported` was made from."""
        record = RoundRecord(**line.model_dump(exclude=set(_AFTER_A_ROUND)))
        return cls(record=record, accuracy=line.accuracy, epsilon=line.epsilon, f1_macro=line.f1_macro)


def any_opened(lines: Iterable[RoundLine]) -> bool:
    """Return whether the sum of any of these rounds was opened: without one there is no trained model."""
    return any(line.record.opened for line in lines)


def last_round(lines: Sequence[RoundLine]) -> int:
    """Return the number of the last finished round; 0 before the first."""
    return lines[-1].record.round if lines else 0
