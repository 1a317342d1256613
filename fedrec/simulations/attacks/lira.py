"""Membership inference from the scores of many models: LiRA, the loss threshold, and the bound of privacy.

Each model was trained on a random half of the same records. Each model is the target in turn, with all others
as shadow models (as Carlini et al. 2022, section VI, do to save models). Which records the target was trained
on is independent of the shadow models, since each model drew its records by its own fair coins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import beta

from fedrec.errors import ConfigError, DataError
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.vision.metrics import roc_auc

_FEWEST_SIDE = 2
"""The fewest shadow models with a record, and without it, that a likelihood ratio needs."""
_LEAST_DEVIATION = 1e-6
_CONFIDENCE = 0.95
_LEAST_DELTA = 1e-6

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Attack:
    """The guesses of an attack.

    Attributes:
        scores: float64 (m,), higher for likelier members.
        members: bool (m,), the truth.
    """

    scores: Floats
    members: Bools


@dataclass(frozen=True)
class Rates:
    """How well an attack finds members.

    Attributes:
        fpr: the largest false positive rate allowed.
        tpr: the share of members found, at that rate.
        tpr_low: lower end of the 95% interval of ``tpr`` (Clopper and Pearson 1934). It takes guesses as
            independent; those about the same record, or by the same model, are not quite.
        tpr_high: upper end of that interval.
        auc: area under the ROC curve.
        guesses: number of guesses.
    """

    fpr: float
    tpr: float
    tpr_low: float
    tpr_high: float
    auc: float
    guesses: int


def margins(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return log(p / (1 - p)) of the true class's probability p, computed stably.

    Args:
        logits: float64 (n, k).
        labels: int64 (n,).

    Returns:
        float64 (n,).

    Raises:
        DataError: a logit isn't finite, or there are fewer than two classes.
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or not np.isfinite(logits).all():
        raise DataError(
            "a model's scores are not finite, or of fewer than two classes: its training diverged"
        )
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    result: Floats = logits[rows, labels] - np.asarray(logsumexp(others, axis=1))
    return result


def likelihood_ratios(margin: Floats, held: Bools) -> Attack:
    """Attack every model by LiRA, online form with one variance for all records (Carlini et al. 2022).

    Args:
        margin: float64 (models, records), each model's :func:`margins`.
        held: bool (models, records), which records each was trained on.

    Returns:
        One guess for each pair of a model and a record that at least two other models were trained with, and
        two without.

    Raises:
        DataError: the shapes differ, or there is no such pair.
    """
    if margin.shape != held.shape or margin.ndim != 2:
        raise DataError(f"scores of shape {margin.shape} don't fit memberships of shape {held.shape}")
    scores, members = [], []
    for target in range(len(margin)):
        others = np.arange(len(margin)) != target
        inside, values = held[others], margin[others]
        enough = (inside.sum(axis=0) >= _FEWEST_SIDE) & ((~inside).sum(axis=0) >= _FEWEST_SIDE)
        if not enough.any():
            continue
        chosen = [_log_density(margin[target], values, side, enough) for side in (inside, ~inside)]
        scores.append((chosen[0] - chosen[1])[enough])
        members.append(held[target][enough])
    if not scores:
        raise DataError("there are too few shadow models: give at least 6")
    return Attack(np.concatenate(scores), np.concatenate(members))


def _log_density(at: Floats, values: Floats, side: Bools, enough: Bools) -> Floats:
    """Return the normal log density at ``at`` of the shadow models' values on one side; (records,)."""
    count = np.maximum(side.sum(axis=0), 1)
    mean = np.where(side, values, 0.0).sum(axis=0) / count
    apart = np.where(side & enough, np.square(values - mean), 0.0).sum()
    freedom = float((count - 1)[enough].sum())
    deviation = max(math.sqrt(float(apart) / freedom), _LEAST_DEVIATION)
    result: Floats = -0.5 * np.square((at - mean) / deviation) - math.log(deviation)
    return result


def loss_threshold(margin: Floats, held: Bools) -> Attack:
    """Take records of low loss for members (Yeom et al. 2018): the baseline.

    The loss falls as the margin grows, so the margin gives the same ranking.

    Args:
        margin: float64 (models, records), each model's :func:`margins`.
        held: bool (models, records), which records each was trained on.

    Returns:
        One guess for each pair of a model and a record.
    """
    return Attack(margin.reshape(-1), held.reshape(-1))


def rates(attack: Attack, *, fpr: float) -> Rates:
    """Measure an attack at a false positive rate.

    Args:
        attack: the guesses.
        fpr: the largest false positive rate allowed.

    Returns:
        The rates.

    Raises:
        ConfigError: ``fpr`` is outside (0, 1).
        DataError: all records are members, or none is.
    """
    if not 0.0 < fpr < 1.0:
        raise ConfigError(f"a false positive rate of {fpr} is outside (0, 1)")
    auc = roc_auc(attack.scores, attack.members)
    if auc is None:
        raise DataError("membership can't be inferred where all records are members, or none is")
    outsiders = np.sort(attack.scores[~attack.members])[::-1]
    # At most floor(fpr * non-members) of the non-members score strictly above the threshold.
    threshold = outsiders[min(math.floor(fpr * len(outsiders)), len(outsiders) - 1)]
    total = int(attack.members.sum())
    hits = int((attack.scores[attack.members] > threshold).sum())
    tail = (1 - _CONFIDENCE) / 2
    return Rates(
        fpr=fpr,
        tpr=hits / total,
        tpr_low=float(beta.ppf(tail, hits, total - hits + 1)) if hits else 0.0,
        tpr_high=float(beta.ppf(1 - tail, hits + 1, total - hits)) if hits < total else 1.0,
        auc=auc,
        guesses=len(attack.scores),
    )


def largest_tpr(events: Sequence[Event], *, fpr: float, extra_delta: float = 0.0) -> float:
    """Return an upper bound on any attack's true positive rate against a mechanism of these steps.

    (epsilon, delta)-DP allows at most exp(epsilon) * fpr + delta (Kairouz, Oh and Viswanath 2015), for every
    delta at once; this is the minimum over delta, with epsilon by PLD. Neighbouring data sets differ by one
    record added or removed.

    Args:
        events: the steps.
        fpr: the false positive rate.
        extra_delta: further probability with which the guarantee may fail.

    Returns:
        The bound, at most 1.

    Raises:
        ConfigError: ``fpr`` is outside (0, 1).
    """
    if not 0.0 < fpr < 1.0:
        raise ConfigError(f"a false positive rate of {fpr} is outside (0, 1)")
    bounds = [1.0]
    for delta in np.geomspace(_LEAST_DELTA, 0.9, 24):
        epsilon = epsilon_pld(events, delta=float(delta))
        if epsilon < math.log(1.0 / fpr):
            bounds.append(math.exp(epsilon) * fpr + float(delta) + extra_delta)
    return min(bounds)
