"""The interface of a server optimizer, and the specification that describes one."""

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

    Where merchants take several local steps, the gradient is the pseudo-gradient of Reddi et al. (2021):
    minus the mean change of the merchants' models. Both kinds come from an opened sum, so that a step is
    post-processing and costs no privacy.
    """

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Move the parameters in place along a mean gradient.

        Args:
            parameters: float64, shape (d,); changed.
            gradient: float64, shape (d,); not changed.
        """
        ...

    def state(self) -> State:
        """Return everything besides the parameters that the next step depends on, as numeric arrays by name.

        Names, shapes and dtypes are the same from the first step to the last.
        """
        ...

    def load(self, state: State) -> None:
        """Restore what :meth:`state` returned; the arrays belong to the optimizer from then on."""
        ...


@dataclass(frozen=True)
class Setting:
    """A number that the user may set.

    Attributes:
        default: its value unless it is set.
        least: the smallest value allowed.
        limit: every value must be below it.
    """

    default: float
    least: float
    limit: float


DECAY = (0.0, 1.0)
"""The range of a momentum, or of another decay of a moving average."""


Make = Callable[[int, float, Mapping[str, float]], ServerOptimizer]


@dataclass(frozen=True)
class OptimizerSpec:
    """The specification of one optimizer.

    Attributes:
        name: the name in options, plans and reports.
        settings: what can be set besides the learning rate, by name.
        learning_rate: the default learning rate. None takes the model's own learning rate and momentum, which
            were chosen for SGD; or, where merchants take local steps, 1, which applies the mean change as it
            is.
        make: builds the optimizer from the number of parameters, the learning rate and the values of all
            settings.
    """

    name: str
    settings: Mapping[str, Setting]
    learning_rate: float | None
    make: Make
