"""Make a training's plan from options and cohort, with every default that depends on them."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from fedrec._internal.validation_messages import first_problem
from fedrec.config import (
    AUGMENTED_VIEWS,
    DEFAULT_EPSILON,
    TrainingOptions,
)
from fedrec.errors import AggregationError, ConfigError, UnreachableBudgetError
from fedrec.privacy.accounting.budget_rating import check_budget
from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.calibration import BETA, NoiseRequest, plan_noise
from fedrec.privacy.dp.model_check import check_foreign_model, clipping_note
from fedrec.privacy.dp.vectors import count_from_shapes, load_parameter_vector, parameter_vector
from fedrec.protocol import modes
from fedrec.protocol.plan import MAX_DIMENSION, EarlyStopping, Objective, Peer, TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.site_figures import SiteFigures
from fedrec.server.class_prior import settle_objective
from fedrec.server.figures_budget import figures_events, plan_figures
from fedrec.server.optimizers.optimizer_registry import step_count
from fedrec.server.schedules.schedule_registry import check_schedule
from fedrec.server.settled_options import check_solved, planned_delta, settle, training_defaults
from fedrec.server.trainings import Settings
from fedrec.vision import model_registry
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.models.centred_head import mean_coordinates
from fedrec.vision.products import PRODUCT_PHOTOS


@dataclass(frozen=True)
class Task:
    """What is learnt.

    Attributes:
        spec: the model.
        classes: class names, in the order of the model's outputs.
        shape: channels and size of the pictures.
        seed: determines the initial weights, which are public.
        start: the initial parameters, float64 (d,), where the training starts from an earlier result.
    """

    spec: ModelSpec
    classes: tuple[str, ...]
    shape: InputShape
    seed: int = 0
    start: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_plan(
        cls, plan: TrainingPlan, spec: ModelSpec, *, seed: int, start: NDArray[np.float64] | None = None
    ) -> Task:
        """Return the task of a plan.

        Args:
            plan: the plan.
            spec: the model that it names.
            seed: seed of the initial weights.
            start: the initial parameters, where they don't follow from the seed.

        Returns:
            The task.
        """
        shape = InputShape(channels=plan.channels, size=plan.image_size)
        return cls(spec=spec, classes=plan.classes, shape=shape, seed=seed, start=start)

    def model(self) -> nn.Module:
        """Build the model, with the weights that follow from the seed."""
        return self.spec.build(
            classes=len(self.classes), channels=self.shape.channels, size=self.shape.size, seed=self.seed
        )

    def starting_model(self) -> nn.Module:
        """Build the model that the training starts from."""
        model = self.model()
        if self.start is not None:
            load_parameter_vector(model, self.start)
        return model


@dataclass(frozen=True)
class Enrolled:
    """The merchants of a training, its witnesses, and their server.

    Attributes:
        server_key: public key that verifies the server's requests and receipts, 64 hexadecimal digits.
        roster: the merchants.
        sizes: the noised number of units that each of them declared.
        witnesses: the witnesses, which have a seat where a committee opens sums.
    """

    server_key: str
    roster: tuple[Peer, ...]
    sizes: tuple[int, ...]
    witnesses: tuple[Peer, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A plan, and what goes with it.

    Attributes:
        plan: the plan.
        settings: the options with all defaults settled.
        note: a line about layers that make clipping slow, or None.
    """

    plan: TrainingPlan
    settings: Settings
    note: str | None


def starting_parameters(model: nn.Module) -> NDArray[np.float64]:
    """Return a model's parameters, rounded to float32 as they are sent; float64, shape (d,)."""
    return parameter_vector(model).astype(np.float32).astype(np.float64)


def plan_training(
    options: TrainingOptions, task: Task, enrolled: Enrolled, *, upload_window: int | None = None
) -> Planned:
    """Settle every default and make the plan.

    Args:
        options: the operator's options.
        task: what is learnt.
        enrolled: the merchants and their server.
        upload_window: in seconds, how long the uploads of a single round may arrive; None for a round whose
            merchants are all connected.

    Returns:
        The plan, with the settled options.

    Raises:
        ConfigError: the options can't go together, or no plan can hold them.
        UnreachableBudgetError: no noise that fits the widest ring reaches the budget.
    """
    check_solved(options, task.spec)
    defaults = training_defaults(options, task.spec, sizes=enrolled.sizes)
    settings = settle(options, defaults, merchants=len(enrolled.roster), witnesses=len(enrolled.witnesses))
    objective = settle_objective(options, task.classes)
    _check_model_size(task)
    note = check_model(task)
    model = task.starting_model()
    if not task.spec.solved:
        check_schedule(
            settings.update.schedule, steps=step_count(settings.rounds, mean=mean_coordinates(model))
        )
    initial = starting_parameters(model)
    if upload_window is not None and not task.spec.solved:
        raise ConfigError(f"model {task.spec.name} takes rounds of steps: it can have no upload window")
    plan = _make_plan(
        options, settings, task, enrolled, initial=initial, objective=objective, upload_window=upload_window
    )
    return Planned(plan, settings, note)


def _check_model_size(task: Task) -> None:
    """Raise ``ConfigError`` for a model too large for any plan; only its shapes are computed."""
    count = count_from_shapes(task.model)
    if count > MAX_DIMENSION:
        raise ConfigError(
            f"model {task.spec.name} has {count:,} parameters for {len(task.classes)} classes and pictures "
            f"of {task.shape.size} pixels a side, and a plan holds at most {MAX_DIMENSION:,}: use smaller "
            "pictures (image_size), fewer classes or another model"
        )


def check_model(task: Task) -> str | None:
    """Check that a model's gradient can be clipped record by record, before a plan names it.

    Returns:
        A line about layers that make clipping slow, None if there are none. A model that is solved from one
        sum has no gradients.

    Raises:
        ConfigError: it can't be clipped; or it is an installed model and mixes the records of a batch.
    """
    spec, shape = task.spec, task.shape
    if spec.solved:
        return None
    try:
        if model_registry.code_of(spec.name) is not None:
            check_foreign_model(
                lambda seed: replace(task, seed=seed).model(),
                spec.record_shape(shape.channels, shape.size),
                classes=len(task.classes),
            )
        note = clipping_note(task.model())
    except ConfigError as error:
        raise ConfigError(f"model {spec.name}: {error}") from None
    return None if note is None else f"model {spec.name}: {note}"


def _early_stopping(options: TrainingOptions) -> EarlyStopping | None:
    if options.patience is None:
        return None
    return EarlyStopping(patience=options.patience, target=options.target)


def _noise_request(
    options: TrainingOptions,
    settings: Settings,
    sizes: tuple[int, ...],
    *,
    delta: float,
    dimension: int,
    figures: SiteFigures | None,
) -> NoiseRequest:
    """Return what the noise of the training's sums is calibrated from."""
    private = modes.get(options.privacy).private
    beside = figures_events(figures)
    return NoiseRequest(
        mode=options.privacy,
        epsilon=(options.epsilon or DEFAULT_EPSILON) if private else None,
        noise_multiplier=None,
        delta=delta,
        sample_rate=settings.sample_rate,
        steps=settings.rounds * options.local_steps,
        dimension=dimension,
        clip=settings.clip,
        cohort=len(sizes),
        min_contributors=settings.min_contributors,
        colluders=settings.colluders,
        records_per_merchant=max(sizes),
        local_steps=options.local_steps,
        other_releases=(count_event(), *beside),
        other_betas=BETA * len(beside),
        layered=schemes.get(options.secure_aggregation).trust.opened_by == "committee",
    )


def _make_plan(
    options: TrainingOptions,
    settings: Settings,
    task: Task,
    enrolled: Enrolled,
    *,
    initial: NDArray[np.float64],
    objective: Objective,
    upload_window: int | None,
) -> TrainingPlan:
    """Calibrate the noise and make the plan; the cost of the declared sizes is part of its epsilon."""
    roster, sizes, shape = enrolled.roster, enrolled.sizes, task.shape
    trust = schemes.get(options.secure_aggregation).trust
    seated = enrolled.witnesses if trust.opened_by == "committee" else ()
    delta = planned_delta(options, sizes)
    if modes.get(options.privacy).private:
        check_budget(epsilon=options.epsilon or DEFAULT_EPSILON, delta=delta, public_total=sum(sizes))
    figures = plan_figures(options, delta=delta)
    noise = plan_noise(
        _noise_request(options, settings, sizes, delta=delta, dimension=initial.size, figures=figures)
    )
    try:
        plan = TrainingPlan(
            server_key=enrolled.server_key,
            nonce=secrets.token_hex(16),
            model=task.spec.name,
            model_code=model_registry.code_of(task.spec.name),
            initial_model_hash=sha256_hex(initial.astype("<f4").tobytes()),
            classes=task.classes,
            channels=3 if shape.channels == 3 else 1,
            image_size=shape.size,
            dimension=initial.size,
            record_values=math.prod(task.spec.record_shape(shape.channels, shape.size)),
            views=(AUGMENTED_VIEWS if options.augment else 1)
            * (PRODUCT_PHOTOS if options.unit == "product" else 1),
            unit=options.unit,
            mode=options.privacy,
            rounds=settings.rounds,
            upload_window=upload_window,
            local_steps=options.local_steps,
            local_learning_rate=settings.learning_rate,
            early_stopping=_early_stopping(options),
            server_update=settings.update,
            sample_rate=settings.sample_rate,
            clip=settings.clip,
            delta=delta,
            noise_multiplier=noise.noise_multiplier or None,
            site_figures=figures,
            records_total=sum(sizes),
            records_largest=max(sizes),
            roster=roster,
            witnesses=enrolled.witnesses,
            committee=seat_order(roster, seated)[: settings.committee],
            threshold=settings.threshold,
            min_contributors=settings.min_contributors,
            colluders=settings.colluders,
            noise_levels=noise.levels,
            corrupt_members=settings.corrupt_members,
            corrupt_witnesses=settings.corrupt_witnesses,
            seat_risk=settings.seat_risk,
            scheme=options.secure_aggregation,
            trust=trust,
            clipping=options.clipping,
            objective=objective,
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
