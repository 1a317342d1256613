"""The photos among which copies are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.vision.decoding import decode


class Collection(Protocol):
    """Photos by number, from 0."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each photo, for people."""
        ...

    def photo(self, number: int) -> Image.Image:
        """Return a photo as people see it; ``DataError`` if it can't be read."""
        ...


class Nearest(Protocol):
    """A search among the vectors of a collection's photos."""

    def nearest(
        self, vectors: NDArray[np.float32], *, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the photos whose vectors are most similar.

        Args:
            vectors: float32 (n, dimension), each of length 1.
            count: how many for each; fewer where there are fewer photos.

        Returns:
            The photos' numbers, the most similar first, and their similarities: (n, count) each.
        """
        ...


class PhotoFiles:
    """Photos in files.

    Args:
        paths: the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._names = [str(path) for path in self._paths]

    @property
    def names(self) -> Sequence[str]:
        """The files' paths."""
        return self._names

    def photo(self, number: int) -> Image.Image:
        """Decode a photo; ``DataError`` if it can't be read."""
        return decode(self._paths[number])


class AllVectors:
    """A search that compares with every vector.

    Args:
        vectors: float32 (photos, dimension), each of length 1, or 0 for a photo that is never found.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def nearest(
        self, vectors: NDArray[np.float32], *, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the photos whose vectors are most similar.

        Args:
            vectors: float32 (n, dimension), each of length 1.
            count: how many for each; fewer where there are fewer photos.

        Returns:
            The photos' numbers, the most similar first, and their similarities: (n, count) each.
        """
        similarity = vectors @ self._vectors.T
        count = min(count, similarity.shape[1])
        some = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similarity, some, axis=1), axis=1, kind="stable")
        found = np.take_along_axis(some, order, axis=1)
        return found, np.take_along_axis(similarity, found, axis=1)
