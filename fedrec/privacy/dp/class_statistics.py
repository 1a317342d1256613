"""Sum what a linear discriminant needs of the records, each record's whole statistic clipped to one norm.

A record with features z of length 1 and class y contributes one vector: z in the place of class y, weighted
2; a count in the place of class y, weighted 0.6; and the products z_i z_j. Of these only i <= j are kept,
those with i < j times sqrt(2), so that their norm is that of the matrix z z^T, which is 1. The vector's norm
is therefore sqrt(4 + 0.36 + 1), whatever z and y are. It is scaled to the clip: the sum has the sensitivity
of a sum of clipped gradients, and everything that hides and opens such a sum applies to it.

The weights divide the noise between the three parts: a part with a larger weight has less. They were chosen
by cross-validation within the training photos of one data set (docs/one-round.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.errors import ConfigError
from fedrec.privacy.dp.bounds import MAX_RECORDS

SUM_WEIGHT: Final = 2.0
"""Weight of the classes' sums of features."""
COUNT_WEIGHT: Final = 0.6
"""Weight of the classes' counts."""
RECORD_NORM: Final = math.sqrt(SUM_WEIGHT**2 + COUNT_WEIGHT**2 + 1.0)
"""Norm of a record's vector, before it is scaled to the clip."""
_CHUNK = 4096
"""Records that are held in float64 at once."""


@dataclass(frozen=True)
class ClassStatistics:
    """Sums over records, unweighted: what a linear discriminant is solved from.

    Attributes:
        sums: the classes' sums of features, float64 (classes, k).
        counts: the classes' numbers of records, float64 (classes,).
        gram: the sum of z z^T, float64 (k, k), symmetric.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    gram: NDArray[np.float64]


def statistics_length(*, classes: int, dimension: int) -> int:
    """Return the length of a vector of statistics.

    Args:
        classes: number of classes.
        dimension: k, the length of a feature vector.

    Returns:
        The classes' sums, their counts and the upper triangle, together.
    """
    return classes * dimension + classes + dimension * (dimension + 1) // 2


def pack_statistics(statistics: ClassStatistics) -> NDArray[np.float64]:
    """Weight the statistics and put them in one vector: sums by class, counts, upper triangle by rows.

    Args:
        statistics: the sums.

    Returns:
        float64 (:func:`statistics_length`,).
    """
    rows, columns = np.triu_indices(len(statistics.gram))
    triangle = statistics.gram[rows, columns] * np.where(rows < columns, math.sqrt(2.0), 1.0)
    return np.concatenate(
        [SUM_WEIGHT * statistics.sums.reshape(-1), COUNT_WEIGHT * statistics.counts, triangle]
    )


def unpack_statistics(vector: NDArray[np.float64], *, classes: int, dimension: int) -> ClassStatistics:
    """Invert :func:`pack_statistics`.

    Args:
        vector: float64 (:func:`statistics_length`,).
        classes: number of classes.
        dimension: k, the length of a feature vector.

    Returns:
        The statistics.

    Raises:
        ConfigError: the vector has another length.
    """
    expected = statistics_length(classes=classes, dimension=dimension)
    if vector.shape != (expected,):
        raise ConfigError(f"class statistics: expects a vector of {expected} numbers, not {vector.shape}.")
    sums, counts, triangle = np.split(vector, [classes * dimension, classes * dimension + classes])
    rows, columns = np.triu_indices(dimension)
    gram = np.empty((dimension, dimension))
    gram[rows, columns] = triangle / np.where(rows < columns, math.sqrt(2.0), 1.0)
    gram[columns, rows] = gram[rows, columns]
    return ClassStatistics(sums.reshape(classes, dimension) / SUM_WEIGHT, counts / COUNT_WEIGHT, gram)


def clipped_statistics_sum(
    inputs: Tensor, labels: Tensor, *, classes: int, clip: float, chosen: Tensor | None = None
) -> NDArray[np.float64]:
    """Sum the records' vectors of statistics, each scaled to norm ``clip`` and clipped to it.

    A record's features are the average over its views, brought to length 1; zero stays zero. A record whose
    features aren't finite counts as none. The sum's L2 sensitivity is therefore ``clip``. All operations are
    in float64: over n records a sum is off by at most n * 2**-53 times n * clip in norm, for two sums of
    ``MAX_RECORDS`` records together by less than ``FLOAT_SLACK`` allows.

    Args:
        inputs: float32 or float64 (n, V, k), V views per record; n may be 0.
        labels: int64 (n,), below ``classes``.
        classes: number of classes.
        clip: C, the clipping norm.
        chosen: positions of the records to take, int64; None for all. They are taken out of the inputs part
            by part, so that a second copy of all features never takes memory.

    Returns:
        float64 (:func:`statistics_length`,).

    Raises:
        ConfigError: a shape or a label doesn't fit, or there are more than 2**17 records.
    """
    if inputs.ndim != 3 or inputs.shape[1] < 1 or labels.shape != inputs.shape[:1]:
        raise ConfigError(
            f"class statistics: expects inputs [n, views, k] and labels [n], not {tuple(inputs.shape)} and "
            f"{tuple(labels.shape)}."
        )
    own = labels if chosen is None else labels[chosen.to(labels.device)]
    count = len(own)
    if count > MAX_RECORDS:
        raise ConfigError(f"class statistics: {count} records, the limit is {MAX_RECORDS}.")
    if count and not 0 <= int(own.min()) <= int(own.max()) < classes:
        raise ConfigError(f"class statistics: a label is outside 0 to {classes - 1}.")
    length = inputs.shape[2]
    sums = torch.zeros(classes, length, dtype=torch.float64, device=inputs.device)
    counts = torch.zeros(classes, dtype=torch.float64, device=inputs.device)
    gram = torch.zeros(length, length, dtype=torch.float64, device=inputs.device)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        rows = inputs[part if chosen is None else chosen[part].to(inputs.device)]
        vectors = rows.double().mean(dim=1)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        usable = torch.isfinite(lengths)
        # 0 * NaN is NaN, so such vectors are replaced; a factor of zero would not be enough.
        vectors[~usable] = 0.0
        vectors /= lengths.where(usable & (lengths > 0), torch.ones_like(lengths))[:, None]
        squares = vectors.square().sum(dim=1)
        norms = (squares * (SUM_WEIGHT**2 + squares) + COUNT_WEIGHT**2).sqrt()
        factors = usable * (clip / norms.clamp(min=RECORD_NORM))
        weighted = factors[:, None] * vectors
        mine = own[part].to(inputs.device)
        sums.index_add_(0, mine, weighted)
        counts.index_add_(0, mine, factors)
        gram += vectors.T @ weighted
    return pack_statistics(
        ClassStatistics(sums.cpu().numpy(), counts.cpu().numpy(), ((gram + gram.T) / 2).cpu().numpy())
    )
