"""Run a network from a file, one picture a call, from uint8 pictures to pooled outputs.

Whatever the network does with its batch, such as taking a mean over it, a picture's features then depend on
that picture alone, which clipping per record relies on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError

Colours = tuple[float, float, float]


class OnePictureNetwork(ABC):
    """A network that is called with one picture at a time.

    Args:
        layers: names of the outputs to compute.
        mean: subtracted from each colour of pixels in 0 to 1.
        std: what each colour is divided by afterwards.
    """

    def __init__(self, *, layers: Sequence[str], mean: Colours, std: Colours) -> None:
        self._layers = list(layers)
        self._scale = (1 / (255 * np.asarray(std, dtype=np.float64))).astype(np.float32)
        self._shift = (np.asarray(mean, dtype=np.float64) / np.asarray(std)).astype(np.float32)

    @abstractmethod
    def _run(self, batch: NDArray[np.float32]) -> Sequence[NDArray[np.generic]]:
        """Compute the layers of a batch (1, 3, size, size) of one normalised picture."""

    @property
    def batch(self) -> int:
        """Pictures that are put together before a call: more would gain nothing."""
        return 1

    def __call__(self, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        """Compute each layer's features of pictures.

        A picture for which the network gives NaN or infinity in a layer has zeros there.

        Args:
            images: uint8 (n, size, size, 3).

        Returns:
            float32 (n, length) by the layer's name.

        Raises:
            ConfigError: the network fails, or an output has another shape than (1, length), tokens (1, count,
                length) or a map (1, length, height, width).
        """
        rows = [self._features(image) for image in images]
        return {name: np.stack([row[i] for row in rows]) for i, name in enumerate(self._layers)}

    def outputs(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Compute the layers of one picture (size, size, 3), as :meth:`__call__` without its care for NaN."""
        pixels = image.astype(np.float32) * self._scale - self._shift
        try:
            found = self._run(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
        # Each library raises different errors for different faults, all of them of its own.
        except Exception as error:
            raise ConfigError(f"the network can't be computed: {one_line(error)}") from None
        return [_pooled(np.asarray(output), name) for name, output in zip(self._layers, found, strict=True)]

    def _features(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [
            vector if np.isfinite(vector).all() else np.zeros_like(vector) for vector in self.outputs(image)
        ]


def _pooled(output: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    """Return a vector as it is, the mean of tokens over their number, the mean of a map over positions."""
    if output.ndim not in (2, 3, 4) or output.shape[0] != 1 or not output.size:
        raise ConfigError(
            f"the output {one_line(name, most=60)!r} has the shape {output.shape} for one picture, not "
            "(1, length), (1, tokens, length) or (1, length, height, width)"
        )
    vectors: NDArray[np.float32] = output[0].astype(np.float32)
    if output.ndim == 2:
        return vectors
    return np.asarray(vectors.mean(axis=0 if output.ndim == 3 else (1, 2)), dtype=np.float32)
