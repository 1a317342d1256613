"""A server optimizer whose learning rate follows a schedule, and whose parameters are drawn towards zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.server.optimizers.interface import ServerOptimizer, State, Vector

_STEPS = "schedule.steps"


@dataclass(frozen=True)
class Shrinkage:
    """What a step at the full learning rate takes from the parameters, besides the optimizer's own step.

    Attributes:
        decay: the share of each parameter that it takes away: learning rate times weight decay.
        threshold: what it takes from the size of each, down to zero: learning rate times the L1 penalty.
    """

    decay: float = 0.0
    threshold: float = 0.0


class ScheduledOptimizer:
    """Take an optimizer's steps, each multiplied by the schedule's factor, then shrink the parameters.

    A step of every optimizer here is the learning rate times a vector that doesn't depend on the learning
    rate, and so it is for each that gives its state as a function of the gradients alone. Multiplying the
    step is then the same as multiplying the learning rate.

    Weight decay is decoupled (Loshchilov and Hutter 2019): a share of the parameters as they were before the
    step. L1 is the proximal step of the penalty (soft thresholding; Beck and Teboulle 2009), after which
    small parameters are exactly zero. Both use parameters and opened sums alone: they cost no privacy.

    Args:
        optimizer: takes the steps at the full learning rate.
        factors: of each step, float64, shape (T,). The last one holds for further steps.
        shrinkage: at the full learning rate; the factor multiplies it too.
    """

    def __init__(self, optimizer: ServerOptimizer, *, factors: Vector, shrinkage: Shrinkage) -> None:
        self._optimizer = optimizer
        self._factors = factors
        self._shrinkage = shrinkage
        self._steps = 0

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Move the parameters in place, by the optimizer's step times the factor, and shrink them.

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
        if self._shrinkage.decay:
            before *= factor * self._shrinkage.decay
            parameters -= before
        if self._shrinkage.threshold:
            threshold = factor * self._shrinkage.threshold
            np.clip(parameters, -threshold, threshold, out=before)
            parameters -= before

    def state(self) -> State:
        """Return the optimizer's state, and the number of steps."""
        return {**self._optimizer.state(), _STEPS: np.array([self._steps])}

    def load(self, state: State) -> None:
        """Restore the optimizer's state, and the number of steps."""
        self._steps = int(state[_STEPS][0])
        self._optimizer.load({name: array for name, array in state.items() if name != _STEPS})
