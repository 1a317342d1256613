"""Settle the options of a training whose defaults depend on model, budget and cohort."""

from __future__ import annotations

from collections.abc import Mapping

from fedrec.config import DEFAULT_EPSILON, TrainingOptions
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.budget_rating import check_budget
from fedrec.privacy.accounting.privacy_spend import least_multiplier
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.aggregation.committee import check_contributors, check_quorum
from fedrec.privacy.aggregation.seats import NOBODY, ONE_HOLDER, Seats, WitnessSeats, choose_seats
from fedrec.privacy.dp.calibration import BETA
from fedrec.protocol import modes
from fedrec.protocol.plan import ServerSetting, ServerUpdate
from fedrec.server.cohort_defaults import default_colluders, default_min_contributors
from fedrec.server.figures_budget import figures_events, plan_figures
from fedrec.server.optimizers.interface import OptimizerSpec
from fedrec.server.optimizers.optimizer_registry import read_choice
from fedrec.server.schedules.schedule_registry import read_schedule
from fedrec.server.trainings import Settings
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.training_recipes import ONE_ROUND, PublicNumbers, TrainingDefaults

LARGEST_DEFAULT_DELTA = 1e-5


def planned_delta(options: TrainingOptions, sizes: tuple[int, ...]) -> float:
    """Return the training's delta: the operator's, or the default for the declared sizes.

    Args:
        options: the operator's options.
        sizes: the number of units that each merchant declared.

    Returns:
        Delta; the default is 1 / (10 times all units), and 1e-5 at most.
    """
    return options.delta or min(LARGEST_DEFAULT_DELTA, 1 / (10 * sum(sizes)))


def training_defaults(
    options: TrainingOptions, spec: ModelSpec, *, sizes: tuple[int, ...]
) -> TrainingDefaults:
    """Return the settings that hold where the operator gives none: by the model's recipe if it has one.

    Args:
        options: the operator's options.
        spec: the model.
        sizes: the number of units that each merchant declared.

    Returns:
        The settings.

    Raises:
        ConfigError: the budget states nothing.
        UnreachableBudgetError: no noise reaches the budget.
    """
    optimizer, chosen = read_choice(options.optimizer)
    if spec.recipe is None or options.sends_moves or optimizer.learning_rate is not None:
        return spec.defaults
    private = modes.get(options.privacy).private
    delta = planned_delta(options, sizes)
    if private:
        check_budget(epsilon=options.epsilon or DEFAULT_EPSILON, delta=delta, public_total=sum(sizes))

    figures = figures_events(plan_figures(options, delta=delta))

    def noise_multiplier(sample_rate: float, steps: int) -> float:
        if not private:
            return 0.0
        return least_multiplier(
            options.epsilon or DEFAULT_EPSILON,
            delta=delta,
            sample_rate=sample_rate,
            steps=steps,
            beta=BETA,
            releases=figures,
            other_betas=BETA * len(figures),
        )

    return spec.recipe(
        PublicNumbers(
            records=sum(sizes),
            noise_multiplier=noise_multiplier,
            rounds=options.rounds,
            sample_rate=options.sample_rate,
            clip=options.clip,
            momentum=chosen.get("momentum"),
        )
    )


_OF_STEPS = (
    "learning_rate",
    "server_learning_rate",
    "optimizer",
    "schedule",
    "averaging",
    "weight_decay",
    "l1",
    "loss",
    "label_smoothing",
    "class_prior",
    "patience",
    "rounds",
    "sample_rate",
    "local_steps",
    "clip",
    "clipping",
)
"""Options that say how steps are taken. Statistics are scaled to any clip, so that it changes nothing."""
_ONE_STEP = {"rounds": ONE_ROUND.rounds, "sample_rate": ONE_ROUND.sample_rate, "clip": ONE_ROUND.clip}
"""What they may be, beside their defaults, where there is one step of all records."""


def check_solved(options: TrainingOptions, spec: ModelSpec) -> None:
    """Refuse options that have no meaning for a model that is solved from one sum.

    Args:
        options: the operator's options.
        spec: the model; any other is not checked.

    Raises:
        ConfigError: an option contradicts the one step of all records, or is for steps of an optimizer.
    """
    if not spec.solved:
        return
    fields = type(options).model_fields
    given = [
        name
        for name in _OF_STEPS
        if getattr(options, name) not in (fields[name].default, _ONE_STEP.get(name))
    ]
    if given:
        raise ConfigError(
            f"--{given[0].replace('_', '-')} has no meaning for model {spec.name}: it is solved from one sum "
            "over all records (--method one-round)"
        )


def settle(
    options: TrainingOptions, defaults: TrainingDefaults, *, merchants: int, witnesses: int = 0
) -> Settings:
    """Settle the defaults that depend on model and cohort, and check the quorum.

    Args:
        options: the operator's options.
        defaults: settings that hold where the operator gives none.
        merchants: size of the cohort.
        witnesses: witnesses, which have a seat where a committee opens sums.

    Returns:
        The settled options.

    Raises:
        ConfigError: the options can't go together.
    """
    if options.secure_aggregation not in schemes.names():
        known = ", ".join(schemes.names())
        raise ConfigError(
            f"--secure-aggregation '{options.secure_aggregation}' is unknown: choose one of {known}"
        )
    mode = modes.get(options.privacy)
    if merchants < mode.least_merchants:
        raise ConfigError(
            f"--privacy {mode.name} needs at least {mode.least_merchants} merchants, not {merchants}: "
            "raise --merchants, or choose --privacy local with --secure-aggregation none"
        )
    colluders = default_colluders(merchants) if options.colluders is None else options.colluders
    minimum = options.min_contributors
    if minimum is None:
        drop = options.planned_dropouts
        minimum = max(1, default_min_contributors(merchants=merchants, colluders=colluders, drop=drop))
    seats = _settle_seats(
        options, merchants=merchants, witnesses=witnesses, colluders=colluders, minimum=minimum
    )
    optimizer, chosen = read_choice(options.optimizer)
    return Settings(
        rounds=options.rounds or defaults.rounds,
        sample_rate=options.sample_rate or defaults.sample_rate,
        clip=options.clip or defaults.clip,
        learning_rate=options.learning_rate or _default_rate(options, optimizer, defaults),
        update=_settle_update(options, optimizer, chosen, defaults),
        committee=seats.members,
        threshold=seats.threshold,
        corrupt_members=seats.corrupt,
        corrupt_witnesses=seats.corrupt_witnesses,
        seat_risk=seats.risk,
        min_contributors=minimum,
        colluders=colluders,
    )


def _default_rate(options: TrainingOptions, optimizer: OptimizerSpec, defaults: TrainingDefaults) -> float:
    """Return the default learning rate: the optimizer's, or the model's where merchants take SGD steps."""
    if options.sends_moves or optimizer.learning_rate is None:
        return defaults.learning_rate
    return optimizer.learning_rate


def _settle_update(
    options: TrainingOptions,
    optimizer: OptimizerSpec,
    chosen: Mapping[str, float],
    defaults: TrainingDefaults,
) -> ServerUpdate:
    """Settle the server's update rule; where merchants send gradients, the model's own defaults apply."""
    settings = {name: setting.default for name, setting in optimizer.settings.items()}
    if options.sends_moves:
        rate = options.server_learning_rate or optimizer.learning_rate or 1.0
    else:
        rate = options.learning_rate or _default_rate(options, optimizer, defaults)
        if optimizer.learning_rate is None and "momentum" in settings:
            settings["momentum"] = defaults.momentum
        if optimizer.learning_rate is None and "nesterov" in settings:
            settings["nesterov"] = float(defaults.nesterov)
    settings |= chosen
    _check_decay(options, optimizer, rate=rate)
    return ServerUpdate(
        optimizer=optimizer.name,
        learning_rate=rate,
        settings=tuple(ServerSetting(name=name, value=value) for name, value in settings.items()),
        schedule=read_schedule(options.schedule),
        averaging=defaults.ema if options.averaging is None else options.averaging,
        weight_decay=options.weight_decay,
        l1=options.l1,
    )


def _check_decay(options: TrainingOptions, optimizer: OptimizerSpec, *, rate: float) -> None:
    """Raise ``ConfigError`` for a weight decay that is given twice, or takes more than all in a step."""
    if options.weight_decay and "weight_decay" in optimizer.settings:
        raise ConfigError(
            f"--weight-decay: optimizer {optimizer.name} has a weight decay of its own: set that, as "
            f"--optimizer {optimizer.name}:weight_decay={options.weight_decay:g}"
        )
    if rate * options.weight_decay >= 1:
        raise ConfigError(
            f"--weight-decay {options.weight_decay:g} times the learning rate {rate:g} takes all of the "
            f"parameters in a step: it must be below {1 / rate:g}"
        )


def _settle_seats(
    options: TrainingOptions, *, merchants: int, witnesses: int, colluders: int, minimum: int
) -> Seats:
    """Settle who opens sums, and check the quorum; raise ``ConfigError`` if the options can't go together."""
    opened_by = schemes.get(options.secure_aggregation).trust.opened_by
    if opened_by == "committee":
        seats = choose_seats(
            cohort=merchants,
            colluders=colluders,
            members=options.committee,
            threshold=options.threshold,
            corrupt=options.corrupt_members,
            witnesses=witnesses,
            corrupt_witnesses=options.corrupt_witnesses,
        )
        check_quorum(
            cohort=merchants,
            members=seats.members,
            threshold=seats.threshold,
            min_contributors=minimum,
            colluders=colluders,
            corrupt_members=seats.corrupt,
            witnesses=WitnessSeats(count=witnesses, corrupt=seats.corrupt_witnesses),
        )
        return seats
    chosen = (options.committee, options.threshold, options.corrupt_members, options.corrupt_witnesses)
    if any(number is not None for number in chosen):
        raise ConfigError(
            "--committee, --threshold, --corrupt-members and --corrupt-witnesses have no meaning with "
            f"--secure-aggregation {options.secure_aggregation}"
        )
    if opened_by == "holder" or modes.get(options.privacy).shares_noise:
        check_contributors(cohort=merchants, min_contributors=minimum, colluders=colluders)
    elif minimum > merchants:
        raise ConfigError(f"--min-contributors {minimum} is more than the {merchants} merchants there are")
    return ONE_HOLDER if opened_by == "holder" else NOBODY
