"""Bring the coefficients of feature maps to like variances, by statistics of public pictures.

Coefficients of maps (channels, positions) vary by orders of magnitude, and neighbours vary together. A
clipped gradient then spends its length on a few directions, while noise is alike in all. The principal
directions of the channels and those of the positions (a Kronecker-factored basis, Martens and Grosse 2015,
"Optimizing Neural Networks with Kronecker-factored Approximate Curvature") decorrelate them with few numbers
to estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

_EXPONENT: Final = 0.5
"""Between 0, no scaling, and 1, whitening, which would raise what is mostly noise."""
_FLOOR: Final = 0.01
"""Added to each variance, in mean variances."""


@dataclass(frozen=True)
class KroneckerScaling:
    """A symmetric linear map of centred coefficients, which depends on public pictures alone.

    Maps are rotated to principal directions, scaled there, and rotated back. Without the last step the signs
    of directions, which are arbitrary, would differ between machines.

    Attributes:
        mean: float32 (channels, positions).
        channels: orthogonal, float32 (channels, channels).
        positions: orthogonal, float32 (positions, positions).
        scales: float32 (channels, positions), in principal directions.
    """

    mean: NDArray[np.float32]
    channels: NDArray[np.float32]
    positions: NDArray[np.float32]
    scales: NDArray[np.float32]

    @classmethod
    def of(cls, maps: NDArray[np.float32]) -> Self:
        """Estimate the map from public pictures.

        Args:
            maps: (n, channels, positions), coefficients of n pictures.

        Returns:
            The scaling.
        """
        values = maps.astype(np.float64)
        mean = values.mean(axis=0)
        values -= mean
        channels = np.linalg.eigh(np.einsum("ncs,nds->cd", values, values, optimize=True))[1]
        positions = np.linalg.eigh(np.einsum("ncs,nct->st", values, values, optimize=True))[1]
        variances = (channels.T @ values @ positions).var(axis=0)
        scales = (variances + _FLOOR * variances.mean()) ** (-_EXPONENT / 2)
        parts = (mean, channels, positions, scales)
        return cls(*(np.ascontiguousarray(part, dtype=np.float32) for part in parts))

    def __call__(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale coefficients.

        Args:
            maps: float32 (n, channels, positions).

        Returns:
            float32 (n, channels, positions).
        """
        rotated = self.channels.T @ (maps - self.mean) @ self.positions
        return (self.channels @ (rotated * self.scales) @ self.positions.T).astype(np.float32, copy=False)
