"""Find the strip of an overlap that agrees: a collage shows a photo cut to the shape of a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BINS: Final = 32
_NARROWEST: Final = 5
_LEAST_PIXELS: Final = 300
_AGREES: Final = 0.8


@dataclass(frozen=True)
class Strip:
    """A strip from one side of the overlap to the other.

    Attributes:
        inner: share of its windows that agree.
        outer: the same of all others.
        length: its share of the overlap.
        textured: its share of the windows with contrast.
    """

    inner: float
    outer: float
    length: float
    textured: float

    @property
    def contrast(self) -> float:
        """Return how much better it agrees than the rest; a narrow strip does so more easily by chance."""
        return (self.inner - self.outer) * float(np.sqrt(self.length))


def agreeing_strip(correlation: NDArray[np.floating], counts: NDArray[np.bool_]) -> Strip | None:
    """Find the upright or level strip with the greatest contrast.

    Args:
        correlation: of the windows, (height, width).
        counts: which windows have contrast.

    Returns:
        The strip; None if there are too few windows.
    """
    best: Strip | None = None
    for axis in (0, 1):
        of_lines = counts.sum(axis=axis), (counts & (correlation > _AGREES)).sum(axis=axis)
        edges = np.linspace(0, len(of_lines[0]), _BINS + 1).astype(int)
        windows, agreeing = (np.concatenate([[0], np.cumsum(line)])[edges] for line in of_lines)
        start, end = np.triu_indices(_BINS + 1, _NARROWEST)
        held = windows[end] - windows[start]
        good = agreeing[end] - agreeing[start]
        left = windows[-1] - held
        enough = (held >= _LEAST_PIXELS) & (left >= _LEAST_PIXELS)
        if not enough.any():
            continue
        start, end, held, good, left = (values[enough] for values in (start, end, held, good, left))
        inner, outer = good / held, (agreeing[-1] - good) / left
        length = (end - start) / _BINS
        place = int(np.argmax((inner - outer) * np.sqrt(length)))
        found = Strip(
            inner=float(inner[place]),
            outer=float(outer[place]),
            length=float(length[place]),
            textured=float(held[place] / windows[-1]),
        )
        if best is None or found.contrast > best.contrast:
            best = found
    return best
