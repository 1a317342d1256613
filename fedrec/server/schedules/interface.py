"""The specification of a schedule of the learning rate, and the warm-up that the built-in ones share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from fedrec.server.optimizers.interface import Setting, Vector

Factors = Callable[[int, Mapping[str, float]], Vector]
Curve = Callable[[int, Mapping[str, float]], Vector]

WARMUP: Final[Mapping[str, Setting]] = {"warmup": Setting(0.0, 0.0, 1e6)}
"""Steps at the start in which the learning rate rises to its full size; a fraction is rounded down."""
FLOOR: Final[Mapping[str, Setting]] = {"floor": Setting(0.0, 0.0, 1.0)}
"""The factor that a falling learning rate approaches."""


@dataclass(frozen=True)
class ScheduleSpec:
    """The specification of one schedule.

    Attributes:
        name: the name in options, plans and reports.
        settings: what can be set, by name.
        factors: returns what the learning rate of each step is multiplied by, from the number of steps T and
            the values of all settings: float64, shape (T,), none below 0.
    """

    name: str
    settings: Mapping[str, Setting]
    factors: Factors


def after_warmup(curve: Curve) -> Factors:
    """Let a schedule begin after a linear warm-up.

    With w steps of warm-up, step t < w (from 0) has the factor (t + 1) / (w + 1): no round is spent on a step
    of length 0.

    Args:
        curve: returns the factors of the steps after the warm-up, from their number and all settings.

    Returns:
        The factors of all steps.
    """

    def factors(steps: int, settings: Mapping[str, float]) -> Vector:
        warmup = min(int(settings["warmup"]), steps)
        rising = np.arange(1, warmup + 1) / (int(settings["warmup"]) + 1)
        return np.concatenate([rising, curve(steps - warmup, settings)])

    return factors
