"""Round vectors to one byte a value, for indexes, which only propose."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_STEPS: Final = 127


def rounded(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """Round vectors to int8, each by its own largest value: cosines need no length."""
    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    steps: NDArray[np.float32] = np.rint(vectors * (_STEPS / largest))
    return steps.astype(np.int8)
