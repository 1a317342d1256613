"""Decide whether a photo was made from another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.copies.agreement import NOTHING, Agreement, agreement
from fedrec.recognition.copies.alignment import Alignment, alignments
from fedrec.recognition.copies.hashes import COPY_BITS, LEAST_QUALITY, distances, symmetry
from fedrec.recognition.copies.local_features import Sought
from fedrec.recognition.copies.overlap import Overlap, overlap
from fedrec.recognition.copies.prints import Print
from fedrec.recognition.copies.seams import Cell, Seams, seams_of

Test = Literal["hash", "pixels", "marked", "covered", "strip"]

# Set on photos of clothing-small's training split and their six nearest neighbours by embedding: look-alikes,
# many of one seller on one floor. Two photos of one object that was photographed twice reach a mean of 0.82.
LEAST_MEAN: Final = 0.84
"""The pictures agree throughout."""
_MARKED_MEAN: Final = 0.6
_MARKED: Final = ((0.45, 0.08), (0.175, 0.02))
"""How much agrees exactly at least, and how much is thicker than writing at most. Writing over the whole
photo leaves little as it was, and nothing of it is thick."""
_MARKED_CENTRAL: Final = 0.12
"""Of two plain garments on one carpet, the outlines alone differ, and nothing of the middle agrees
exactly."""
_COVERED_EXACT: Final = 0.5
_COVERED_BESIDE: Final = 0.75
_COVERED_THICK: Final = 0.27
_COVERED_CENTRAL: Final = 0.5
"""Half agrees exactly, and what is laid over a part leaves the middle free: where two garments were
photographed on one stand, all but the middle agrees."""
_STRIP_CONTRAST: Final = 0.5
_STRIP_INNER: Final = 0.85
_STRIP_TEXTURED: Final = 0.15
_STRIP_LENGTH: Final = 0.8
_STRIP_SHARE: Final = 0.2
_STRIP_INLIERS: Final = 8
"""A strip agrees, and what is beside it is another picture."""
_LEAST_OVERLAP: Final = 0.03
"""Share of each photo."""
_MOST_OF_ONE: Final = 0.5
"""Share of one photo or the other: a crop lies wholly on the other photo, and a photo wholly in its collage.
Where both share a margin alone, they may share a carpet alone."""
_LEAST_TEXTURED: Final = 0.05
_WORTH_A_LOOK: Final = 80
"""Bits up to which the whole photos are laid on each other where features don't tell how."""
_MOST_ALIGNMENTS: Final = 4


@dataclass(frozen=True)
class Match:
    """A photo that was made from another one, or both from a third.

    Attributes:
        test: what decided: ``hash`` (the whole photos are nearly the same), ``pixels`` (they agree throughout
            where they overlap), ``marked`` (they agree but for writing or small things laid over),
            ``covered`` (they agree but for larger things laid over), ``strip`` (a strip agrees, as in a
            collage).
        score: 0 to 1: the share of the overlap that agrees, or for ``hash`` of the bits.
        matrix: float64 (3, 3), takes points of the photo's print to the other print.
        of_first: share of the photo that lies on the other one.
        of_second: share of the other one that the photo lies on.
    """

    test: Test
    score: float
    matrix: NDArray[np.float64]
    of_first: float
    of_second: float


class Asked:
    """A photo that is compared with many others.

    Args:
        printed: its print.
        seams: the straight lines across it, if they are known.

    Attributes:
        printed: its print.
        sought: its local features.
        seams: the straight lines across it.
    """

    def __init__(self, printed: Print, *, seams: Seams | None = None) -> None:
        self.printed, self.sought = printed, Sought(printed.features)
        self.seams = seams or seams_of(printed.luminance)


def match(asked: Asked, second: Print) -> Match | None:
    """Compare a photo with another one.

    Args:
        asked: the photo.
        second: print of the other one, whose pixels are read only where features or hashes tell how the
            photos might lie on each other.

    Returns:
        How they match; None if neither was made from the other.

    Raises:
        DataError: the other photo's pixels are needed, and can't be read.
    """
    first = asked.printed
    bits = distances(first.hashes, second.hashes)
    nearest = int(np.argmin(bits))
    whole = symmetry(nearest, source=first.size, target=second.size)
    flat = min(first.hashes.quality, second.hashes.quality) < LEAST_QUALITY
    if bits[nearest] <= COPY_BITS and not flat:
        return Match("hash", 1 - float(bits[nearest]) / 256, whole, 1.0, 1.0)
    pairs = asked.sought.matched(second.features)
    proposed = alignments(pairs)[:_MOST_ALIGNMENTS]
    if bits[nearest] <= _WORTH_A_LOOK:
        proposed.append(Alignment(whole, inliers=0))
    found = [_decide(alignment, first, second) for alignment in proposed]
    if not any(found) and len(asked.seams.cells) > 1:
        found = [
            _decide_part(alignment, first, second, cell=cell)
            for cell in asked.seams.cells
            for alignment in alignments(each.inside(cell) for each in pairs)[:_MOST_ALIGNMENTS]
        ]
    return max((one for one in found if one is not None), key=lambda one: one.score, default=None)


def _shares_enough(laid: Overlap) -> bool:
    shares = laid.of_first, laid.of_second
    return min(shares) >= _LEAST_OVERLAP and max(shares) >= _MOST_OF_ONE


def _decide_part(alignment: Alignment, first: Print, second: Print, *, cell: Cell) -> Match | None:
    """Compare a part of a collage with a photo, as if it were a photo of its own."""
    # A part beside a line in a photo may be the floor that another photo shares; its middle is no floor.
    width, height = second.size
    x, y, depth = np.linalg.solve(alignment.matrix, [width / 2, height / 2, 1])
    if not (cell.left <= x / depth < cell.right and cell.top <= y / depth < cell.bottom):
        return None
    part = first.luminance[cell.top : cell.bottom, cell.left : cell.right]
    moved = alignment.matrix @ np.array([[1, 0, cell.left], [0, 1, cell.top], [0, 0, 1]])
    found = _decide(replace(alignment, matrix=moved), replace(first, pixels=lambda: part), second)
    if found is None or found.test == "strip":
        return None
    share = cell.area / first.luminance.size
    return replace(found, matrix=alignment.matrix, of_first=share * found.of_first)


def _decide(alignment: Alignment, first: Print, second: Print) -> Match | None:
    laid = overlap(first.luminance, second.luminance, alignment.matrix)
    if laid is None or not _shares_enough(laid):
        return None
    seen = agreement(laid)
    decided = _test(seen, alignment=alignment, of_second=laid.of_second)
    if decided is None:
        return None
    test, score = decided
    return Match(test, score, alignment.matrix, laid.of_first, laid.of_second)


def _test(seen: Agreement, *, alignment: Alignment, of_second: float) -> tuple[Test, float] | None:
    if seen is NOTHING or seen.textured < _LEAST_TEXTURED:
        return None
    if seen.mean >= LEAST_MEAN:
        return "pixels", seen.mean
    if (
        seen.mean >= _MARKED_MEAN
        and seen.central >= _MARKED_CENTRAL
        and any(seen.exact >= exact and seen.thick <= thick for exact, thick in _MARKED)
    ):
        return "marked", seen.mean
    if (
        seen.exact >= _COVERED_EXACT
        and seen.beside >= _COVERED_BESIDE
        and seen.thick <= _COVERED_THICK
        and seen.central >= _COVERED_CENTRAL
    ):
        return "covered", seen.exact
    strip = seen.strip
    if (
        strip is not None
        and strip.contrast >= _STRIP_CONTRAST
        and strip.inner >= _STRIP_INNER
        and strip.textured >= _STRIP_TEXTURED
        and strip.length <= _STRIP_LENGTH
        and strip.length * of_second >= _STRIP_SHARE
        and alignment.inliers >= _STRIP_INLIERS
    ):
        return "strip", strip.inner
    return None
