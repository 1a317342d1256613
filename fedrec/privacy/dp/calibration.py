"""From a privacy budget to a grid, a noise share and the range that a sum can reach.

The sensitivity Delta of one record (quantise.py) and the noise multiplier sigma of the accountants fix
the noise: discrete noise of variance V is accounted for at sqrt(V - 9) / Delta
(accounting/discrete_noise_lemma.py), so the
opened sum must carry V = sigma^2 * Delta^2 + 9. In ``distributed`` mode only the shares of honest survivors
count, at least ``min_contributors - colluders`` of them, so each merchant's share has variance
V / (min_contributors - colluders). In ``local`` mode each merchant carries the whole of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.count_release import COUNT_SIGMA
from fedrec.privacy.accounting.discrete_noise_lemma import (
    LEAST_SHARE,
    accounted_multiplier,
    check_range,
    share_std,
)
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.privacy_spend import PrivacySpend, delta_left, least_multiplier
from fedrec.privacy.dp.bounds import FLOAT_SLACK, MAX_RECORDS
from fedrec.privacy.dp.noise import MAX_SIGMA
from fedrec.privacy.dp.quantise import choose_scale, sensitivity
from fedrec.protocol import modes
from fedrec.protocol.modes import Mode, ModeSpec
from fedrec.protocol.plan import MAX_CLIP, MIN_CLIP

BETA = 1e-12
"""Default chance per step that a record moves the sum by more than the sensitivity; added to delta."""
OVERFULL = 2.0**-60
"""The part of it that is for draws of more records than a clipped sum takes, which are cut; rounding has the
rest."""
_WRAP_BITS = 41
"""Half of the 2**-40 that a run may fail by; the other half is for encryption's errors (parameters.py)."""

_WRAP_ROUNDS = 1000
_MIN_CLAMP = 8.0
_COUNT_NOISE = 10.0 * COUNT_SIGMA
"""A declared size is so much below the true one by chance below 2**-76 only."""


@dataclass(frozen=True)
class NoisePlan:
    """All that a merchant needs to make a contribution, in grid units: ``scale`` units are one C.

    Attributes:
        mode: ``distributed``, ``local`` or ``off``.
        scale: S, a power of two.
        clip: C, the bound on one record's gradient.
        dimension: d, the number of trainable parameters.
        sensitivity: Delta, the L2 norm by which one record moves a rounded sum, except with chance ``beta``.
        noise_multiplier: sigma of the server's view, as accounted for: the guaranteed noise's
            sqrt(variance - 9) over ``sensitivity``; 0 in ``off``.
        share_std: the parameter of the discrete Gaussian that one merchant adds per step; 0 in ``off``.
        beta: chance per step that ``sensitivity`` is passed, by rounding or because a draw was cut.
        delta: the whole delta; :attr:`spend` says what is left of it for the accountants.
        steps: noised steps charged in the training.
        sample_rate: q.
        local_steps: noised steps between two sums; 1 unless ``mode`` is ``local``.
        clamp_abs: bound on a coordinate of one merchant's one-step sum, before noise.
        max_abs_sum: bound on a coordinate of the sum of the whole cohort, passed in a training by
            chance below 2**-41 only.

    """

    mode: Mode
    scale: int
    clip: float
    dimension: int
    sensitivity: float
    noise_multiplier: float
    share_std: float
    beta: float
    delta: float
    steps: int
    sample_rate: float
    local_steps: int
    clamp_abs: int
    max_abs_sum: int

    @property
    def spend(self) -> PrivacySpend:
        """What all steps spend: the server's view is the whole sum's noise, the other that of one share."""
        own = accounted_multiplier(self.share_std**2, sensitivity=self.sensitivity)
        return PrivacySpend(
            sample_rate=self.sample_rate,
            multiplier=self.noise_multiplier,
            # Where a share is the whole noise, the root of its square would be a last digit off.
            broken_multiplier=own if modes.get(self.mode).shares_noise else self.noise_multiplier,
            steps=self.steps,
            beta=self.beta,
            delta=self.delta,
        )


@dataclass(frozen=True, kw_only=True)
class NoiseRequest:
    """What the noise of a training is planned from.

    Attributes:
        mode: the privacy mode; without noise, clipping bound and grid stay.
        epsilon: target for PLD at ``delta`` over ``steps`` steps and ``besides``; give this or the next.
        noise_multiplier: sigma of the server's view; both are ignored in a mode without noise.
        delta: the whole delta; beta * steps of it goes to rounding and to draws that are cut.
        sample_rate: q, the same for all merchants.
        steps: noised steps that a merchant is charged in the whole training: rounds * ``local_steps``.
        dimension: d, trainable parameters.
        clip: C.
        cohort: merchants in the roster, all of whose shares may arrive.
        min_contributors: fewest merchants whose sum is opened.
        colluders: merchants assumed to side with the server.
        records_per_merchant: the largest merchant's declared size, for the clamp; a step must not draw
            more records from it than a clipped sum takes.
        local_steps: steps of one merchant between two sums, where the mode has several.
        beta: chance per step of passing the sensitivity.
        besides: what else ``epsilon`` is to cover, such as the counts that merchants declared.
    """

    mode: Mode
    epsilon: float | None
    noise_multiplier: float | None
    delta: float
    sample_rate: float
    steps: int
    dimension: int
    clip: float
    cohort: int
    min_contributors: int
    colluders: int
    records_per_merchant: int
    local_steps: int = 1
    beta: float = BETA
    besides: tuple[Event, ...] = ()


def overfull_bits(*, expected: float) -> float:
    """Return b such that a draw of ``expected`` records passes ``MAX_RECORDS`` by chance below 2**-b.

    Chernoff's bound for sums of independent coins of mean m: P(X >= k) <= exp(-(k log(k / m) - k + m)); 0
    where k is no more than the mean.
    """
    most = MAX_RECORDS + 1
    if most <= expected:
        return 0.0
    return (most * math.log(most / expected) - most + expected) / math.log(2.0)


def clamp_for(*, scale: int, records: int, sample_rate: float) -> int:
    """Choose the bound on a coordinate of one merchant's sum before noise, in grid units.

    With m = q * ``records`` records expected in a step, the sum's true worst case is every sampled
    record putting all of its norm on one coordinate with one sign: S * (m + 10 sqrt(m) + 40) is passed by
    chance below 2**-64 only. Nothing like that happens in training: a coordinate that holds all of
    every record's norm with random signs has a deviation of S * sqrt(m). So the bound is
    S * max(8, sqrt(m)), or the worst case where that is smaller. With it a coordinate is only ever
    clamped where its signal passes the noise by far, and clamping, being non-expansive, costs no privacy.
    """
    expected = sample_rate * records
    worst = expected + 10.0 * math.sqrt(expected) + 40.0
    return math.ceil(scale * min(worst, max(_MIN_CLAMP, math.sqrt(expected))))


def max_abs_of_sum(
    *, cohort: int, clamp_abs: int, share_std: float, dimension: int, local_steps: int, rounds: int
) -> int:
    """Bound |coordinate| of the whole cohort's sum; all ``rounds`` rounds keep it but with chance 2**-41.

    A discrete Gaussian is sub-Gaussian with its own parameter (Canonne, Kamath and Steinke 2020, section
    3.2), so the sum's tail is 2 exp(-z^2 / (2 * cohort * local_steps * share_std^2)), by union over all
    coordinates of all rounds. Every merchant's share counts here, not only the guaranteed ones.
    """
    exponent = math.log(2.0 * dimension * rounds) + _WRAP_BITS * math.log(2.0)
    noise = share_std * math.sqrt(2.0 * exponent * cohort * local_steps)
    return cohort * clamp_abs * local_steps + math.ceil(noise)


def plan_noise(request: NoiseRequest) -> NoisePlan:
    """Plan the noise of a training.

    Raises:
        ConfigError: the request's numbers are out of range or don't go together.
        UnreachableBudgetError: no noise keeps within ``epsilon``.

    """
    mode = _checked_mode(request)
    shares = _shares(request, mode)
    check_range(dimension=request.dimension, steps=request.steps)
    rounding = request.beta - OVERFULL
    scale = choose_scale(dimension=request.dimension, beta=rounding, float_slack=FLOAT_SLACK)
    bound = sensitivity(scale=scale, dimension=request.dimension, beta=rounding, float_slack=FLOAT_SLACK)
    sigma = _multiplier(request) if mode.private else 0.0
    share = share_std(sigma, sensitivity=bound, shares=shares)
    if mode.private and not LEAST_SHARE <= share <= MAX_SIGMA:
        raise ConfigError(
            f"noise: one merchant's share of {share:.3g} grid units is outside [{LEAST_SHARE:g}, 2**30], "
            "where discrete noise is proved to hide as continuous noise does; choose another epsilon or "
            "noise multiplier, or fewer contributors."
        )
    clamp_abs = clamp_for(scale=scale, records=request.records_per_merchant, sample_rate=request.sample_rate)
    reach = max_abs_of_sum(
        cohort=request.cohort,
        clamp_abs=clamp_abs,
        share_std=share,
        dimension=request.dimension,
        local_steps=request.local_steps,
        rounds=max(_WRAP_ROUNDS, request.steps),
    )
    return NoisePlan(
        mode=mode.name,
        scale=scale,
        clip=request.clip,
        dimension=request.dimension,
        sensitivity=bound,
        noise_multiplier=sigma,
        share_std=share,
        beta=request.beta,
        delta=request.delta,
        steps=request.steps,
        sample_rate=request.sample_rate,
        local_steps=request.local_steps,
        clamp_abs=clamp_abs,
        max_abs_sum=reach,
    )


def _checked_mode(request: NoiseRequest) -> ModeSpec:
    """Return the request's mode; ``ConfigError`` where any of its numbers is out of range."""
    mode, records, rate = modes.find(request.mode), request.records_per_merchant, request.sample_rate
    if mode is None:
        raise ConfigError(f"privacy mode: '{request.mode}' is unknown; choose distributed, local or off.")
    if request.steps < 1 or request.local_steps < 1 or request.cohort < 1 or records < 1:
        raise ConfigError("plan_noise: steps, local steps, cohort and records must all be at least 1.")
    if not 0.0 < rate <= 1.0:
        raise ConfigError(f"sample rate: {rate} is outside (0, 1]; choose a rate such as 0.1.")
    # Judged by public numbers: the plan's largest size, the noise of the count that it follows from, and the
    # coins by which a merchant that is larger keeps its records.
    if overfull_bits(expected=rate * (records + _COUNT_NOISE)) < 1.0 - math.log2(OVERFULL):
        raise ConfigError(
            f"sample rate: {rate} of {records} records may pass the {MAX_RECORDS} that a "
            "step of one merchant takes; choose a lower rate."
        )
    if not 0.0 < request.delta < 1.0:
        raise ConfigError(f"delta: {request.delta} is outside (0, 1); choose one such as 1e-5.")
    if not MIN_CLIP <= request.clip <= MAX_CLIP:
        raise ConfigError(
            f"clip: {request.clip} is outside [{MIN_CLIP:g}, {MAX_CLIP:g}]; choose a bound such as 1.0."
        )
    if not 1 <= request.min_contributors <= request.cohort:
        raise ConfigError(
            f"min contributors: {request.min_contributors} is outside 1 to the cohort's {request.cohort}."
        )
    if request.local_steps > 1 and not mode.several_steps:
        raise ConfigError("local steps: distributed noise takes one step per round; set 1, or use local.")
    return mode


def _shares(request: NoiseRequest, mode: ModeSpec) -> int:
    """Return how many shares of noise every opened sum is sure to carry, of which each merchant adds one."""
    if not mode.shares_noise:
        return 1
    if request.colluders < 1:
        raise ConfigError("colluders: distributed noise must assume at least 1, who knows its own share.")
    shares = request.min_contributors - request.colluders
    if shares < 2:
        raise ConfigError(
            f"min contributors: {request.min_contributors} less {request.colluders} colluders leaves "
            f"{shares} honest shares, but 2 are needed; raise --min-contributors or lower --colluders."
        )
    return shares


def _multiplier(request: NoiseRequest) -> float:
    """Take the noise multiplier as given, or find it for ``epsilon`` at what is left of delta."""
    if (request.epsilon is None) == (request.noise_multiplier is None):
        raise ConfigError("privacy: give exactly one of epsilon and noise multiplier.")
    if delta_left(delta=request.delta, beta=request.beta, steps=request.steps) <= 0.0:
        raise ConfigError(
            f"delta: rounding uses up all of it over {request.steps} steps; choose a larger delta."
        )
    if request.epsilon is not None:
        return least_multiplier(
            request.epsilon,
            delta=request.delta,
            sample_rate=request.sample_rate,
            steps=request.steps,
            beta=request.beta,
            releases=request.besides,
        )
    multiplier = request.noise_multiplier
    if multiplier is None or not 0.0 < multiplier < math.inf:
        raise ConfigError(f"noise multiplier: {multiplier} is not a positive number.")
    return multiplier
