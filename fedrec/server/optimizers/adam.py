"""Adam (Kingma and Ba 2015), with bias-corrected moments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.server.optimizers.interface import DECAY, OptimizerSpec, Setting, State, Vector

SETTINGS: Mapping[str, Setting] = {
    "beta1": Setting(0.9, *DECAY),
    "beta2": Setting(0.999, *DECAY),
    "stability": Setting(1e-8, 1e-16, 1.0),
}


class Adam:
    """w = w - learning_rate * m' / (sqrt(v') + stability).

    m is the moving average of the gradient g with decay beta1, v that of g**2 with decay beta2; m' and v' are
    m / (1 - beta1**t) and v / (1 - beta2**t) at step t.
    """

    def __init__(
        self,
        dimension: int,
        *,
        learning_rate: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        stability: float = 1e-8,
    ) -> None:
        self._learning_rate = learning_rate
        self._beta1, self._beta2, self._stability = beta1, beta2, stability
        self._first, self._second = np.zeros(dimension), np.zeros(dimension)
        self._steps = 0

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Move the parameters in place, by the ratio of the two corrected moments.

        Args:
            parameters: float64, shape (d,).
            gradient: float64, shape (d,); not changed.
        """
        self._steps += 1
        self._first *= self._beta1
        self._first += (1 - self._beta1) * gradient
        self._second *= self._beta2
        self._second += (1 - self._beta2) * np.square(gradient)
        denominator = np.sqrt(self._second / (1 - self._beta2**self._steps))
        denominator += self._stability
        np.divide(self._first, denominator, out=denominator)
        denominator *= self._learning_rate / (1 - self._beta1**self._steps)
        parameters -= denominator

    def state(self) -> State:
        """Return both moments, and the number of steps that the bias correction needs."""
        return {"first": self._first, "second": self._second, "steps": np.array([self._steps])}

    def load(self, state: State) -> None:
        """Restore the moments and the number of steps."""
        self._first, self._second = state["first"], state["second"]
        self._steps = int(state["steps"][0])


def _make(dimension: int, learning_rate: float, settings: Mapping[str, float]) -> Adam:
    return Adam(dimension, learning_rate=learning_rate, **settings)


SPEC = OptimizerSpec(name="adam", settings=SETTINGS, learning_rate=0.01, make=_make)
