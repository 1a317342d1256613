"""A record on which the model's code fails: it counts as zero, and the others as if it weren't there."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrec.privacy.dp.centred_features import centred_features
from fedrec.privacy.dp.clipping import RecordClipper, clipped_sum
from fedrec.privacy.dp.failing_records import in_halves
from fedrec.privacy.dp.site_figures import unit_figures
from fedrec.vision.models.centred_head import Centring

WIDTH, CLASSES, SPOILT = 6, 3, 77.0


class Fragile(nn.Module):
    """Raises if one of its inputs has a certain value, in the forward or in the backward pass."""

    def __init__(self, error: type[Exception], *, backward: bool = False, centres: bool = False) -> None:
        super().__init__()
        self.error, self.backward = error, backward
        self.centring = Centring(WIDTH) if centres else nn.Identity()
        self.linear = nn.Linear(WIDTH, CLASSES)

    def _fail(self, given: Tensor) -> None:
        if bool((given == SPOILT).any()):
            raise self.error("photos/secret-name.png")

    def forward(self, given: Tensor) -> Tensor:
        if not self.backward:
            self._fail(given)
        scores: Tensor = self.linear(self.centring(given))
        if self.backward and scores.requires_grad:
            scores.register_hook(lambda gradient: self._fail(given))  # type: ignore[no-untyped-call]
        return scores


def records(count: int = 21, *, spoilt: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(count, 2, WIDTH, generator=generator)
    for place in spoilt:
        inputs[place, place % 2, 0] = SPOILT
    return inputs, torch.randint(0, CLASSES, (count,), generator=generator)


@given(count=st.integers(1, 40), failing=st.sets(st.integers(0, 39)))
def test_each_record_runs_once_in_a_run_that_succeeds_or_fails_alone(count: int, failing: set[int]) -> None:
    runs: list[list[int]] = []
    alone: list[str] = []

    def run(places: Sequence[int]) -> int:
        runs.append(list(places))
        if failing.intersection(places):
            raise ValueError(str(list(places)))
        return sum(places)

    found = list(in_halves(range(count), run, failed=lambda error: alone.append(str(error))))
    assert all(value == sum(places) for places, value in found)
    assert sorted(place for places, _ in found for place in places) == sorted(set(range(count)) - failing)
    assert alone == [f"[{place}]" for place in sorted(failing & set(range(count)))]
    # All together first; each that fails costs the halves on the way to it.
    assert runs[0] == list(range(count))
    assert len(runs) <= 1 + 2 * len(failing & set(range(count))) * math.ceil(math.log2(max(2, count)))


@pytest.mark.parametrize("error", [ValueError, MemoryError, RecursionError, IndexError])
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_only_records_on_which_the_model_fails_count_as_zero(
    error: type[Exception], reference: bool, backward: bool
) -> None:
    """Wherever they stand, also first: to the last bit what the sum of the others is."""
    torch.manual_seed(1)
    model = Fragile(error, backward=backward)
    for spoilt in ((0,), (20,), (3, 8, 9, 19), tuple(range(21))):
        inputs, labels = records(spoilt=spoilt)
        others = [place for place in range(21) if place not in spoilt]
        with RecordClipper(model, clip=0.5, physical_batch=16, reference=reference) as clipper:
            found = clipper.clipped_sum(inputs, labels)
            alone = [clipper.clipped_sum(inputs[[at]], labels[[at]]) for at in others]
        expected = np.sum(alone, axis=0) if alone else np.zeros(clipper.dimension)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert not model.training or model.linear.weight.grad is None


def test_a_failure_is_logged_once_a_sum_and_without_a_photo_s_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        clipped_sum(Fragile(ValueError), *records(spoilt=(2, 5)), clip=1.0)
    assert len(caplog.records) == 1 and caplog.text.count("2 of the records fail") == 1
    assert "ValueError" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize("physical", [1, 8])
def test_a_model_that_fails_on_any_record_is_an_error(physical: int) -> None:
    """It is no matter of one record: a wrong model must not look like one that has nothing to learn."""
    inputs, labels = records()
    with pytest.raises(RuntimeError, match="shapes"):
        clipped_sum(nn.Linear(WIDTH + 1, CLASSES), inputs, labels, clip=1.0, physical_batch=physical)


def test_a_mean_and_site_figures_leave_out_the_failing_record_alone() -> None:
    torch.manual_seed(1)
    model = Fragile(ValueError, centres=True)
    sound, labels = records()
    inputs, _ = records(spoilt=(0, 18))
    others = [place for place in range(21) if place not in (0, 18)]
    features = centred_features(model, inputs)
    assert torch.equal(features[others], centred_features(model, sound)[others])
    assert features[[0, 18]].isnan().any(dim=2).any(dim=1).all()
    figures = unit_figures(model, inputs, labels, classes=CLASSES)
    expected = unit_figures(model, sound, labels, classes=CLASSES)
    np.testing.assert_array_equal(figures.losses[others], expected.losses[others])
    np.testing.assert_array_equal(figures.correct[others], expected.correct[others])
    assert np.isnan(figures.losses[[0, 18]]).all() and not figures.correct[[0, 18]].any()
