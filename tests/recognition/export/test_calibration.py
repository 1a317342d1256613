"""A temperature is the one under which the photos' classes are most likely."""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.errors import DataError
from fedrec.recognition.export.calibration import fitted


@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
def test_labels_that_are_drawn_at_a_temperature_give_it_back(temperature: float) -> None:
    rng = np.random.default_rng(4)
    scores = (3 * rng.standard_normal((20_000, 5))).astype(np.float32)
    shares = np.exp(scores / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) < rng.random((len(scores), 1))).sum(axis=1)
    found = fitted(scores, labels.tolist())
    assert found.temperature == pytest.approx(temperature, rel=0.1) and found.photos == 20_000


def test_a_few_photos_are_refused() -> None:
    with pytest.raises(DataError, match="49 photos"):
        fitted(np.zeros((49, 3), np.float32), [0] * 49)
