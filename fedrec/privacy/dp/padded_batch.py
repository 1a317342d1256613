"""The records of one pass through a model, padded so that every pass has the same shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PaddedBatch:
    """The records of one pass, m in every pass.

    Attributes:
        inputs: (m, V, ...).
        labels: int64 (m,).
        weights: float64 (m,), 1 for a record and 0 for padding.
    """

    inputs: Tensor
    labels: Tensor
    weights: Tensor

    @classmethod
    def padded(cls, inputs: Tensor, labels: Tensor, size: int) -> PaddedBatch:
        """Pad to a number of records.

        Args:
            inputs: (n, V, ...), 1 <= n <= size. They aren't copied if n is the size.
            labels: int64 (n,).
            size: m.

        Returns:
            The records, and copies of the first one of weight zero.
        """
        if len(inputs) == size:
            return cls(inputs, labels, torch.ones(size, dtype=torch.float64, device=inputs.device))
        weights = torch.zeros(size, dtype=torch.float64, device=inputs.device)
        weights[: len(inputs)] = 1.0
        chosen = torch.zeros(size, dtype=torch.int64, device=inputs.device)
        chosen[: len(inputs)] = torch.arange(len(inputs), device=inputs.device)
        return cls(inputs[chosen], labels[chosen], weights)

    def without(self, removed: Tensor) -> PaddedBatch | None:
        """Replace the records ``removed``, bool (m,), by copies of another, of weight zero; None if all."""
        kept = torch.nonzero(~removed)
        if not len(kept):
            return None
        chosen = torch.where(removed, kept[0], torch.arange(len(removed), device=removed.device))
        return PaddedBatch(self.inputs[chosen], self.labels[chosen], self.weights * ~removed)
