"""Summary of a folder of photos, for a person to read before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrec._internal.look_alikes import easily_confused, look_alikes, shown
from fedrec._internal.text import counted, listed
from fedrec.vision.datasets import open_folder
from fedrec.vision.folders import Layout
from fedrec.vision.imageset import ImageSet, Record, Skipped, drop_duplicates
from fedrec.vision.listing.photo_places import PhotoPlace
from fedrec.vision.near_duplicates import near_duplicates
from fedrec.vision.products import ProductSet


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split.

    Attributes:
        name: "train", "validation" or "test".
        photos: number of photos.
        products: number of products; 0 without product folders.
        classes: photos by class.
        merchants: photos by merchant; empty where photos belong to nobody.
    """

    name: str
    photos: int
    products: int
    classes: dict[str, int]
    merchants: dict[str, int]


@dataclass(frozen=True)
class FolderSummary:
    """Summary of all splits of a folder.

    Attributes:
        splits: counts of each split.
        duplicates_dropped: exact copies that training leaves out.
        products_dropped: products left out because another has exactly the same photos.
        near_duplicates: names of one merchant's training photos that look alike, by group. They are kept,
            and each of them counts.
        in_several_products: names of copies of one photo in several products of a merchant, by group. Where
            the product is the unit, they are kept, and the photo counts in each.
        skipped: every photo that can't be used.
        ignored: every other entry that isn't used.
        folders: number of folders that were read.
        entries: number of all entries of the folder, or rows of a table: folders, photos and copies that are
            used, and all that is skipped or ignored.
        left_out: number of entries that are not used, by the reason.
        notes: what was decided on names and folders where it isn't plain, and what speaks against it.
        look_alikes: groups of names of classes, merchants or a class's products that people can't tell apart.
    """

    splits: tuple[SplitSummary, ...]
    duplicates_dropped: int
    products_dropped: int
    near_duplicates: tuple[tuple[str, ...], ...]
    in_several_products: tuple[tuple[str, ...], ...]
    skipped: tuple[Skipped, ...]
    ignored: tuple[Skipped, ...]
    folders: int
    entries: int
    left_out: dict[str, int]
    notes: tuple[str, ...]
    look_alikes: tuple[tuple[str, ...], ...]

    @property
    def ignored_by_reason(self) -> dict[str, tuple[str, ...]]:
        """The names of what is ignored, by the reason."""
        found: dict[str, list[str]] = {}
        for entry in self.ignored:
            found.setdefault(entry.reason, []).append(entry.name)
        return {reason: tuple(names) for reason, names in found.items()}

    @property
    def totals(self) -> str:
        """What became of all entries, in one line."""
        used = self.entries - self.folders - len(self.skipped) - len(self.ignored)
        return (
            f"{counted(self.entries, 'entry', plural='entries')} in all: {counted(used, 'photo')}, "
            f"{counted(self.folders, 'folder')}, {len(self.skipped):,} skipped, {len(self.ignored):,} ignored"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Names that a training would refuse, in one line each."""
        return tuple(
            f"these names look alike: {', '.join(map(shown, group))}; a training refuses classes like that: "
            "give them names that differ, or one name if they are the same"
            for group in self.look_alikes
        )


def inspect(
    folder: Path | PhotoPlace, *, layout: Layout = "class", one_merchant: bool = False
) -> FolderSummary:
    """Read every photo below a folder as a training would.

    Args:
        folder: the folder, or a CSV file.
        layout: "class", or "product" where each class holds a folder per product.
        one_merchant: all photos belong to one merchant.

    Returns:
        The summary. :func:`open_folder` raises what can't be read.
    """
    splits = open_folder(
        folder,
        layout=layout,
        unit="product" if layout == "product" else "record",
        one_merchant=one_merchant,
    )
    loaded = [
        (name, images)
        for name, images in (
            ("train", splits.train),
            ("validation", splits.validation),
            ("test", splits.test),
        )
        if images is not None
    ]
    train = _photos(splits.train)
    distinct = drop_duplicates(train)
    skipped = tuple(skip for _, images in loaded for skip in images.skipped)
    ignored = splits.account.unread
    read = sum(len(photos) + len(photos.dropped) for photos in (_photos(images) for _, images in loaded))
    products_dropped = splits.train.duplicates_dropped if isinstance(splits.train, ProductSet) else 0
    return FolderSummary(
        splits=tuple(
            _summary(name, images, distinct if name == "train" else _photos(images))
            for name, images in loaded
        ),
        duplicates_dropped=distinct.duplicates_dropped,
        products_dropped=products_dropped,
        near_duplicates=_alike(distinct),
        in_several_products=_shared(train),
        skipped=skipped,
        ignored=ignored,
        folders=splits.account.folders,
        entries=splits.account.folders + read + len(skipped) + len(ignored),
        left_out=dict(Counter(skip.reason for skip in (*skipped, *ignored)).most_common()),
        notes=(*splits.account.notes, *splits.account.doubts, *_trained_on(loaded), *_confused(splits.train)),
        look_alikes=_look_alikes([_photos(images) for _, images in loaded]),
    )


def _trained_on(loaded: Sequence[tuple[str, ImageSet]]) -> list[str]:
    """Say how many photos of the other splits are in the training split, too."""
    parts = {name: {record.digest for record in _photos(images).records} for name, images in loaded}
    shared = {name: len(digests & parts["train"]) for name, digests in parts.items() if name != "train"}
    return [
        f"{counted(count, 'photo')} of the {name} split {'is' if count == 1 else 'are'} in train, too: a run "
        "measures without them"
        for name, count in shared.items()
        if count
    ]


def _confused(images: ImageSet) -> list[str]:
    groups = [" and ".join(map(shown, names)) for names in easily_confused(images.classes)]
    if not groups:
        return []
    return [f"people may take these classes for each other, and they are used as they are: {listed(groups)}"]


def _look_alikes(parts: Sequence[ImageSet]) -> tuple[tuple[str, ...], ...]:
    groups = look_alikes(name for images in parts for name in images.classes)
    records = [record for images in parts for record in images.records]
    groups += look_alikes(record.merchant for record in records if record.merchant is not None)
    products: dict[tuple[str | None, int], set[str]] = {}
    for record in records:
        if record.product is not None:
            products.setdefault((record.merchant, record.label), set()).add(record.product)
    for names in products.values():
        groups += look_alikes(names)
    return tuple(groups)


def _photos(images: ImageSet) -> ImageSet:
    return images.photos if isinstance(images, ProductSet) else images


def _summary(name: str, images: ImageSet, photos: ImageSet) -> SplitSummary:
    labels = Counter(photos.classes[record.label] for record in photos.records)
    owners = Counter(record.merchant for record in photos.records if record.merchant)
    return SplitSummary(
        name=name,
        photos=len(photos),
        products=len(images) if isinstance(images, ProductSet) else 0,
        classes={label: labels[label] for label in photos.classes},
        merchants=dict(sorted(owners.items())),
    )


def _alike(images: ImageSet) -> tuple[tuple[str, ...], ...]:
    owners: dict[str | None, list[Record]] = {}
    for record in images.records:
        owners.setdefault(record.merchant, []).append(record)
    return tuple(
        tuple(records[position].name for position in group)
        for records in owners.values()
        for group in near_duplicates([record.perceptual_hash for record in records])
    )


def _shared(photos: ImageSet) -> tuple[tuple[str, ...], ...]:
    copies: dict[tuple[str | None, bytes], list[Record]] = {}
    for record in photos.records:
        if record.product is not None:
            copies.setdefault((record.merchant, record.digest), []).append(record)
    return tuple(
        tuple(record.name for record in group)
        for group in copies.values()
        if len({record.product for record in group}) > 1
    )
