"""A user's own photos, as arrays, data sets or folders, joined into the data of a simulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.errors import DataError
from fedrec.vision.datasets import open_folder
from fedrec.vision.imageset import ImageSet, Record, digest_of, drop_duplicates
from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.near_duplicates import perceptual_hashes
from fedrec.vision.partition import merchant_names
from fedrec.vision.splits import DataSplits

_CHANNELS = (1, 3)


@runtime_checkable
class MapDataset(Protocol):
    """A data set whose items are (picture, label), as torch and torchvision have them."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        """Return the picture and the label at a position."""
        ...


Labelled = tuple[Any, Any] | MapDataset | str | Path
"""Labelled photos: arrays ``(x, y)``, a map-style data set, or a folder with a folder per class."""
Merchants = Sequence[Labelled] | Mapping[str, Labelled]
"""Every merchant's photos, in order or by the merchant's name."""


def read_data(merchants: Merchants, *, test: Labelled | None, classes: Sequence[str] | None) -> DataSplits:
    """Read every merchant's photos and the test photos.

    Args:
        merchants: each merchant's photos.
        test: photos that nobody trains on; without them, a share of every merchant's is held out.
        classes: names of the labels 0, 1, ...; without them a number is its own name.

    Returns:
        The training and the test split. Exact copies within a merchant are left out.

    Raises:
        DataError: there are no photos, their form is unknown, or their labels don't fit.
    """
    if isinstance(merchants, str | Path) or _is_array(merchants):
        raise DataError(f"merchants: give the photos of each, not one {type(merchants).__name__} of all")
    if not isinstance(merchants, Mapping):
        merchants = dict(zip(merchant_names(len(merchants)), merchants, strict=True))
    if not merchants:
        raise DataError("there are no merchants: give the photos of each")
    names = None if classes is None else tuple(classes)
    parts = {
        name: _read(photos, where=f"merchant {name}", classes=names) for name, photos in merchants.items()
    }
    tested = None if test is None else _read(test, where="test", classes=names)
    known = names or _sorted({label for part in parts.values() for label in part.classes})
    train = drop_duplicates(_joined(parts, known))
    return DataSplits(train=train, test=None if tested is None else _joined({None: tested}, known))


def read_pictures(pictures: Any) -> ImageSet:
    """Read unlabelled pictures from an array or a sequence of pictures; ``DataError`` for anything else."""
    items = _pictures(pictures, where="pictures") if _is_array(pictures) else pictures
    return _of_items([(item, 0) for item in items], where="pictures", classes=("",))


def read_test(photos: Labelled, *, classes: tuple[str, ...]) -> ImageSet:
    """Read labelled photos to test a trained model on.

    Args:
        photos: labelled by number or by name.
        classes: the model's classes.

    Returns:
        The photos.

    Raises:
        DataError: the photos can't be read, or a label is none of the classes.
    """
    return _joined({None: _read(photos, where="test", classes=classes)}, classes)


def _read(photos: Labelled, *, where: str, classes: tuple[str, ...] | None) -> ImageSet:
    if isinstance(photos, str | Path):
        return open_folder(with_found_encoding(Path(photos))).train
    if isinstance(photos, tuple | list) and len(photos) == 2 and _is_array(photos[0]):
        pixels = _pictures(photos[0], where=where)
        labels = _label_names(photos[1], where=where, classes=classes)
        if len(labels) != len(pixels):
            raise DataError(f"{where}: {len(pixels)} pictures have {len(labels)} labels")
        return _of_array(pixels, labels)
    if isinstance(photos, MapDataset) and not _is_array(photos):
        found = getattr(photos, "classes", None) if classes is None else classes
        items = [photos[index] for index in range(len(photos))]
        return _of_items(items, where=where, classes=None if found is None else tuple(found))
    raise DataError(
        f"{where}: give (pictures, labels), a data set whose items are (picture, label), or a folder; "
        f"not a {type(photos).__name__}"
    )


def _of_items(items: Sequence[Any], *, where: str, classes: tuple[str, ...] | None) -> ImageSet:
    """Make a set of (picture, label) pairs; pictures of one size are stored in one array."""
    try:
        pictures = [_picture(item[0], where=where) for item in items]
        labels = _label_names([item[1] for item in items], where=where, classes=classes)
    except (TypeError, IndexError, KeyError):
        raise DataError(f"{where}: an item is not a (picture, label) pair") from None
    if len({picture.shape for picture in pictures}) == 1:
        return _of_array(np.stack(pictures), labels)
    images = tuple(Image.fromarray(np.broadcast_to(p, (*p.shape[:2], 3)).copy()) for p in pictures)
    names = _sorted(set(labels))
    numbers = {name: number for number, name in enumerate(names)}
    records = [
        Record(
            name=f"{index:06d}",
            label=numbers[label],
            digest=digest_of(image, label),
            perceptual_hash=perceptual_hashes(np.asarray(image)[None])[0],
        )
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return ImageSet(names, records, _PictureSource(images))


def _of_array(pixels: NDArray[np.uint8], labels: Sequence[str]) -> ImageSet:
    classes = _sorted(set(labels))
    numbers = {name: number for number, name in enumerate(classes)}
    return ImageSet.from_arrays(
        classes,
        pixels,
        [numbers[label] for label in labels],
        names=[f"{index:06d}" for index in range(len(pixels))],
    )


@dataclass(frozen=True)
class _PictureSource:
    """Pictures in memory, of any size."""

    pictures: tuple[Image.Image, ...]

    def image(self, position: int, label: str, digest: bytes) -> Image.Image:
        """Return the picture at ``position``."""
        return self.pictures[position]

    def holds(self, position: int, label: str, digest: bytes) -> bool:
        """Return True: pictures in memory don't change."""
        return True


@dataclass(frozen=True)
class _JoinedSource:
    """Pictures of several sets: each place is a set and a position in it."""

    places: tuple[tuple[ImageSet, int], ...]

    def image(self, position: int, label: str, digest: bytes) -> Image.Image:
        """Return the picture from its own set."""
        images, index = self.places[position]
        return images.image(index)

    def holds(self, position: int, label: str, digest: bytes) -> bool:
        """Return whether its own set still holds the picture."""
        images, index = self.places[position]
        return images.holds(index)


def _joined(parts: Mapping[str, ImageSet] | Mapping[None, ImageSet], classes: tuple[str, ...]) -> ImageSet:
    """Join the merchants' sets into one; ``DataError`` for a label that is none of the classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    records: list[Record] = []
    places: list[tuple[ImageSet, int]] = []
    for merchant, images in parts.items():
        if not len(images):
            raise DataError(f"{merchant or 'test'}: there is no photo")
        for index, record in enumerate(images.records):
            name = images.classes[record.label]
            if name not in numbers:
                raise DataError(f"{merchant or 'test'}: label {name!r} is none of the classes")
            own = replace(record, label=numbers[name], merchant=merchant)
            records.append(own if merchant is None else replace(own, name=f"{merchant}/{record.name}"))
            places.append((images, index))
    arrays = [images.pixels() for images in parts.values()]
    if len({None if array is None else array.shape[1:] for array in arrays}) == 1 and arrays[0] is not None:
        pixels = np.concatenate(cast("list[NDArray[np.uint8]]", arrays))
        return ImageSet.from_arrays(
            classes,
            pixels,
            [record.label for record in records],
            names=[record.name for record in records],
            merchants=None if None in parts else [cast("str", record.merchant) for record in records],
        )
    skipped = [skip for images in parts.values() for skip in images.skipped]
    return ImageSet(classes, records, _JoinedSource(tuple(places)), skipped=skipped)


def _is_array(value: object) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape") and not isinstance(value, Image.Image)


def _pictures(values: Any, *, where: str) -> NDArray[np.uint8]:
    """Return pictures as uint8 (n, H, W, 1 or 3)."""
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4:
        raise DataError(f"{where}: pictures are (n, H, W), (n, H, W, C) or (n, C, H, W), not {array.shape}")
    first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
    # Torch has channels first, other libraries have them last.
    if first and (hasattr(values, "detach") or not last):
        array = np.moveaxis(array, 1, 3)
    elif not last:
        raise DataError(f"{where}: pictures of shape {array.shape[1:]} have neither 1 nor 3 channels")
    return _bytes(array, where=where)


def _picture(value: Any, *, where: str) -> NDArray[np.uint8]:
    """Return one picture as uint8 (H, W, 1 or 3)."""
    if isinstance(value, Image.Image):
        return _picture(np.asarray(value.convert("L" if value.mode in ("1", "L") else "RGB")), where=where)
    if not _is_array(value):
        raise DataError(f"{where}: a picture is an array or a PIL image, not a {type(value).__name__}")
    return cast("NDArray[np.uint8]", _pictures(value[None], where=where)[0])


def _bytes(array: NDArray[Any], *, where: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{where}: pictures are uint8, or floats from 0 to 1, not {array.dtype}")
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise DataError(
            f"{where}: pictures of floats lie between 0 and 1: leave any other scaling to the model"
        )
    # Values made from 8 bits, as torchvision's ToTensor makes them, become the same 8 bits again.
    return np.ascontiguousarray(np.rint(array * 255).astype(np.uint8))


def _label_names(labels: Any, *, where: str, classes: tuple[str, ...] | None) -> list[str]:
    """Return the labels' names: a number's is that of its position in the classes, or the number itself."""
    values = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if values.ndim != 1:
        raise DataError(f"{where}: labels are one per picture, not of shape {values.shape}")
    return list(_names(values, where=where, classes=classes))


def _names(values: NDArray[Any], *, where: str, classes: tuple[str, ...] | None) -> Iterator[str]:
    for value in values.tolist():
        if isinstance(value, str):
            yield value
        elif not isinstance(value, int) or value < 0:
            raise DataError(f"{where}: a label is a number from 0 up, or a name, not {value!r}")
        elif classes is None:
            yield str(value)
        elif value >= len(classes):
            raise DataError(f"{where}: label {value} has no name: there are {len(classes)} classes")
        else:
            yield classes[value]


def _sorted(names: set[str]) -> tuple[str, ...]:
    """Return names in order, numbers by value."""
    return tuple(sorted(names, key=lambda name: (len(name), name) if name.isdigit() else (0, name)))
