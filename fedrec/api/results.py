"""Results of a simulation: metrics, rounds, and the trained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from fedrec._internal.pip_command import pip_command
from fedrec.api.trained_model import TrainedModel, load_model
from fedrec.errors import MissingExtraError
from fedrec.protocol.training_report.figures_section import SiteFigures
from fedrec.protocol.training_report.report import TrainingReport
from fedrec.protocol.training_report.round_line import RoundLine

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Round:
    """One finished round.

    Attributes:
        number: the round's number, from 1.
        opened: whether its sum was opened; False for a lost round.
        accuracy: measured on the validation split after the round; None without one.
        f1: the mean of all classes' F1 on that split; None without one.
        epsilon: epsilon of all rounds so far in the server's view; None where privacy is off.
        contributors: number of merchants that contributed.
        dropouts: number of the other merchants of the cohort.
        seconds: duration of the round.
        bytes_up: bytes from merchants to the server.
        bytes_down: bytes from the server to merchants.
        reason: why the round was lost; None for an opened one.
    """

    number: int
    opened: bool
    accuracy: float | None
    f1: float | None
    epsilon: float | None
    contributors: int
    dropouts: int
    seconds: float
    bytes_up: int
    bytes_down: int
    reason: str | None

    @classmethod
    def of(cls, line: RoundLine) -> Round:
        """Convert a round of a report."""
        return cls(
            number=line.round,
            opened=line.opened,
            accuracy=line.accuracy,
            f1=line.f1_macro,
            epsilon=line.epsilon,
            contributors=line.contributors,
            dropouts=line.dropouts,
            seconds=line.seconds,
            bytes_up=line.bytes_up,
            bytes_down=line.bytes_down,
            reason=line.reason,
        )


@dataclass(frozen=True)
class Progress:
    """State of a training, given to a callback after every round, opened or lost.

    Attributes:
        round: the finished round.
        rounds: number of rounds in the training.
        model: the server's current model; it changes with the next round.
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
        report: what ``report.json`` holds; ``to_json()`` gives its JSON values.
        rounds: every round, opened or lost.
        factory: factory of the user's own model, where there was one.
    """

    folder: Path
    report: TrainingReport
    rounds: tuple[Round, ...]
    factory: Callable[[], nn.Module] | None = None

    @property
    def accuracy(self) -> float | None:
        """The share of test records that are classified correctly; None where nothing was measured."""
        return self.report.metrics.accuracy

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """The 95% interval of :attr:`accuracy` that the number of test records allows; None without one."""
        return self.report.metrics.accuracy_interval

    @property
    def f1(self) -> float | None:
        """The mean of all classes' F1; None where nothing was measured."""
        return self.report.metrics.f1_macro

    @property
    def epsilon(self) -> float | None:
        """The privacy budget spent, in the server's view at :attr:`delta`; None without privacy."""
        return self.report.privacy.epsilon

    @property
    def delta(self) -> float | None:
        """The delta of :attr:`epsilon`."""
        return self.report.privacy.delta

    @property
    def site_figures(self) -> SiteFigures | None:
        """The report's section of figures on the merchants' own data; None where none were asked for."""
        return self.report.site_figures

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings that qualify the metrics and the privacy budget."""
        return self.report.warnings

    @property
    def model(self) -> TrainedModel:
        """The trained model, read from the run directory."""
        return load_model(self.folder, model=self.factory)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rounds as a table, one row each; ``MissingExtraError`` where pandas isn't installed."""
        try:
            import pandas
        except ImportError:
            raise MissingExtraError(f"a table of the rounds needs pandas: {pip_command('pandas')}") from None
        return pandas.DataFrame([asdict(line) for line in self.rounds]).set_index("number")

    def __repr__(self) -> str:
        return (
            f"Result(accuracy={_shown(self.accuracy)}, f1={_shown(self.f1)}, epsilon={_shown(self.epsilon)}, "
            f"rounds={len(self.rounds)}, folder={str(self.folder)!r})"
        )


def _shown(value: float | None) -> str:
    return "None" if value is None else f"{value:.4g}"
