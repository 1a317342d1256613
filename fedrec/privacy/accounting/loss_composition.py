"""Compose independent privacy losses on a grid by the fast Fourier transform.

The method is that of Koskela, Jaelkoe and Honkela 2020, "Computing Tight Differential Privacy Guarantees
Using FFT". The window that a sum is kept in follows from Chernoff's bound on its moment generating function.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.accounting.privacy_loss import Floats, Losses

LOG_TAIL = 38.0
"""At most exp(-38), or 3e-17, of a sum's mass lies outside its window on either side."""


def epsilon_of(losses: Losses, *, delta: float, interval: float) -> float:
    """Compute the smallest epsilon of at least 0 with E[(1 - exp(epsilon - loss))+] <= ``delta``.

    Between two points of the grid the expectation is linear in exp(epsilon), so the result is exact.

    Args:
        losses: the distribution of the privacy loss.
        delta: the delta that epsilon is taken at.
        interval: spacing of the grid.

    Returns:
        Epsilon; infinite if no epsilon satisfies the condition.
    """
    masses, first = losses.masses, losses.first
    weights = _weights(interval, masses.size)

    def excess(i: int) -> float:
        """Compute delta at the i-th loss less the wanted delta."""
        return losses.infinite + float(masses[i:] @ weights[: masses.size - i]) - delta

    low, high = max(0, -first), masses.size - 1
    if low > high:
        return 0.0 if losses.infinite <= delta else math.inf
    if losses.infinite > delta:
        return math.inf
    if excess(low) <= 0.0:
        high = low
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if excess(middle) <= 0.0 else (middle + 1, high)
    tail = masses[high:]
    kept = float(tail @ np.exp(-interval * np.arange(tail.size)))
    over = losses.infinite + float(tail.sum()) - delta
    here = (first + high) * interval
    if kept <= 0.0 or over <= 0.0:
        return max(0.0, here)
    # The line ends at the point before: epsilon is no smaller than that.
    return max(0.0, here + min(0.0, max(math.log(over / kept), -interval)))


@lru_cache(maxsize=4)
def _weights(interval: float, size: int) -> Floats:
    """Return 1 - exp(-j * interval), the weight of a loss j points above epsilon."""
    return np.asarray(-np.expm1(-interval * np.arange(size)))


@dataclass(frozen=True)
class LossSum:
    """A sum of independent losses.

    Attributes:
        parts: pairs of a loss distribution and the number of times that it occurs. All are on one grid.
    """

    parts: tuple[tuple[Losses, int], ...]

    @property
    def infinite(self) -> float:
        """Upper bound on the mass that is infinite or above the window.

        The mass below the window wraps around to its top. That overstates the loss, so the bound still holds.
        """
        return sum(count * losses.infinite for losses, count in self.parts) + math.exp(-LOG_TAIL)

    @cached_property
    def window(self) -> tuple[int, int]:
        """Grid index of the first point of the window, and its number of points, by Chernoff's bound."""
        return _window(self, _Moments.of(self, tilts=_tilts(self, self)))

    def spectrum(self, size: int) -> NDArray[np.complex128]:
        """Return the sum's Fourier transform modulo ``size`` points: complex128, shape (size // 2 + 1,)."""
        whole = np.ones(size // 2 + 1, dtype=np.complex128)
        for losses, count in self.parts:
            circle = np.bincount(losses.indices() % size, weights=losses.masses, minlength=size)
            whole *= np.fft.rfft(circle) ** count
        return whole

    def composed(self) -> Losses:
        """Compute the distribution of the sum within its window."""
        if sum(count for _, count in self.parts) == 1:
            return self.parts[0][0]
        low, size = self.window
        return self._unwound(self.spectrum(size), low, size)

    def _unwound(self, spectrum: NDArray[np.complex128], low: int, size: int) -> Losses:
        circle = np.fft.irfft(spectrum, size)
        return Losses(first=low, masses=np.roll(circle, -(low % size)), infinite=self.infinite)

    def growing(self, step: LossSum, *, last: int) -> Iterator[Losses]:
        """Compute the distributions of this sum plus 1, 2, ..., ``last`` times another.

        Args:
            step: the sum that is added each time.
            last: how many times it is added.

        Yields:
            The distribution after each addition, within its window.
        """

        def after(k: int) -> LossSum:
            return LossSum((*self.parts, *((losses, count * k) for losses, count in step.parts)))

        tilts = _tilts(after(1), after(last))
        before, each = _Moments.of(self, tilts=tilts), _Moments.of(step, tilts=tilts)
        # The sum of the most steps is the widest, so the size of its transform suffices for all.
        _, size = _window(after(last), before.plus(each, times=last))
        whole, one = self.spectrum(size), step.spectrum(size)
        for k in range(1, last + 1):
            whole = whole * one
            now = after(k)
            low, _ = _window(now, before.plus(each, times=k))
            yield now._unwound(whole, low, size)


@dataclass(frozen=True)
class _Moments:
    """The values log E[exp(+-tilt * sum)] at ``tilts``, with sums in grid points; float64 of one shape."""

    tilts: Floats
    up: Floats
    down: Floats

    @staticmethod
    def of(total: LossSum, *, tilts: Floats) -> _Moments:
        up, down = np.zeros(tilts.shape), np.zeros(tilts.shape)
        for losses, count in total.parts:
            up += count * _log_moments(losses, tilts)
            down += count * _log_moments(losses, -tilts)
        return _Moments(tilts=tilts, up=up, down=down)

    def plus(self, other: _Moments, *, times: int) -> _Moments:
        return _Moments(tilts=self.tilts, up=self.up + times * other.up, down=self.down + times * other.down)


def _window(total: LossSum, moments: _Moments) -> tuple[int, int]:
    low = sum(count * losses.first for losses, count in total.parts)
    high = sum(count * (losses.first + losses.masses.size - 1) for losses, count in total.parts)
    high = min(high, math.ceil(float(np.min((moments.up + LOG_TAIL) / moments.tilts))))
    low = max(low, math.floor(-float(np.min((moments.down + LOG_TAIL) / moments.tilts))))
    return low, _fast_length(max(high - low + 1, 2))


def _fast_length(points: int) -> int:
    """Return the smallest product of powers of 2, 3 and 5 >= ``points``: such lengths transform fast."""
    best = 1 << (points - 1).bit_length()
    for fives in range(round(math.log(best, 5)) + 1):
        odd = 5**fives
        while odd < best:
            best = min(best, odd << max(0, (-(-points // odd) - 1).bit_length()))
            odd *= 3
    return best


def _tilts(fewest: LossSum, most: LossSum) -> Floats:
    """Choose the tilts to evaluate Chernoff's bound at.

    They surround the best tilts for normally distributed sums. Rare large losses need smaller tilts, down to
    one over the largest loss. Tilts above 80 improve nothing.

    Args:
        fewest: the sum of the smallest variance.
        most: the sum of the largest variance.

    Returns:
        The tilts, float64, ascending.
    """
    low, high = (
        min(20.0, math.sqrt(2.0 * LOG_TAIL / max(sum(n * _variance(x) for x, n in total.parts), 1e-12)))
        for total in (most, fewest)
    )
    near = np.geomspace(low / 16.0, high * 4.0, 13 + 2 * round(math.log2(high / low)))
    reach = max(max(abs(x.first), abs(x.first + x.masses.size)) for x, _ in most.parts)
    fewer = max(0, math.ceil(math.log(2.0 * reach * near[0], 4.0)))
    return np.concatenate([near[0] / 4.0 ** np.arange(fewer, 0, -1), near])


def _variance(losses: Losses) -> float:
    indices = losses.indices()
    mean = float(indices @ losses.masses)
    return float((indices - mean) ** 2 @ losses.masses)


def _log_moments(losses: Losses, tilts: Floats) -> Floats:
    """Return log E[exp(tilt * loss)] of the finite losses, in grid points, at each tilt."""
    indices = losses.indices()
    # Summed by logarithms: at a large tilt the masses span more orders of magnitude than a float64 has, and a
    # moment that is too small would cut the window too short. Transforms leave masses a little below zero.
    with np.errstate(divide="ignore"):
        logarithms = np.log(np.maximum(losses.masses, 0.0))
    found = []
    for tilt in tilts:
        exponents = logarithms + tilt * indices
        largest = float(np.max(exponents))
        found.append(largest + math.log(float(np.exp(exponents - largest).sum())))
    return np.asarray(found)
