"""The record of a round, as the server keeps it and as the report shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


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


def read_record(values: Mapping[str, Any]) -> RoundRecord:
    """Read a record from JSON values; raise ``TypeError`` or ``KeyError`` for anything else."""
    fields: dict[str, Any] = {**values, "merchants": tuple(values["merchants"])}
    return RoundRecord(**fields)


@dataclass(frozen=True)
class RoundLine:
    """One line of ``rounds``: the server's record, with accuracy, macro F1 and epsilon after the round."""

    record: RoundRecord
    accuracy: float | None
    epsilon: float | None
    f1_macro: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the values of ``rounds[]``."""
        own = {"accuracy": self.accuracy, "f1_macro": self.f1_macro, "epsilon": self.epsilon}
        return asdict(self.record) | own

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundLine:
        """Read what :meth:`to_dict` returned; raise ``TypeError`` or ``KeyError`` for anything else."""
        record = dict(values)
        own = {name: record.pop(name) for name in ("accuracy", "f1_macro", "epsilon")}
        return cls(record=read_record(record), **own)


def any_opened(lines: Iterable[RoundLine]) -> bool:
    """Return whether the sum of any of these rounds was opened: without one there is no trained model."""
    return any(line.record.opened for line in lines)


def last_round(lines: Sequence[RoundLine]) -> int:
    """Return the number of the last finished round; 0 before the first."""
    return lines[-1].record.round if lines else 0
