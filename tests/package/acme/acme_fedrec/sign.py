"""An optimizer that steps by the sign of the gradient."""

from __future__ import annotations

import numpy as np

from fedrec.server.optimizers.interface import OptimizerSpec, Setting, State, Vector


class Sign:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def step(self, parameters: Vector, gradient: Vector) -> None:
        parameters -= self.rate * np.sign(gradient)

    def state(self) -> State:
        return {}

    def load(self, state: State) -> None:
        pass


SPEC = OptimizerSpec(
    name="acme-sign",
    settings={"scale": Setting(1.0, 0.0, 10.0)},
    learning_rate=0.125,
    make=lambda dimension, rate, settings: Sign(rate * settings["scale"]),
)
