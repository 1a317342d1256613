"""Step the global model by an optimizer of your own: Lion, beside SGD, on the same data and budget."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fedrec


class Lion:
    """Steps by the sign of a momentum (Chen et al. 2023): every parameter moves by the learning rate.

    The gradient is an opened sum, noise and all, so that whatever is made of it costs no privacy.
    """

    def __init__(self, dimension: int, *, learning_rate: float, now: float, later: float) -> None:
        self._learning_rate, self._now, self._later = learning_rate, now, later
        self._momentum = np.zeros(dimension)

    def step(self, parameters: NDArray[np.float64], gradient: NDArray[np.float64]) -> None:
        """Move the parameters in place."""
        parameters -= self._learning_rate * np.sign(self._now * self._momentum + (1 - self._now) * gradient)
        self._momentum *= self._later
        self._momentum += (1 - self._later) * gradient

    def state(self) -> Mapping[str, NDArray[Any]]:
        """Return what a checkpoint keeps, so that a stopped run goes on as if it had not been."""
        return {"momentum": self._momentum}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what a checkpoint kept."""
        self._momentum = state["momentum"]


fedrec.add_optimizer(
    fedrec.OptimizerSpec(
        name="lion",
        settings={"now": fedrec.Setting(0.9, 0.0, 1.0), "later": fedrec.Setting(0.99, 0.0, 1.0)},
        learning_rate=0.003,
        make=lambda dimension, learning_rate, settings: Lion(
            dimension, learning_rate=learning_rate, **settings
        ),
    )
)


def photos(count: int, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw pictures with a bright half: the left one is class 0, the right one class 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    pictures = rng.integers(0, 120, (count, 16, 16))
    for picture, label in zip(pictures, labels, strict=True):
        picture[:, 8 * label : 8 * label + 8] += 120
    return pictures.astype(np.uint8), labels


merchants = [photos(300, seed=merchant) for merchant in range(3)]
for optimizer in ("lion:now=0.8", "sgd"):
    result = fedrec.simulate(
        "cnn",
        merchants,
        test=photos(200, seed=99),
        optimizer=optimizer,
        epsilon=8,
        delta=1e-4,
        rounds=5,
        sample_rate=0.5,
    )
    print(f"{optimizer}: accuracy {result.accuracy:.1%} at epsilon {result.epsilon:.2f}")
