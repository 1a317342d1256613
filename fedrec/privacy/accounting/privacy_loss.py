"""The privacy loss of one step of the subsampled Gaussian mechanism, on a grid, in both directions.

With the record the step's output is, up to rotation and scale, the mixture P = sum of w_j N(s_j, sigma^2);
without, it is N(0, sigma^2). The loss log(dP / dN) grows with the outcome, so that the outcomes whose loss
lies in one cell of the grid are an interval, and its two masses are differences of normal distribution
functions. Each cell's mass goes to the two ends of the cell so that both masses are kept: this is "connect
the dots" (Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022), the least pessimistic distribution on the
grid that dominates the exact one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr

_REACH = 10.5
"""Outcomes beyond so many deviations (4e-26 of the mass) count as an infinite loss, or as the least one."""
_NEWTON = 100
_LARGEST, _LEAST = 600.0, 1e-290
"""Losses and masses up to, and down to, which a cell's other mass is precise enough to divide it by."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """What a record adds to a step: ``sensitivities`` s_j, ascending from 0, with probabilities ``weights``.

    Both have one length, and the last weight is above 0. Everything is in units of the sensitivity.
    """

    sensitivities: tuple[float, ...]
    weights: tuple[float, ...]

    @staticmethod
    def sampled(rate: float) -> Mixture:
        """Return a record that is in the step with probability ``rate``."""
        return Mixture(sensitivities=(0.0, 1.0), weights=(1.0 - rate, rate))


@dataclass(frozen=True)
class Losses:
    """Masses at the losses (``first`` + i) * interval, and the mass whose loss is infinite."""

    first: int
    masses: Floats
    infinite: float

    def indices(self) -> NDArray[np.int64]:
        """Return the grid indices of the masses."""
        return np.arange(self.first, self.first + self.masses.size)


@dataclass(frozen=True)
class StepLosses:
    """One step's losses for a record that is removed, and for one that is added."""

    removed: Losses
    added: Losses


def loss_at(mixture: Mixture, sigma: float, x: Floats) -> Floats:
    """Return log(dP / dN) at the outcomes ``x``, float64 of their shape."""
    s, w = np.asarray(mixture.sensitivities), np.asarray(mixture.weights)
    with np.errstate(divide="ignore"):
        log_weights = np.log(w)
    terms = log_weights + (2.0 * s * x[:, None] - s**2) / (2.0 * sigma**2)
    return np.asarray(logsumexp(terms, axis=1))


def outcome_at(mixture: Mixture, sigma: float, losses: Floats) -> Floats:
    """Return the outcomes with these losses, -inf where a loss is no larger than any outcome's.

    An error e of an outcome shifts a mass between two cells by a term of order e^2 only, since both masses
    are taken at the same outcome.
    """
    s, w = np.asarray(mixture.sensitivities), np.asarray(mixture.weights)
    least = w[0] if s[0] == 0.0 else 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # exp(loss) - w_0, without the cancellation near 0.
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
    # No term alone may pass the goal: the least of the outcomes at which one does is right of the root.
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
    """Estimate the variance of a removed record's loss, to choose a grid by."""
    x = np.linspace(-_REACH * sigma, mixture.sensitivities[-1] + _REACH * sigma, 1025)
    density = np.zeros(x.shape)
    for s, w in zip(mixture.sensitivities, mixture.weights, strict=True):
        density += w * np.exp(-(((x - s) / sigma) ** 2) / 2.0)
    density /= density.sum()
    losses = loss_at(mixture, sigma, x)
    mean = float(density @ losses)
    return float(density @ (losses - mean) ** 2)


def step_losses(mixture: Mixture, sigma: float, interval: float) -> StepLosses:
    """Return a distribution on a grid that dominates one step's loss, for both directions."""
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
    # The other way round: a loss is the negative one, so the cells come in the opposite order.
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
    """Masses of a normal law below the first edge, between edges, and above the last."""

    below: float
    within: Floats
    above: float

    @staticmethod
    def of(edges: Floats) -> _Masses:
        tails = ndtr(-np.abs(edges))
        left, right = edges[:-1], edges[1:]
        # From the nearer tail, so that no small mass is a difference of two numbers near 1.
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
    """Divide each cell's mass between its ends so that the other law's mass is kept too."""
    upper = (masses - np.exp(np.minimum(lower_ends, _LARGEST)) * others) / -math.expm1(-interval)
    # All of it at the upper end is always safe; so is rounding's excess over the ends.
    upper = np.clip(np.where((others > _LEAST) & (lower_ends <= _LARGEST), upper, masses), 0.0, masses)
    found = np.zeros(masses.size + 1)
    found[:-1] = masses - upper
    found[1:] += upper
    return found
