"""Labelled photos from a folder of pictures, or from a data set of torchvision."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from fedrec._internal.text import counted
from fedrec._internal.text import listed as shorten
from fedrec.errors import ConfigError, DataError
from fedrec.protocol.plan import Unit
from fedrec.vision.decoding import decode
from fedrec.vision.folders import Layout
from fedrec.vision.imageset import (
    FileSource,
    ImageSet,
    Record,
    Skipped,
    Stamp,
    digest_of,
    drop_duplicates,
    exclude_digests,
    stamp_of,
)
from fedrec.vision.listing.doubtful_names import classes_in_names, doubtful_classes
from fedrec.vision.listing.folder_tree import LeftOut
from fedrec.vision.listing.photo_listing import DEEPER, PhotoListing, Picture
from fedrec.vision.listing.photo_places import PhotoPlace, list_photos
from fedrec.vision.listing.photo_table import is_table
from fedrec.vision.listing.table_paths import HOSTILE
from fedrec.vision.near_duplicates import perceptual_hashes
from fedrec.vision.products import group_by_product
from fedrec.vision.splits import DataSplits, FolderAccount, ResolvedSplits, resolve_splits

__all__ = [
    "TORCHVISION_DATASETS",
    "DataSplits",
    "ImageSet",
    "Record",
    "ResolvedSplits",
    "Skipped",
    "decode",
    "digest_of",
    "drop_duplicates",
    "open_folder",
    "open_torchvision",
    "resolve_splits",
]

TORCHVISION_DATASETS: Final = {"fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}
"""Maps names on the command line to classes in ``torchvision.datasets``."""
_DECODING_THREADS: Final = 2
_PIECE: Final = 1000


def open_folder(
    path: Path | PhotoPlace,
    *,
    classes: Sequence[str] | None = None,
    layout: Layout = "class",
    unit: Unit = "record",
    leave_out: Callable[[bytes], bool] = lambda digest: False,
    may_be_empty: bool = False,
    one_merchant: bool = False,
) -> DataSplits:
    """Load a folder of photos.

    ``path`` holds split folders (``train``, ``validation`` and ``test``, in any usual spelling), or is itself
    the training split. A split is ``CLASS/picture`` or ``MERCHANT/CLASS/picture``: see
    :func:`fedrec.vision.listing.photo_listing.list_folder`. It may also be a CSV file:
    :func:`fedrec.vision.listing.photo_table.list_table`. Files stay on disk and are decoded again on use.

    Args:
        path: the folder, or the CSV file.
        classes: class names in label order, as a training's plan gives them. Pictures of other classes are
            then skipped, after they were read for ``held``, and the folder may hold one class only. None for
            the sorted union of the classes in all splits.
        layout: "class", or "product" where each class holds a folder per product.
        unit: "record", or "product" to return :class:`fedrec.vision.products.ProductSet` splits.
        leave_out: tells for a photo's digest whether the photo is skipped.
        may_be_empty: accept a folder without pictures, or with one class only.
        one_merchant: all photos belong to one merchant: only ``CLASS/picture`` is read, and may be of one
            class, unless it is called like none.

    Returns:
        The splits. Exact copies in the training split are dropped; the first by name stays.

    Raises:
        ConfigError: ``unit`` is "product" and ``layout`` isn't.
        DataError: the place is missing, or has no training split; or, unless ``may_be_empty``, it holds no
            readable picture or, of several merchants, one class only, or a table's path leads out of its
            folder.
    """
    if unit == "product" and layout != "product":
        raise ConfigError("the unit is the product, but the photos lie in no folders of products")
    listed = list_photos(path, layout=layout, one_merchant=one_merchant)
    root = path.path if isinstance(path, PhotoPlace) else path
    if not may_be_empty:
        _check_listing(root, listed, layout=layout)
    found = sorted({picture.label for picture in listed.pictures})
    names = tuple(found if classes is None else classes)
    held: tuple[bytes, ...] = ()
    loaded: dict[str, ImageSet] = {}
    for name, listing in listed.splits.items():
        unusable = [
            _skipped(listed, file.entry, file.merchant) for file in listing.unusable if file.entry.photo
        ]
        if name == "train":
            unusable += [_skipped(listed, entry) for entry in listed.left_out if entry.photo]
        photos = exclude_digests(_load(listed, tuple(found), listing.pictures, unusable), leave_out)
        if name == "train":
            units = group_by_product(photos) if unit == "product" else drop_duplicates(photos)
            held = tuple(record.digest for record in units.records)
        if classes is not None:
            photos = photos.of_classes(names)
        loaded[name] = group_by_product(photos) if unit == "product" else photos
    train = loaded["train"] if unit == "product" else drop_duplicates(loaded["train"])
    if not len(train) and not may_be_empty:
        first = train.skipped[0]
        raise DataError(f"{root} holds no usable pictures, e.g. {first.name}: {first.reason}")
    doubts = listed.doubts
    if classes is None and not may_be_empty and len(np.unique(train.labels)) < 2:
        label = names[train.records[0].label]
        only = f"{label}){_where_classes(listed)}"
        if not one_merchant or doubtful_classes([label]):
            raise DataError(
                f"{root} holds readable pictures of one class only ({only}: add another class"
                f"{_example(train.skipped)}"
            )
        doubts = (*doubts, f"all photos are of one class only ({only}; if they show several, tell them apart")
    # A split whose folder is empty counts as absent.
    rest = {name: images if len(images) or images.skipped else None for name, images in loaded.items()}
    account = FolderAccount(
        folders=listed.folders,
        unread=tuple(
            _skipped(listed, file.entry, file.merchant) for file in listed.unused if not file.entry.photo
        ),
        notes=listed.notes,
        doubts=doubts,
    )
    return DataSplits(train, rest.get("validation"), rest.get("test"), held, account=account)


def _check_listing(root: Path, listed: PhotoListing, *, layout: Layout) -> None:
    """Raise ``DataError`` if there is nothing to train on, or a table asks for files elsewhere."""
    for file in listed.unused:
        if HOSTILE in file.entry.reason:
            raise DataError(
                f"{listed.shown(file.entry.path)}: {file.entry.reason}, so {root} is not read: put the table "
                "above its photos, with paths that start from its own folder"
            )
    if listed.splits["train"].pictures:
        return
    where = "one folder per class" if layout == "class" else "class folders with a folder per product"
    first = next(
        iter(file.entry for file in listed.splits["train"].unusable if file.entry.photo),
        next((entry for entry in listed.left_out if entry.photo), None),
    )
    shown = "" if first is None else f" (e.g. {listed.shown(first.path)}: {first.reason})"
    if first is not None and first.reason.startswith(DEEPER):
        where += f"; give the folder that holds these{'' if layout == 'product' else ', or --layout product'}"
    if is_table(root):
        raise DataError(f"{root} holds no pictures: no row to train on names one that can be used{shown}")
    told = [*listed.doubts, *classes_in_names(path.name for path in _outside(listed))]
    more = f". {shorten(told, most=2)}" if told else ""
    raise DataError(f"{root} holds no pictures: put them in {where}{shown}{more}")


def _outside(listed: PhotoListing) -> list[Path]:
    """Return the photos that lie in no folder."""
    return [
        file.entry.path
        for file in listed.unused
        if file.entry.photo and file.entry.path.parent == listed.root
    ]


def _example(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return ""
    photos = counted(len(skipped), "photo is", plural="photos are")
    return f" ({photos} not used, e.g. {skipped[0].name}: {skipped[0].reason})"


def _where_classes(listed: PhotoListing) -> str:
    """Say where classes were looked for, in words that follow the only one that was found."""
    if listed.folders == 0:
        return ""
    merchants = sorted({picture.merchant for picture in listed.pictures if picture.merchant is not None})
    taken = (
        f"; {shorten(merchants, most=3)} are taken for merchants (if they are classes, move their photos up)"
        if merchants
        else ""
    )
    paths = (file.entry.path for file in listed.unused)
    tables = sorted({path.name for path in paths if path.suffix.lower() in (".csv", ".tsv")})
    other = f"; {shorten(tables, most=3)} can be given in place of the folder" if tables else ""
    return f", by the names of the folders that photos lie in{taken}{other}"


def _skipped(listed: PhotoListing, entry: LeftOut, merchant: str | None = None) -> Skipped:
    return Skipped(listed.shown(entry.path), entry.reason, merchant)


def _load(
    listed: PhotoListing, classes: tuple[str, ...], pictures: Sequence[Picture], skipped: list[Skipped]
) -> ImageSet:
    numbers = {name: number for number, name in enumerate(classes)}

    def read(picture: Picture) -> tuple[Record, Stamp | None] | Skipped:
        name = listed.shown(picture.path)
        # Taken before reading: a change during reading then shows at the next check.
        stamp = stamp_of(picture.path)
        try:
            image = decode(picture.path)
        except DataError as error:
            return Skipped(name, str(error), picture.merchant)
        alike = perceptual_hashes(np.asarray(image)[None])[0]
        digest = digest_of(image, picture.label)
        return Record(name, numbers[picture.label], digest, picture.merchant, alike, picture.product), stamp

    records: list[Record] = []
    paths: list[Path] = []
    stamps: dict[int, Stamp | None] = {}
    with warnings.catch_warnings(), ThreadPoolExecutor(_DECODING_THREADS) as pool:
        # Pillow warns about odd metadata and large pictures; the limit on pixels is our own.
        warnings.simplefilter("ignore")
        # In pieces, so that not every photo has a task in memory at once.
        for start in range(0, len(pictures), _PIECE):
            piece = pictures[start : start + _PIECE]
            for picture, result in zip(piece, pool.map(read, piece), strict=True):
                if isinstance(result, Skipped):
                    skipped.append(result)
                    continue
                record, stamps[len(paths)] = result
                records.append(record)
                paths.append(picture.path)
    return ImageSet(classes, records, FileSource(tuple(paths), stamps), skipped=skipped)


def open_torchvision(name: str, root: Path, *, download: bool = True) -> DataSplits:
    """Load a torchvision data set from torchvision's layout below ``root``.

    Args:
        name: ``fashion-mnist`` or ``cifar10``.
        root: folder that torchvision keeps it in.
        download: download the files that are absent.

    Returns:
        The splits: exact copies in the training split are dropped, the test split is torchvision's, and there
        is no validation split.

    Raises:
        ConfigError: the name is unknown.
        DataError: the data set is absent and cannot be downloaded, or cannot be read.
    """
    if name not in TORCHVISION_DATASETS:
        known = ", ".join(sorted(TORCHVISION_DATASETS))
        raise ConfigError(f"there is no data set called {name}: choose one of {known}")
    train = _torchvision_split(name, Path(root), train=True, download=download)
    test = _torchvision_split(name, Path(root), train=False, download=download)
    return DataSplits(drop_duplicates(train), None, test)


def _torchvision_split(name: str, root: Path, *, train: bool, download: bool) -> ImageSet:
    maker = getattr(importlib.import_module("torchvision.datasets"), TORCHVISION_DATASETS[name])
    try:
        data = maker(root=str(root), train=train, download=False)
    # An absent or damaged data set shows as RuntimeError, OSError, ValueError, EOFError and others.
    except Exception as absent:
        if not download:
            raise DataError(f"{name} cannot be read below {root} ({_line(absent)}): put it there") from absent
        try:
            data = maker(root=str(root), train=train, download=True)
        except Exception as error:
            raise DataError(
                f"{name} is not below {root} and could not be downloaded ({_line(error)}): put it there"
            ) from error
    pixels = np.asarray(data.data, dtype=np.uint8)
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    split = "train" if train else "test"
    names = [f"{split}/{index:05d}" for index in range(len(pixels))]
    return ImageSet.from_arrays(data.classes, pixels, np.asarray(data.targets), names=names)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
