"""Compare two pictures pixel by pixel where one lies on the other.

Correlations are those of small windows, so that a change of brightness, contrast or light across the picture
changes nothing. Two garments on one floor agree wherever the floor is seen: what tells them from a copy with
marks on it is that marks are thin, and a garment isn't.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from fedrec.recognition.copies.overlap import Overlap
from fedrec.recognition.copies.strips import Strip, agreeing_strip

_Value = TypeVar("_Value", bound=np.generic)

WINDOW: Final = 13
_SOFTEN: Final = 1.2
_LEAST_CONTRAST: Final = 2.5
"""Standard deviation of a window, in grey levels, from which it counts."""
_LEAST_SHARE: Final = 0.12
"""The same as a share of the standard deviation of the overlap."""
_NOISE: Final = 1.0
"""Added to variances, in squared grey levels."""
_LEAST_PIXELS: Final = 400
_EXACT: Final = 0.95
_DIFFERENT: Final = 0.5
_JOINED: Final = 9
_AROUND: Final = 0.3
"""The middle is what lies further from each side, in parts of the overlap's height and width."""
_THICK: Final = 25
"""Pixels; the overlap has about 25,600."""


@dataclass(frozen=True)
class Agreement:
    """How alike two pictures are where they overlap; of windows with contrast in either one.

    Attributes:
        mean: mean correlation, -1 to 1.
        exact: share with a correlation above 0.95.
        thick: share of the overlap in areas that differ and are thicker than strokes of writing.
        central: of the windows in the middle, share with a correlation above 0.95; 0 where few are.
        beside: the same of windows outside of thick areas.
        strip: the strip across the overlap that agrees best while the rest doesn't; None without one.
        textured: share of the overlap with contrast.
    """

    mean: float
    exact: float
    thick: float
    central: float
    beside: float
    strip: Strip | None
    textured: float


NOTHING: Final = Agreement(mean=0.0, exact=0.0, thick=1.0, central=0.0, beside=0.0, strip=None, textured=0.0)


def agreement(overlap: Overlap) -> Agreement:
    """Compare the two pictures in their overlap."""
    inside = _whole_windows(overlap.inside)
    if inside.sum() < _LEAST_PIXELS:
        return NOTHING
    one, two = _softened(overlap.first), _softened(overlap.second)
    mean_one, mean_two = _mean(one), _mean(two)
    variance_one = np.maximum(_mean(one * one) - mean_one**2, 0)
    variance_two = np.maximum(_mean(two * two) - mean_two**2, 0)
    counts = inside & (_has_contrast(variance_one, one[inside]) | _has_contrast(variance_two, two[inside]))
    if not counts.any():
        return NOTHING
    covariance = _mean(one * two) - mean_one * mean_two
    correlation = covariance / np.sqrt((variance_one + _NOISE) * (variance_two + _NOISE))
    area = int(inside.sum())
    thick = _thick((correlation < _DIFFERENT) & counts)
    # A window that a thick area reaches into differs, too.
    beside = counts & (cv2.dilate(thick, np.ones((WINDOW, WINDOW), np.uint8)) == 0)
    return Agreement(
        mean=float(correlation[counts].mean()),
        exact=float((correlation[counts] > _EXACT).mean()),
        thick=int(thick.sum()) / area,
        central=_exact(_middle(correlation), _middle(counts)),
        beside=_exact(correlation, beside),
        strip=agreeing_strip(correlation, counts),
        textured=float(counts.sum() / area),
    )


def _whole_windows(inside: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the middles of windows that both pictures fill."""
    half = WINDOW // 2
    framed = np.zeros_like(inside)
    framed[half:-half, half:-half] = inside[half:-half, half:-half]
    return cv2.erode(framed, np.ones((WINDOW, WINDOW), np.uint8)) > 0


def _softened(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", cv2.GaussianBlur(values, (0, 0), _SOFTEN))


def _has_contrast(variances: NDArray[np.float32], pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    limit = max(_LEAST_CONTRAST, _LEAST_SHARE * float(pixels.std()))
    return variances > limit**2


def _thick(different: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return 1 in areas that are thicker than ``_THICK``, with what they enclose, and 0 elsewhere."""
    joined = cv2.morphologyEx(
        different.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((_JOINED, _JOINED), np.uint8)
    )
    filled = np.asarray(binary_fill_holes(joined), dtype=np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_THICK, _THICK))
    return cast("NDArray[np.uint8]", cv2.morphologyEx(filled, cv2.MORPH_OPEN, disc))


def _exact(correlation: NDArray[np.floating], counts: NDArray[np.bool_]) -> float:
    """Return the share of the windows that count which agree exactly; 0 where few count."""
    return float((correlation[counts] > _EXACT).mean()) if counts.sum() >= _LEAST_PIXELS else 0.0


def _middle(values: NDArray[_Value]) -> NDArray[_Value]:
    height, width = values.shape
    rows, columns = round(_AROUND * height), round(_AROUND * width)
    return values[rows : height - rows, columns : width - columns]


def _mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", cv2.boxFilter(values, -1, (WINDOW, WINDOW)))
