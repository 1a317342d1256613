"""The server's update rule: SGD with momentum on the opened sum, and a moving average beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass
class ServerOptimizer:
    """Parameters (float64, shape (d,)), their velocity, and their moving average.

    ``step`` is momentum SGD (Polyak 1964): v = momentum * v + g; w = w - learning_rate * v. The average
    is warmed up as min(decay, (1 + t) / (10 + t)), so that early parameters don't linger in it. All of
    it is post-processing of the opened sum and costs no privacy. The vectors are changed in place, since a
    large model's are most of what the server holds.
    """

    parameters: Vector
    velocity: Vector
    average: Vector
    steps: int
    learning_rate: float
    momentum: float
    ema_decay: float

    @classmethod
    def start(
        cls, parameters: Vector, *, learning_rate: float, momentum: float, ema_decay: float
    ) -> ServerOptimizer:
        """Start from initial parameters, shape (d,)."""
        return cls(
            parameters=parameters.copy(),
            velocity=np.zeros_like(parameters),
            average=parameters.copy(),
            steps=0,
            learning_rate=learning_rate,
            momentum=momentum,
            ema_decay=ema_decay,
        )

    def step(self, gradient: Vector) -> None:
        """Take one step along a mean gradient, shape (d,)."""
        self.velocity *= self.momentum
        self.velocity += gradient
        self.parameters -= self.learning_rate * self.velocity
        self._count()

    def move(self, difference: Vector) -> None:
        """Add a mean parameter difference, shape (d,), as `local` mode averages them."""
        self.parameters += difference
        self._count()

    def _count(self) -> None:
        decay = min(self.ema_decay, (1 + self.steps) / (10 + self.steps))
        self.average *= decay
        self.average += (1 - decay) * self.parameters
        self.steps += 1

    @property
    def model(self) -> Vector:
        """The parameters to use and to report: the average where one is kept, shape (d,)."""
        return self.average if self.ema_decay > 0 else self.parameters
