"""AdamW (Loshchilov and Hutter 2019): Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping

from fedrec.server.optimizers.adam import SETTINGS, Adam
from fedrec.server.optimizers.interface import OptimizerSpec, Setting, State, Vector


class AdamW:
    """w = w - learning_rate * weight_decay * w, then a step of Adam."""

    def __init__(self, adam: Adam, *, shrinkage: float) -> None:
        self._adam = adam
        self._kept = 1 - shrinkage

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Shrink the parameters in place, then take Adam's step.

        Args:
            parameters: float64, shape (d,).
            gradient: float64, shape (d,); not changed.
        """
        parameters *= self._kept
        self._adam.step(parameters, gradient)

    def state(self) -> State:
        """Return Adam's state."""
        return self._adam.state()

    def load(self, state: State) -> None:
        """Restore Adam's state."""
        self._adam.load(state)


def _make(dimension: int, learning_rate: float, settings: Mapping[str, float]) -> AdamW:
    moments = {name: settings[name] for name in SETTINGS}
    adam = Adam(dimension, learning_rate=learning_rate, **moments)
    return AdamW(adam, shrinkage=learning_rate * settings["weight_decay"])


SPEC = OptimizerSpec(
    name="adamw",
    settings={**SETTINGS, "weight_decay": Setting(0.01, 0.0, 1e6)},
    learning_rate=0.01,
    make=_make,
)
