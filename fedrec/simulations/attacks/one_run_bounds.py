"""Lower bounds on epsilon from one run with many canaries, each included by a fair coin.

An auditor guesses which canaries were included, may abstain from doubtful ones, and gets ``correct`` of
``guesses`` right. Under (epsilon, delta)-DP so many right guesses are improbable; the smallest epsilon at
which they are not is a lower bound.
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
"""Among 0.03, 0.05 and 0.07, the value whose bounds varied least for true epsilons of 1 to 8."""


def bound_steinke(*, canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    """Return a lower bound on epsilon for any mechanism (Steinke, Nasr and Jagielski 2023).

    The mechanism is (epsilon, ``delta``)-DP. By theorem 5.2 the probability of ``correct`` or more right
    guesses is at most beta + alpha * canaries * delta. There beta = P[B >= correct], B is binomial with
    ``guesses`` trials and probability e^eps / (1 + e^eps), and alpha is the maximum of (P[B >= correct - i] -
    beta) * 2 / i over i.

    Args:
        canaries: number of canaries.
        guesses: number of guesses.
        correct: number of right guesses.
        delta: of the claim.
        error: probability of a bound that is too high.

    Returns:
        The bound; 0 if no claim is refuted.
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
    """Return a lower bound on epsilon for Gaussian mechanisms (Mahloujifar, Melis and Chaudhuri 2024).

    Their algorithm for f-DP in one run, with f the trade-off function of a Gaussian mechanism that is
    (epsilon, ``delta``)-DP. It is tighter than :func:`bound_steinke`, and holds for Gaussian mechanisms,
    which include compositions of Gaussian steps over all records.

    Args:
        canaries: number of canaries.
        guesses: number of guesses.
        correct: number of right guesses.
        delta: of the claim.
        error: probability of a bound that is too high.

    Returns:
        The bound; 0 if no claim is refuted.
    """

    def refuted(epsilon: float) -> bool:
        mu = 1.0 / get_sigma_gaussian(epsilon, delta)

        def least(probability: float) -> float:
            """Return the least probability without the canary of an event that has this one with it."""
            inside = min(max(probability, 1e-300), 1.0)
            return float(ndtr(ndtri(inside) - mu))

        right = error * correct / canaries
        wrong = error * (guesses - correct) / canaries
        for position in range(correct - 1, -1, -1):
            following = max(wrong, least(right))
            if following == wrong:
                # Neither changes any more from here on.
                break
            right = min(1.0, right + position / (guesses - position) * (following - wrong))
            wrong = following
        return right + wrong > guesses / canaries

    return _smallest(refuted)


def _smallest(refuted: Callable[[float], bool]) -> float:
    """Return the epsilon up to which claims are refuted, by bisection; 0 if none is."""
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
    """Return a lower bound on epsilon from guesses: the highest scores are in, the lowest are out.

    Args:
        scores: (m,), larger for canaries that are likelier included.
        included: (m,), the outcome of the coins.
        delta: of the claim.
        error: probability of a bound that is too high, e.g. 0.05 for 95% confidence.
        bound: :func:`bound_steinke` or :func:`bound_gaussian`.
        part: share of the canaries guessed to be in; as many are guessed to be out. It is fixed beforehand,
            since a choice by the outcome would have to share ``error``.

    Returns:
        The bound.
    """
    order = np.argsort(-scores, kind="stable")
    each = max(1, int(len(order) * part))
    correct = int(included[order[:each]].sum() + (~included[order[-each:]]).sum())
    return bound(canaries=len(order), guesses=2 * each, correct=correct, delta=delta, error=error)
