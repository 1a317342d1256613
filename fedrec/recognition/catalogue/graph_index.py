"""An index that follows a graph of neighbours (HNSW), for more vectors than can all be compared."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.catalogue.scan_index import ScanIndex
from fedrec.recognition.catalogue.shortening import Shortening
from fedrec.recognition.catalogue.usearch_library import Index, MetricKind, ScalarKind
from fedrec.recognition.catalogue.vector_index import Keys

_BREADTH: Final = 180
"""Neighbours that a search keeps while it follows the graph, and compares by all their values at its end."""
_BREADTH_ADDING: Final = 400
_LINKS: Final = 32
_FEW: Final = 20_000


class GraphIndex:
    """Short vectors in a graph of neighbours, and all of the vectors' values beside it.

    The graph finds what is near along the principal directions; of these, the nearest by all values are
    proposed. Both are rounded to int8. The graph is searched as it lies in one array, and taken apart to be
    changed. It compares Euclidean distances, which cost two thirds of what cosines do.

    Args:
        shortening: how vectors become short.
        rows: the vectors that the graph holds; None for an empty index.
        graph: the last part of what :attr:`content` returned; None for an empty index.

    Attributes:
        margin: proposals for each result that is wanted.

    Raises:
        ValueError: ``graph`` is no such graph of short vectors.
    """

    margin = 1.15

    def __init__(
        self,
        shortening: Shortening,
        *,
        rows: ScanIndex | None = None,
        graph: bytes | memoryview | None = None,
    ) -> None:
        dimension = shortening.directions.shape[0]
        self._shortening = shortening
        self._rows = rows or ScanIndex(np.zeros(0, np.int64), np.zeros((0, dimension), np.int8))
        self._graph = self._new()
        self._whole: NDArray[np.uint8] | None = None
        if graph is not None:
            self._view(graph)
            if self._graph.ndim != shortening.length or len(self._graph) != len(self._rows.keys()):
                raise ValueError("the graph is of other vectors")

    def _new(self) -> Index:
        return Index(
            ndim=self._shortening.length,
            metric_kind=MetricKind.L2sq,
            dtype=ScalarKind.I8,
            connectivity=_LINKS,
            expansion_add=_BREADTH_ADDING,
            expansion_search=_BREADTH,
        )

    def _view(self, content: bytes | memoryview) -> None:
        """Use a graph in one array, in large pages, which numpy asks for: a step costs a fifth less."""
        whole = np.empty(len(content), dtype=np.uint8)
        whole[:] = np.frombuffer(content, dtype=np.uint8)
        graph = self._new()
        graph.view_index_from_buffer(whole.data)
        self._graph, self._whole = graph, whole

    def _take_apart(self) -> Index:
        if self._whole is not None:
            graph = self._new()
            graph.load_index_from_buffer(self._whole.data)
            self._graph, self._whole = graph, None
        return self._graph

    def _searchable(self) -> Index:
        if self._whole is None and len(self._graph):
            self._view(memoryview(self._graph.save_index_to_buffer()))
        return self._graph

    @property
    def content(self) -> tuple[Shortening, Keys, NDArray[np.int8], bytes]:
        """The shortening, the photos, their vectors and the graph, for a file."""
        whole = self._whole
        graph = self._graph.save_index_to_buffer() if whole is None else whole.tobytes()
        return self._shortening, *self._rows.content, bytes(graph)

    def keys(self) -> Keys:
        """Return the photos that it holds, ascending."""
        return self._rows.keys()

    def add(self, keys: Keys, vectors: NDArray[np.float16]) -> None:
        """Add photos.

        Args:
            keys: the photos, none of which it holds.
            vectors: float16 (n, dimension), each of length 1.
        """
        # Several threads that begin a graph together can leave vectors without a neighbour.
        threads = 1 if len(self._graph) < _FEW else 0
        short = self._shortening.shorten(vectors.astype(np.float32))
        self._take_apart().add_many(keys.astype(np.uint64), short, threads=threads)
        self._rows.add(keys, vectors)

    def remove(self, keys: Keys) -> None:
        """Remove photos that it holds."""
        self._take_apart().remove_many(keys.tolist(), False, 0)
        self._rows.remove(keys)

    def propose(self, query: NDArray[np.float32], count: int, *, among: Keys | None) -> Keys:
        """Find the photos that are nearest, nearly always all of them.

        Args:
            query: float32 (dimension,), of length 1.
            count: how many.
            among: the only ones to consider, ascending; None for all.

        Returns:
            At most ``count`` photos, the nearest first.
        """
        held = len(self._graph)
        if not held or (among is not None and len(among) <= max(_FEW, count)):
            return self._rows.propose(query, count, among=among)
        short = self._shortening.shorten(query)[None]
        wanted, graph = max(count, _BREADTH), self._searchable()
        while True:
            found, _, counts, *_ = graph.search_many(short, min(wanted, held), threads=1)
            keys = found[0, : counts[0]].astype(np.int64)
            if among is not None:
                keys = keys[np.isin(keys, among)]
            if len(keys) >= count or wanted >= held:
                return self._rows.nearest_of(keys, query)[:count]
            wanted *= 4
