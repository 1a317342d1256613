"""Define the section of a training's report on site figures: counts and accuracy on merchants' own data."""

from __future__ import annotations

from typing import Literal

from fedrec.protocol.plan import Unit
from fedrec.protocol.schema import Strict
from fedrec.protocol.training_report.values import Amount, Count, Epsilon, Share


class _FiguresRound(Strict):
    """What is known of the round of site figures whether or not its sum was opened.

    Attributes:
        round: its number.
        begun: whether it was begun, and so charged.
        contributors: how many uploads are in its sum.
        unit: the unit that is counted.
        noise_multiplier: noise over sensitivity, in the server's view; None without noise.
        epsilon: of this round by itself; None without a guarantee.
        epsilon_aggregation_broken: likewise, for somebody who sees every upload in clear.
        confidence: of all intervals.
        largest_loss: the loss at which a unit's cross-entropy is cut off.
    """

    round: Count
    begun: bool
    contributors: Count
    unit: Unit
    noise_multiplier: Amount | None
    epsilon: Epsilon | None
    epsilon_aggregation_broken: Epsilon | None
    confidence: Share
    largest_loss: Amount


class MissingFigures(_FiguresRound):
    """A round of site figures that came to nothing, and why."""

    opened: Literal[False]
    reason: str


class FigureLine(Strict):
    """An estimate, neither rounded nor cut off at 0, with its interval; None where there is none."""

    estimate: float | None
    low: float | None
    high: float | None


class ClassCount(Strict):
    """The estimated number of units of a class, its interval, and whether it is told from none."""

    label: str
    count: float
    low: float | None
    high: float | None
    found: bool


class FiguresDeviation(Strict):
    """Standard deviations of the noise: of a class's count, of the correct ones, and of the sum of losses."""

    count: Amount
    correct: Amount
    loss: Amount


class OpenedFigures(_FiguresRound):
    """Site figures, noisy and unbiased.

    Attributes:
        opened: True.
        reason: None.
        deviation: the noise of the sum's parts.
        threshold: the count above which a class is told from one that nobody has.
        detectable: the least number of units that is above it with a probability of 95%.
        classes: the counts, in the plan's order; their intervals hold all together.
        records: the number of all units.
        correct: the number of units that the model is right about.
        loss_sum: the sum of losses.
        accuracy: ``correct`` over ``records``.
        mean_loss: ``loss_sum`` over ``records``.
    """

    opened: Literal[True]
    reason: None
    deviation: FiguresDeviation
    threshold: Amount
    detectable: Count
    classes: tuple[ClassCount, ...]
    records: FigureLine
    correct: FigureLine
    loss_sum: FigureLine
    accuracy: FigureLine
    mean_loss: FigureLine


SiteFigures = OpenedFigures | MissingFigures
