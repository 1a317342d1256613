"""Metrics of a classifier, by scikit-learn: accuracy, precision, recall, F1, ROC AUC, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.intervals import wilson_interval
from fedrec.errors import DataError


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class against the rest; a ratio of 0/0 is 0.

    Attributes:
        label: the class.
        precision: share of true ones among those predicted.
        recall: share of true ones that are predicted.
        f1: harmonic mean of both.
        support: number of records of the class.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Metrics:
    """Metrics over one evaluation split; ratios lie in [0, 1].

    Attributes:
        accuracy: share of records predicted right.
        accuracy_interval: its 95% interval by Wilson, for the number of records.
        precision_macro: mean over all k classes, absent ones included (they count 0).
        recall_macro: likewise.
        f1_macro: likewise.
        roc_auc_macro: mean over the classes that have records and are not alone; None if there is none.
        confusion: ``confusion[i][j]`` counts records of class i predicted as class j.
        per_class: metrics of each class.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    precision_macro: float
    recall_macro: float
    f1_macro: float
    roc_auc_macro: float | None
    confusion: list[list[int]]
    per_class: tuple[ClassMetrics, ...]


def evaluate(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], *, classes: Sequence[str]
) -> Metrics:
    """Compare predictions with true labels; the prediction is the first class of highest probability.

    Args:
        probabilities: (n, k) float64; any score that ranks will do.
        labels: (n,) int64 in 0 to k - 1.
        classes: the k names.

    Returns:
        The metrics.

    Raises:
        DataError: no records, shapes that don't fit, labels out of range, or scores that are not finite.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(labels, dtype=np.int64)
    count, k = len(truth), len(classes)
    if count == 0:
        raise DataError("there are no records to measure on: give an evaluation split with pictures")
    if scores.shape != (count, k) or truth.shape != (count,):
        raise DataError(f"scores of shape {scores.shape} do not fit {count} labels and {k} classes")
    if truth.min() < 0 or truth.max() >= k:
        raise DataError(f"labels must lie in 0 to {k - 1}")
    if not np.isfinite(scores).all():
        raise DataError("the model's scores are not finite: its training diverged, lower the learning rate")
    # Imported here: it takes a second, and most commands never measure anything.
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    predicted, every = scores.argmax(axis=1), list(range(k))
    # Arrays, since no average is asked for.
    precision, recall, f1, support = cast(
        "tuple[NDArray[np.float64], ...]",
        precision_recall_fscore_support(
            truth, predicted, labels=every, average=None, zero_division=cast(Any, 0.0)
        ),
    )
    areas = [area for label in every if (area := roc_auc(scores[:, label], truth == label)) is not None]
    accuracy = float(accuracy_score(truth, predicted))
    return Metrics(
        accuracy=accuracy,
        accuracy_interval=wilson_interval(accuracy, count),
        precision_macro=float(precision.mean()),
        recall_macro=float(recall.mean()),
        f1_macro=float(f1.mean()),
        roc_auc_macro=float(np.mean(areas)) if areas else None,
        confusion=confusion_matrix(truth, predicted, labels=every).tolist(),
        per_class=tuple(
            ClassMetrics(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(classes)
        ),
    )


def macro_f1(predicted: NDArray[np.int64], labels: NDArray[np.int64], *, classes: int) -> float:
    """Return the mean F1 of all classes; absent ones count 0. Cheaper than :func:`evaluate`.

    Args:
        predicted: (n,) int64 in 0 to k - 1.
        labels: (n,) int64 in 0 to k - 1.
        classes: k.

    Returns:
        A number in [0, 1].
    """
    right = np.bincount(labels[predicted == labels], minlength=classes)
    either = np.bincount(predicted, minlength=classes) + np.bincount(labels, minlength=classes)
    return float(np.mean(2 * right / np.maximum(either, 1)))


def roc_auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve: the chance that a positive outranks a negative; a tie counts half.

    Args:
        scores: (n,) float64.
        positive: (n,) bool.

    Returns:
        The area in [0, 1]; None if either side is empty.
    """
    if positive.all() or not positive.any():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))
