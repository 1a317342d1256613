"""A merchant's noised sum of one round: of its records, or of none where they can't be used."""

from __future__ import annotations

import logging
import traceback

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedrec.clients.records import Records
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.step import DpSgdSettings, LocalSgdSettings, contribute, local_update
from fedrec.privacy.dp.vectors import load_parameter_vector
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan

_log = logging.getLogger(__name__)


def compute_contribution(
    model: nn.Module,
    parameters: NDArray[np.float32],
    records: Records,
    *,
    plan: TrainingPlan,
    noise: NoisePlan,
    rng: Randomness,
) -> NDArray[np.int64]:
    """Return what a merchant gives to a round, int64 (d,) in grid units; ``model`` takes the ``parameters``.

    A step that fails on its records is made again of none, with the same noise, and the merchant's log says
    so: whether an upload comes must not depend on them.
    """
    try:
        return _steps(model, parameters, records, plan=plan, noise=noise, rng=rng)
    # Whatever records make a step fail with, a server that saw no upload would know that they do.
    except Exception as error:
        if not len(records.labels):
            raise
        # The text of an exception may name a photo; where it was raised is enough to find a defect by.
        where = " < ".join(
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in reversed(traceback.extract_tb(error.__traceback__))
        )
        _log.error(
            "a step failed on its records and sends noise alone: %s at %s", type(error).__name__, where
        )
        _log.debug("what it was: %s", error)
    none = Records.none(records.inputs.device)
    return _steps(model, parameters, none, plan=plan, noise=noise, rng=rng)


def _steps(
    model: nn.Module,
    parameters: NDArray[np.float32],
    records: Records,
    *,
    plan: TrainingPlan,
    noise: NoisePlan,
    rng: Randomness,
) -> NDArray[np.int64]:
    load_parameter_vector(model, parameters)
    settings = DpSgdSettings(clip=plan.clip, sample_rate=plan.sample_rate, clipping=plan.clipping)
    if plan.sends_moves:
        local = LocalSgdSettings(
            learning_rate=plan.local_learning_rate, mean_size=plan.records_total / plan.cohort
        )
        return local_update(
            model, records.inputs, records.labels, settings=settings, local=local, plan=noise, rng=rng
        )
    return contribute(model, records.inputs, records.labels, settings=settings, plan=noise, rng=rng)
