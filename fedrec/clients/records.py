"""Define a merchant's records as inputs of a plan's model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class TrainingData:
    """The records that a merchant has for a plan.

    Attributes:
        inputs: model inputs, float32 (n, views, ...).
        labels: class indices, int64 (n,).
        digests: SHA-256 of content and label of each record, 32 bytes each.
        held: digests of all the merchant's records of the plan's unit, including those of classes that the
            training leaves out.
        photos: digests of each record's photos; empty if a record is a photo.
        holds: returns whether record i is still in the folder and unchanged.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    digests: tuple[bytes, ...]
    held: tuple[bytes, ...]
    photos: tuple[tuple[bytes, ...], ...] = ()
    holds: Callable[[int], bool] = field(default=lambda index: True, compare=False)

    def photos_of(self, index: int) -> tuple[bytes, ...]:
        """Return the digests of the photos of record ``index``."""
        return self.photos[index] if self.photos else (self.digests[index],)


@dataclass(frozen=True)
class Records:
    """The records of a step: some of those that were loaded, whose inputs are not copied.

    Attributes:
        inputs: float32 (n, views, ...), of all that were loaded; n may be 0.
        labels: int64 (n,), of all that were loaded.
        places: positions of those that take part, int64 on the CPU; None for all.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor | None = None

    def __len__(self) -> int:
        """Return how many records take part."""
        return len(self.labels if self.places is None else self.places)

    @classmethod
    def none(cls, device: torch.device) -> Records:
        """Return zero records; a step of them contributes noise alone."""
        return cls(
            inputs=torch.zeros(0, 1, 1, device=device),
            labels=torch.zeros(0, dtype=torch.int64, device=device),
        )
