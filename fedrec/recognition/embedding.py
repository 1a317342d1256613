"""What catalogues, copies and the watch over a service need of a model: vectors of photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Embedder(Protocol):
    """A model that turns photos into vectors, near each other for photos that look alike."""

    @property
    def embedding_id(self) -> str:
        """Hash of all that determines a photo's vector: vectors of different ids are never compared."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, photos: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Compute the photos' vectors.

        Args:
            photos: n decoded photos, RGB or grey, of any size.

        Returns:
            float32 (n, dimension), each of Euclidean length 1; their inner product is the similarity.
        """
        ...
