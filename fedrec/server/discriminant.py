"""Solve a linear discriminant from an opened, noised sum of statistics. This is post-processing of the sum.

The classes share one covariance S (Fisher 1936; Hastie, Tibshirani and Friedman 2009, "The Elements of
Statistical Learning", section 4.3). With the class means m_c and the classes' shares p_c of all records, the
score of features z in class c is z^T S^-1 m_c - m_c^T S^-1 m_c / 2 + log p_c, up to a term that all classes
share.

What the noise does to each part is known in size, since its standard deviation is public:

- The scatter within classes is the Gram matrix less the class means' part. Noise makes some of its
  eigenvalues negative; they are cut at 0. A public prior, a multiple of the identity, is added. It is about
  as strong as the noise, whose largest eigenvalue is about 1.4 sqrt(k) times its deviation, so that the
  inverse doesn't blow up directions of which noise is all that is known. It is never weaker than k records
  whose scatter is alike in all directions: with few records a covariance lacks directions without any noise.
- A class's mean is drawn towards the mean of all, as far as its noise is large beside the distances between
  classes (the empirical Bayes estimate of Stein 1956 and of Efron and Morris 1973). How far classes are apart
  is estimated from all of them together, less the noise. With many classes or few records the noise of a mean
  is longer than the mean, and without this the term m_c^T S^-1 m_c would choose the class.
- What is left of a mean's own noise adds trace(S^-1) times its variance to that term, more for small classes
  than for large ones. It is subtracted.
- Counts are drawn towards their average, as far as their noise asks for it, and are never below its
  deviation: a mean is a sum divided by a count.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedrec.privacy.dp.class_statistics import COUNT_WEIGHT, RECORD_NORM, SUM_WEIGHT, unpack_statistics
from fedrec.server.optimizers.interface import Vector
from fedrec.server.weights import Solve
from fedrec.vision.models.discriminant_head import DiscriminantHead

_PRIOR: Final = 0.6
"""Strength of the prior, in units of the Gram matrix's noise times sqrt(k)."""
_SPREAD: Final = 0.6
"""How much classes' counts are expected to differ, as a part of their average."""
_LEAST: Final = 1e-9
"""Least strength of the prior, as a part of a record: where there is no scatter nothing else is added."""
_TRUST: Final = 4.0
"""How many times as far apart as estimated classes are taken to be when means are drawn together. Once is
right for the means themselves; four times measured best in which class is chosen (docs/one-round.md)."""


def solver_of(model: nn.Module) -> Solve | None:
    """Return what solves a model's parameters from an opened sum; None for a model that takes steps.

    Args:
        model: any model.

    Returns:
        The solver. It takes sums in which a record's vector has norm 1, as merchants send them.
    """
    if not isinstance(model, DiscriminantHead):
        return None
    classes, dimension = model.classes, model.dimension

    def solve(sums: Vector, noise: float) -> Vector:
        return solve_discriminant(
            sums * RECORD_NORM, classes=classes, dimension=dimension, noise=noise * RECORD_NORM
        )

    return solve


def solve_discriminant(
    vector: NDArray[np.float64], *, classes: int, dimension: int, noise: float
) -> NDArray[np.float64]:
    """Solve the parameters of a :class:`DiscriminantHead` from its statistics.

    Args:
        vector: float64 (d,), a packed sum of statistics in which a record's vector has its own norm
            (``RECORD_NORM``), with noise.
        classes: number of classes.
        dimension: k, the length of a feature vector.
        noise: standard deviation of the noise in each of its coordinates; 0 for none.

    Returns:
        float64 (d,), finite whatever finite numbers the sum has: weights (classes, k), biases (classes,) and
        the upper triangle of the covariance within classes, by rows.
    """
    found = unpack_statistics(vector, classes=classes, dimension=dimension)
    counts = _counts(found.counts, noise=noise / COUNT_WEIGHT)
    total = float(counts.sum())
    means = found.sums / counts[:, None]
    centre = found.sums.sum(axis=0) / total
    values, vectors = np.linalg.eigh(found.gram - means.T @ found.sums)
    values = np.maximum(values, 0.0)
    prior = max(_PRIOR * noise * math.sqrt(dimension), float(values.sum()) / total, _LEAST)
    # The prior's records count as records: the covariance is a mean over both.
    covariances = (values + prior) / (total + prior * dimension)
    away, left = _drawn_together(means - centre, counts, noise=noise / SUM_WEIGHT)
    weights = (away @ vectors / covariances) @ vectors.T
    lengths = np.sum((2 * centre + away) * weights, axis=1) - np.sum(1.0 / covariances) * left
    biases = np.log(counts / total) - 0.5 * lengths
    covariance = (vectors * covariances) @ vectors.T
    return np.concatenate([weights.reshape(-1), biases, covariance[np.triu_indices(dimension)]])


def _drawn_together(
    away: NDArray[np.float64], counts: NDArray[np.float64], *, noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the classes' means towards the mean of all, as far as their noise asks for it.

    Args:
        away: float64 (classes, k), the noised means less the mean of all.
        counts: float64 (classes,), the classes' numbers of records.
        noise: standard deviation of the noise in each coordinate of a class's sum.

    Returns:
        The means less the mean of all, drawn towards 0, and the variance of the noise that is left in each
        coordinate of them, float64 (classes,).
    """
    if noise == 0.0:
        return away, np.zeros(len(away))
    # The mean of all has a share of the noise of each class, which falls out of the difference.
    of_sums = noise**2 * (1.0 - counts / counts.sum())
    dimension = away.shape[1]
    squares = float(np.sum((away * counts[:, None]) ** 2)) - dimension * float(of_sums.sum())
    apart = _TRUST * max(squares, 0.0) / (dimension * float(np.sum(counts**2)))
    of_means = of_sums / counts**2
    # With no more than one class, neither has anything to tell.
    kept = apart / np.maximum(apart + of_means, np.finfo(np.float64).tiny)
    return kept[:, None] * away, kept**2 * of_means


def _counts(noisy: NDArray[np.float64], *, noise: float) -> NDArray[np.float64]:
    """Estimate the classes' counts, each at least 1 and at least the deviation of the noise in it."""
    average = max(float(noisy.mean()), 1.0)
    own, others = (_SPREAD * average) ** 2, noise**2
    estimate: NDArray[np.float64] = (own * noisy + others * average) / (own + others)
    return np.maximum(estimate, max(1.0, noise))
