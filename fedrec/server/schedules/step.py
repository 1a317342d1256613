"""The learning rate is multiplied by a factor at a few points that divide the training into equal parts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.server.optimizers.interface import Setting, Vector
from fedrec.server.schedules.interface import WARMUP, ScheduleSpec, after_warmup


def _curve(steps: int, settings: Mapping[str, float]) -> Vector:
    parts = int(settings["drops"]) + 1
    passed = np.arange(steps) * parts // max(steps, 1)
    falling: Vector = settings["factor"] ** passed.astype(np.float64)
    return falling


SPEC = ScheduleSpec(
    name="step",
    settings={**WARMUP, "drops": Setting(2.0, 0.0, 1e6), "factor": Setting(0.1, 0.0, 1.0)},
    factors=after_warmup(_curve),
)
