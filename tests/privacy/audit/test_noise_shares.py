"""The verifier's own account of noise layers, against the merchants' code and against plans that lie."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fedrec.clients.charging import round_charge
from fedrec.privacy.audit.verify.charge_checks import check_charges, check_plan, multipliers
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.plan import TrainingPlan
from tests.support.audited_plans import audited
from tests.support.cohort import Cohort


def problems(plan: TrainingPlan, **changes: Any) -> list[str]:
    found = check_plan(audited(plan, **changes), servers=(plan.server_key,))
    return [problem.reason for problem in found]


def entry(plan: TrainingPlan, **changes: Any) -> list[dict[str, Any]]:
    charge = round_charge(
        plan, derive(plan), round_number=1, model_hash="00" * 32, policy_hash="00" * 32, seeded=False
    )
    return [{"kind": "charge", "sequence": 2, "charge": asdict(charge) | changes}]


def test_plans_and_charges_with_layers_are_recomputed(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=6)
    for minimum in (3, 4, 6):
        plan = cohort.plan(min_contributors=minimum)
        assert bool(plan.noise_levels) == (minimum < 6) and problems(plan) == []
        spend = derive(plan).spend
        assert multipliers(audited(plan)) == pytest.approx(
            (spend.multiplier, spend.broken_multiplier), rel=1e-9
        )
        assert list(check_charges(entry(plan))) == []


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        ((6, 5, 4), "don't fall to the 3"),
        ((7, 3), "don't fall"),
        ((6, 6, 3), "don't fall"),
        ((5, 6, 3), "don't fall"),
        ((6, 3, 2), "don't fall"),
    ],
)
def test_levels_that_would_leave_too_little_noise_are_told(
    tmp_path: Path, levels: tuple[int, ...], reason: str
) -> None:
    plan = Cohort(tmp_path, size=6).plan()
    assert any(reason in text for text in problems(plan, noise_levels=list(levels)))


def test_layers_too_narrow_for_the_lemma_or_without_a_committee_are_told(tmp_path: Path) -> None:
    plan = Cohort(tmp_path, size=6).plan(noise_multiplier=0.12)
    assert plan.noise_levels != (6, 5, 4, 3)
    assert any("below 8 grid units" in text for text in problems(plan, noise_levels=[6, 5, 4, 3]))
    trust = {"opened_by": "nobody", "reads_single_updates": "server", "epsilon_of": "share"}
    assert any("no committee" in text for text in problems(Cohort(tmp_path / "b").plan(), trust=trust))


def test_a_charge_that_counts_noise_which_is_removed_is_told(tmp_path: Path) -> None:
    """Epsilon if aggregation were broken must not count layers; nor is it between that of two levels."""
    plan = Cohort(tmp_path, size=6).plan()
    noise = derive(plan).noise
    for std in (noise.added_std * 1.01, (noise.share_std * noise.added_std) ** 0.5 * 1.003):
        stated = (std**2 - 9) ** 0.5 / noise.sensitivity
        found = list(check_charges(entry(plan, broken_noise_multiplier=stated)))
        assert found and "its own share of noise" in found[0].reason
