"""A one-round campaign: merchants, keys, ledgers and encryption of any training, one sum, one solution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.server.coordinator import Coordinator
from fedrec.server.discriminant import solver_of
from fedrec.server.optimizers.interface import Vector
from tests.support.campaigns import DIMENSION, campaign, head, plain_sum
from tests.support.cohort import CLASSES, FEATURES, Cohort, InProcessGrid, change_means


def watched(
    cohort: Cohort, plan: TrainingPlan, grid: InProcessGrid | None = None
) -> tuple[Coordinator, list[RoundRecord], list[tuple[Vector, float]]]:
    """Return a coordinator of the campaign, its rounds, and what is given to the solver."""
    coordinator, records = cohort.coordinator(plan, grid, np.zeros(DIMENSION))
    solve, seen = solver_of(head()), []
    assert solve is not None

    def watching(sums: Vector, noise: float) -> Vector:
        seen.append((sums.copy(), noise))
        assert solve is not None
        return solve(sums, noise)

    coordinator.weights.solve = watching
    return coordinator, records, seen


def test_three_merchants_open_their_plain_sum_with_the_planned_noise(tmp_path: Path) -> None:
    cohort, plan = campaign(tmp_path)
    coordinator, records, seen = watched(cohort, plan)
    coordinator.run()
    assert [record.opened for record in records] == [True]
    (sums, noise), = seen  # fmt: skip
    planned = derive(plan).noise
    # Two honest shares make the planned noise, and three have come.
    assert noise == pytest.approx(planned.sensitivity / planned.scale * np.sqrt(3 / 2), rel=0.02)
    off = sums - plain_sum(range(3))
    assert np.abs(off).max() < 5 * noise
    assert np.std(off) == pytest.approx(noise, rel=0.25)
    assert np.isfinite(coordinator.weights.reported).all()
    assert coordinator.weights.reported[: FEATURES * CLASSES].any()


@pytest.mark.parametrize("scheme", ["none", "kahe"])
def test_without_noise_the_sum_is_exact_up_to_rounding(tmp_path: Path, scheme: str) -> None:
    changes: dict[str, Any] = {"committee": (), "threshold": 0} if scheme == "none" else {}
    cohort, plan = campaign(tmp_path, mode="off", noise_multiplier=None, scheme=scheme, **changes)
    coordinator, _, seen = watched(cohort, plan)
    coordinator.run()
    ((sums, noise),) = seen
    assert noise == 0
    assert np.abs(sums - plain_sum(range(3))).max() < 3 / derive(plan).noise.scale


def test_a_merchant_that_is_away_is_missing_from_sum_and_noise(tmp_path: Path) -> None:
    cohort, plan = campaign(tmp_path, size=4)
    grid = InProcessGrid(cohort.app(), 4, drop=lambda kind, group, index: kind == "train" and index == 3)
    coordinator, records, seen = watched(cohort, plan, grid)
    coordinator.run()
    assert records[0].opened and records[0].contributors == 3
    ((sums, noise),) = seen
    planned = derive(plan).noise
    # A sum of the minimum keeps all layers.
    assert noise == pytest.approx(planned.added_std * np.sqrt(3) / planned.scale)
    assert np.abs(sums - plain_sum(range(3))).max() < 5 * noise


def test_a_campaign_costs_one_step_of_all_records_and_a_second_one_composes(tmp_path: Path) -> None:
    cohort, plan = campaign(tmp_path)
    watched(cohort, plan)[0].run()
    (first,) = (entry.charge for entry in cohort.charges("m0"))
    assert (first.sample_rate, first.clip, first.dimension, first.steps) == (1.0, 1.0, DIMENSION, 1)
    once = cohort.merchants["m0"].ledger.reading().spent
    for merchant in cohort.merchants.values():
        change_means(merchant, build_model=head)
    second = cohort.plan(
        dimension=DIMENSION, rounds=1, sample_rate=1.0, clip=1.0,
        initial_model_hash=sha256_hex(np.zeros(DIMENSION, "<f4").tobytes()),
    )  # fmt: skip
    watched(cohort, second)[0].run()
    assert len(cohort.charges("m0")) == 2
    twice = cohort.merchants["m0"].ledger.reading().spent
    assert once < twice < 2 * once


def test_a_restarted_server_keeps_the_solution(tmp_path: Path) -> None:
    cohort, plan = campaign(tmp_path)
    coordinator, _, _ = watched(cohort, plan)
    coordinator.run()
    again, records, seen = watched(cohort, plan)
    again.run()
    assert not seen
    assert [record.opened for record in records] == [True]
    np.testing.assert_array_equal(again.weights.reported, coordinator.weights.reported)
