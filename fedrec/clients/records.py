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
    """The records of a step: inputs, float32 (n, views, ...), and labels, int64 (n,). n may be 0."""

    inputs: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def none(cls, device: torch.device) -> Records:
        """Return zero records; a step of them contributes noise alone."""
        return cls(
            inputs=torch.zeros(0, 1, 1, device=device),
            labels=torch.zeros(0, dtype=torch.int64, device=device),
        )
