"""The schedules that a training can name: built in, and installed (entry point ``fedrec.schedules``)."""

from __future__ import annotations

from typing import Final

import numpy as np

from fedrec._internal.registry import Registry
from fedrec.errors import ConfigError
from fedrec.protocol.plan import Schedule
from fedrec.server.choice_text import all_settings, read_named
from fedrec.server.optimizers.interface import Vector
from fedrec.server.schedules import constant, cosine, linear, step
from fedrec.server.schedules.interface import ScheduleSpec

REGISTRY: Final = Registry(
    ScheduleSpec,
    what="schedule",
    group="fedrec.schedules",
    builtin=(constant.SPEC, cosine.SPEC, linear.SPEC, step.SPEC),
)

_NO_LENGTH: Final = 1e-12
"""A part of the learning rate that moves no parameter; the last step of a cosine has a million times more."""


def read_schedule(text: str) -> Schedule:
    """Read ``NAME`` or ``NAME:SETTING=VALUE,...`` as a plan's schedule; ``ConfigError`` for anything else."""
    spec, given = read_named(text, REGISTRY, option="--schedule")
    return Schedule(name=spec.name, settings=all_settings(spec, given))


def factors_of(schedule: Schedule, *, steps: int) -> Vector:
    """Return what each step's learning rate is multiplied by.

    Args:
        schedule: a plan's schedule.
        steps: T, the number of steps of the training.

    Returns:
        float64, shape (T,).

    Raises:
        ConfigError: the schedule is not installed, or gives no factor from 0 up for each step.
    """
    spec = REGISTRY.get(schedule.name)
    settings = {name: setting.default for name, setting in spec.settings.items()} | schedule.values
    found = np.asarray(spec.factors(steps, settings), dtype=np.float64)
    if found.shape != (steps,) or not np.isfinite(found).all() or (found < 0).any():
        raise ConfigError(f"schedule {schedule.name} gives no factor from 0 up for each of {steps} steps")
    return found


def check_schedule(schedule: Schedule, *, steps: int) -> None:
    """Refuse a schedule that never reaches the full learning rate, or spends rounds on steps of no length.

    Args:
        schedule: a plan's schedule.
        steps: T, the number of steps of the training.

    Raises:
        ConfigError: the warm-up takes all steps, or the learning rate falls to nothing before the end.
    """
    warmup = schedule.values.get("warmup", 0.0)
    if warmup >= 1.0 and int(warmup) >= steps:
        raise ConfigError(
            f"--schedule {schedule.name}: a warm-up of {int(warmup)} steps takes all of the training's "
            f"{steps}, and the learning rate would never reach its full size: shorten it, or raise --rounds"
        )
    still = int((factors_of(schedule, steps=steps) < _NO_LENGTH).sum())
    if still:
        raise ConfigError(
            f"--schedule {schedule.name}: {still} of the training's {steps} steps would have no length, and "
            "each is charged: let the learning rate fall less (a larger factor or floor, or fewer drops)"
        )
