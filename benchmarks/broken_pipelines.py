"""Pipelines broken on purpose, from outside: the product has no switch for any of this."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.clients import contribution
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.step import contribute
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan
from fedrec.simulations.attacks import canary_training


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put another value in an attribute's place for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def noise_scaled(part: float) -> Iterator[None]:
    """Every merchant adds only this part of its noise."""

    def less(*arguments: Any, plan: NoisePlan, **options: Any) -> NDArray[np.int64]:
        return contribute(*arguments, plan=replace(plan, share_std=plan.share_std * part), **options)

    # The colluders' own part is computed anew by the audit: it must be the same there.
    with patched(contribution, "contribute", less), patched(canary_training, "contribute", less):
        yield


@contextmanager
def records_repeated(times: int) -> Iterator[None]:
    """Every record is counted several times."""

    def more(
        model: Any,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        *,
        places: torch.Tensor | None = None,
        **options: Any,
    ) -> NDArray[np.int64]:
        own = torch.arange(len(inputs)) if places is None else places
        return contribute(model, inputs, labels, places=own.repeat(times), **options)

    with patched(contribution, "contribute", more):
        yield


@contextmanager
def without_clip() -> Iterator[None]:
    """No gradient is shortened."""

    def whole(self: RecordClipper, norms: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(norms)

    with patched(RecordClipper, "_factors", whole):
        yield


def reused(name: str, plan: TrainingPlan, round_number: int) -> Randomness:
    """Give every round the chance of the first."""
    return Randomness.seeded(1, name, plan.training_id)


def reused_by_one(name: str, plan: TrainingPlan, round_number: int) -> Randomness:
    """Give every round the chance of the first, to the first merchant alone."""
    if name == plan.roster[0].name:
        return reused(name, plan, round_number)
    return Randomness.from_os()
