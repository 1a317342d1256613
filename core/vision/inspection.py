"""What a folder of photos holds, for a person to read before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fedrec.vision.datasets import open_folder
from fedrec.vision.imageset import ImageSet, Skipped


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split; ``merchants`` is empty where photos belong to none."""

    name: str
    photos: int
    classes: dict[str, int]
    merchants: dict[str, int]


@dataclass(frozen=True)
class FolderSummary:
    """All splits of a folder, exact copies dropped from training, and every photo that can't be used."""

    splits: tuple[SplitSummary, ...]
    duplicates_dropped: int
    skipped: tuple[Skipped, ...]


def inspect(folder: Path) -> FolderSummary:
    """Read every photo below a folder as a training would; see :func:`open_folder` for what it raises."""
    splits = open_folder(folder)
    loaded = [
        (name, images)
        for name, images in (
            ("train", splits.train),
            ("validation", splits.validation),
            ("test", splits.test),
        )
        if images is not None
    ]
    return FolderSummary(
        splits=tuple(_summary(name, images) for name, images in loaded),
        duplicates_dropped=splits.train.duplicates_dropped,
        skipped=tuple(skip for _, images in loaded for skip in images.skipped),
    )


def _summary(name: str, images: ImageSet) -> SplitSummary:
    labels = Counter(images.classes[record.label] for record in images.records)
    owners = Counter(record.merchant for record in images.records if record.merchant)
    return SplitSummary(
        name=name,
        photos=len(images),
        classes={label: labels[label] for label in images.classes},
        merchants=dict(sorted(owners.items())),
    )
