"""The server's global model: parameters, their optimizer, and their moving average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedrec.server.optimizers.interface import ServerOptimizer, State, Vector
from fedrec.vision.models.centred_head import lacks_mean

_OPTIMIZER = "optimizer."
Solve = Callable[[Vector, float], Vector]
"""Solves parameters (d,) from a sum (d,), where a record's vector has norm 1, and its noise's deviation."""


_SHORTEST = 0.01
"""Least part of a noised mean that is kept: one of zero would say that no mean has been released yet."""


def shortened(noisy: Vector, *, noise: float) -> Vector:
    """Shorten a noised vector by what noise is expected to have added to it (James and Stein 1961).

    Features have length 1, but noise in each of thousands of coordinates can be longer together. To subtract
    it from all features would make them nearly alike. The direction is unchanged, and the length becomes
    that which leaves the smallest expected square error. This is post-processing of an opened sum.

    Args:
        noisy: float64, shape (n,).
        noise: standard deviation of the noise in each coordinate; 0 for none.

    Returns:
        The vector times a factor from 0.01 to 1; float64, shape (n,).
    """
    energy = float(noisy @ noisy)
    kept = 1.0 - noise**2 * noisy.size / energy if energy else 1.0
    return noisy * max(kept, _SHORTEST)


@dataclass
class Weights:
    """Parameters, and their moving average if ``averaging`` is above 0.

    The decay of the average is warmed up as min(averaging, (1 + t) / (10 + t)), so that early parameters
    don't stay in it for long. Averaging is post-processing of the opened sums, as the optimizer is. The
    vectors are changed in place, since those of a large model are most of the server's memory.

    Attributes:
        parameters: float64, shape (d,).
        optimizer: takes the steps.
        averaging: decay of the moving average; 0 for none.
        average: float64, shape (d,), or None.
        steps: number of steps taken.
        mean: the coordinates of a released mean of features, which the optimizer doesn't change; None for
            a model that centres nothing.
        solve: solves the parameters from one sum of statistics; None for a model that is trained by steps.
    """

    parameters: Vector
    optimizer: ServerOptimizer
    averaging: float
    average: Vector | None
    steps: int = 0
    mean: slice | None = None
    solve: Solve | None = None

    @classmethod
    def start(
        cls,
        parameters: Vector,
        optimizer: ServerOptimizer,
        *,
        averaging: float,
        mean: slice | None = None,
        solve: Solve | None = None,
    ) -> Weights:
        """Start from initial parameters.

        Args:
            parameters: float64, shape (d,); copied.
            optimizer: takes the steps.
            averaging: decay of the moving average; 0 for none.
            mean: the coordinates of a released mean of features.
            solve: solves the parameters from one sum of statistics.

        Returns:
            The global model before its first step.
        """
        average = parameters.copy() if averaging else None
        return cls(parameters.copy(), optimizer, averaging, average, mean=mean, solve=solve)

    @property
    def lacks_mean(self) -> bool:
        """Whether the next opened sum is that of the features, since none has been released yet."""
        return lacks_mean(self.parameters, self.mean)

    def set_mean(self, released: Vector, *, noise: float) -> None:
        """Take the released mean of the features; no step is counted.

        Args:
            released: float64, shape (d,), with the noised mean in its coordinates.
            noise: standard deviation of the noise in each of these; 0 for none.

        Raises:
            RuntimeError: the model centres no features.
        """
        if self.mean is None:
            raise RuntimeError("these weights centre no features")
        self.parameters[self.mean] = shortened(released[self.mean], noise=noise)
        if self.average is not None:
            self.average[self.mean] = self.parameters[self.mean]

    def set_solution(self, solution: Vector) -> None:
        """Take parameters, float64, shape (d,), that were solved from one sum."""
        self.parameters = solution
        if self.average is not None:
            self.average = solution.copy()
        self.steps += 1

    def step(self, gradient: Vector) -> None:
        """Take one step along a mean gradient, float64, shape (d,); its coordinates of the mean are noise."""
        if self.mean is None:
            self.optimizer.step(self.parameters, gradient)
        else:
            released = self.parameters[self.mean].copy()
            gradient[self.mean] = 0.0
            self.optimizer.step(self.parameters, gradient)
            # Weight decay would shrink it.
            self.parameters[self.mean] = released
        if self.average is not None:
            decay = min(self.averaging, (1 + self.steps) / (10 + self.steps))
            self.average *= decay
            self.average += (1 - decay) * self.parameters
            if self.mean is not None:
                self.average[self.mean] = self.parameters[self.mean]
        self.steps += 1

    @property
    def reported(self) -> Vector:
        """The parameters to use and report, float64, shape (d,): the average if there is one."""
        return self.parameters if self.average is None else self.average

    def state(self) -> State:
        """Return everything that the next step depends on, the optimizer's state included."""
        own = {"parameters": self.parameters, "steps": np.array([self.steps])}
        if self.average is not None:
            own["average"] = self.average
        return own | {f"{_OPTIMIZER}{name}": array for name, array in self.optimizer.state().items()}

    def load(self, state: State) -> None:
        """Restore what :meth:`state` returned; the arrays belong to this object from then on."""
        self.parameters = state["parameters"]
        self.steps = int(state["steps"][0])
        if self.average is not None:
            self.average = state["average"]
        length = len(_OPTIMIZER)
        self.optimizer.load(
            {name[length:]: array for name, array in state.items() if name.startswith(_OPTIMIZER)}
        )
