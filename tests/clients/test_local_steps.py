"""Several local steps: each is one sum at a point that follows from what was released before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedrec.clients.records import TrainingData
from fedrec.privacy.aggregation.scheme import Scheme
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp import clipping
from fedrec.privacy.dp.sampling import poisson_sample
from fedrec.privacy.dp.vectors import parameter_vector
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import JoinRequest, TrainRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from tests.support.cohort import (
    CLASSES,
    DIMENSION,
    FEATURES,
    Cohort,
    change_means,
    linear_model,
    record_digests,
)

STEPS, RATE = 4, 0.1


def _records(count: int) -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    inputs = 3 * torch.randn(106, 1, FEATURES, generator=generator)
    labels = torch.randint(0, CLASSES, (106,), generator=generator)
    digests = record_digests("m", count)
    return TrainingData(inputs=inputs[:count], labels=labels[:count], digests=digests, held=digests)


class _Watched(nn.Module):
    """The cohort's model, which notes the parameters that it is at whenever it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear_model()
        self.points: list[NDArray[np.float64]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        point = parameter_vector(self.inner)
        if not self.points or not np.array_equal(point, self.points[-1]):
            self.points.append(point)
        out: torch.Tensor = self.inner(inputs)
        return out


def _round(
    folder: Path, count: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[TrainingPlan, list[NDArray[np.float64]], NDArray[np.int64]]:
    """One round of a merchant with so many records: the points of its steps, and the total it uploads."""
    cohort = Cohort(folder, seed=seed)
    plan = cohort.plan(
        mode="local", local_steps=STEPS, sample_rate=RATE, local_learning_rate=5.0, noise_multiplier=0.5,
        scheme="none", committee=(), threshold=0, records_total=400, records_largest=110, nonce="ab" * 16,
    )  # fmt: skip
    model, merchant = _Watched(), cohort.merchants["m0"]
    change_means(merchant, data_for=lambda plan: _records(count), build_model=lambda plan: model)
    merchant.join(JoinRequest(plan=plan))
    sent: list[NDArray[np.int64]] = []
    kind: type[Scheme] = type(derive(plan).scheme)
    real = kind.encrypt

    def encrypt(self: Scheme, values: NDArray[np.int64], **others: object) -> object:
        sent.append(values.copy())
        return real(self, values, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "encrypt", encrypt)
    # Its passes, at parameters of its own, are no steps.
    monkeypatch.setattr(clipping, "places_are_alike", lambda *arguments: True)
    start = np.zeros(DIMENSION, "<f4").tobytes()
    request = TrainRequest(
        training_id=plan.training_id, round_number=1, model_hash=sha256_hex(start), sealing_keys=()
    )
    merchant.train(request, {"model": start})
    monkeypatch.setattr(kind, "encrypt", real)
    return plan, model.points, sent[0]


def _first_step_with_the_last_record(seed: int) -> int:
    rng = Randomness.seeded(seed, "m0", 1)
    for step in range(STEPS):
        if 105 in poisson_sample(106, rate=RATE, rng=rng.child("step", step).child("sampling")):
            return step
    return STEPS


def test_a_record_affects_only_steps_that_sample_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """105 records or 106, which round to 100 and 110: up to the first step that draws the last one, all is
    the same; that step's sum, and with it the total before the next, moves by the sensitivity at most."""
    seen = set()
    for seed in range(300):
        first = _first_step_with_the_last_record(seed)
        if first in seen:
            continue
        seen.add(first)
        plan, fewer, total = _round(tmp_path / f"{seed}-105", 105, seed, monkeypatch)
        _, more, other = _round(tmp_path / f"{seed}-106", 106, seed, monkeypatch)
        assert len(fewer) == len(more) == STEPS
        for step in range(min(first + 1, STEPS)):
            np.testing.assert_array_equal(fewer[step], more[step])
        noise = derive(plan).noise
        if first == STEPS:
            np.testing.assert_array_equal(total, other)
        elif first == STEPS - 1:
            assert 0 < np.linalg.norm(total - other) <= noise.sensitivity
        else:
            # Points say the totals so far: -learning rate * (C / S) / (q * mean size) for each grid step.
            mean_size = plan.records_total / plan.cohort
            grid = plan.local_learning_rate * plan.clip / (noise.scale * plan.sample_rate * mean_size)
            moved = np.linalg.norm(fewer[first + 1] - more[first + 1]) / grid
            assert 0 < moved <= noise.sensitivity * (1 + 1e-3)
    assert {0, 1, STEPS - 1, STEPS} <= seen


def test_the_servers_move_is_the_plain_average_of_the_merchants_differences(tmp_path: Path) -> None:
    """What the server makes of the opened totals is the mean of where each merchant's own steps led."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan(
        mode="local", local_steps=3, rounds=1, scheme="none", committee=(), threshold=0, noise_multiplier=0.5
    )
    models = {name: _Watched() for name in cohort.names}
    for name, merchant in cohort.merchants.items():
        change_means(merchant, build_model=lambda plan, name=name: models[name])
    moved, _ = cohort.train(plan)
    # The same round once more with a fourth step shows each merchant's point after its third.
    again = Cohort(tmp_path / "again", seed=cohort.seed)
    for name, merchant in again.merchants.items():
        models[name] = _Watched()
        change_means(merchant, build_model=lambda plan, name=name: models[name])
    again.train(
        again.plan(
            mode="local", local_steps=4, rounds=1, scheme="none", committee=(), threshold=0,
            noise_multiplier=0.5,
        )
    )  # fmt: skip
    after = [model.points[3] for model in models.values()]
    np.testing.assert_allclose(moved, np.mean(after, axis=0), rtol=1e-5, atol=1e-6)
