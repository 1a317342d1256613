"""From options and cohort to the training's plan, with every default that depends on them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedrec._internal.validation_messages import first_problem
from fedrec.config import AUGMENTED_VIEWS, DEFAULT_EPSILON, TrainingOptions, planned_minimum
from fedrec.errors import AggregationError, ConfigError, UnreachableBudgetError
from fedrec.privacy.accounting.counts import count_event
from fedrec.privacy.aggregation import registry as schemes
from fedrec.privacy.aggregation.committee import (
    check_contributors,
    check_quorum,
    default_committee_size,
    default_threshold,
)
from fedrec.privacy.derive import derive
from fedrec.privacy.dp.calibration import plan_noise
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.server.trainings import Settings
from fedrec.vision.inputs import InputShape
from fedrec.vision.models.registry import ModelSpec
from fedrec.vision.products import PRODUCT_PHOTOS

LARGEST_DEFAULT_DELTA = 1e-5


def settle(options: TrainingOptions, spec: ModelSpec, *, merchants: int) -> Settings:
    """Settle the defaults that depend on model and cohort, and check the quorum.

    Raises ``ConfigError`` when the options can't go together.
    """
    if options.secure_aggregation not in schemes.names():
        known = ", ".join(schemes.names())
        raise ConfigError(
            f"--secure-aggregation '{options.secure_aggregation}' is unknown: choose one of {known}"
        )
    if options.privacy == "distributed" and merchants < 3:
        raise ConfigError(
            f"--privacy distributed needs at least 3 merchants, not {merchants}: "
            "raise --merchants, or choose --privacy local with --secure-aggregation none"
        )
    minimum = options.min_contributors
    if minimum is None:
        minimum = max(1, planned_minimum(merchants=merchants, drop=options.planned_dropouts))
    members = threshold = 0
    opened_by = schemes.opener(options.secure_aggregation)
    if opened_by != "committee" and (options.committee is not None or options.threshold is not None):
        raise ConfigError(
            "--committee and --threshold have no meaning with --secure-aggregation "
            f"{options.secure_aggregation}"
        )
    if opened_by == "committee":
        members = options.committee or default_committee_size(merchants)
        threshold = options.threshold or default_threshold(members=members, colluders=options.colluders)
        check_quorum(
            cohort=merchants,
            members=members,
            threshold=threshold,
            min_contributors=minimum,
            colluders=options.colluders,
        )
    elif opened_by == "holder":
        members = threshold = 1
        check_contributors(cohort=merchants, min_contributors=minimum, colluders=options.colluders)
    elif options.privacy == "distributed":
        check_contributors(cohort=merchants, min_contributors=minimum, colluders=options.colluders)
    elif minimum > merchants:
        raise ConfigError(f"--min-contributors {minimum} is more than the {merchants} merchants there are")
    defaults = spec.defaults
    return Settings(
        rounds=options.rounds or defaults.rounds,
        sample_rate=options.sample_rate or defaults.sample_rate,
        clip=options.clip or defaults.clip,
        learning_rate=options.learning_rate or defaults.learning_rate,
        momentum=defaults.momentum,
        ema=defaults.ema,
        committee=members,
        threshold=threshold,
        min_contributors=minimum,
    )


def make_plan(
    options: TrainingOptions,
    settings: Settings,
    *,
    server_key: str,
    roster: Sequence[Peer],
    sizes: Sequence[int],
    classes: tuple[str, ...],
    spec: ModelSpec,
    shape: InputShape,
    initial: NDArray[np.float64],
) -> TrainingPlan:
    """Calibrate the noise and write the plan.

    ``server_key`` signs the server's receipts, ``sizes`` are the noised counts of units that the merchants
    declared; their cost is part of ``epsilon``.
    Raises ``ConfigError``, or ``UnreachableBudgetError`` when no noise that fits the widest ring reaches
    the budget.
    """
    delta = options.delta or min(LARGEST_DEFAULT_DELTA, 1 / (10 * sum(sizes)))
    steps = settings.rounds * options.local_steps
    noise = plan_noise(
        mode=options.privacy,
        epsilon=None if options.privacy == "off" else (options.epsilon or DEFAULT_EPSILON),
        noise_multiplier=None,
        delta=delta,
        sample_rate=settings.sample_rate,
        steps=steps,
        dimension=initial.size,
        clip=settings.clip,
        cohort=len(roster),
        min_contributors=settings.min_contributors,
        colluders=options.colluders,
        records_per_merchant=max(sizes),
        local_steps=options.local_steps,
        besides=(count_event(),),
    )
    try:
        plan = TrainingPlan(
            server_key=server_key,
            nonce=secrets.token_hex(16),
            model=spec.name,
            initial_model_hash=sha256_hex(initial.astype("<f4").tobytes()),
            classes=classes,
            channels=3 if shape.channels == 3 else 1,
            image_size=shape.size,
            dimension=initial.size,
            views=(AUGMENTED_VIEWS if options.augment else 1)
            * (PRODUCT_PHOTOS if options.unit == "product" else 1),
            unit=options.unit,
            mode=options.privacy,
            rounds=settings.rounds,
            local_steps=options.local_steps,
            local_learning_rate=settings.learning_rate,
            sample_rate=settings.sample_rate,
            clip=settings.clip,
            delta=delta,
            noise_multiplier=noise.noise_multiplier or None,
            records_total=sum(sizes),
            records_largest=max(sizes),
            roster=tuple(roster),
            committee=tuple(peer.name for peer in roster[: settings.committee]),
            threshold=settings.threshold,
            min_contributors=settings.min_contributors,
            colluders=options.colluders,
            scheme=options.secure_aggregation,
            clipping=options.clipping,
        )
    except ValidationError as error:
        problem = first_problem(error)
        where = f"{problem.where[0]} " if problem.where else ""
        raise ConfigError(f"no plan can hold these options: {where}{problem.text}") from None
    try:
        derive(plan)
    except AggregationError as error:
        raise UnreachableBudgetError(
            f"--epsilon {options.epsilon or DEFAULT_EPSILON} can't be reached: its noise doesn't fit the "
            f"widest ring ({error}); raise --epsilon, --sample-rate or the number of records"
        ) from None
    return plan
