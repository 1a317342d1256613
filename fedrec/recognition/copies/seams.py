"""Take a collage apart: find straight lines across a picture at which everything changes at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MOST_CELLS: Final = 8
_LEAST_SHARE: Final = 0.16
"""Of the picture's side: a narrower cell is a gap or a frame."""
_LEAST_STEP: Final = 14.0
"""Grey levels between the two sides of a seam."""
_CLEAR: Final = 0.55
"""Share of a line at which the picture changes so much, from which it parts two pictures."""
_FAINT: Final = 0.45
"""The same, from which it may do so."""
_AROUND: Final = 12
_ABOVE: Final = 0.22
"""By how much that share exceeds the one of most lines within so many pixels on both sides."""


@dataclass(frozen=True)
class Cell:
    """A rectangle of a picture, in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """Its pixels."""
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)

    def common(self, other: Cell) -> float:
        """Return how much both cover, as a share of what they cover together."""
        both = Cell(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        ).area
        return both / max(1, self.area + other.area - both)


@dataclass(frozen=True)
class Seams:
    """The straight lines across a picture at which everything changes.

    Attributes:
        cells: what clear ones part, at most eight pictures; empty without any.
        any: whether there is any, a faint one too.
    """

    cells: tuple[Cell, ...]
    any: bool


def seams_of(luminance: NDArray[np.uint8]) -> Seams:
    """Find the seams of a picture, uint8 (height, width)."""
    values = luminance.astype(np.float32)
    height, width = values.shape
    whole = Cell(0, 0, width, height)
    least = _LEAST_SHARE * width, _LEAST_SHARE * height
    done: list[Cell] = []
    waiting = [whole]
    while waiting:
        cell = waiting.pop(0)
        parts = _split(values, cell, least=least)
        # Where a frame alone is cut off, one part is left.
        if parts in ([], [cell]) or len(done) + len(waiting) + len(parts) > _MOST_CELLS:
            done.append(cell)
        else:
            waiting += parts
    if done != [whole]:
        return Seams(tuple(done), any=True)
    return Seams((), any=bool(_lines(values, least=_FAINT) or _lines(values.T, least=_FAINT)))


def _split(values: NDArray[np.float32], cell: Cell, *, least: tuple[float, float]) -> list[Cell]:
    """Cut a cell at the lines of the direction that has the clearest one; parts that are too narrow go."""
    part = values[cell.top : cell.bottom, cell.left : cell.right]
    across, down = _lines(part, least=_CLEAR), _lines(part.T, least=_CLEAR)
    if not across and not down:
        return [cell]
    if max(across.values(), default=0) >= max(down.values(), default=0):
        places = [cell.left, *(cell.left + place for place in across), cell.right]
        made = [Cell(a, cell.top, b, cell.bottom) for a, b in pairwise(places)]
        return [one for one in made if one.right - one.left >= least[0]]
    places = [cell.top, *(cell.top + place for place in down), cell.bottom]
    made = [Cell(cell.left, a, cell.right, b) for a, b in pairwise(places)]
    return [one for one in made if one.bottom - one.top >= least[1]]


def _lines(part: NDArray[np.float32], *, least: float) -> dict[int, float]:
    """Return the columns at which a picture changes, ascending, and the share of each at which it does."""
    if min(part.shape) < 3 * _AROUND:
        return {}
    # Across a line that was reduced with the picture, the step takes two pixels.
    changes = (np.abs(part[:, 2:] - part[:, :-2]) > _LEAST_STEP).mean(axis=0)
    found: dict[int, float] = {}
    for place in np.argsort(-changes, kind="stable").tolist():
        if changes[place] < least:
            break
        if all(abs(place + 1 - other) > 2 for other in found):
            around = [changes[max(0, place - _AROUND) : max(0, place - 2)], changes[place + 3 :][:_AROUND]]
            # A pattern changes everywhere.
            if np.quantile(np.concatenate(around), 0.8) < changes[place] - _ABOVE:
                found[place + 1] = float(changes[place])
    return dict(sorted(found.items()))
