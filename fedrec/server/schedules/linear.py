"""The learning rate falls along a straight line."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.server.optimizers.interface import Vector
from fedrec.server.schedules.interface import FLOOR, WARMUP, ScheduleSpec, after_warmup


def _curve(steps: int, settings: Mapping[str, float]) -> Vector:
    falling: Vector = 1 - (1 - settings["floor"]) * np.arange(steps) / max(steps, 1)
    return falling


SPEC = ScheduleSpec(name="linear", settings={**WARMUP, **FLOOR}, factors=after_warmup(_curve))
