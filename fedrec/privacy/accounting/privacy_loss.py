"""Compute the privacy loss of one step of the subsampled Gaussian mechanism on a grid, in both directions.

With the record, the step's output is, up to rotation and scale, the mixture P = sum of w_j N(s_j, sigma^2);
without it, the output is N = N(0, sigma^2). The loss log(dP / dN) increases with the outcome. So the outcomes
whose loss lies in one cell of the grid are an interval, and its masses under P and N are differences of
normal distribution functions. Each cell's mass is divided between the two ends of the cell so that both
masses are kept. This is "Connect the Dots" (Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022): the
tightest distribution on the grid that dominates the exact one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr

_REACH = 10.5
"""Outcomes further than this many deviations out (4e-26 of the mass) get an infinite or the smallest loss."""
_NEWTON = 100
_LARGEST, _LEAST = 600.0, 1e-290
"""Largest loss and smallest mass for which the two masses of a cell are precise enough to be combined."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """Distribution of the shift that a record causes in a step.

    Attributes:
        sensitivities: the shifts s_j in units of the sensitivity, ascending from 0.
        weights: their probabilities w_j, of the same length; the last one is above 0.
    """

    sensitivities: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def certain(self) -> bool:
        """Whether the record causes one shift in every step: a Gaussian mechanism without sampling."""
        return self.weights == (0.0, 1.0)

    @staticmethod
    def sampled(rate: float) -> Mixture:
        """Return the mixture of a record that is in the step with probability ``rate``."""
        return Mixture(sensitivities=(0.0, 1.0), weights=(1.0 - rate, rate))


@dataclass(frozen=True)
class Losses:
    """Distribution of a privacy loss on a grid.

    Attributes:
        first: grid index of the first mass; the i-th mass is at the loss (``first`` + i) * interval.
        masses: the masses, float64, one dimension.
        infinite: mass of an infinite loss.
    """

    first: int
    masses: Floats
    infinite: float

    def indices(self) -> NDArray[np.int64]:
        """Return the grid indices of the masses."""
        return np.arange(self.first, self.first + self.masses.size)


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step for a removed record and for an added one, on one grid."""

    removed: Losses
    added: Losses


def loss_at(mixture: Mixture, sigma: float, x: Floats) -> Floats:
    """Compute log(dP / dN).

    Args:
        mixture: the shifts under P.
        sigma: noise multiplier.
        x: outcomes, float64, one dimension.

    Returns:
        The loss at each outcome, float64 of the same shape.
    """
    s, w = np.asarray(mixture.sensitivities), np.asarray(mixture.weights)
    with np.errstate(divide="ignore"):
        log_weights = np.log(w)
    terms = log_weights + (2.0 * s * x[:, None] - s**2) / (2.0 * sigma**2)
    return np.asarray(logsumexp(terms, axis=1))


def outcome_at(mixture: Mixture, sigma: float, losses: Floats) -> Floats:
    """Invert :func:`loss_at`.

    An error e of an outcome changes the result by a term of order e^2 only, since both masses of a cell are
    taken at the same outcome.

    Args:
        mixture: the shifts under P.
        sigma: noise multiplier.
        losses: losses, float64, one dimension.

    Returns:
        The outcome with each loss, float64 of the same shape; -inf where a loss is below that of every
        outcome.
    """
    s, w = np.asarray(mixture.sensitivities), np.asarray(mixture.weights)
    least = w[0] if s[0] == 0.0 else 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # exp(loss) - w_0, computed without cancellation near 0.
        above = np.where(losses < 1.0, np.expm1(losses) + (1.0 - least), 1.0)
        log_above = np.where(losses < 1.0, np.log(above), losses + np.log1p(-least * np.exp(-losses)))
        if s.size == 2 and s[0] == 0.0:
            # log(w_1 exp((2 s x - s^2) / (2 sigma^2))) = log(exp(loss) - w_0)
            found = (sigma**2 * (log_above - math.log(w[1]))) / s[1] + s[1] / 2.0
            return np.where(above > 0.0, found, -np.inf)
    return _by_newton(mixture, sigma, np.where(above > 0.0, log_above, -np.inf))


def _by_newton(mixture: Mixture, sigma: float, log_above: Floats) -> Floats:
    """Solve log(sum over s_j > 0 of w_j exp(...)) = ``log_above``, convex and increasing, from the right."""
    s, w = np.asarray(mixture.sensitivities), np.asarray(mixture.weights)
    s, w = s[(s > 0.0) & (w > 0.0)], w[(s > 0.0) & (w > 0.0)]
    found = np.full(log_above.shape, -np.inf)
    solvable = np.isfinite(log_above)
    goal = log_above[solvable]
    # At the root no single term exceeds the goal, so the smallest outcome at which one reaches it is right of
    # it.
    x = np.min((sigma**2 * (goal[:, None] - np.log(w))) / s + s / 2.0, axis=1)
    for _ in range(_NEWTON):
        terms = np.log(w) + (2.0 * s * x[:, None] - s**2) / (2.0 * sigma**2)
        total = np.asarray(logsumexp(terms, axis=1))
        slope = np.sum(np.exp(terms - total[:, None]) * s, axis=1) / sigma**2
        step = (total - goal) / slope
        x = x - step
        if not np.any(np.abs(step) > 1e-13 * (np.abs(x) + sigma)):
            break
    found[solvable] = x
    return found


def variance_of_loss(mixture: Mixture, sigma: float) -> float:
    """Estimate the variance of a removed record's loss, which the grid is chosen by.

    Args:
        mixture: the shifts under P.
        sigma: noise multiplier.

    Returns:
        The variance of log(dP / dN) under P.
    """
    x = np.linspace(-_REACH * sigma, mixture.sensitivities[-1] + _REACH * sigma, 1025)
    density = np.zeros(x.shape)
    for s, w in zip(mixture.sensitivities, mixture.weights, strict=True):
        density += w * np.exp(-(((x - s) / sigma) ** 2) / 2.0)
    density /= density.sum()
    losses = loss_at(mixture, sigma, x)
    mean = float(density @ losses)
    return float(density @ (losses - mean) ** 2)


def step_losses(mixture: Mixture, sigma: float, interval: float) -> StepLosses:
    """Compute distributions on a grid that dominate one step's loss, in both directions.

    Args:
        mixture: the shifts under P.
        sigma: noise multiplier.
        interval: spacing of the grid.

    Returns:
        The losses for a removed record (P against N) and an added one (N against P).
    """
    ends = np.array([-_REACH * sigma, mixture.sensitivities[-1] + _REACH * sigma])
    low, high = loss_at(mixture, sigma, ends) / interval
    edges = np.arange(math.floor(low), math.ceil(high) + 1)
    outcomes = outcome_at(mixture, sigma, edges * interval)
    base = _Masses.of(outcomes / sigma)
    parts = [
        (w, _Masses.of((outcomes - s) / sigma))
        for s, w in zip(mixture.sensitivities, mixture.weights, strict=True)
    ]
    mixed = _Masses(
        below=sum(w * part.below for w, part in parts),
        within=np.sum([w * part.within for w, part in parts], axis=0),
        above=sum(w * part.above for w, part in parts),
    )
    removed = _split(mixed.within, base.within, lower_ends=edges[:-1] * interval, interval=interval)
    removed[0] += mixed.below
    # In the other direction every loss is negated, so the cells are in the opposite order.
    added = _split(
        base.within[::-1], mixed.within[::-1], lower_ends=-edges[:0:-1] * interval, interval=interval
    )
    added[0] += base.above
    return StepLosses(
        removed=Losses(first=int(edges[0]), masses=removed, infinite=mixed.above),
        added=Losses(first=-int(edges[-1]), masses=added, infinite=base.below),
    )


@dataclass(frozen=True)
class _Masses:
    """Masses of a normal distribution below the first edge, between the edges, and above the last one."""

    below: float
    within: Floats
    above: float

    @staticmethod
    def of(edges: Floats) -> _Masses:
        tails = ndtr(-np.abs(edges))
        left, right = edges[:-1], edges[1:]
        # Computed from the nearer tail, so that no small mass is the difference of two numbers near 1.
        within = np.where(
            right <= 0.0,
            tails[1:] - tails[:-1],
            np.where(left >= 0.0, tails[:-1] - tails[1:], 1.0 - tails[1:] - tails[:-1]),
        )
        first, last = float(edges[0]), float(edges[-1])
        return _Masses(
            below=float(tails[0]) if first <= 0.0 else 1.0 - float(tails[0]),
            within=np.maximum(within, 0.0),
            above=float(tails[-1]) if last >= 0.0 else 1.0 - float(tails[-1]),
        )


def _split(masses: Floats, others: Floats, *, lower_ends: Floats, interval: float) -> Floats:
    """Divide each cell's mass between its ends so that the other distribution's mass is kept too."""
    upper = (masses - np.exp(np.minimum(lower_ends, _LARGEST)) * others) / -math.expm1(-interval)
    # Moving mass to the upper end only overstates the loss, so both the fallback and the clip are safe.
    upper = np.clip(np.where((others > _LEAST) & (lower_ends <= _LARGEST), upper, masses), 0.0, masses)
    found = np.zeros(masses.size + 1)
    found[:-1] = masses - upper
    found[1:] += upper
    return found
