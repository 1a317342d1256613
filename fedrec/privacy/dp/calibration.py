"""Plan the noise of a training: the grid, each merchant's noise share and the range of a sum.

The noise variance follows from the sensitivity Delta of one record (quantise.py) and the noise multiplier
sigma. Discrete noise of variance V is accounted for as a Gaussian of noise multiplier sqrt(V - 9) / Delta
(accounting/discrete_noise_lemma.py), so the opened sum must have V = sigma^2 * Delta^2 + 9. In
``distributed`` mode only the shares of honest survivors count, at least ``min_contributors - colluders`` of
them, so each merchant adds the variance V / (min_contributors - colluders). Where a committee opens sums, it
adds that in layers, and those that a sum doesn't need are removed (noise_levels.py). In ``local`` mode each
merchant adds noise of variance V.
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
    needed_variance,
    share_std,
)
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.privacy_spend import PrivacySpend, delta_left, least_multiplier
from fedrec.privacy.dp.bounds import FLOAT_SLACK, MAX_RECORDS
from fedrec.privacy.dp.noise import MAX_SIGMA
from fedrec.privacy.dp.noise_levels import kept_layers, split_noise
from fedrec.privacy.dp.quantise import choose_scale, sensitivity
from fedrec.protocol import modes
from fedrec.protocol.modes import Mode, ModeSpec
from fedrec.protocol.plan import MAX_CLIP, MIN_CLIP

BETA = 1e-12
"""Default probability per step that a record changes the sum by more than the sensitivity; added to delta."""
TRUNCATION_BETA = 2.0**-60
"""The part of beta for Poisson samples that are truncated to ``MAX_RECORDS``; the rest is for rounding."""
_WRAP_BITS = 41
"""A training's sums may exceed their range with probability 2**-41. This is half of the 2**-40 with which a
training may fail; the other half is for the errors of the encryption (aggregation/parameters.py)."""

_MIN_WRAP_ROUNDS = 1000
_MIN_CLAMP = 8.0
_ALIGNED = 0.25
"""Part of a full batch of unit vectors that a coordinate of their sum may have."""
_COUNT_NOISE = 10.0 * COUNT_SIGMA
"""The true number of records exceeds the declared one by more than this with probability below 2**-76."""


@dataclass(frozen=True)
class NoisePlan:
    """Everything that a merchant's contribution depends on besides the model and the records.

    Attributes:
        mode: the privacy mode, ``distributed``, ``local`` or ``off``.
        scale: S, grid units per clipping norm C; a power of two.
        clip: C, the clipping norm.
        dimension: d, number of trainable parameters.
        sensitivity: Delta, in grid units: one record changes a rounded sum by at most this L2 norm, except
            with probability ``beta``.
        noise_multiplier: sigma of the server's view, sqrt(V - 9) / Delta for the guaranteed variance V; 0 in
            ``off``.
        share_std: parameter of the discrete Gaussian that one merchant adds per step and that stays in every
            sum, in grid units; 0 in ``off``.
        beta: probability per step that Delta is exceeded, by rounding or because a sample was truncated.
        delta: the total delta; the accountants get what :attr:`spend` leaves of it.
        steps: noised steps charged in the training.
        sample_rate: q, the sampling rate.
        local_steps: noised steps between two sums; 1 unless ``mode`` is ``local``.
        clamp_abs: bound on a coordinate of one merchant's sum of one step before noise, in grid units.
        max_abs_sum: bound on a coordinate of the whole cohort's sum with all noise in it, in grid units;
            exceeded in a training with probability below 2**-41.
        levels: the numbers of contributors whose sums keep exactly the noise that they need, falling; empty
            if all noise stays in.
        layer_stds: parameters of the layers beside ``share_std``, in grid units; a sum keeps the first of
            them, see :meth:`kept_layers`.
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
    levels: tuple[int, ...] = ()
    layer_stds: tuple[float, ...] = ()

    @property
    def added_std(self) -> float:
        """The deviation of all noise that one merchant adds per step, in grid units."""
        return math.hypot(self.share_std, *self.layer_stds)

    def kept_layers(self, contributors: int) -> int:
        """Return how many of the layers a sum of so many contributors keeps; the others are removed."""
        return kept_layers(self.levels, contributors=contributors) if self.levels else 0

    def kept_std(self, contributors: int) -> float:
        """Return the deviation of one merchant's noise that a sum of so many keeps, in grid units."""
        return math.hypot(self.share_std, *self.layer_stds[: self.kept_layers(contributors)])

    @property
    def spend(self) -> PrivacySpend:
        """The privacy spend of all steps, for the noise of the whole sum and for that of a single share."""
        own = accounted_multiplier(self.share_std**2, sensitivity=self.sensitivity)
        return PrivacySpend(
            sample_rate=self.sample_rate,
            multiplier=self.noise_multiplier,
            # If a share is the whole noise, computing its multiplier anew would change the last digit.
            broken_multiplier=own if modes.get(self.mode).shares_noise else self.noise_multiplier,
            steps=self.steps,
            beta=self.beta,
            delta=self.delta,
        )


@dataclass(frozen=True, kw_only=True)
class NoiseRequest:
    """The settings of a training that its noise is planned from.

    Attributes:
        mode: the privacy mode. A mode without noise still clips and rounds.
        epsilon: budget at ``delta`` for ``steps`` steps and ``other_releases``, by PLD. Exactly one of
            ``epsilon`` and ``noise_multiplier`` is given; both are ignored in a mode without noise.
        noise_multiplier: sigma of the server's view.
        delta: the total delta; beta * steps of it is for rounding and truncated samples.
        sample_rate: q, the sampling rate of all merchants.
        steps: noised steps that a merchant is charged in the whole training: rounds * ``local_steps``.
        dimension: d, number of trainable parameters.
        clip: C, the clipping norm.
        cohort: number of merchants on the roster; all of their shares may arrive.
        min_contributors: fewest merchants whose sum is opened.
        colluders: number of merchants assumed to collude with the server.
        records_per_merchant: the largest merchant's declared number of records. It determines the clamp, and
            a step must not draw more records of it than a clipped sum takes.
        local_steps: noised steps of a merchant between two sums, in a mode with several.
        beta: probability per step that the sensitivity is exceeded.
        other_releases: what ``epsilon`` covers besides the steps, such as the numbers of records that
            merchants declare.
        layered: whether noise that a sum doesn't need can be removed from it, in a mode with noise shares.
        other_betas: what these releases take off ``delta``.
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
    other_releases: tuple[Event, ...] = ()
    layered: bool = False
    other_betas: float = 0.0


def truncation_bits(*, expected: float) -> float:
    """Bound the probability that a Poisson sample has more than ``MAX_RECORDS`` records.

    Chernoff's bound for sums of independent Bernoulli variables of total mean m (Mitzenmacher and Upfal 2017,
    "Probability and Computing", section 4.2): P(X >= k) <= exp(-(k log(k / m) - k + m)) for k > m.

    Args:
        expected: m, the expected number of records in a sample.

    Returns:
        b such that the probability is below 2**-b; 0 if m is above ``MAX_RECORDS``.
    """
    most = MAX_RECORDS + 1
    if most <= expected:
        return 0.0
    return (most * math.log(most / expected) - most + expected) / math.log(2.0)


def clamp_for(*, scale: int, records: int, sample_rate: float, steps: int) -> int:
    """Choose the bound to which a coordinate of one merchant's sum is clamped before noise.

    Let m = q * ``records`` be the expected number of records in a step. In the worst case, every sampled
    record has all of its norm in one coordinate with the same sign; S * (m + 10 sqrt(m) + 40) is then
    exceeded with probability below 2**-64. In a training, gradients point in different directions: if each
    record had all of its norm in one coordinate with a random sign, the coordinate's standard deviation would
    be S * sqrt(m). The bound is therefore S * max(8, sqrt(m)), or the worst case if that is smaller. A
    coordinate is then clamped only if its signal is far above the noise.

    Sums that aren't of gradients point one way. Full batches may release the mean of features: these are of
    length 1, the largest coordinate of their mean is about 0.1 for the packaged networks, and a merchant of
    one class may have twice that. There the bound is at least S * m / 4. In a training of a single step the
    sum may be one of any statistics, and no later step makes up for what is cut off: there the bound is the
    worst case. Clamping doesn't increase the distance of two sums, so it costs no
    privacy.

    Args:
        scale: S, grid units per clipping norm C.
        records: number of records of the largest merchant.
        sample_rate: q, the sampling rate.
        steps: noised steps of the whole training.

    Returns:
        The bound, in grid units.
    """
    expected = sample_rate * records
    worst = expected + 10.0 * math.sqrt(expected) + 40.0
    if steps == 1:
        return math.ceil(scale * worst)
    typical = max(_MIN_CLAMP, math.sqrt(expected))
    if sample_rate == 1.0:
        typical = max(typical, _ALIGNED * expected)
    return math.ceil(scale * min(worst, typical))


def max_abs_of_sum(
    *, cohort: int, clamp_abs: int, share_std: float, dimension: int, local_steps: int, rounds: int
) -> int:
    """Bound the absolute value of a coordinate of the whole cohort's sum.

    All rounds of a training keep the bound except with probability 2**-41. A discrete Gaussian is
    sub-Gaussian with its own parameter (Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for
    Differential Privacy", section 3.2). The tail of a coordinate's noise is thus at most
    2 exp(-z^2 / (2 * cohort * local_steps * share_std^2)); a union bound covers all coordinates and rounds.
    All merchants' shares are counted, not only those that are guaranteed.

    Args:
        cohort: number of merchants on the roster.
        clamp_abs: bound on a coordinate of one merchant's sum of one step before noise, in grid units.
        share_std: parameter of one merchant's noise per step, in grid units.
        dimension: d, number of trainable parameters.
        local_steps: noised steps between two sums.
        rounds: number of rounds.

    Returns:
        The bound, in grid units.
    """
    exponent = math.log(2.0 * dimension * rounds) + _WRAP_BITS * math.log(2.0)
    noise = share_std * math.sqrt(2.0 * exponent * cohort * local_steps)
    return cohort * clamp_abs * local_steps + math.ceil(noise)


def plan_noise(request: NoiseRequest) -> NoisePlan:
    """Plan the noise of a training.

    Args:
        request: the training's settings.

    Returns:
        The noise plan.

    Raises:
        ConfigError: a number is out of range, or numbers contradict each other.
        UnreachableBudgetError: no noise multiplier keeps ``epsilon``.
    """
    mode = _checked_mode(request)
    shares = _shares(request, mode)
    check_range(dimension=request.dimension, steps=request.steps)
    rounding = request.beta - TRUNCATION_BETA
    scale = choose_scale(dimension=request.dimension, beta=rounding, float_slack=FLOAT_SLACK)
    bound = sensitivity(scale=scale, dimension=request.dimension, beta=rounding, float_slack=FLOAT_SLACK)
    sigma = _multiplier(request) if mode.private else 0.0
    added = share_std(sigma, sensitivity=bound, shares=shares)
    if mode.private and not LEAST_SHARE <= added <= MAX_SIGMA:
        raise ConfigError(
            f"noise: one merchant's share of {added:.3g} grid units is outside [{LEAST_SHARE:g}, 2**30], "
            "for which discrete noise is proved to be as private as continuous noise; choose another epsilon "
            "or noise multiplier, or fewer contributors."
        )
    levels: tuple[int, ...] = ()
    stds: tuple[float, ...] = (added,)
    if request.layered and mode.shares_noise:
        levels, stds = split_noise(
            needed_variance(sigma, sensitivity=bound),
            cohort=request.cohort,
            min_contributors=request.min_contributors,
            colluders=request.colluders,
        )
    clamp_abs = clamp_for(
        scale=scale,
        records=request.records_per_merchant,
        sample_rate=request.sample_rate,
        steps=request.steps,
    )
    max_abs_sum = max_abs_of_sum(
        cohort=request.cohort,
        clamp_abs=clamp_abs,
        share_std=math.hypot(*stds),
        dimension=request.dimension,
        local_steps=request.local_steps,
        rounds=max(_MIN_WRAP_ROUNDS, request.steps),
    )
    return NoisePlan(
        mode=mode.name,
        scale=scale,
        clip=request.clip,
        dimension=request.dimension,
        sensitivity=bound,
        noise_multiplier=sigma,
        share_std=stds[0],
        beta=request.beta,
        delta=request.delta,
        steps=request.steps,
        sample_rate=request.sample_rate,
        local_steps=request.local_steps,
        clamp_abs=clamp_abs,
        max_abs_sum=max_abs_sum,
        levels=levels,
        layer_stds=stds[1:],
    )


def _checked_mode(request: NoiseRequest) -> ModeSpec:
    """Return the request's mode; raise ``ConfigError`` if any of its numbers is out of range."""
    mode, records, rate = modes.find(request.mode), request.records_per_merchant, request.sample_rate
    if mode is None:
        raise ConfigError(f"privacy mode: '{request.mode}' is unknown; choose distributed, local or off.")
    if request.steps < 1 or request.local_steps < 1 or request.cohort < 1 or records < 1:
        raise ConfigError("plan_noise: steps, local steps, cohort and records must all be at least 1.")
    if not 0.0 < rate <= 1.0:
        raise ConfigError(f"sample rate: {rate} is outside (0, 1]; choose a rate such as 0.1.")
    # Only public numbers may decide this: the largest declared number of records and the noise in it. A
    # merchant that declared more uses each record with a probability that gives this number on average.
    if truncation_bits(expected=rate * (records + _COUNT_NOISE)) < 1.0 - math.log2(TRUNCATION_BETA):
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
    """Return the number of honest noise shares, one per merchant, that every opened sum contains."""
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
    """Return the given noise multiplier, or compute it for ``epsilon`` at the delta left for the steps."""
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
            releases=request.other_releases,
            other_betas=request.other_betas,
        )
    multiplier = request.noise_multiplier
    if multiplier is None or not 0.0 < multiplier < math.inf:
        raise ConfigError(f"noise multiplier: {multiplier} is not a positive number.")
    return multiplier
