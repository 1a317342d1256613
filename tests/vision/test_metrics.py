from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

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
def test_figures_are_those_of_counting_one_by_one(
    seed: int, count: int, k: int, absent: int, grain: int
) -> None:
    rng = np.random.default_rng(seed)
    # A coarse grain makes many ties; a low bound on labels leaves classes without records.
    scores = rng.integers(0, grain, (count, k)) / grain
    labels = rng.integers(0, max(1, k - absent), count)
    classes = [f"c{i}" for i in range(k)]
    found = evaluate(scores, labels, classes=classes)
    predicted = [highest(row) for row in scores]
    pairs = list(zip(labels.tolist(), predicted, strict=True))
    assert found.accuracy == pytest.approx(sum(a == b for a, b in pairs) / count)
    wilson = stats.binomtest(sum(a == b for a, b in pairs), count).proportion_ci(0.95, method="wilson")
    assert found.accuracy_interval == pytest.approx((wilson.low, wilson.high), abs=1e-12)
    assert found.confusion == [[pairs.count((i, j)) for j in range(k)] for i in range(k)]
    precisions, recalls, scores_f1 = [], [], []
    for label, told in enumerate(found.per_class):
        hits = pairs.count((label, label))
        claimed, real = predicted.count(label), labels.tolist().count(label)
        precisions.append(hits / claimed if claimed else 0.0)
        recalls.append(hits / real if real else 0.0)
        scores_f1.append(2 * hits / (claimed + real) if claimed + real else 0.0)
        assert (told.label, told.support) == (classes[label], real)
        assert (told.precision, told.recall, told.f1) == pytest.approx(
            (precisions[-1], recalls[-1], scores_f1[-1])
        )
    assert found.precision_macro == pytest.approx(sum(precisions) / k)
    assert found.recall_macro == pytest.approx(sum(recalls) / k)
    assert found.f1_macro == pytest.approx(sum(scores_f1) / k)
    areas = [area for j in range(k) if (area := outranked(scores[:, j], labels == j)) is not None]
    assert found.roc_auc_macro == (pytest.approx(sum(areas) / len(areas)) if areas else None)


def outranked(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The share of pairs (positive, negative) in which the positive is above; an equal one counts half."""
    wins = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    return sum(map(float, wins)) / len(wins) if wins else None


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
