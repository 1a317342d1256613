"""An index that compares a query with every vector, in one byte a value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.catalogue.rounding import rounded
from fedrec.recognition.catalogue.usearch_library import MetricKind, exact_search
from fedrec.recognition.catalogue.vector_index import Keys


class ScanIndex:
    """Vectors rounded to int8, each by its own largest value, as cosines need no length.

    Args:
        keys: the photos, ascending.
        rows: int8 (n, dimension), the photos' vectors.

    Attributes:
        margin: proposals for each result that is wanted; they make good what rounding changes in the order.
    """

    margin = 8.0

    def __init__(self, keys: Keys, rows: NDArray[np.int8]) -> None:
        self._keys, self._rows = [keys], [rows]

    def _joined(self) -> tuple[Keys, NDArray[np.int8]]:
        if len(self._keys) > 1:
            keys, rows = np.concatenate(self._keys), np.concatenate(self._rows)
            if (np.diff(keys) < 0).any():
                order = np.argsort(keys)
                keys, rows = keys[order], rows[order]
            self._keys, self._rows = [keys], [rows]
        return self._keys[0], self._rows[0]

    @property
    def content(self) -> tuple[Keys, NDArray[np.int8]]:
        """The photos and their vectors, for a file."""
        return self._joined()

    def keys(self) -> Keys:
        """Return the photos that it holds, ascending."""
        return self._joined()[0]

    def add(self, keys: Keys, vectors: NDArray[np.float16]) -> None:
        """Add photos.

        Args:
            keys: the photos, none of which it holds.
            vectors: float16 (n, dimension), each of length 1.
        """
        self._keys.append(keys)
        self._rows.append(rounded(vectors.astype(np.float32)))

    def remove(self, keys: Keys) -> None:
        """Remove photos that it holds."""
        held, rows = self._joined()
        kept = ~np.isin(held, keys, assume_unique=True)
        self._keys, self._rows = [held[kept]], [rows[kept]]

    def propose(self, query: NDArray[np.float32], count: int, *, among: Keys | None) -> Keys:
        """Find the photos that are nearest.

        Args:
            query: float32 (dimension,), of length 1.
            count: how many.
            among: the only ones to consider, ascending; None for all.

        Returns:
            At most ``count`` photos, the nearest first.
        """
        keys, rows = self._joined()
        if among is not None:
            chosen = np.isin(keys, among, assume_unique=True)
            keys, rows = keys[chosen], rows[chosen]
        if not len(keys):
            return keys
        return keys[_nearest(rows, query, min(count, len(keys)))]

    def nearest_of(self, keys: Keys, query: NDArray[np.float32]) -> Keys:
        """Put few photos into the order of their nearness.

        Args:
            keys: photos that it holds, at least one, in any order.
            query: float32 (dimension,), of length 1.

        Returns:
            The photos, the nearest first.
        """
        held, rows = self._joined()
        # In the order of the memory: neighbours in number are read together.
        ascending = np.sort(keys)
        without_gaps = held[-1] - held[0] == len(held) - 1
        places = ascending - held[0] if without_gaps else np.searchsorted(held, ascending)
        chosen = rows.take(places, axis=0)
        return ascending[_nearest(chosen, query, len(ascending))]


def _nearest(rows: NDArray[np.int8], query: NDArray[np.float32], count: int) -> Keys:
    """Return the positions of the rows that are nearest, the nearest first."""
    found, *_ = exact_search(rows, rounded(query[None]), count, threads=1, metric_kind=MetricKind.Cos)
    nearest: Keys = found[0].astype(np.int64)
    return nearest
