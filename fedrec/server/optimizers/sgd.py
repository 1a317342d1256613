"""Stochastic gradient descent with momentum (Polyak 1964), also Nesterov's (Sutskever et al. 2013)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.server.optimizers.interface import DECAY, OptimizerSpec, Setting, State, Vector


class Sgd:
    """v = momentum * v + g; w = w - learning_rate * v.

    With Nesterov's momentum, w = w - learning_rate * (g + momentum * v). Without momentum, v is g and isn't
    kept.
    """

    def __init__(
        self, dimension: int, *, learning_rate: float, momentum: float = 0.0, nesterov: bool = False
    ) -> None:
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._nesterov = nesterov
        self._velocity = np.zeros(dimension) if momentum else None

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Move the parameters in place, against the velocity.

        Args:
            parameters: float64, shape (d,).
            gradient: float64, shape (d,); not changed.
        """
        if self._velocity is not None:
            self._velocity *= self._momentum
            self._velocity += gradient
            gradient = gradient + self._momentum * self._velocity if self._nesterov else self._velocity
        parameters -= self._learning_rate * gradient

    def state(self) -> State:
        """Return the velocity, empty without momentum."""
        return {} if self._velocity is None else {"velocity": self._velocity}

    def load(self, state: State) -> None:
        """Restore the velocity."""
        if self._velocity is not None:
            self._velocity = state["velocity"]


def _make(dimension: int, learning_rate: float, settings: Mapping[str, float]) -> Sgd:
    return Sgd(
        dimension,
        learning_rate=learning_rate,
        momentum=settings["momentum"],
        nesterov=settings["nesterov"] >= 0.5,
    )


SPEC = OptimizerSpec(
    name="sgd",
    settings={"momentum": Setting(0.0, *DECAY), "nesterov": Setting(0.0, 0.0, 1.0 + 2**-52)},
    learning_rate=None,
    make=_make,
)
