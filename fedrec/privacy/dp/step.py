"""Compute one merchant's noised steps (DP-SGD): sample, clip, sum, scale, clamp, round, add noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.bounds import MAX_RECORDS
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.centred_features import centred_features
from fedrec.privacy.dp.class_statistics import clipped_statistics_sum
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.feature_sum import FEATURES_AT_ONCE, clipped_feature_sum
from fedrec.privacy.dp.figures_noise import CLIP
from fedrec.privacy.dp.losses import CROSS_ENTROPY_OBJECTIVE
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.dp.quantise import stochastic_round
from fedrec.privacy.dp.sampling import poisson_sample
from fedrec.privacy.dp.site_figures import clipped_figures_sum, unit_figures
from fedrec.privacy.dp.vectors import load_parameter_vector, parameter_count, parameter_vector, trainable
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import Clipping, Objective, TrainingPlan
from fedrec.protocol.site_figures import figures_length
from fedrec.vision.models.centred_head import mean_coordinates
from fedrec.vision.models.discriminant_head import DiscriminantHead

_CHUNK = 1 << 16
"""Coordinates that are rounded and noised together: half a MiB of each vector, which caches hold."""


@dataclass(frozen=True, kw_only=True)
class DpSgdSettings:
    """The settings of DP-SGD that a training's plan states.

    Attributes:
        clip: C, the clipping norm; must be the noise plan's.
        sample_rate: q, the sampling rate; must be the noise plan's.
        clipping: the clipping rule.
        objective: what a record's gradient is taken of.
    """

    clip: float
    sample_rate: float
    clipping: Clipping = "fixed"
    objective: Objective = CROSS_ENTROPY_OBJECTIVE

    @classmethod
    def of_plan(cls, plan: TrainingPlan) -> DpSgdSettings:
        """Return the settings that a plan states."""
        return cls(
            clip=plan.clip, sample_rate=plan.sample_rate, clipping=plan.clipping, objective=plan.objective
        )

    def clipper(self, model: nn.Module) -> RecordClipper:
        """Return a new clipper of a model's gradients."""
        return RecordClipper(model, clip=self.clip, clipping=self.clipping, objective=self.objective)


@dataclass(frozen=True, kw_only=True)
class LocalSgdSettings:
    """The settings of a merchant's local steps.

    Attributes:
        step: the settings of each step.
        learning_rate: learning rate of the local steps.
        mean_size: average number of records per merchant of the cohort, as the training's plan states it.
    """

    step: DpSgdSettings
    learning_rate: float
    mean_size: float


def contribute(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    settings: DpSgdSettings,
    plan: NoisePlan,
    rng: Randomness,
    places: Tensor | None = None,
) -> NDArray[np.int64]:
    """Compute a merchant's contribution to one noised step (DP-SGD: Abadi et al. 2016, algorithm 1).

    The contribution is the sum of the sampled records' clipped gradients, not their mean, and not negated. It
    is scaled to the grid, clamped, rounded stochastically, and this merchant's noise share is added last. The
    model is not changed.

    Args:
        model: the model with the parameters at which gradients are computed.
        inputs: (n, V, ...), the merchant's records, V views each; n may be 0.
        labels: int64 (n,).
        settings: the plan's DP-SGD settings.
        plan: the noise plan: grid, clamp and noise share.
        rng: only its children ``sampling``, ``rounding`` and ``noise`` are read. Each step needs a new one.
        places: positions of the records that take part, int64 on the CPU; None for all. Each part of them is
            taken out of the inputs when it is needed, so that the inputs are never copied.

    Returns:
        int64 (d,), in grid units of ``settings.clip / plan.scale``.

    Raises:
        ConfigError: model, clip or sample rate differ from the noise plan's, or shapes don't match.
    """
    _check(model, settings, plan=plan)
    with settings.clipper(model) as clipper:
        sum_of = _gradient_sum(clipper, inputs, labels)
        return _noised_sum(sum_of, places=_places(inputs, places), plan=plan, rng=rng)


def contribute_mean(
    model: nn.Module,
    inputs: Tensor,
    *,
    settings: DpSgdSettings,
    plan: NoisePlan,
    rng: Randomness,
    places: Tensor | None = None,
) -> NDArray[np.int64]:
    """Compute a merchant's contribution to the round that releases the mean of the features.

    It has the sensitivity, the sampling and the noise of a step of :func:`contribute`, and costs the same.
    The sum stands in the coordinates of the model's released mean; the others hold noise alone.

    Args:
        model: a model that centres features: its inputs, or what it computes of them with its parameters.
        inputs: (n, V, ...), the merchant's records, V views each; n may be 0.
        settings: the plan's DP-SGD settings.
        plan: the noise plan: grid, clamp and noise share.
        rng: as for :func:`contribute`.
        places: as for :func:`contribute`.

    Returns:
        int64 (d,), in grid units of ``settings.clip / plan.scale``.

    Raises:
        ConfigError: as :func:`contribute` does, or the model centres nothing.
    """
    _check(model, settings, plan=plan)
    where = mean_coordinates(model)
    if where is None:
        raise ConfigError(f"step: {type(model).__name__} centres no features, so that it takes no mean.")

    def feature_sum(chosen: Tensor) -> NDArray[np.float64]:
        total = np.zeros(plan.dimension)
        # In parts, since the features of all records together may not fit into memory.
        for part in torch.split(chosen.to(inputs.device), FEATURES_AT_ONCE):
            vectors = centred_features(model, inputs, chosen=part)
            total[where] += clipped_feature_sum(vectors, clip=settings.clip)
        return total

    return _noised_sum(feature_sum, places=_places(inputs, places), plan=plan, rng=rng)


def contribute_statistics(
    model: DiscriminantHead,
    inputs: Tensor,
    labels: Tensor,
    *,
    settings: DpSgdSettings,
    plan: NoisePlan,
    rng: Randomness,
    places: Tensor | None = None,
) -> NDArray[np.int64]:
    """Compute a merchant's contribution to the round whose sum determines a discriminant.

    A record's vector is its statistic (:mod:`class_statistics`) in place of a gradient. It has the same
    sensitivity, sampling and noise as a step of :func:`contribute`, and costs the same.

    Args:
        model: gives the number of classes; its parameters don't matter.
        inputs: (n, V, k), features of the merchant's records, V views each; n may be 0.
        labels: int64 (n,).
        settings: the plan's DP-SGD settings.
        plan: the noise plan: grid, clamp and noise share.
        rng: as for :func:`contribute`.
        places: as for :func:`contribute`.

    Returns:
        int64 (d,), in grid units of ``settings.clip / plan.scale``.

    Raises:
        ConfigError: as :func:`contribute` does, or the features have another length than the model's.
    """
    _check(model, settings, plan=plan)
    if inputs.shape[0] and inputs.shape[-1] != model.dimension:
        raise ConfigError(
            f"step: features have {inputs.shape[-1]} numbers, the model takes {model.dimension}."
        )

    def statistics_sum(chosen: Tensor) -> NDArray[np.float64]:
        if not len(chosen):
            return np.zeros(plan.dimension)
        return clipped_statistics_sum(
            inputs, labels, chosen=chosen, classes=model.classes, clip=settings.clip
        )

    return _noised_sum(statistics_sum, places=_places(inputs, places), plan=plan, rng=rng)


def contribute_figures(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    classes: int,
    plan: NoisePlan,
    rng: Randomness,
    places: Tensor | None = None,
) -> NDArray[np.int64]:
    """Compute a merchant's contribution to the round of site figures (:mod:`site_figures`).

    Every record takes part. Its vector is its class, whether the model is right about it, and its loss, of
    norm 1 at most. The noise is added as to a step's sum.

    Args:
        model: the model that judges the records; it is left as it was.
        inputs: (n, V, ...), the merchant's records, V views each; n may be 0.
        labels: int64 (n,).
        classes: number of classes.
        plan: the noise plan of the round of site figures.
        rng: as for :func:`contribute`.
        places: as for :func:`contribute`.

    Returns:
        int64 (classes + 2,), in grid units of ``plan.clip / plan.scale``.

    Raises:
        ConfigError: the noise was planned for other sums, or the model has scores of other classes.
    """
    if (plan.dimension, plan.clip, plan.sample_rate) != (figures_length(classes), CLIP, 1.0):
        raise ConfigError(
            f"step: the noise was planned for {plan.dimension} numbers of norm {plan.clip} at rate "
            f"{plan.sample_rate}, not for site figures of {classes} classes."
        )

    def figures_sum(chosen: Tensor) -> NDArray[np.float64]:
        found = unit_figures(model, inputs, labels, chosen=chosen, classes=classes)
        return clipped_figures_sum(found, classes=classes)

    return _noised_sum(figures_sum, places=_places(inputs, places), plan=plan, rng=rng)


def local_update(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    settings: LocalSgdSettings,
    plan: NoisePlan,
    rng: Randomness,
    places: Tensor | None = None,
) -> NDArray[np.int64]:
    """Compute ``plan.local_steps`` noised local steps, and return the total of their sums (mode ``local``).

    Each step changes the parameters by -learning_rate / (q * mean_size) times its noised clipped sum, and the
    next step's gradients are computed there. The total of the noised integer sums is equivalent to the
    parameter difference: difference = -learning_rate * (C / S) / (q * mean_size) * total, exactly on the
    grid, so it isn't rounded again. The sum of the merchants' totals, divided by q times the sum of their
    sizes (the cohort times ``mean_size``), gives the unweighted average of their differences. A merchant with
    more records than the mean changes the model more, one with fewer records less.

    The divisor q * mean_size is public and fixed before the first step. The accountants charge each step as
    one sum at a point that is determined by earlier releases. If the divisor depended on the merchant's
    number of records, this point would differ for a neighbouring set of records. The model is restored at the
    end.

    Args:
        model: the model with the round's parameters.
        inputs: (n, V, ...), the merchant's records, V views each; n may be 0.
        labels: int64 (n,).
        settings: the plan's settings of local steps.
        plan: the noise plan: grid, clamp, noise share and number of local steps.
        rng: step i reads the children of ``rng.child("step", i)``. Each round needs a new one.
        places: as for :func:`contribute`.

    Returns:
        int64 (d,), in grid units of ``settings.clip / plan.scale``.

    Raises:
        ConfigError: :func:`contribute` would raise it, or learning rate or mean size aren't positive.
    """
    step_settings, learning_rate, mean_size = settings.step, settings.learning_rate, settings.mean_size
    _check(model, step_settings, plan=plan)
    if not 0.0 < learning_rate < math.inf or not 0.0 < mean_size < math.inf:
        raise ConfigError(
            f"local update: learning rate {learning_rate} and mean size {mean_size} must be positive."
        )
    # Copied before the steps, so that the model is restored even if a step fails.
    before = [parameter.detach().clone() for parameter in trainable(model)]
    point = parameter_vector(model)
    total = np.zeros(plan.dimension, dtype=np.int64)
    to_parameters = learning_rate * plan.clip / (plan.scale * plan.sample_rate * mean_size)
    try:
        with step_settings.clipper(model) as clipper:
            sum_of, own = _gradient_sum(clipper, inputs, labels), _places(inputs, places)
            for step in range(plan.local_steps):
                total += _noised_sum(sum_of, places=own, plan=plan, rng=rng.child("step", step))
                load_parameter_vector(model, point - to_parameters * total)
    finally:
        with torch.no_grad():
            for parameter, value in zip(trainable(model), before, strict=True):
                parameter.copy_(value)
    return total


def _check(model: nn.Module, settings: DpSgdSettings, *, plan: NoisePlan) -> None:
    """Refuse a step whose clip, sampling rate or dimension differs from what the noise was planned for."""
    if settings.clip != plan.clip or settings.sample_rate != plan.sample_rate:
        raise ConfigError(
            f"step: clip {settings.clip} and sample rate {settings.sample_rate} are not the plan's "
            f"{plan.clip} and {plan.sample_rate}; the noise would not fit."
        )
    if parameter_count(model) != plan.dimension:
        raise ConfigError(
            f"step: the model has {parameter_count(model)} trainable parameters, the plan {plan.dimension}."
        )


_SumOf = Callable[[Tensor], NDArray[np.float64]]
"""Returns the clipped sum, float64 (d,), of the records at these positions, int64."""


def _gradient_sum(clipper: RecordClipper, inputs: Tensor, labels: Tensor) -> _SumOf:
    """Return the function that sums the clipped gradients of chosen records."""

    def gradient_sum(chosen: Tensor) -> NDArray[np.float64]:
        return clipper.clipped_sum(inputs, labels, chosen=chosen.to(inputs.device))

    return gradient_sum


def _places(inputs: Tensor, places: Tensor | None) -> Tensor:
    """Return the positions of the records that take part, all of them by default; int64, on the CPU."""
    return torch.arange(len(inputs)) if places is None else places


def _noised_sum(sum_of: _SumOf, *, places: Tensor, plan: NoisePlan, rng: Randomness) -> NDArray[np.int64]:
    """Sample among the records at ``places``, sum, scale, clamp, round and add noise; int64 (d,)."""
    drawn = poisson_sample(len(places), rate=plan.sample_rate, rng=rng.child("sampling"))
    # A larger sample than a clipped sum takes is truncated: an error would reveal something about the
    # records. calibration.py adds the probability of this to delta.
    total = sum_of(places[torch.from_numpy(drawn[:MAX_RECORDS])])
    values = np.empty(plan.dimension, dtype=np.int64)
    rounding, noise = rng.child("rounding"), rng.child("noise")
    # In chunks: with a large model, a dozen vectors of its size would otherwise be in memory together.
    for start in range(0, plan.dimension, _CHUNK):
        part = slice(start, start + _CHUNK)
        scaled = total[part] * (plan.scale / plan.clip)
        np.clip(scaled, -plan.clamp_abs, plan.clamp_abs, out=scaled)
        values[part] = stochastic_round(scaled, rounding)
        if plan.share_std:
            values[part] += discrete_gaussian(scaled.size, sigma=plan.share_std, rng=noise)
    return values
