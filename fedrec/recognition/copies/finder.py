"""Find the photos of a collection that a photo was made from, or that were made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedrec._internal.heap import set_heap_thresholds
from fedrec.errors import DataError
from fedrec.observability.progress import Stage, Tell
from fedrec.recognition.copies.collection import AllVectors, Collection, Nearest
from fedrec.recognition.copies.decision import Asked, Match, match
from fedrec.recognition.copies.feature_index import FeatureIndex
from fedrec.recognition.copies.kept_prints import KeptPrints
from fedrec.recognition.copies.prints import Print, Prints, make_print, reduced
from fedrec.recognition.copies.proposals import by_features, by_hashes, by_vectors, merged, parts_of
from fedrec.recognition.copies.transformation import Transformation, transformation
from fedrec.recognition.embedding import Embedder

_OF_NEGATIVE: Final = 4
"""Candidates of a photo's negative."""
_MAPPED_FROM: Final = 8 << 20
_KEPT: Final = 48 << 20
"""The scales of one photo, in which local features are looked for, take 38 MB. Memory that is returned to the
system after each photo is fetched again page by page for the next, a quarter of the time of a print."""


@dataclass(frozen=True)
class Found:
    """A photo of the collection that matches.

    Attributes:
        number: its number.
        match: how it matches.
        transformation: what takes the photo to it.
    """

    number: int
    match: Match
    transformation: Transformation


def _ignore(stage: Stage) -> None:
    """Show no progress."""


class Finder:
    """A collection that is ready to be asked for copies.

    It sets how much freed memory the whole process keeps, up to 48 MB for each thread that looks for copies.

    Args:
        collection: the photos.
        embedder: the model whose vectors propose photos too; None for local features and hashes alone.
        search: the vectors of the collection; None to compute them.
        read_all: read every photo first, so that local features and hashes propose photos too. Without it,
            which needs ``search``, vectors propose, and hashes that were kept; no photo is read before a
            question.
        kept: prints that were made before; a photo that has one is read only where its pixels decide.
        tell: receives progress.

    Attributes:
        unread: reason by the number of a photo that couldn't be read.
    """

    def __init__(
        self,
        collection: Collection,
        *,
        embedder: Embedder | None = None,
        search: Nearest | None = None,
        read_all: bool = True,
        kept: KeptPrints | None = None,
        tell: Tell = _ignore,
    ) -> None:
        set_heap_thresholds(mapped_from=_MAPPED_FROM, kept=_KEPT)
        self.unread: dict[int, str] = {}
        self._collection, self._embedder, self._search, self._kept = collection, embedder, search, kept
        self._prints = Prints(self._make)
        count = self._count = len(collection.names)
        self._hashes = np.zeros((count if read_all else 0, 4), dtype=np.uint64)
        if kept is not None and not read_all:
            self._hashes = kept.hashes()
        own = read_all and search is None and embedder is not None
        self._vectors = np.zeros((count, embedder.dimension if own and embedder else 0), dtype=np.float32)
        self._index = FeatureIndex(self._read_all(tell), photos=count) if read_all else None
        if own:
            self._search = AllVectors(self._vectors)

    @property
    def vectors(self) -> Nearest | None:
        """Return the search among the collection's vectors; None without a model."""
        return self._search

    def find(self, photo: Image.Image) -> list[Found]:
        """Find the photos that match a photo.

        Args:
            photo: as people see it.

        Returns:
            The matches, the best first.
        """
        printed = make_print(photo)
        if printed is None:
            return []
        small, asked = reduced(photo), Asked(printed)
        found = self._compare(asked, self._candidates(small, asked, without=frozenset()))
        return found or self._of_negative(small, asked, without=frozenset())

    def pairs(self, tell: Tell = _ignore) -> Iterator[tuple[int, Found]]:
        """Find the photos of the collection that match each other.

        Args:
            tell: receives progress.

        Yields:
            A photo's number, and a match with a photo: each pair once.
        """
        compared: dict[int, set[int]] = {}
        negatives: dict[int, set[int]] = {}
        count = self._count
        for number in range(count):
            photo, printed = self._again(number)
            if printed is not None:
                asked = Asked(printed)
                without = frozenset({number, *compared.pop(number, ())})
                candidates = self._candidates(photo, asked, without=without)
                for candidate in candidates:
                    if candidate > number:
                        compared.setdefault(candidate, set()).add(number)
                matches = self._compare(asked, candidates)
                if not matches:
                    without = frozenset({number, *negatives.pop(number, ())})
                    matches = self._of_negative(photo, asked, without=without)
                    for found in matches:
                        negatives.setdefault(found.number, set()).add(number)
                for found in matches:
                    yield number, found
            tell(Stage("compare photos", number + 1, count))

    def _of_negative(
        self, photo: Image.Image | None, asked: Asked, *, without: frozenset[int]
    ) -> list[Found]:
        """Find photos that the photo is a negative of, among few candidates: negatives are rare."""
        inverted = None if photo is None else ImageOps.invert(photo.convert("RGB"))
        negative = Asked(asked.printed.negative(), seams=asked.seams)
        candidates = self._candidates(inverted, negative, without=without, parts=False)
        found = self._compare(negative, candidates[:_OF_NEGATIVE])
        return [replace(one, transformation=replace(one.transformation, negative=True)) for one in found]

    def _candidates(
        self, photo: Image.Image | None, asked: Asked, *, without: frozenset[int], parts: bool = True
    ) -> list[int]:
        printed = asked.printed
        proposals = [by_hashes(printed.hashes, self._hashes)]
        if self._index is not None:
            proposals.append(by_features(printed, self._index))
        if photo is not None and self._embedder is not None and self._search is not None:
            cut = parts_of(photo, asked.seams) if parts else []
            proposals += by_vectors(photo, self._embedder, self._search, parts=cut)
        return merged(proposals, without=without)

    def _again(self, number: int) -> tuple[Image.Image | None, Print | None]:
        """Return a photo of the collection for vectors of its parts, where they are wanted, and its print."""
        printed = None if self._kept is not None else self._prints[number]
        if self._kept is None and (printed is None or self._embedder is None):
            return None, printed
        try:
            photo = reduced(self._collection.photo(number))
        except DataError as error:
            self.unread.setdefault(number, str(error))
            return None, printed
        # A print that was kept has few features.
        return photo, make_print(photo) if self._kept is not None else printed

    def _compare(self, asked: Asked, candidates: list[int]) -> list[Found]:
        found = []
        for number in candidates:
            other = self._prints[number]
            try:
                matched = None if other is None else match(asked, other)
            except DataError as error:
                self.unread[number] = str(error)
                continue
            if matched is not None:
                found.append(Found(number, matched, transformation(matched, size=asked.printed.size)))
        return sorted(found, key=lambda one: -one.match.score)

    def _read_all(self, tell: Tell) -> Iterator[NDArray[np.uint8]]:
        count = self._count
        for number in range(count):
            printed = self._prints[number]
            if printed is None:
                yield np.zeros((0, 128), dtype=np.uint8)
            else:
                self._hashes[number] = printed.hashes.words[0]
                yield printed.features.descriptors
            tell(Stage("read photos", number + 1, count))

    def _make(self, number: int) -> Print | None:
        kept = None if self._kept is None else self._kept.print_of(number)
        if kept is not None:
            return kept
        try:
            photo = reduced(self._collection.photo(number))
        except DataError as error:
            self.unread[number] = str(error)
            return None
        printed = make_print(photo)
        # A print that is made again has its vector already.
        if printed is not None and self._embedder is not None and self._vectors.size:
            row = self._vectors[number]
            row[:] = row if row.any() else self._embedder.embed([photo])[0]
        return printed
