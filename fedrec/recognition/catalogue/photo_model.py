"""Use a model on photos of a catalogue: a vector for each, and a class where the model has classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.errors import DataError
from fedrec.recognition.catalogue.catalogue import UsedModel
from fedrec.recognition.catalogue.changes import Vector


@dataclass(frozen=True)
class ModelOutput:
    """What a model says of one photo.

    Attributes:
        vector: float32 (dimension,), of length 1.
        label: the most probable class; None without classes.
        probability: of the class.
    """

    vector: NDArray[np.float32]
    label: str | None = None
    probability: float | None = None


@dataclass(frozen=True)
class PhotoModel:
    """A model, and how a catalogue names it.

    Attributes:
        used: its name.
        run: returns a vector, and perhaps a class, for each of several photos.
    """

    used: UsedModel
    run: Callable[[Sequence[Image.Image]], Sequence[ModelOutput]]

    def describe(self, photos: Sequence[Image.Image]) -> list[Vector]:
        """Compute the vectors and classes of photos.

        Returns:
            One for each photo.

        Raises:
            DataError: the model returns something else than a vector of length 1 for each photo.
        """
        if not photos:
            return []
        outputs = self.run(photos)
        found = np.stack([output.vector for output in outputs]) if outputs else np.zeros((0, 0), np.float32)
        fits = found.shape == (len(photos), self.used.dimension)
        # Not-a-number fails this comparison too.
        if not fits or not (np.abs(np.linalg.norm(found, axis=1) - 1) < 0.01).all():
            raise DataError(f"the model ({self.used.description}) returns no usable vectors")
        return [
            Vector(
                self.used.embedding_id,
                output.vector.astype(np.float16),
                self.used.labels_of,
                output.label,
                output.probability,
            )
            for output in outputs
        ]
