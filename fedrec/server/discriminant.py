"""Solve a linear discriminant from an opened, noised sum of statistics. This is post-processing of the sum.

The classes share one covariance S (Fisher 1936; Hastie, Tibshirani and Friedman 2009, "The Elements of
Statistical Learning", section 4.3). With the class means m_c and the classes' shares p_c of all records, the
score of features z in class c is z^T S^-1 m_c - m_c^T S^-1 m_c / 2 + log p_c, up to a term that all classes
share.

What the noise does to each part is known in size, since its standard deviation is public:

- The scatter within classes is the Gram matrix less the class means' part. Noise makes some of its
  eigenvalues negative; they are cut at 0. A public prior, a multiple of the identity, is added. It is about
  as strong as the noise, whose largest eigenvalue is about 1.4 sqrt(k) times its deviation, so that the
  inverse doesn't blow up directions of which noise is all that is known.
- A mean's own noise adds trace(S^-1) times its variance to m_c^T S^-1 m_c, more for small classes than for
  large ones. It is subtracted.
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
"""Least strength of the prior, as a part of the average scatter of a direction: without noise nothing else is
added."""


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
    least = _LEAST * (float(values.sum()) + total) / dimension
    prior = max(_PRIOR * noise * math.sqrt(dimension), least)
    # The prior's records count as records: the covariance is a mean over both.
    covariances = (values + prior) / (total + prior * dimension)
    weights = ((means - centre) @ vectors / covariances) @ vectors.T
    lengths = np.sum((means + centre) * weights, axis=1)
    lengths -= np.sum(1.0 / covariances) * (noise / SUM_WEIGHT / counts) ** 2
    biases = np.log(counts / total) - 0.5 * lengths
    covariance = (vectors * covariances) @ vectors.T
    return np.concatenate([weights.reshape(-1), biases, covariance[np.triu_indices(dimension)]])


def _counts(noisy: NDArray[np.float64], *, noise: float) -> NDArray[np.float64]:
    """Estimate the classes' counts, each at least 1 and at least the deviation of the noise in it."""
    average = max(float(noisy.mean()), 1.0)
    own, others = (_SPREAD * average) ** 2, noise**2
    estimate: NDArray[np.float64] = (own * noisy + others * average) / (own + others)
    return np.maximum(estimate, max(1.0, noise))
