"""A network with a layer, RMSNorm, that has no fast rule of clipping."""

from __future__ import annotations

from torch import nn

from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.training_recipes import TrainingDefaults

HALF = (0.5, 0.5, 0.5)


def make(classes: int, channels: int, size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * size * size, 8), nn.RMSNorm(8), nn.Linear(8, classes),
    )  # fmt: skip


SPEC = ModelSpec(
    name="acme-net",
    image_size=None,
    margin=1.0,
    mean=HALF,
    std=HALF,
    features=None,
    make=make,
    defaults=TrainingDefaults(rounds=3, sample_rate=0.5, clip=1.0, learning_rate=0.5, momentum=0.0, ema=0.0),
)
