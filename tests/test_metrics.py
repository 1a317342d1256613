from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from fedrec.errors import DataError
from fedrec.vision.metrics import evaluate, roc_auc


def highest(row: np.ndarray) -> int:
    """The class of the highest score, the first among equals."""
    return max(range(len(row)), key=lambda j: (row[j], -j))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 60),
    k=st.integers(2, 6),
    absent=st.integers(0, 3),
    grain=st.sampled_from([2, 5, 1000]),
)
def test_agrees_with_scikit_learn(seed: int, count: int, k: int, absent: int, grain: int) -> None:
    rng = np.random.default_rng(seed)
    # A coarse grain makes many ties; a low bound on labels leaves classes without records.
    scores = rng.integers(0, grain, (count, k)) / grain
    labels = rng.integers(0, max(1, k - absent), count)
    classes = [f"c{i}" for i in range(k)]
    ours = evaluate(scores, labels, classes=classes)
    predicted = np.array([highest(row) for row in scores])
    everything = list(range(k))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Arrays, since no average was asked for.
        precision, recall, f1, support = cast(
            tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
            reference.precision_recall_fscore_support(
                labels, predicted, labels=everything, zero_division=cast(Any, 0)
            ),
        )
    assert ours.accuracy == pytest.approx(reference.accuracy_score(labels, predicted))
    assert ours.confusion == reference.confusion_matrix(labels, predicted, labels=everything).tolist()
    assert [c.precision for c in ours.per_class] == pytest.approx(precision.tolist())
    assert [c.recall for c in ours.per_class] == pytest.approx(recall.tolist())
    assert [c.f1 for c in ours.per_class] == pytest.approx(f1.tolist())
    assert [c.support for c in ours.per_class] == support.tolist()
    assert [c.label for c in ours.per_class] == classes
    assert ours.precision_macro == pytest.approx(precision.mean())
    assert ours.recall_macro == pytest.approx(recall.mean())
    assert ours.f1_macro == pytest.approx(f1.mean())
    areas = [
        reference.roc_auc_score(labels == j, scores[:, j])
        for j in everything
        if 0 < (labels == j).sum() < count
    ]
    if areas:
        assert ours.roc_auc_macro == pytest.approx(np.mean(areas))
    else:
        assert ours.roc_auc_macro is None


def test_roc_auc_by_hand() -> None:
    # Pairs (positive, negative): 0.8>0.5, 0.8>0.3, 0.5=0.5 (half), 0.5>0.3: 3.5 of 4.
    area = roc_auc(np.array([0.8, 0.5, 0.5, 0.3]), np.array([True, True, False, False]))
    assert area == pytest.approx(3.5 / 4)
    assert roc_auc(np.array([0.1, 0.2]), np.array([True, True])) is None


@pytest.mark.parametrize(
    ("scores", "labels", "word"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=np.int64), "no records"),
        (np.zeros((3, 2)), np.zeros(2, dtype=np.int64), "shape"),
        (np.zeros((1, 2)), np.array([2]), "labels"),
        (np.zeros((1, 2)), np.array([-1]), "labels"),
        (np.array([[np.nan, 0.0]]), np.array([0]), "finite"),
    ],
)
def test_unusable_input_is_one_clear_line(scores: np.ndarray, labels: np.ndarray, word: str) -> None:
    with pytest.raises(DataError, match=word) as caught:
        evaluate(scores, labels, classes=["a", "b"])
    assert "\n" not in str(caught.value)
