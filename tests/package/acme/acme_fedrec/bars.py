"""Pictures of a bright column or a bright row, in two classes."""

from __future__ import annotations

import numpy as np

from fedrec.vision.dataset_registry import DatasetRequest, DatasetSpec
from fedrec.vision.datasets import DataSplits, ImageSet, drop_duplicates


def split(count: int, seed: int) -> ImageSet:
    labels = np.arange(count) % 2
    pictures = np.random.default_rng(seed).integers(0, 90, (count, 8, 8, 1), dtype=np.uint8)
    pictures[labels == 0, :, 3] += 150
    pictures[labels == 1, 3] += 150
    names = [f"{seed}-{number:04d}" for number in range(count)]
    return ImageSet.from_arrays(["column", "row"], pictures, labels.tolist(), names=names)


def load(request: DatasetRequest) -> DataSplits:
    return DataSplits(drop_duplicates(split(600, request.seed)), split(60, 100), split(60, 101))


SPEC = DatasetSpec("acme-bars", load, root="unused")
