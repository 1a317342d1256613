"""What a server optimizer is, and what its specification says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
State = Mapping[str, NDArray[Any]]


class ServerOptimizer(Protocol):
    """A rule that turns a mean gradient into a step of the parameters.

    Where merchants take steps of their own, the gradient is the pseudo-gradient of Reddi et al. (2021): the
    mean of how far they moved the model, with its sign turned. Either is an opened sum, so that a step is
    post-processing and costs no privacy.
    """

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Move the parameters, shape (d,), in place along a mean gradient, shape (d,), left as it is."""
        ...

    def state(self) -> State:
        """Return all that the next step depends on besides the parameters, as numeric arrays by name.

        Names, shapes and types are the same from the first step to the last.
        """
        ...

    def load(self, state: State) -> None:
        """Take over a state that :meth:`state` returned; the arrays belong to the optimizer from then on."""
        ...


@dataclass(frozen=True)
class Setting:
    """A number that a person may set: its default, and the range from ``least`` to below ``limit``."""

    default: float
    least: float
    limit: float


DECAY = (0.0, 1.0)
"""The range of a momentum, and of whatever else is the decay of a moving average."""


Make = Callable[[int, float, Mapping[str, float]], ServerOptimizer]


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer by name.

    Attributes:
        name: as in options, plans and reports.
        settings: what can be set besides the learning rate, by name; :data:`Setting` has default and range.
        learning_rate: its step length unless a person sets one. None takes the model's own, which was chosen
            for SGD, with the model's momentum, or 1, the plain mean, where merchants take their own steps.
        make: builds the optimizer from the number of parameters, learning rate, and all settings' values.
    """

    name: str
    settings: Mapping[str, Setting]
    learning_rate: float | None
    make: Make
