"""One private step of a merchant: sample, clip, sum, scale, clamp, round, add noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.bounds import MAX_RECORDS
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.dp.quantise import stochastic_round
from fedrec.privacy.dp.sampling import poisson_sample
from fedrec.privacy.dp.vectors import load_parameter_vector, parameter_count, parameter_vector
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import Clipping

_PART = 1 << 20
"""Coordinates that are rounded and noised at once, 8 MiB of each vector."""


def contribute(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    clip: float,
    clipping: Clipping = "fixed",
    plan: NoisePlan,
    sample_rate: float,
    rng: Randomness,
    physical_batch: int | None = None,
) -> NDArray[np.int64]:
    """Make one noised step's contribution: int64 of shape (d,), in grid units of ``clip / plan.scale``.

    The sum of the sampled records' clipped gradients (not their mean, and not negated) is clamped
    before noise, rounded stochastically and given this merchant's noise share. Nothing is done to it
    after the noise. The model is left as it was.

    Args:
        model: the model at which gradients are taken.
        inputs: [n, V, ...], all of the merchant's records, V views each; n may be 0.
        labels: int64 [n].
        clip: C; must be the plan's.
        clipping: how a gradient is brought to norm C.
        plan: grid, clamp and noise share.
        sample_rate: q; must be the plan's.
        rng: read through its children ``sampling``, ``rounding`` and ``noise`` only; a fresh one per step.
        physical_batch: images passed through the model at a time, as many as memory allows if None.

    Raises:
        ConfigError: model, clip or sample rate are not the plan's, or shapes don't fit.

    """
    _check(model, clip=clip, plan=plan, sample_rate=sample_rate)
    with RecordClipper(model, clip=clip, clipping=clipping, physical_batch=physical_batch) as clipper:
        return _noised(clipper, inputs, labels, plan=plan, rng=rng)


def local_update(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    clip: float,
    clipping: Clipping = "fixed",
    plan: NoisePlan,
    sample_rate: float,
    learning_rate: float,
    mean_size: float,
    rng: Randomness,
    physical_batch: int | None = None,
) -> NDArray[np.int64]:
    """Make ``plan.local_steps`` noised steps of this merchant's own and return their total (mode ``local``).

    Each step moves the model by -learning_rate / (q * mean_size) times its noised clipped sum; the next
    one takes gradients there. The total of the noised integer sums, int64 of shape (d,) in grid units,
    says the same as the parameter difference: difference = -learning_rate * (C / S) / (q * mean_size) *
    total, exactly on the grid, so it needs no rounding of its own. Added over merchants and divided by
    q times the sum of their sizes, which is the cohort times ``mean_size``, it gives the plain average of
    their differences; a merchant with more records than the mean moves further, one with fewer less far.

    The divisor is public and fixed before the first step. The accountants charge each step as one sum at a
    point that follows from what was released before; a divisor that followed the number of records would
    put that point elsewhere for a neighbouring set of records. The model is left as it was.

    Args:
        model: the shared model of the round.
        inputs: [n, V, ...], all of the merchant's records.
        labels: int64 [n].
        clip: C; must be the plan's.
        clipping: how a gradient is brought to norm C.
        plan: grid, clamp, noise and number of local steps.
        sample_rate: q; must be the plan's.
        learning_rate: of the local steps.
        mean_size: records that a merchant of the cohort has on average; must be the plan's.
        rng: step i reads its children of child("step", i); a fresh one per round.
        physical_batch: images passed through the model at a time, as many as memory allows if None.

    Raises:
        ConfigError: as :func:`contribute`, or learning rate or size are out of range.

    """
    _check(model, clip=clip, plan=plan, sample_rate=sample_rate)
    if not 0.0 < learning_rate < math.inf or not 0.0 < mean_size < math.inf:
        raise ConfigError(
            f"local update: learning rate {learning_rate} and mean size {mean_size} must be positive."
        )
    # Kept as they are: a round trip through a vector would not matter, but a failed step must not show.
    before = [parameter.detach().clone() for parameter in model.parameters()]
    point = parameter_vector(model)
    total = np.zeros(plan.dimension, dtype=np.int64)
    to_parameters = learning_rate * clip / (plan.scale * sample_rate * mean_size)
    try:
        with RecordClipper(model, clip=clip, clipping=clipping, physical_batch=physical_batch) as clipper:
            for step in range(plan.local_steps):
                total += _noised(clipper, inputs, labels, plan=plan, rng=rng.child("step", step))
                load_parameter_vector(model, point - to_parameters * total)
    finally:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)
    return total


def _check(model: nn.Module, *, clip: float, plan: NoisePlan, sample_rate: float) -> None:
    """Refuse a step whose bound, rate or size is not what the plan's noise was made for."""
    if clip != plan.clip or sample_rate != plan.sample_rate:
        raise ConfigError(
            f"step: clip {clip} and sample rate {sample_rate} are not the plan's {plan.clip} and "
            f"{plan.sample_rate}; the noise would not fit."
        )
    if parameter_count(model) != plan.dimension:
        raise ConfigError(
            f"step: the model has {parameter_count(model)} trainable parameters, the plan {plan.dimension}."
        )


def _noised(
    clipper: RecordClipper, inputs: Tensor, labels: Tensor, *, plan: NoisePlan, rng: Randomness
) -> NDArray[np.int64]:
    """Sample, clip, sum, scale, clamp, round and add noise."""
    drawn = poisson_sample(inputs.shape[0], rate=plan.sample_rate, rng=rng.child("sampling"))
    # A draw beyond what a clipped sum takes is cut, never an error that would tell of the records;
    # calibration.py adds the chance of it to delta.
    chosen = torch.from_numpy(drawn[:MAX_RECORDS]).to(inputs.device)
    total = clipper.clipped_sum(inputs[chosen], labels[chosen.to(labels.device)])
    values = np.empty(plan.dimension, dtype=np.int64)
    rounding, noise = rng.child("rounding"), rng.child("noise")
    # In parts: of a large model, a dozen vectors of its size would otherwise be there at once.
    for start in range(0, plan.dimension, _PART):
        part = slice(start, start + _PART)
        scaled = np.clip(total[part] * (plan.scale / plan.clip), -plan.clamp_abs, plan.clamp_abs)
        values[part] = stochastic_round(scaled, rounding)
        if plan.share_std:
            values[part] += discrete_gaussian(scaled.size, sigma=plan.share_std, rng=noise)
    return values
