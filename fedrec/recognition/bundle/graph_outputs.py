"""Names of a bundle's graph's outputs."""

from __future__ import annotations

from typing import Final

SCORES: Final = "scores"
"""(n, classes) float32, before the temperature."""
PROBABILITIES: Final = "probabilities"
"""(n, classes) float32, each row with the sum 1."""
EMBEDDING: Final = "embedding"
"""(n, length) float32, each row of Euclidean length 1."""
OFFSET: Final = "offset"
"""(n, classes) float32: the part of the scores that no place in the photo accounts for."""
EVIDENCE: Final = "evidence_"
"""Followed by an input's name: (n, classes, side, side) float32. The maps' means, summed over
the inputs, plus the offset are the scores."""
