"""How far a window of photos is from a reference, in six measures; each grows with the distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Means:
    """Means over photos: of one window, or of many at once with a leading axis.

    Attributes:
        embedding: (..., dimension).
        shares: (..., classes), share of photos of each class; no classes for a backbone alone.
        confidence: (...), of the largest probabilities.
        luminance: (...).
        sharpness: (...).
    """

    embedding: NDArray[np.float64]
    shares: NDArray[np.float64]
    confidence: NDArray[np.float64]
    luminance: NDArray[np.float64]
    sharpness: NDArray[np.float64]


@dataclass(frozen=True)
class Meaning:
    """What a measure says.

    Attributes:
        problem: what an alarm tells.
        cause: what to look at.
    """

    problem: str
    cause: str


MEASURES: Final = {
    "blur": Meaning(
        "The photos are less sharp than usual.", "A lens, a camera app or a step before the model."
    ),
    "dark": Meaning(
        "The photos are darker than usual.", "Light, or a step before the model that changes it."
    ),
    "bright": Meaning(
        "The photos are brighter than usual.", "Exposure, or a step before the model that changes it."
    ),
    "one-class": Meaning("Far more photos than usual are of one class.", "An upload in bulk, or an attack."),
    "unsure": Meaning("The model is less sure than usual.", "New kinds of products, or poor photos."),
    "foreign": Meaning(
        "The photos don't look like those of the reference.", "Other products or another use."
    ),
}
"""Every measure by its name."""


def measures(window: Means, reference: Means) -> dict[str, NDArray[np.float64]]:
    """Compare windows with references.

    Args:
        window: means of one window, or of many.
        reference: means of one reference, or of as many.

    Returns:
        The measures by name: the loss of sharpness, of luminance and of confidence, the gain of luminance,
        the largest growth of a class's share, and the distance of the mean vectors. Without classes two are
        missing.
    """
    found = {
        "blur": reference.sharpness - window.sharpness,
        "dark": reference.luminance - window.luminance,
        "bright": window.luminance - reference.luminance,
        "foreign": np.linalg.norm(window.embedding - reference.embedding, axis=-1),
    }
    if window.shares.shape[-1]:
        found["one-class"] = (window.shares - reference.shares).max(axis=-1)
        found["unsure"] = reference.confidence - window.confidence
    return {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}
