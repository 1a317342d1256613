"""Compute a merchant's noised sum of one round, of its records or of none if they can't be used."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedrec.clients.records import Records
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.failing_records import place_of
from fedrec.privacy.dp.step import (
    DpSgdSettings,
    LocalSgdSettings,
    contribute,
    contribute_figures,
    contribute_mean,
    contribute_statistics,
    local_update,
)
from fedrec.privacy.dp.vectors import load_parameter_vector
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan
from fedrec.vision.models.centred_head import lacks_mean, mean_coordinates
from fedrec.vision.models.discriminant_head import DiscriminantHead

_log = logging.getLogger(__name__)


def compute_contribution(
    model: nn.Module,
    parameters: NDArray[np.float32],
    records: Records,
    *,
    plan: TrainingPlan,
    noise: NoisePlan,
    rng: Randomness,
    figures: bool = False,
) -> NDArray[np.int64]:
    """Compute a merchant's noised contribution to a round.

    A record on which the model fails counts as zero, and the others count as usual. If the step fails
    nevertheless, it is repeated without records and with the same noise, and the failure is logged: whether
    an upload is sent must not depend on the records.

    Args:
        model: the network; its parameters are overwritten.
        parameters: the global model, float32 (d,).
        records: the merchant's records.
        plan: the training's plan.
        noise: the noise and the grid of the round.
        rng: the stream of the round.
        figures: whether the round is that of the site figures.

    Returns:
        The contribution in grid units, int64 (d,); of site figures, one number a class and two more.

    Raises:
        Exception: the step fails without records.
    """
    try:
        return _steps(model, parameters, records, plan=plan, noise=noise, rng=rng, figures=figures)
    # Every exception is caught: a missing upload would tell the server that the records make the step fail.
    except Exception as error:
        if not len(records):
            raise
        _log.error("a step failed on its records; the upload is noise alone: %s", place_of(error))
        _log.debug("details: %s", error)
    none = Records.none(records.inputs.device)
    return _steps(model, parameters, none, plan=plan, noise=noise, rng=rng, figures=figures)


def _steps(
    model: nn.Module,
    parameters: NDArray[np.float32],
    records: Records,
    *,
    plan: TrainingPlan,
    noise: NoisePlan,
    rng: Randomness,
    figures: bool,
) -> NDArray[np.int64]:
    load_parameter_vector(model, parameters)
    inputs, labels, places = records.inputs, records.labels, records.places
    if figures:
        classes = len(plan.classes)
        return contribute_figures(model, inputs, labels, classes=classes, plan=noise, rng=rng, places=places)
    settings = DpSgdSettings.of_plan(plan)
    if isinstance(model, DiscriminantHead):
        return contribute_statistics(
            model, inputs, labels, settings=settings, plan=noise, rng=rng, places=places
        )
    if lacks_mean(parameters, mean_coordinates(model)):
        # No round has released the features' mean yet. This depends on the model alone, which the server
        # sent, and the step costs what another does, so that a server gains nothing by a model of zeros.
        return contribute_mean(model, inputs, settings=settings, plan=noise, rng=rng, places=places)
    if plan.sends_moves:
        local = LocalSgdSettings(
            step=settings,
            learning_rate=plan.local_learning_rate,
            mean_size=plan.records_total / plan.cohort,
        )
        return local_update(model, inputs, labels, settings=local, plan=noise, rng=rng, places=places)
    return contribute(model, inputs, labels, settings=settings, plan=noise, rng=rng, places=places)
