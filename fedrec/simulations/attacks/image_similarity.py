"""Measure how similar two pictures are (PSNR, SSIM), and match reconstructions to the photos."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment

from fedrec.errors import DataError

Pictures = NDArray[np.float64]

MOST_PSNR = 100.0
"""The PSNR of identical pictures, in dB, so that every value is finite."""
GREY = 0.5
_SIGMA, _TRUNCATE = 1.5, 3.5
_WINDOW = 2 * int(_TRUNCATE * _SIGMA + 0.5) + 1
_K1, _K2 = 0.01, 0.03


def psnr(picture: Pictures, other: Pictures) -> float:
    """Return the peak signal-to-noise ratio of two pictures.

    Args:
        picture: float64, values in 0 to 1.
        other: the same shape.

    Returns:
        -10 log10 of the mean squared error, in dB, at most 100.

    Raises:
        DataError: the shapes differ, or the pictures are empty.
    """
    if picture.shape != other.shape or picture.size == 0:
        raise DataError(f"pictures of shape {picture.shape} and {other.shape} can't be compared")
    error = float(np.mean(np.square(picture - other)))
    return min(MOST_PSNR, -10.0 * math.log10(error)) if error > 0.0 else MOST_PSNR


def ssim(picture: Pictures, other: Pictures) -> float:
    """Return the mean structural similarity (Wang et al. 2004) of two pictures.

    The paper's own settings: a Gaussian window of standard deviation 1.5, 11 pixels a side, K1 = 0.01, K2 =
    0.03, the mean over the positions where the whole window lies in the picture, and the mean over colours.

    Args:
        picture: float64 (H, W, C), values in 0 to 1; H and W at least 11.
        other: the same shape.

    Returns:
        The similarity, at most 1.

    Raises:
        DataError: the shapes differ, or a side is below 11 pixels.
    """
    if picture.shape != other.shape or picture.ndim != 3 or min(picture.shape[:2]) < _WINDOW:
        raise DataError(
            f"SSIM compares pictures (H, W, colours) of one shape with sides of at least {_WINDOW} pixels, "
            f"not {picture.shape} and {other.shape}"
        )

    def window(values: Pictures) -> Pictures:
        blurred: Pictures = gaussian_filter(values, sigma=(_SIGMA, _SIGMA, 0.0), truncate=_TRUNCATE)
        edge = _WINDOW // 2
        return blurred[edge : -edge or None, edge : -edge or None]

    c1, c2 = _K1**2, _K2**2
    mean, mean_other = window(picture), window(other)
    variance = window(picture * picture) - mean * mean
    variance_other = window(other * other) - mean_other * mean_other
    covariance = window(picture * other) - mean * mean_other
    likeness = (2 * mean * mean_other + c1) * (2 * covariance + c2)
    most = (mean * mean + mean_other * mean_other + c1) * (variance + variance_other + c2)
    return float(np.mean(likeness / most))


def match_order(reconstructions: Pictures, photos: Pictures) -> Pictures:
    """Sort reconstructions so that they match the photos best, by the least total squared error.

    An update doesn't reveal the order of its records; this matching favours the attacker.

    Args:
        reconstructions: float64 (n, H, W, C).
        photos: the same shape.

    Returns:
        The reconstructions in the order of the photos.
    """
    apart = np.square(reconstructions[:, None] - photos[None]).mean(axis=(2, 3, 4))
    rows, columns = linear_sum_assignment(apart)
    ordered = np.empty_like(reconstructions)
    ordered[columns] = reconstructions[rows]
    return ordered


def grey_like(photos: Pictures) -> Pictures:
    """Return plain mid-grey pictures of the photos' shape: a guess that needs no information."""
    return np.full_like(photos, GREY)
