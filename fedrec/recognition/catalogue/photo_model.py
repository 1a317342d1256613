"""Use a model on photos of a catalogue: a vector for each, and a class where the model has classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fedrec.errors import DataError
from fedrec.recognition.catalogue.catalogue import UsedModel
from fedrec.recognition.catalogue.changes import Vector
from fedrec.recognition.embedding import Embedder

Classify = Callable[[Sequence[Image.Image]], Sequence[tuple[str, float]]]
"""Returns the most probable class of each photo, and its probability."""


@dataclass(frozen=True)
class PhotoModel:
    """A model, and how a catalogue names it.

    Attributes:
        embedder: computes the vectors.
        path: the model's folder; None for the packaged backbone alone.
        description: which model it is, for people.
        labels_of: hash of what gives the classes; None without classes.
        classify: gives photos their class; None without classes.
    """

    embedder: Embedder
    path: str | None
    description: str
    labels_of: str | None = None
    classify: Classify | None = None

    @property
    def used(self) -> UsedModel:
        """What a catalogue keeps of it."""
        return UsedModel(
            embedding_id=self.embedder.embedding_id,
            dimension=self.embedder.dimension,
            path=self.path,
            labels_of=self.labels_of,
            description=self.description,
        )

    def describe(self, photos: Sequence[Image.Image]) -> list[Vector]:
        """Compute the vectors and classes of photos.

        Returns:
            One for each photo.

        Raises:
            DataError: the model returns something else than a vector of length 1 for each photo.
        """
        if not photos:
            return []
        found = np.asarray(self.embedder.embed(photos), dtype=np.float32)
        lengths = np.linalg.norm(found, axis=-1) if found.ndim == 2 else np.zeros(1)
        # Not-a-number fails this comparison too.
        if found.shape != (len(photos), self.embedder.dimension) or not (np.abs(lengths - 1) < 0.01).all():
            raise DataError(f"the model ({self.description}) returns no usable vectors")
        labels = [(None, None)] * len(photos) if self.classify is None else self.classify(photos)
        return [
            Vector(self.embedder.embedding_id, values, self.labels_of, label, probability)
            for values, (label, probability) in zip(found.astype(np.float16), labels, strict=True)
        ]
