"""The optimizers that a training can name: built in, and installed (entry point ``fedrec.optimizers``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fedrec._internal.registry import Registry
from fedrec.protocol.plan import ServerUpdate, TrainingPlan
from fedrec.server.choice_text import read_named
from fedrec.server.optimizers import adam, adamw, sgd, yogi
from fedrec.server.optimizers.interface import OptimizerSpec, Vector
from fedrec.server.optimizers.scheduled import ScheduledOptimizer, Shrinkage
from fedrec.server.schedules.schedule_registry import factors_of
from fedrec.server.weights import Solve, Weights
from fedrec.vision import model_registry

REGISTRY: Final = Registry(
    OptimizerSpec,
    what="server optimizer",
    group="fedrec.optimizers",
    builtin=(sgd.SPEC, adam.SPEC, adamw.SPEC, yogi.SPEC),
)


def read_choice(text: str | None) -> tuple[OptimizerSpec, Mapping[str, float]]:
    """Read ``NAME`` or ``NAME:SETTING=VALUE,...``; None is the default optimizer.

    Returns:
        The optimizer, and the settings that the text gives.

    Raises:
        ConfigError: the optimizer or a setting is unknown, or a value is no number in its range.
    """
    return read_named(REGISTRY.names()[0] if text is None else text, REGISTRY, option="--optimizer")


def write_choice(update: ServerUpdate) -> str:
    """Return the text that :func:`read_choice` reads as a plan's optimizer with all its settings."""
    settings = ",".join(f"{name}={value!r}" for name, value in update.values.items())
    return f"{update.optimizer}:{settings}" if settings else update.optimizer


def describe_update(plan: TrainingPlan) -> str:
    """Say in one line how the server updates a plan's model, for reports and terminals."""
    if model_registry.is_solved(plan.model):
        return "none: the model is solved from the opened sum"
    return plan.server_update.text


def describe_objective(plan: TrainingPlan) -> str:
    """Say in one line what merchants minimise, for reports and terminals."""
    if model_registry.is_solved(plan.model):
        return "none: merchants send statistics"
    return plan.objective.text


def step_count(rounds: int, *, mean: slice | None) -> int:
    """Return the number of steps of a training: each round is one, except one that releases a mean.

    Args:
        rounds: number of rounds.
        mean: the coordinates of a released mean of features; None for a model that centres nothing.

    Returns:
        The number, 1 at least.
    """
    return max(1, rounds - (mean is not None))


def start_weights(
    update: ServerUpdate,
    initial: Vector,
    *,
    rounds: int,
    mean: slice | None = None,
    solve: Solve | None = None,
) -> Weights:
    """Return the global model of a plan, before its first step.

    Args:
        update: the plan's rules of the server's steps.
        initial: the initial parameters, float64, shape (d,).
        rounds: number of rounds of the training; each is a step, except one that releases a mean.
        mean: the coordinates of a released mean of features; None for a model that centres nothing.
        solve: solves the parameters from one sum of statistics; None for a model that is trained by steps.

    Returns:
        The global model, with a new optimizer.

    Raises:
        ConfigError: the optimizer or the schedule is not installed; see :class:`Registry`.
    """
    spec = REGISTRY.get(update.optimizer)
    optimizer = spec.make(initial.size, update.learning_rate, update.values)
    factors = factors_of(update.schedule, steps=step_count(rounds, mean=mean))
    shrinkage = Shrinkage(
        decay=update.learning_rate * update.weight_decay, threshold=update.learning_rate * update.l1
    )
    if (factors != 1.0).any() or shrinkage != Shrinkage():
        optimizer = ScheduledOptimizer(optimizer, factors=factors, shrinkage=shrinkage)
    return Weights.start(initial, optimizer, averaging=update.averaging, mean=mean, solve=solve)
