"""What a folder of photos holds, for a person to read before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fedrec.vision.datasets import open_folder
from fedrec.vision.folders import Layout
from fedrec.vision.imageset import ImageSet, Record, Skipped
from fedrec.vision.near import near_duplicates


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split; no ``merchants`` where photos belong to none, no ``products`` without folders."""

    name: str
    photos: int
    products: int
    classes: dict[str, int]
    merchants: dict[str, int]


@dataclass(frozen=True)
class FolderSummary:
    """All splits of a folder, exact copies dropped from training, and every photo that can't be used.

    ``near_duplicates`` names groups of a merchant's training photos that look alike; they are kept, and each
    of them counts.
    """

    splits: tuple[SplitSummary, ...]
    duplicates_dropped: int
    near_duplicates: tuple[tuple[str, ...], ...]
    skipped: tuple[Skipped, ...]


def inspect(folder: Path, *, layout: Layout = "class") -> FolderSummary:
    """Read every photo below a folder as a training would; see :func:`open_folder` for what it raises."""
    splits = open_folder(folder, layout=layout)
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
        near_duplicates=_alike(splits.train),
        skipped=tuple(skip for _, images in loaded for skip in images.skipped),
    )


def _summary(name: str, images: ImageSet) -> SplitSummary:
    labels = Counter(images.classes[record.label] for record in images.records)
    owners = Counter(record.merchant for record in images.records if record.merchant)
    return SplitSummary(
        name=name,
        photos=len(images),
        products=len(
            {(record.merchant, record.label, record.product) for record in images.records if record.product}
        ),
        classes={label: labels[label] for label in images.classes},
        merchants=dict(sorted(owners.items())),
    )


def _alike(images: ImageSet) -> tuple[tuple[str, ...], ...]:
    owners: dict[str | None, list[Record]] = {}
    for record in images.records:
        owners.setdefault(record.merchant, []).append(record)
    return tuple(
        tuple(records[position].name for position in group)
        for records in owners.values()
        for group in near_duplicates([record.look for record in records])
    )
