"""The learning rate stays as it is, after a warm-up if there is one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.server.optimizers.interface import Vector
from fedrec.server.schedules.interface import WARMUP, ScheduleSpec, after_warmup


def _curve(steps: int, settings: Mapping[str, float]) -> Vector:
    return np.ones(steps)


SPEC = ScheduleSpec(name="constant", settings=WARMUP, factors=after_warmup(_curve))
