"""Open the index of a catalogue: from its file where that fits, and made again where not."""

from __future__ import annotations

import os
from typing import Final

import numpy as np

from fedrec.observability.progress import Tell, message
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.graph_index import GraphIndex
from fedrec.recognition.catalogue.index_file import LocalIndex, Origin, load_index, save_index
from fedrec.recognition.catalogue.scan_index import ScanIndex
from fedrec.recognition.catalogue.search import Searcher
from fedrec.recognition.catalogue.shortening import Shortening
from fedrec.recognition.catalogue.stored_vectors import photo_keys, vectors_of
from fedrec.recognition.catalogue.vector_index import bring_up_to_date

SCANNED_UP_TO: Final = 100_000
"""Vectors up to which every one is compared."""
INDEX_FILE: Final = "catalogue.vectors"
_SAMPLE: Final = 8192
"""Vectors at most that say which directions matter."""


def open_searcher(catalogue: Catalogue, *, tell: Tell, scanned_up_to: int = SCANNED_UP_TO) -> Searcher:
    """Open a catalogue's index, here or on its server, and bring it up to date.

    Args:
        catalogue: the catalogue.
        tell: receives progress.
        scanned_up_to: vectors up to which every one is compared with a query.

    Returns:
        What searches the catalogue.
    """
    model = catalogue.model
    server = catalogue.server
    if server is not None:
        return _on_server(catalogue, server, tell=tell)
    origin = Origin(
        catalogue=catalogue.identifier,
        embedding_id=model.embedding_id,
        dimension=model.dimension,
        content=catalogue.content_key,
    )
    path = catalogue.folder / INDEX_FILE
    loaded = load_index(path, origin)
    index, fits = loaded or (None, False)
    count = catalogue.rows("SELECT count(*) FROM vector WHERE embedding_id = ?", (model.embedding_id,))[0][0]
    # A graph takes minutes to make: one stays until there are far fewer vectors.
    least = scanned_up_to // 2 if isinstance(index, GraphIndex) else scanned_up_to
    if index is None or isinstance(index, GraphIndex) != (count > least):
        index, fits = _empty(catalogue, graph=count > least), False
    if not fits:
        bring_up_to_date(index, catalogue, tell=tell)
        try:
            save_index(path, index, origin)
        except OSError as error:
            tell(message(f"{path} can't be written ({error.strerror}): the next search makes it again"))
    return Searcher(catalogue, index, content=origin.content, tell=tell)


def _on_server(catalogue: Catalogue, address: str, *, tell: Tell) -> Searcher:
    from fedrec.recognition.catalogue.qdrant import KEY_VARIABLE, QdrantIndex

    model = catalogue.model
    index = QdrantIndex(
        address,
        catalogue=catalogue.identifier,
        embedding_id=model.embedding_id,
        dimension=model.dimension,
        key=os.environ.get(KEY_VARIABLE),
    )
    searcher = Searcher(catalogue, index, content=None, tell=tell)
    searcher.refresh()
    return searcher


def _empty(catalogue: Catalogue, *, graph: bool) -> LocalIndex:
    dimension = catalogue.model.dimension
    if not graph:
        return ScanIndex(np.zeros(0, np.int64), np.zeros((0, dimension), np.int8))
    keys = photo_keys(catalogue)
    # Neighbours in number are photos of one product: a sample is taken from all over the catalogue.
    sample = keys[:: -(-len(keys) // _SAMPLE)]
    return GraphIndex(Shortening.of(vectors_of(catalogue, sample, dimension=dimension)[1].astype(np.float32)))
