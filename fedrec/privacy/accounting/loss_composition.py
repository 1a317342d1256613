"""Adding up independent privacy losses on a grid, by the fast Fourier transform."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.accounting.privacy_loss import Floats, Losses

LOG_TAIL = 38.0
"""Sums outside a window hold at most exp(-38), 3e-17, of the mass on either side."""


def epsilon_of(losses: Losses, *, delta: float, interval: float) -> float:
    """Return the least epsilon of at least 0 with E[(1 - exp(epsilon - loss))+] <= ``delta``; inf if none.

    Between two points of the grid that expectation is a line in exp(epsilon), so the answer is exact.
    """
    masses, first = losses.masses, losses.first
    weights = _weights(interval, masses.size)

    def excess(i: int) -> float:
        """Delta at the i-th loss, less the wanted one."""
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
    # No further down than the point before: the line ends there.
    return max(0.0, here + min(0.0, max(math.log(over / kept), -interval)))


@lru_cache(maxsize=4)
def _weights(interval: float, size: int) -> Floats:
    """Return 1 - exp(-j * interval), the weight of a loss j points above epsilon."""
    return np.asarray(-np.expm1(-interval * np.arange(size)))


@dataclass(frozen=True)
class LossSum:
    """A sum of independent losses: so many of each of several."""

    parts: tuple[tuple[Losses, int], ...]

    @property
    def infinite(self) -> float:
        """Bound the mass whose sum is infinite, or above the window.

        What lies below the window wraps to its top: that is more loss, and safe.
        """
        return sum(count * losses.infinite for losses, count in self.parts) + math.exp(-LOG_TAIL)

    @cached_property
    def window(self) -> tuple[int, int]:
        """Index of the first sum kept, and how many: by Chernoff's bound, or all where that is fewer."""
        return _window(self, _Moments.of(self, tilts=_tilts(self, self)))

    def spectrum(self, size: int) -> NDArray[np.complex128]:
        """Return the Fourier transform of the sum on a circle of ``size`` points, shape (size // 2 + 1,)."""
        whole = np.ones(size // 2 + 1, dtype=np.complex128)
        for losses, count in self.parts:
            circle = np.bincount(losses.indices() % size, weights=losses.masses, minlength=size)
            whole *= np.fft.rfft(circle) ** count
        return whole

    def composed(self) -> Losses:
        """Return the distribution of the sum, within its window."""
        if sum(count for _, count in self.parts) == 1:
            return self.parts[0][0]
        low, size = self.window
        return self._unwound(self.spectrum(size), low, size)

    def _unwound(self, spectrum: NDArray[np.complex128], low: int, size: int) -> Losses:
        circle = np.fft.irfft(spectrum, size)
        return Losses(first=low, masses=np.roll(circle, -(low % size)), infinite=self.infinite)

    def growing(self, step: LossSum, *, last: int) -> Iterator[Losses]:
        """Yield the distributions of this sum and 1, 2, ..., ``last`` times ``step``."""

        def after(k: int) -> LossSum:
            return LossSum((*self.parts, *((losses, count * k) for losses, count in step.parts)))

        tilts = _tilts(after(1), after(last))
        before, each = _Moments.of(self, tilts=tilts), _Moments.of(step, tilts=tilts)
        # The sum of most steps is the widest, so that its circle does for all.
        _, size = _window(after(last), before.plus(each, times=last))
        whole, one = self.spectrum(size), step.spectrum(size)
        for k in range(1, last + 1):
            whole = whole * one
            now = after(k)
            low, _ = _window(now, before.plus(each, times=k))
            yield now._unwound(whole, low, size)


@dataclass(frozen=True)
class _Moments:
    """log E[exp(+-tilt * sum)] at ``tilts``, sums counted in points of the grid."""

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
    """Return the least product of powers of 2, 3 and 5 that is no smaller: those transform fast."""
    best = 1 << (points - 1).bit_length()
    for fives in range(round(math.log(best, 5)) + 1):
        odd = 5**fives
        while odd < best:
            best = min(best, odd << max(0, (-(-points // odd) - 1).bit_length()))
            odd *= 3
    return best


def _tilts(fewest: LossSum, most: LossSum) -> Floats:
    """Return tilts to take Chernoff's bound at, around the best for normal sums of these deviations.

    Rare large losses need smaller ones, down to one over the largest; above 80 no tilt resolves more.
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
    """Return log E[exp(tilt * loss)] of the finite losses, in points of the grid, at each tilt."""
    indices = losses.indices()
    found = []
    for tilt in tilts:
        exponents = tilt * indices
        largest = float(np.max(exponents))
        found.append(largest + math.log(float(losses.masses @ np.exp(exponents - largest))))
    return np.asarray(found)
