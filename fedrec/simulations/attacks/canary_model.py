"""The canaries of an audit, and the model in which their gradients are separate."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedrec.clients.records import TrainingData
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.planning import Task
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.training_recipes import TrainingDefaults

_LENGTH = 10.0
"""The norm of a canary's gradient before clipping, in units of C."""
_CLIP = 1.0


class CanaryModel(nn.Module):
    """Two logits, linear in a one-hot input, with zero weights.

    Canary i's gradient has two nonzero coordinates.
    """

    def __init__(self, canaries: int) -> None:
        super().__init__()
        self.logits = nn.Linear(canaries, 2, bias=False)
        nn.init.zeros_(self.logits.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, 2)."""
        logits: torch.Tensor = self.logits(inputs)
        return logits


def canary_task(canaries: int) -> Task:
    """Return the task whose model is :class:`CanaryModel`, with zero initial weights."""
    spec = ModelSpec(
        name="canaries",
        image_size=8,
        make=lambda classes, channels, size: CanaryModel(canaries),
        defaults=TrainingDefaults(
            rounds=1, sample_rate=1.0, clip=_CLIP, learning_rate=1.0, momentum=0.0, ema=0.0
        ),
    )
    return Task(spec=spec, classes=("in", "out"), shape=InputShape(channels=3, size=8))


def canary_data(plan: TrainingPlan, *, canaries: int, chosen: NDArray[np.int64]) -> TrainingData:
    """Return the records of canaries: one-hot inputs of value x, all with label 0.

    At zero weights canary i's gradient is (-x/2, x/2), of norm x / sqrt 2.

    Args:
        plan: the training's plan, which the canaries don't depend on.
        canaries: number of all canaries.
        chosen: int64 (n,), the indices of those that are included.

    Returns:
        The records, inputs of shape (n, 1, canaries).
    """
    inputs = torch.zeros(len(chosen), 1, canaries)
    inputs[torch.arange(len(chosen)), 0, torch.from_numpy(chosen)] = _LENGTH * _CLIP * math.sqrt(2.0)
    digests = tuple(hashlib.sha256(b"canary %d" % canary).digest() for canary in chosen)
    return TrainingData(
        inputs=inputs, labels=torch.zeros(len(chosen), dtype=torch.int64), digests=digests, held=digests
    )
