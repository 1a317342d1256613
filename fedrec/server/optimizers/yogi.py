"""Yogi (Zaheer et al. 2018), as FedYogi uses it on the server (Reddi et al. 2021, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.server.optimizers.interface import DECAY, OptimizerSpec, Setting, State, Vector


class Yogi:
    """w = w - learning_rate * m / (sqrt(v) + tau), with m the moving average of g.

    v = v - (1 - beta2) * sign(v - g**2) * g**2 changes by at most a share of the squared gradient, where
    Adam's falls by a share of itself. v starts at tau**2, tau is ``stability``, and the moments are not
    bias-corrected.
    """

    def __init__(
        self,
        dimension: int,
        *,
        learning_rate: float,
        beta1: float = 0.9,
        beta2: float = 0.99,
        stability: float = 1e-3,
    ) -> None:
        self._learning_rate = learning_rate
        self._beta1, self._beta2, self._stability = beta1, beta2, stability
        self._first, self._second = np.zeros(dimension), np.full(dimension, stability**2)

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Move the parameters in place, by the ratio of the two moments.

        Args:
            parameters: float64, shape (d,).
            gradient: float64, shape (d,); not changed.
        """
        self._first *= self._beta1
        self._first += (1 - self._beta1) * gradient
        squares = np.square(gradient)
        squares *= (1 - self._beta2) * np.sign(self._second - squares)
        self._second -= squares
        parameters -= self._learning_rate * self._first / (np.sqrt(self._second) + self._stability)

    def state(self) -> State:
        """Return both moments."""
        return {"first": self._first, "second": self._second}

    def load(self, state: State) -> None:
        """Restore the moments."""
        self._first, self._second = state["first"], state["second"]


def _make(dimension: int, learning_rate: float, settings: Mapping[str, float]) -> Yogi:
    return Yogi(dimension, learning_rate=learning_rate, **settings)


SPEC = OptimizerSpec(
    name="yogi",
    settings={
        "beta1": Setting(0.9, *DECAY),
        "beta2": Setting(0.99, *DECAY),
        "stability": Setting(1e-3, 1e-16, 1.0),
    },
    learning_rate=0.01,
    make=_make,
)
