"""One-round campaigns of a small cohort: a discriminant on its features, and the sum in plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedrec.privacy.dp.class_statistics import clipped_statistics_sum, statistics_length
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.vision.models.discriminant_head import DiscriminantHead
from tests.support.cohort import CLASSES, FEATURES, RECORDS, Cohort, change_means

DIMENSION = statistics_length(classes=CLASSES, dimension=FEATURES)


def head(plan: TrainingPlan | None = None) -> DiscriminantHead:
    return DiscriminantHead(classes=CLASSES, dimension=FEATURES)


def campaign(
    folder: Path, *, size: int = 3, witnesses: int = 0, **changes: Any
) -> tuple[Cohort, TrainingPlan]:
    """A cohort whose merchants build the discriminant, and a plan of its one round."""
    cohort = Cohort(folder, size=size, witnesses=witnesses)
    for merchant in cohort.merchants.values():
        change_means(merchant, build_model=head)
    plan = cohort.plan(
        dimension=DIMENSION, rounds=1, sample_rate=1.0, clip=1.0,
        initial_model_hash=sha256_hex(np.zeros(DIMENSION, "<f4").tobytes()), **changes,
    )  # fmt: skip
    return cohort, plan


def plain_sum(names: range) -> np.ndarray:
    """The sum of the merchants' statistics, without encryption or noise."""
    total = np.zeros(DIMENSION)
    for index in names:
        generator = torch.Generator().manual_seed(index)
        inputs = torch.randn(RECORDS, 1, FEATURES, generator=generator)
        labels = torch.randint(0, CLASSES, (RECORDS,), generator=generator)
        total += clipped_statistics_sum(inputs, labels, classes=CLASSES, clip=1.0)
    return total
