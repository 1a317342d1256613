"""Find the photos of a catalogue that are nearest to a vector."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError, DataError
from fedrec.observability.progress import Tell
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.contents import StoredPhoto, StoredProduct, products_of
from fedrec.recognition.catalogue.filters import Filter, to_conditions
from fedrec.recognition.catalogue.stored_vectors import owned_vectors_of, photo_keys
from fedrec.recognition.catalogue.vector_index import Keys, VectorIndex, bring_up_to_date

MOST_RESULTS: Final = 100


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
        vector: float32 (dimension,), of length 1.
        top: how many results, 1 to 100.
        filters: what a result must fulfil.
        at_least: lowest score; None for any.
        all_photos: whether a product may be there once for each of its photos.
        without_product: number of a product to leave out; None for none.
        without_photo: number of a photo to leave out; None for none.
    """

    vector: NDArray[np.float32]
    top: int = 10
    filters: Sequence[Filter] = ()
    at_least: float | None = None
    all_photos: bool = False
    without_product: int | None = None
    without_photo: int | None = None


@dataclass(frozen=True)
class Result:
    """A photo that was found.

    Attributes:
        score: cosine of the angle between the vectors, at most 1.
        product: its product, with those of its photos that were found.
        photo: the photo.
    """

    score: float
    product: StoredProduct
    photo: StoredPhoto


class Searcher:
    """Searches one catalogue, also while another process changes it. It is safe to use from several threads.

    Args:
        catalogue: the catalogue.
        index: proposes photos; it is brought up to date whenever the catalogue was changed.
        content: content key that the index is of; None if it isn't known.
        tell: receives progress of bringing it up to date.

    Attributes:
        index: proposes photos.
    """

    def __init__(self, catalogue: Catalogue, index: VectorIndex, *, content: str | None, tell: Tell) -> None:
        self._catalogue, self.index, self._content, self._tell = catalogue, index, content, tell
        self._embedding_id = catalogue.model.embedding_id
        self._dimension, self._count = catalogue.model.dimension, len(index.keys())
        self._mutex = threading.Lock()

    def refresh(self) -> str:
        """Bring the index up to date.

        Returns:
            The content key that it is of now.

        Raises:
            DataError: the catalogue's vectors are of another model since it was opened.
        """
        with self._mutex:
            content = self._catalogue.content_key
            if content != self._content:
                if self._catalogue.model.embedding_id != self._embedding_id:
                    raise DataError(
                        f"{self._catalogue.folder} has the vectors of another model now: open it again"
                    )
                bring_up_to_date(self.index, self._catalogue, tell=self._tell)
                self._content, self._count = content, len(self.index.keys())
            return content

    def search(self, query: Query) -> list[Result]:
        """Find photos.

        Args:
            query: what is looked for.

        Returns:
            At most ``top`` results, the nearest first; of equally near ones the photo that came first.

        Raises:
            ConfigError: a filter or a number can't be used.
            DataError: the query's vector isn't of the catalogue's dimension, or the catalogue's vectors are
                of another model since it was opened.
        """
        if not 1 <= query.top <= MOST_RESULTS:
            raise ConfigError(f"--top {query.top} must be 1 to {MOST_RESULTS}")
        # Not-a-number compares as false with every score.
        if query.at_least is not None and not -1 <= query.at_least <= 1:
            raise ConfigError(f"--at-least {query.at_least:g} must be -1 to 1")
        if query.vector.shape != (self._dimension,) or not np.isfinite(query.vector).all():
            raise DataError("the query's vector is of another length than the catalogue's")
        self.refresh()
        conditions = to_conditions(self._catalogue, query.filters)
        among = photo_keys(self._catalogue, conditions) if conditions else None
        count = math.ceil((query.top + 1) * self.index.margin)
        while True:
            with self._mutex:
                everything = self._count if among is None else len(among)
                proposed = self.index.propose(query.vector, count, among=among)
            # The proposals of a server on the network may be anything.
            keys = np.unique(proposed if among is None else proposed[np.isin(proposed, among)])
            with self._catalogue.reading():
                found, worst = self._decide(keys, query)
            enough = len(found) == query.top or (query.at_least is not None and worst < query.at_least)
            if enough or count >= everything:
                return found
            count *= 4

    def _decide(self, keys: Keys, query: Query) -> tuple[list[Result], float]:
        """Look the proposals up in the catalogue; return the results, and the lowest score of all."""
        there, owners, vectors = owned_vectors_of(self._catalogue, keys, dimension=len(query.vector))
        scores = vectors.astype(np.float32) @ query.vector
        chosen: list[tuple[float, int, int]] = []
        taken = {query.without_product}
        order = np.lexsort((there, -scores))
        ranked = (values[order].tolist() for values in (scores, there, owners))
        for score, photo, owner in zip(*ranked, strict=True):
            if len(chosen) == query.top or (query.at_least is not None and score < query.at_least):
                break
            if owner in taken or photo == query.without_photo:
                continue
            chosen.append((min(1.0, score), owner, photo))
            if not query.all_photos:
                taken.add(owner)
        return self._results(chosen), float(scores.min()) if len(scores) else -1.0

    def _results(self, chosen: list[tuple[float, int, int]]) -> list[Result]:
        keys = list(dict.fromkeys(owner for _, owner, _ in chosen))
        photos = [key for _, _, key in chosen]
        held = {product.key: product for product in products_of(self._catalogue, keys, photos=photos)}
        return [
            Result(score, held[owner], photo)
            for score, owner, key in chosen
            if owner in held
            for photo in held[owner].photos
            if photo.key == key
        ]
