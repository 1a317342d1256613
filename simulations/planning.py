"""From options and data to the training's plan, with every default that depends on them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedrec.config import AUGMENTED_VIEWS, DEFAULT_EPSILON, SimulationConfig, planned_minimum
from fedrec.errors import AggregationError, ConfigError, DataError, UnreachableBudgetError
from fedrec.privacy.accounting.accountants import noise_multiplier_for
from fedrec.privacy.aggregation import registry as schemes
from fedrec.privacy.aggregation.committee import (
    check_contributors,
    check_quorum,
    default_committee_size,
    default_threshold,
)
from fedrec.privacy.derive import derive, rounded_size
from fedrec.privacy.dp.calibration import BETA, plan_noise
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol import Peer, TrainingPlan, sha256_hex
from fedrec.simulations.sources import DEFAULT_MERCHANTS, InputShape, Source
from fedrec.vision.models.registry import ModelSpec
from fedrec.vision.partition import parse_partition


@dataclass(frozen=True)
class Settings:
    """The options of a training after all defaults are settled."""

    rounds: int
    sample_rate: float
    clip: float
    learning_rate: float
    momentum: float
    ema: float
    committee: int
    threshold: int
    min_contributors: int


def settle(config: SimulationConfig, spec: ModelSpec, *, merchants: int) -> Settings:
    """Settle the defaults that depend on model and cohort, and check the quorum.

    Raises ``ConfigError`` when the options can't go together.
    """
    if config.secure_aggregation not in schemes.names():
        known = ", ".join(schemes.names())
        raise ConfigError(
            f"--secure-aggregation '{config.secure_aggregation}' is unknown: choose one of {known}"
        )
    if config.privacy == "distributed" and merchants < 3:
        raise ConfigError(
            f"--privacy distributed needs at least 3 merchants, not {merchants}: "
            "raise --merchants, or choose --privacy local with --secure-aggregation none"
        )
    minimum = config.min_contributors
    if minimum is None:
        minimum = max(1, planned_minimum(merchants=merchants, drop=config.drop))
    members = threshold = 0
    opened_by = schemes.opener(config.secure_aggregation)
    if opened_by != "committee" and (config.committee is not None or config.threshold is not None):
        raise ConfigError(
            "--committee and --threshold have no meaning with --secure-aggregation "
            f"{config.secure_aggregation}"
        )
    if opened_by == "committee":
        members = config.committee or default_committee_size(merchants)
        threshold = config.threshold or default_threshold(members=members, colluders=config.colluders)
        check_quorum(
            cohort=merchants,
            members=members,
            threshold=threshold,
            min_contributors=minimum,
            colluders=config.colluders,
        )
    elif opened_by == "holder":
        members = threshold = 1
        check_contributors(cohort=merchants, min_contributors=minimum, colluders=config.colluders)
    elif config.privacy == "distributed":
        check_contributors(cohort=merchants, min_contributors=minimum, colluders=config.colluders)
    elif minimum > merchants:
        raise ConfigError(f"--min-contributors {minimum} is more than the {merchants} merchants there are")
    defaults = spec.defaults
    return Settings(
        rounds=config.rounds or defaults.rounds,
        sample_rate=config.sample_rate or defaults.sample_rate,
        clip=config.clip or defaults.clip,
        learning_rate=config.learning_rate or defaults.learning_rate,
        momentum=defaults.momentum,
        ema=defaults.ema,
        committee=members,
        threshold=threshold,
        min_contributors=minimum,
    )


def check_options(config: SimulationConfig, spec: ModelSpec) -> None:
    """Check all that needs no data, before any is read or drawn.

    Raises ``ConfigError``, ``UnreachableBudgetError``, ``DataError`` or ``MissingExtraError`` as the run
    would later.
    """
    if spec.backbone is not None:
        spec.backbone.create()
    by_folder = parse_partition(config.partition).kind == "folder"
    if not by_folder or (config.data is None and config.dataset == "synthetic"):
        settle(config, spec, merchants=config.merchants or DEFAULT_MERCHANTS)
    if config.eval_data is not None and not config.eval_data.is_dir():
        raise DataError(f"--eval-data {config.eval_data} is not a folder: give a folder of class folders")
    if config.privacy == "off" or config.delta is None:
        return
    steps = (config.rounds or spec.defaults.rounds) * config.local_steps
    if config.delta > BETA * steps:
        # The answer is kept by its arguments, so that the plan doesn't compute it again.
        noise_multiplier_for(
            epsilon=config.epsilon or DEFAULT_EPSILON,
            delta=config.delta - BETA * steps,
            sample_rate=config.sample_rate or spec.defaults.sample_rate,
            steps=steps,
        )


def resolved(config: SimulationConfig, plan: TrainingPlan, settings: Settings) -> SimulationConfig:
    """Return the options with every default that model, data and cohort decided filled in."""
    found: dict[str, object] = {
        "merchants": plan.cohort,
        "rounds": plan.rounds,
        "learning_rate": settings.learning_rate,
        "sample_rate": plan.sample_rate,
        "clip": plan.clip,
        "min_contributors": plan.min_contributors,
    }
    if plan.mode != "off":
        found |= {"epsilon": config.epsilon or DEFAULT_EPSILON, "delta": plan.delta}
    if schemes.opener(plan.scheme) == "committee":
        found |= {"committee": len(plan.committee), "threshold": plan.threshold}
    return config.model_copy(update=found)


def _roster(identities: Mapping[str, SigningIdentity]) -> tuple[Peer, ...]:
    peers = []
    for name, identity in identities.items():
        try:
            peers.append(Peer(name=name, signing_key=identity.public.hex()))
        except ValidationError:
            raise DataError(
                f"merchant folder {name!r}: a merchant's name has at most 64 letters (a to z), digits, dots, "
                "hyphens or underscores; rename the folder"
            ) from None
    return tuple(peers)


def make_plan(
    config: SimulationConfig,
    settings: Settings,
    *,
    source: Source,
    spec: ModelSpec,
    shape: InputShape,
    initial: NDArray[np.float64],
    identities: Mapping[str, SigningIdentity],
) -> TrainingPlan:
    """Calibrate the noise and write the plan.

    Raises ``ConfigError``, or ``UnreachableBudgetError`` when no noise that fits the widest ring
    reaches the budget.
    """
    roster = _roster(identities)
    sizes = [rounded_size(len(share.indices)) for share in source.shares]
    delta = config.delta or 1 / (10 * min(sizes))
    steps = settings.rounds * config.local_steps
    noise = plan_noise(
        mode=config.privacy,
        epsilon=None if config.privacy == "off" else (config.epsilon or DEFAULT_EPSILON),
        noise_multiplier=None,
        delta=delta,
        sample_rate=settings.sample_rate,
        steps=steps,
        dimension=initial.size,
        clip=settings.clip,
        cohort=len(roster),
        min_contributors=settings.min_contributors,
        colluders=config.colluders,
        records_per_merchant=max(sizes),
        local_steps=config.local_steps,
    )
    plan = TrainingPlan(
        nonce=secrets.token_hex(16),
        model=spec.name,
        initial_model_hash=sha256_hex(initial.astype("<f4").tobytes()),
        classes=source.classes,
        channels=3 if shape.channels == 3 else 1,
        image_size=shape.size,
        dimension=initial.size,
        views=AUGMENTED_VIEWS if config.augment else 1,
        mode=config.privacy,
        rounds=settings.rounds,
        local_steps=config.local_steps,
        local_learning_rate=settings.learning_rate,
        sample_rate=settings.sample_rate,
        clip=settings.clip,
        delta=delta,
        noise_multiplier=noise.noise_multiplier or None,
        records_total=sum(sizes),
        records_largest=max(sizes),
        roster=roster,
        committee=tuple(peer.name for peer in roster[: settings.committee]),
        threshold=settings.threshold,
        min_contributors=settings.min_contributors,
        colluders=config.colluders,
        scheme=config.secure_aggregation,
    )
    try:
        derive(plan)
    except AggregationError as error:
        raise UnreachableBudgetError(
            f"--epsilon {config.epsilon or DEFAULT_EPSILON} can't be reached: its noise doesn't fit the "
            f"widest ring ({error}); raise --epsilon, --sample-rate or the number of records"
        ) from None
    return plan
