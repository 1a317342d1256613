"""Define what a report of a training is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.server.stored_figures import StoredFigures
from fedrec.vision.metrics import Metrics


@dataclass(frozen=True)
class RunFacts:
    """How a training was run, and what was measured of it.

    Attributes:
        id: the run's id.
        engine: what ran the merchants.
        seconds: how long it took.
        peak_memory_bytes: the largest memory use.
        interrupted: whether it was interrupted.
        rounds_reserved: how many rounds may have been charged, one that was under way at an interruption
            included.
        seeded: whether any merchant's noise came from a seed, as far as it is known.
        workers: number of worker processes.
        dataset: name of the data.
        partition: how it was divided among merchants.
        seed: the run's seed, if any.
        seconds_train: CPU seconds of training, all merchants together.
        seconds_encrypt: CPU seconds of encryption, all merchants together.
    """

    id: str
    engine: str
    seconds: float
    peak_memory_bytes: int
    interrupted: bool
    rounds_reserved: int
    seeded: bool
    workers: int | None = None
    dataset: str | None = None
    partition: str | None = None
    seed: int | None = None
    seconds_train: float | None = None
    seconds_encrypt: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of a finished or interrupted training.

    Attributes:
        plan: the training's plan.
        derived: the parameters derived from the plan.
        lines: the records of the finished rounds.
        metrics: metrics of the final model, None if it wasn't evaluated.
        split: name of the data that ``metrics`` were computed on.
        refusals: reasons by which merchant refused what.
        stopped_early: whether results ended the training; then only the whole plan's epsilon holds.
        figures: what is stored of the round of site figures, None if it was not begun.
    """

    plan: TrainingPlan
    derived: Derived
    lines: Sequence[RoundLine]
    metrics: Metrics | None
    split: str | None
    refusals: Mapping[str, str]
    stopped_early: bool = False
    figures: StoredFigures | None = None
