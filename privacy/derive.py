"""What follows from a plan: grid, noise share and encryption, computed by every party for itself."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.privacy.aggregation.registry import choose_parameters, create
from fedrec.privacy.aggregation.scheme import Scheme
from fedrec.privacy.aggregation.wire import ciphertext_bytes
from fedrec.privacy.dp.calibration import NoisePlan, Views, plan_noise, views
from fedrec.protocol import TrainingPlan

_SHARE_COEFFICIENT_BYTES = 4
# The share's header, and the box around it: ephemeral key, nonce and tag.
_SHARE_OVERHEAD = 256


@dataclass(frozen=True)
class Derived:
    """The noise plan and the scheme of a training, and the largest replies that fit them, in bytes."""

    noise: NoisePlan
    scheme: Scheme
    max_upload_bytes: int
    max_share_bytes: int

    @property
    def unit(self) -> float:
        """The value of one grid step, in units of the gradient."""
        return self.noise.clip / self.noise.scale


def derive(plan: TrainingPlan) -> Derived:
    """Derive noise plan and scheme from a plan.

    Raises ``ConfigError`` when the plan's numbers don't go together, ``AggregationError`` when no
    encryption parameters fit them.
    """
    noise = plan_noise(
        mode=plan.mode,
        epsilon=None,
        noise_multiplier=plan.noise_multiplier,
        delta=plan.delta,
        sample_rate=plan.sample_rate,
        steps=plan.rounds * plan.local_steps,
        dimension=plan.dimension,
        clip=plan.clip,
        cohort=plan.cohort,
        min_contributors=plan.min_contributors,
        colluders=plan.colluders,
        records_per_merchant=plan.records_largest,
        local_steps=plan.local_steps,
    )
    parameters = choose_parameters(
        plan.scheme, dimension=plan.dimension, cohort=plan.cohort, max_abs_sum=noise.max_abs_sum
    )
    scheme = create(plan.scheme, parameters)
    share = _SHARE_COEFFICIENT_BYTES * parameters.ring_degree + _SHARE_OVERHEAD
    return Derived(
        noise=noise,
        scheme=scheme,
        max_upload_bytes=ciphertext_bytes(parameters) + len(plan.committee) * share,
        max_share_bytes=share,
    )


def reported_views(plan: TrainingPlan, noise: NoisePlan) -> Views:
    """Return the noise multipliers to charge and to report: with ``none`` or ``ckks`` the two are equal.

    Without an encryption that keeps a single update closed, the server sees every merchant's own share.
    """
    both = views(noise)
    if plan.scheme == "kahe":
        return both
    return Views(server=both.aggregation_broken, aggregation_broken=both.aggregation_broken)


def rounded_size(records: int) -> int:
    """Round a merchant's number of records to two significant digits, as it declares it; at least 1."""
    if records < 1:
        return 1
    digits = len(str(records))
    return round(records, 2 - digits) if digits > 2 else records
