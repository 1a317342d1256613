"""A merchant's records as the model of one plan takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class TrainingData:
    """What a merchant holds for a plan.

    Attributes:
        inputs: model inputs, float32 (n, views, ...).
        labels: int64 (n,).
        digests: of the n records, 32 bytes each, over their content and label.
        held: digests of all the merchant's records of the plan's unit, those of classes that the training
            leaves out among them.
        photos: digests of each record's photos; empty where a record is a photo.
        holds: whether record i is still there as it was read.

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
    """What goes into a step: inputs, float32 (n, views, ...), and labels, int64 (n,); n may be 0."""

    inputs: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def none(cls, device: torch.device) -> Records:
        """Return no record at all: what is left of a step is its noise."""
        return cls(
            inputs=torch.zeros(0, 1, 1, device=device),
            labels=torch.zeros(0, dtype=torch.int64, device=device),
        )
