"""Lower bounds on epsilon from one run with many canaries, each included by a fair coin.

An auditor guesses which canaries were included, may abstain from the doubtful ones, and gets ``correct`` of
``guesses`` right. Whoever claims (epsilon, delta)-DP makes so many right guesses improbable; the smallest
epsilon at which they aren't is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from dp_accounting import get_sigma_gaussian
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom

_LARGEST = 64.0
GUESSED_PART = 0.05
"""Of 0.03, 0.05 and 0.07 the one whose bounds varied least, for true epsilons of 1 to 8."""


def bound_steinke(*, canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    """Lower bound on epsilon for any (epsilon, ``delta``)-DP mechanism (Steinke, Nasr and Jagielski 2023).

    By theorem 5.2 the chance of ``correct`` or more right guesses is at most beta + alpha * canaries * delta.
    There beta = P[B >= correct], B binomial of ``guesses`` and e^eps / (1 + e^eps), and alpha is the largest
    of (P[B >= correct - i] - beta) * 2 / i over i. ``error`` is the chance of a bound that is too high.
    """

    def chance(epsilon: float) -> float:
        rate = 1.0 / (1.0 + math.exp(-epsilon))
        beta = float(binom.sf(correct - 1, guesses, rate))
        steps = np.arange(1, correct + 1)
        within = binom.sf(correct - steps - 1, guesses, rate) - beta
        alpha = float(np.max(2.0 * within / steps, initial=0.0))
        return beta + alpha * canaries * delta

    return _smallest(lambda epsilon: chance(epsilon) < error)


def bound_gaussian(*, canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    """Lower bound on epsilon at ``delta`` among Gaussian trade-offs (Mahloujifar, Melis and Chaudhuri 2024).

    Their algorithm for f-DP in one run, with f the trade-off of a Gaussian mechanism that is
    (epsilon, ``delta``)-DP: tighter than :func:`bound_steinke`, for mechanisms that are Gaussian, as many
    Gaussian steps over all records together are.
    """

    def refuted(epsilon: float) -> bool:
        mu = 1.0 / get_sigma_gaussian(epsilon, delta)

        def least(probability: float) -> float:
            """The least chance, without the canary, of what has this chance with it."""
            inside = min(max(probability, 1e-300), 1.0)
            return float(ndtr(ndtri(inside) - mu))

        right = error * correct / canaries
        wrong = error * (guesses - correct) / canaries
        for position in range(correct - 1, -1, -1):
            following = max(wrong, least(right))
            if following == wrong:
                # Both stay as they are from here down.
                break
            right = min(1.0, right + position / (guesses - position) * (following - wrong))
            wrong = following
        return right + wrong > guesses / canaries

    return _smallest(refuted)


def _smallest(refuted: Callable[[float], bool]) -> float:
    """The epsilon up to which claims are refuted, by bisection; 0 where none is."""
    if not refuted(1e-3):
        return 0.0
    low, high = 1e-3, 1.0
    while refuted(high):
        low, high = high, 2.0 * high
        if high > _LARGEST:
            return low
    for _ in range(30):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def lower_bound(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    *,
    delta: float,
    error: float,
    bound: Callable[..., float],
    part: float = GUESSED_PART,
) -> float:
    """Return a lower bound on epsilon, from guessing the canaries of highest and of lowest score.

    Args:
        scores: (m,), larger for canaries that are likelier in.
        included: (m,), what the coins said.
        delta: of the claim.
        error: chance of a bound that is too high, e.g. 0.05 for 95% confidence.
        bound: :func:`bound_steinke` or :func:`bound_gaussian`.
        part: of the canaries, guessed to be in; as many are guessed to be out. Fixed beforehand: a choice
            by the outcome would have to share ``error``.

    """
    order = np.argsort(-scores, kind="stable")
    each = max(1, int(len(order) * part))
    correct = int(included[order[:each]].sum() + (~included[order[-each:]]).sum())
    return bound(canaries=len(order), guesses=2 * each, correct=correct, delta=delta, error=error)
