"""A server optimizer whose learning rate follows a schedule."""

from __future__ import annotations

import numpy as np

from fedrec.server.optimizers.interface import ServerOptimizer, State, Vector

_STEPS = "schedule.steps"


class ScheduledOptimizer:
    """Take an optimizer's steps, each multiplied by the schedule's factor.

    A step of every optimizer here is the learning rate times a vector that doesn't depend on the learning
    rate, and so it is for each that gives its state as a function of the gradients alone. Multiplying the
    step is then the same as multiplying the learning rate.

    Args:
        optimizer: takes the steps at the full learning rate.
        factors: of each step, float64, shape (T,). The last one holds for further steps.

    """

    def __init__(self, optimizer: ServerOptimizer, *, factors: Vector) -> None:
        self._optimizer = optimizer
        self._factors = factors
        self._steps = 0

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Move the parameters in place, by the optimizer's step times the factor.

        Args:
            parameters: float64, shape (d,).
            gradient: float64, shape (d,); not changed.

        """
        factor = float(self._factors[min(self._steps, len(self._factors) - 1)])
        self._steps += 1
        before = parameters.copy()
        self._optimizer.step(parameters, gradient)
        if factor != 1.0:
            parameters -= before
            parameters *= factor
            parameters += before

    def state(self) -> State:
        """Return the optimizer's state, and the number of steps."""
        return {**self._optimizer.state(), _STEPS: np.array([self._steps])}

    def load(self, state: State) -> None:
        """Restore the optimizer's state, and the number of steps."""
        self._steps = int(state[_STEPS][0])
        self._optimizer.load({name: array for name, array in state.items() if name != _STEPS})
