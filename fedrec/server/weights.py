"""The global model as the server keeps it: parameters, their optimizer, and a moving average beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.server.optimizers.interface import ServerOptimizer, State, Vector

_OPTIMIZER = "optimizer."


@dataclass
class Weights:
    """Parameters (float64, shape (d,)), and their moving average where ``averaging``, its decay, is above 0.

    The decay is warmed up as min(averaging, (1 + t) / (10 + t)), so that early parameters don't linger in the
    average. It is post-processing of the opened sums, as the optimizer is. The vectors are changed in place,
    since a large model's are most of what the server holds.
    """

    parameters: Vector
    optimizer: ServerOptimizer
    averaging: float
    average: Vector | None
    steps: int = 0

    @classmethod
    def start(cls, parameters: Vector, optimizer: ServerOptimizer, *, averaging: float) -> Weights:
        """Start from initial parameters, shape (d,)."""
        average = parameters.copy() if averaging else None
        return cls(parameters.copy(), optimizer, averaging, average)

    def step(self, gradient: Vector) -> None:
        """Take one step along a mean gradient, shape (d,)."""
        self.optimizer.step(self.parameters, gradient)
        if self.average is not None:
            decay = min(self.averaging, (1 + self.steps) / (10 + self.steps))
            self.average *= decay
            self.average += (1 - decay) * self.parameters
        self.steps += 1

    @property
    def reported(self) -> Vector:
        """The parameters to use and to report: the average where one is kept, shape (d,)."""
        return self.parameters if self.average is None else self.average

    def state(self) -> State:
        """Return all that the next step depends on, the optimizer's state with it."""
        own = {"parameters": self.parameters, "steps": np.array([self.steps])}
        if self.average is not None:
            own["average"] = self.average
        return own | {f"{_OPTIMIZER}{name}": array for name, array in self.optimizer.state().items()}

    def load(self, state: State) -> None:
        """Take over a state that :meth:`state` returned; the arrays belong to this object from then on."""
        self.parameters = state["parameters"]
        self.steps = int(state["steps"][0])
        if self.average is not None:
            self.average = state["average"]
        length = len(_OPTIMIZER)
        self.optimizer.load(
            {name[length:]: array for name, array in state.items() if name.startswith(_OPTIMIZER)}
        )
