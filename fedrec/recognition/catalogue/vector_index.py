"""What a catalogue needs of an index of vectors, and how an index is brought up to date."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.observability.progress import Stage, Tell
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.stored_vectors import photo_keys, vectors_of

Keys = NDArray[np.int64]
"""Numbers of photos."""

_CHUNK: Final = 4096


class VectorIndex(Protocol):
    """Proposes photos near a vector; the catalogue itself decides which are there, and how near they are.

    An index may hold photos that are gone, and may propose in a rough order: it is asked for more than are
    wanted.

    Attributes:
        margin: proposals for each result that is wanted.
    """

    margin: float

    def keys(self) -> Keys:
        """Return the photos that it holds, ascending."""
        ...

    def add(self, keys: Keys, vectors: NDArray[np.float16]) -> None:
        """Add photos.

        Args:
            keys: the photos, none of which it holds.
            vectors: float16 (n, dimension), each of length 1.
        """
        ...

    def remove(self, keys: Keys) -> None:
        """Remove photos that it holds."""
        ...

    def propose(self, query: NDArray[np.float32], count: int, *, among: Keys | None) -> Keys:
        """Find the photos that are nearest.

        Args:
            query: float32 (dimension,), of length 1.
            count: how many.
            among: the only ones to consider, ascending; None for all.

        Returns:
            At most ``count`` photos, the nearest first.
        """
        ...


def bring_up_to_date(index: VectorIndex, catalogue: Catalogue, *, tell: Tell) -> None:
    """Make an index hold the photos that a catalogue holds.

    A number is never given to another photo, and a photo's vector never changes: the numbers tell all.

    Args:
        index: the index.
        catalogue: the catalogue.
        tell: receives progress.
    """
    wanted, held = photo_keys(catalogue), index.keys()
    gone = np.setdiff1d(held, wanted, assume_unique=True)
    if len(gone):
        index.remove(gone)
    missing = np.setdiff1d(wanted, held, assume_unique=True)
    dimension = catalogue.model.dimension
    for start in range(0, len(missing), _CHUNK):
        index.add(*vectors_of(catalogue, missing[start : start + _CHUNK], dimension=dimension))
        if len(missing) > _CHUNK:
            tell(Stage("index", min(start + _CHUNK, len(missing)), len(missing)))
