"""What a simulation gives back: figures, rounds, and the trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fedrec.api.trained_model import TrainedModel, load_model
from fedrec.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas

    from fedrec.server.round_records import RoundLine


@dataclass(frozen=True)
class Round:
    """One finished round; ``reason`` says why one was lost, and is None for one that was opened.

    ``accuracy`` was measured on the validation split, None where there is none; ``epsilon`` is that of all
    rounds so far in the server's view, None where privacy is off.
    """

    number: int
    opened: bool
    accuracy: float | None
    epsilon: float | None
    contributors: int
    dropouts: int
    seconds: float
    bytes_up: int
    bytes_down: int
    reason: str | None

    @classmethod
    def of(cls, line: RoundLine) -> Round:
        """Return what a line of ``rounds.jsonl`` says."""
        record = line.record
        return cls(
            number=record.round,
            opened=record.opened,
            accuracy=line.accuracy,
            epsilon=line.epsilon,
            contributors=record.contributors,
            dropouts=record.dropouts,
            seconds=record.seconds,
            bytes_up=record.bytes_up,
            bytes_down=record.bytes_down,
            reason=record.reason,
        )


@dataclass(frozen=True)
class Progress:
    """What a callback is given after every round, opened or lost.

    Attributes:
        round: the round.
        rounds: how many the training has.
        model: the server's model as it is now; it changes with the next round.
        stop: ends the training after this round.

    """

    round: Round
    rounds: int
    model: TrainedModel
    stop: Callable[[], None]


Callback = Callable[[Progress], object]


@dataclass(frozen=True)
class Result:
    """A finished simulation.

    Attributes:
        folder: the run directory, with report, model, rounds and every merchant's ledger.
        report: everything, as ``report.json`` has it.
        rounds: every round, opened or lost.
        factory: the user's own model, where there was one.

    """

    folder: Path
    report: Mapping[str, Any]
    rounds: tuple[Round, ...]
    factory: Callable[[], nn.Module] | None = None

    @property
    def accuracy(self) -> float | None:
        """The share of test records that are told right, None where nothing was measured."""
        return _number(self.report["metrics"]["accuracy"])

    @property
    def f1(self) -> float | None:
        """The mean of all classes' F1, None where nothing was measured."""
        return _number(self.report["metrics"]["f1_macro"])

    @property
    def epsilon(self) -> float | None:
        """The privacy budget that was spent, in the server's view at :attr:`delta`; None without privacy."""
        return _number(self.report["privacy"]["epsilon"])

    @property
    def delta(self) -> float | None:
        """The delta of :attr:`epsilon`."""
        return _number(self.report["privacy"]["delta"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before the figures."""
        return tuple(self.report["warnings"])

    @property
    def model(self) -> TrainedModel:
        """The trained model, read from the run directory."""
        return load_model(self.folder, model=self.factory)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rounds as a table, one row each; ``MissingExtraError`` where pandas isn't installed."""
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("a table of the rounds needs pandas: pip install pandas") from None
        return pandas.DataFrame([asdict(line) for line in self.rounds]).set_index("number")

    def __repr__(self) -> str:
        return (
            f"Result(accuracy={_shown(self.accuracy)}, f1={_shown(self.f1)}, epsilon={_shown(self.epsilon)}, "
            f"rounds={len(self.rounds)}, folder={str(self.folder)!r})"
        )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _shown(value: float | None) -> str:
    return "None" if value is None else f"{value:.4g}"
