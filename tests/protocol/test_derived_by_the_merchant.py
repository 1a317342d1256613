"""Sensitivity, noise and chance are the merchant's own: no message states them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fedrec.errors import ConfigError
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.privacy.dp.step import DpSgdSettings, contribute
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import JoinRequest, TrainRequest
from fedrec.protocol.modes import Mode
from fedrec.protocol.plan import TrainingPlan
from tests.support.cohort import Cohort


def _plan(dimension: int, mode: Mode = "off") -> NoisePlan:
    return plan_noise(NoiseRequest(
        mode=mode, epsilon=None, noise_multiplier=None if mode == "off" else 1.0, delta=1e-5,
        sample_rate=0.5, steps=1, dimension=dimension, clip=1.0, cohort=4, min_contributors=4, colluders=1,
        records_per_merchant=20, local_steps=1,))  # fmt: skip


def test_no_message_can_state_a_sensitivity_or_a_seed(tmp_path: Path) -> None:
    """What a record moves is derived by every merchant, and chance is its own: no message has either."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan()
    for name, value in {
        "sensitivity": 1.0, "scale": 1, "beta": 0.5, "share_std": 0.0, "seed": 7, "epsilon": 1.0,
        "noise_share": 0.0, "float_slack": 0.0, "clamp_abs": 1, "steps": 1,
    }.items():  # fmt: skip
        stated = json.loads(plan.canonical_bytes()) | {name: value}
        with pytest.raises(ValidationError, match="Extra inputs"):
            TrainingPlan.model_validate_json(json.dumps(stated))
    for kind, message in (
        (JoinRequest, {"plan": json.loads(plan.canonical_bytes())}),
        (
            TrainRequest,
            {"training_id": "0" * 64, "round_number": 1, "model_hash": "0" * 64, "sealing_keys": []},
        ),
    ):
        assert kind.model_validate_json(json.dumps(message))
        with pytest.raises(ValidationError, match="Extra inputs"):
            kind.model_validate_json(json.dumps(message | {"seed": 7}))
    # Grid, noise and what is charged follow from dimension, clip and noise multiplier alone.
    twins = [derive(cohort.plan(nonce=nonce, rounds=2)).noise for nonce in ("aa" * 16, "bb" * 16)]
    assert twins[0] == twins[1]
    model = nn.Linear(5, 3)
    with pytest.raises(ConfigError, match="are not the plan's"):
        contribute(
            model, torch.zeros(1, 1, 5), torch.zeros(1, dtype=torch.int64),
            settings=DpSgdSettings(clip=2.0, sample_rate=0.5), plan=_plan(18), rng=Randomness.from_os(),
        )  # fmt: skip
