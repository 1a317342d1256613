"""The part of a network before the first layer that is adapted: its outputs never change, and are cached."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedrec.vision.backbones.backbone import ViewExtractor

_LARGEST: Final = float(np.finfo(np.float16).max)


class FrozenPart(Protocol):
    """The frozen part of a network, from pictures to tokens."""

    @property
    def shape(self) -> tuple[int, int]:
        """Count and width of a picture's tokens."""
        ...

    def extractor(self, *, dtype: torch.dtype | None = None) -> ViewExtractor:
        """Return what computes and caches the tokens of photos.

        Args:
            dtype: number format of the computation; None for this machine's.

        Returns:
            The extractor.
        """
        ...

    def on_pictures(self, model: nn.Module) -> nn.Module:
        """Put the frozen part before a model on its tokens.

        Args:
            model: maps tokens (n, count, width) to class scores.

        Returns:
            A module from normalised pictures (n, 3, size, size) to class scores.
        """
        ...


class TokenExtractor(ViewExtractor):
    """The tokens of a network for one fixed view, of the lengths that they have."""

    def scaled(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring tokens into the range of the cache's numbers, which few networks leave."""
        return np.clip(features, -_LARGEST, _LARGEST)
