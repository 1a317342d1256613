"""The learning rate falls along half a cosine wave (Loshchilov and Hutter 2017, without restarts)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.server.optimizers.interface import Vector
from fedrec.server.schedules.interface import FLOOR, WARMUP, ScheduleSpec, after_warmup


def _curve(steps: int, settings: Mapping[str, float]) -> Vector:
    floor = settings["floor"]
    wave = (1 + np.cos(np.pi * np.arange(steps) / max(steps, 1))) / 2
    falling: Vector = floor + (1 - floor) * wave
    return falling


SPEC = ScheduleSpec(name="cosine", settings={**WARMUP, **FLOOR}, factors=after_warmup(_curve))
