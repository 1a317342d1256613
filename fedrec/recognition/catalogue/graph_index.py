"""An index that follows a graph of neighbours (HNSW), for more vectors than can all be compared."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.catalogue.rounding import rounded
from fedrec.recognition.catalogue.usearch_library import Index, MetricKind, search
from fedrec.recognition.catalogue.vector_index import Keys

_BREADTH: Final = 320
"""Neighbours that a search keeps while it follows the graph."""
_BREADTH_ADDING: Final = 160
_LINKS: Final = 32
_FEW: Final = 20_000


class GraphIndex:
    """Vectors rounded to int8, in a graph of neighbours.

    Args:
        dimension: length of a vector.
        saved: what :attr:`content` returned; None for an empty index.

    Attributes:
        margin: proposals for each result that is wanted.

    Raises:
        ValueError: ``saved`` is no such index of this dimension.
    """

    margin = 4

    def __init__(self, dimension: int, saved: bytes | memoryview | None = None) -> None:
        self._index = Index(
            ndim=dimension,
            metric=MetricKind.Cos,
            dtype="i8",
            connectivity=_LINKS,
            expansion_add=_BREADTH_ADDING,
            expansion_search=_BREADTH,
        )
        if saved is not None:
            self._index.load(saved)
            if self._index.ndim != dimension:
                raise ValueError("the index is of another dimension")

    @property
    def content(self) -> bytes:
        """The index, for a file."""
        return bytes(self._index.save() or b"")

    def keys(self) -> Keys:
        """Return the photos that it holds, ascending."""
        return np.sort(np.asarray(self._index.keys).astype(np.int64))

    def add(self, keys: Keys, vectors: NDArray[np.float16]) -> None:
        """Add photos.

        Args:
            keys: the photos, none of which it holds.
            vectors: float16 (n, dimension), each of length 1.
        """
        # Several threads that begin a graph together can leave vectors without a neighbour.
        threads = 1 if len(self._index) < _FEW else 0
        self._index.add(keys.astype(np.uint64), rounded(vectors.astype(np.float32)), threads=threads)

    def remove(self, keys: Keys) -> None:
        """Remove photos that it holds."""
        self._index.remove(keys.astype(np.uint64))

    def propose(self, query: NDArray[np.float32], count: int, *, among: Keys | None) -> Keys:
        """Find the photos that are nearest, nearly always all of them.

        Args:
            query: float32 (dimension,), of length 1.
            count: how many.
            among: the only ones to consider, ascending; None for all.

        Returns:
            At most ``count`` photos, the nearest first.
        """
        held, small = len(self._index), rounded(query[None])[0]
        if not held or (among is not None and not len(among)):
            return np.zeros(0, np.int64)
        if among is not None and len(among) <= max(_FEW, count):
            return self._compare(small, count, among)
        wanted = count
        while True:
            found = self._index.search(small, min(wanted, held), threads=1)
            keys = np.asarray(found.keys).astype(np.int64)
            if among is not None:
                keys = keys[np.isin(keys, among)]
            if len(keys) >= count or wanted >= held or among is None:
                return keys[:count]
            wanted *= 4

    def _compare(self, query: NDArray[np.int8], count: int, among: Keys) -> Keys:
        there: Keys = among[np.asarray(self._index.contains(among.astype(np.uint64)), dtype=bool)]
        if not len(there):
            return there
        vectors = np.asarray(self._index.get(there.astype(np.uint64), dtype="i8"), dtype=np.int8)
        found = search(vectors, query, min(count, len(there)), MetricKind.Cos, exact=True, threads=1)
        nearest: Keys = there[np.asarray(found.keys).astype(np.int64)]
        return nearest
