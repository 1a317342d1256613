"""Fit the temperature of a model's probabilities to labelled public photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from fedrec.errors import DataError
from fedrec.recognition.bundle.manifest import Calibration

LEAST_PHOTOS: Final = 50
_RANGE: Final = (-5.0, 5.0)
"""Natural logarithms of the temperatures that are tried."""


def fitted(scores: NDArray[np.float32], labels: Sequence[int]) -> Calibration:
    """Find the temperature under which the photos' classes are most likely (Guo et al. 2017, section 4.2).

    Args:
        scores: float32 (n, classes).
        labels: n numbers of the true classes.

    Returns:
        The calibration.

    Raises:
        DataError: there are too few photos.
    """
    if len(labels) < LEAST_PHOTOS:
        raise DataError(f"{len(labels)} photos can't calibrate probabilities: give {LEAST_PHOTOS} or more")
    values = scores.astype(np.float64)
    true = values[np.arange(len(labels)), list(labels)]

    def loss(logarithm: float) -> float:
        scale = np.exp(-logarithm)
        return float(np.mean(logsumexp(scale * values, axis=1) - scale * true))

    best: Any = minimize_scalar(loss, bounds=_RANGE, method="bounded")
    return Calibration(temperature=float(np.exp(best.x)), photos=len(labels))
