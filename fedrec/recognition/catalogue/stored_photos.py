"""The photos of a catalogue as a collection among which copies are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.errors import DataError
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.photos import picture_of, read_file, sha256_of
from fedrec.recognition.catalogue.search import MOST_RESULTS, Query, Searcher
from fedrec.recognition.catalogue.stored_vectors import photo_keys

if TYPE_CHECKING:
    from fedrec.recognition.copies.prints import Print


class StoredPhotos:
    """The photos that have a vector of the catalogue's model, as they are when the object is made.

    It fulfils ``Collection`` and ``Nearest`` of :mod:`fedrec.recognition.copies.collection`, and
    ``KeptPrints``. Photos of merged catalogues have no file here, and can't be read.

    Args:
        catalogue: the catalogue.
        searcher: searches it.
    """

    def __init__(self, catalogue: Catalogue, searcher: Searcher) -> None:
        self._catalogue, self._searcher = catalogue, searcher
        self.keys = photo_keys(catalogue)

    @property
    def names(self) -> Sequence[str]:
        """The photos' numbers in the catalogue, as text."""
        return [str(key) for key in self.keys]

    def photo(self, number: int) -> Image.Image:
        """Decode a photo; ``DataError`` if it is gone, has no file here, was changed, or can't be read."""
        key = int(self.keys[number])
        data = photo_file(self._catalogue, key)
        held = self._catalogue.rows("SELECT sha256 FROM photo WHERE id = ?", (key,))
        if not held or held[0][0] != sha256_of(data):
            raise DataError("was changed since it was imported: import it again")
        return picture_of(data)

    def print_of(self, number: int) -> Print | None:
        """Return the print that is kept of a photo; None if there is none of this version."""
        # Searches for similar products need none of this.
        from fedrec.recognition.copies.kept_prints import unpacked
        from fedrec.recognition.copies.prints import luminance_of

        rows = self._catalogue.rows("SELECT content FROM print WHERE photo_id = ?", (int(self.keys[number]),))
        return unpacked(rows[0][0], pixels=lambda: luminance_of(self.photo(number))) if rows else None

    def nearest(
        self, vectors: NDArray[np.float32], *, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the photos whose vectors are most similar.

        Args:
            vectors: float32 (n, dimension), each of length 1.
            count: how many for each, at most 100; fewer where there are fewer photos.

        Returns:
            The photos' numbers, the most similar first, and their similarities: (n, count) each.
        """
        count = min(count, len(self.keys), MOST_RESULTS)
        numbers = np.zeros((len(vectors), count), dtype=np.int64)
        similarity = np.full((len(vectors), count), -1, dtype=np.float32)
        for row, vector in enumerate(vectors):
            found = self._searcher.search(Query(vector, top=count, all_photos=True)) if count else []
            places = np.searchsorted(self.keys, [one.photo.key for one in found])
            known = [
                (int(place), one.score)
                for place, one in zip(places, found, strict=True)
                if place < len(self.keys) and self.keys[place] == one.photo.key
            ]
            for column, (place, score) in enumerate(known):
                numbers[row, column], similarity[row, column] = place, score
            # A photo that was added since has no number: the nearest one stands in its place.
            numbers[row, len(known) :] = known[0][0] if known else 0
        return numbers, similarity

    def hashes(self) -> NDArray[np.uint64]:
        """Return the hashes that are kept of all photos, uint64 (photos, 4); zeros where none is kept."""
        from fedrec.recognition.copies.kept_prints import HASH_ENDS, hash_of

        found = np.zeros((len(self.keys), 4), dtype=np.uint64)
        rows = self._catalogue.rows("SELECT photo_id, substr(content, 1, ?) FROM print", (HASH_ENDS,))
        for key, beginning in rows:
            place = int(np.searchsorted(self.keys, key))
            words = hash_of(beginning)
            if words is not None and place < len(self.keys) and self.keys[place] == key:
                found[place] = words
        return found


def photo_file(catalogue: Catalogue, key: int) -> bytes:
    """Read the file of a stored photo.

    Args:
        catalogue: the catalogue.
        key: the photo's number.

    Returns:
        The file's content.

    Raises:
        DataError: there is no such photo, it has no file here, or the file can't be read.
    """
    rows = catalogue.rows("SELECT path FROM photo WHERE id = ?", (key,))
    if not rows or rows[0][0] is None:
        raise DataError("the photo is gone, or it is of another merchant's catalogue")
    return read_file(Path(rows[0][0]))
