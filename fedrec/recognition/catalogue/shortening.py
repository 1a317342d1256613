"""Shorten vectors to their principal directions, in one byte a value, for a graph of neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

MOST_DIRECTIONS: Final = 256
_STEPS: Final = 127
_FITTING: Final = 0.99
"""Share of a sample's vectors that the steps are small for: a value of another one may be cut off."""


@dataclass(frozen=True)
class Shortening:
    """How vectors become few values, whose Euclidean distances tell the order of their cosines.

    Attributes:
        directions: float32 (dimension, directions), orthonormal columns.
        middle: float32 (directions,), what all short vectors share; leaving it out changes no distance.
        scale: steps for a value of one.
    """

    directions: NDArray[np.float32]
    middle: NDArray[np.float32]
    scale: float

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Self:
        """Find the directions along which vectors differ most, by the eigenvectors of their second moments.

        Args:
            vectors: float32 (n, dimension), a sample of those that are to be searched.

        Returns:
            The shortening; with all directions where 256 are enough.
        """
        _, found = np.linalg.eigh(vectors.T @ vectors)
        directions: NDArray[np.float32] = np.ascontiguousarray(found[:, ::-1][:, :MOST_DIRECTIONS])
        short = _unit(vectors @ directions)
        middle = short.mean(axis=0)
        widest = float(np.quantile(np.abs(short - middle).max(axis=1), _FITTING))
        return cls(directions, middle, _STEPS / max(widest, 1 / _STEPS))

    @classmethod
    def from_parts(cls, parts: NDArray[np.float32]) -> Self:
        """Return the shortening whose :attr:`parts` these are."""
        return cls(np.ascontiguousarray(parts[:-2]), parts[-2].copy(), float(parts[-1, 0]))

    @property
    def parts(self) -> NDArray[np.float32]:
        """All of it in one array, float32 (dimension + 2, directions)."""
        return np.vstack([self.directions, self.middle, np.full_like(self.middle, self.scale)])

    @property
    def length(self) -> int:
        """Return how many values a short vector has."""
        return len(self.middle)

    def shorten(self, vectors: NDArray[np.float32]) -> NDArray[np.int8]:
        """Shorten vectors.

        Args:
            vectors: float32 (dimension,) or (n, dimension).

        Returns:
            Int8 (directions,) or (n, directions).
        """
        steps = np.rint((_unit(vectors @ self.directions) - self.middle) * np.float32(self.scale))
        short: NDArray[np.int8] = np.minimum(np.maximum(steps, -_STEPS), _STEPS).astype(np.int8)
        return short


def _unit(short: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.maximum(np.linalg.norm(short, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(short / lengths, dtype=np.float32)
