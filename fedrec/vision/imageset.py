"""Labelled photos that are decoded on use and identified by a digest of their content."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fedrec.errors import DataError
from fedrec.vision.decoding import decode
from fedrec.vision.near_duplicates import perceptual_hashes


@dataclass(frozen=True)
class Record:
    """One photo of a data set.

    Attributes:
        name: path below the data's folder, or a number where there are no files.
        label: position of its class in the set's ``classes``.
        digest: SHA-256 of its decoded pixels and its label's name (:func:`digest_of`).
        merchant: who holds it; None where photos belong to nobody.
        perceptual_hash: 32 bytes of :mod:`fedrec.vision.near_duplicates`.
        product: name of the product that it shows, where the folders name one.
    """

    name: str
    label: int
    digest: bytes
    merchant: str | None = None
    perceptual_hash: bytes = b""
    product: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be used, and why, in one line."""

    name: str
    reason: str
    merchant: str | None = None


class ImageSource(Protocol):
    """Where the pixels of an :class:`ImageSet` come from, by position."""

    def image(self, position: int, label: str, digest: bytes) -> Image.Image:
        """Return the picture at a position.

        Args:
            position: position in the source.
            label: name of its class.
            digest: its digest, as :func:`digest_of` gives it.

        Returns:
            The picture, mode RGB.
        """
        ...

    def holds(self, position: int, label: str, digest: bytes) -> bool:
        """Return whether the picture at a position is still available and unchanged.

        Args:
            position: position in the source.
            label: name of its class.
            digest: the digest that it must have.

        Returns:
            False for one that is missing, unreadable or changed.
        """
        ...


Stamp = tuple[int, ...]
"""File metadata that changes whenever the file is written or replaced."""


def stamp_of(path: Path) -> Stamp | None:
    """Return a file's stamp; None where its metadata can't be read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_dev, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass(frozen=True)
class FileSource:
    """Pictures on disk, decoded on every use.

    Attributes:
        paths: the files, by position.
        stamps: stamps of the files by position, taken just before their digests; None where unknown.
    """

    paths: tuple[Path, ...]
    stamps: dict[int, Stamp | None] = field(default_factory=dict, compare=False)

    def image(self, position: int, label: str, digest: bytes) -> Image.Image:
        """Decode the picture, and check that its content still has this digest.

        Args:
            position: position in ``paths``.
            label: name of its class.
            digest: the digest that it must have.

        Returns:
            The picture, mode RGB.

        Raises:
            DataError: the file can't be decoded, or its content has changed.
        """
        path = self.paths[position]
        try:
            decoded = decode(path)
        except DataError as error:
            raise DataError(
                f"{path} can no longer be decoded ({error}): put it back or start again"
            ) from error
        # Splits and duplicates were decided by the content at loading, so it must not change.
        if digest_of(decoded, label) != digest:
            raise DataError(f"{path} has changed since it was loaded: put it back or start again")
        return decoded

    def holds(self, position: int, label: str, digest: bytes) -> bool:
        """Return whether the file is readable and unchanged; one whose stamp is the same isn't read again.

        Args:
            position: position in ``paths``.
            label: name of its class.
            digest: the digest that it must have.

        Returns:
            False for one that is missing, unreadable or changed.
        """
        stamp = stamp_of(self.paths[position])
        if stamp is None:
            return False
        if stamp != self.stamps.get(position):
            try:
                self.image(position, label, digest)
            except DataError:
                return False
            self.stamps[position] = stamp
        return True


@dataclass(frozen=True)
class ArraySource:
    """Pictures in memory, uint8 (n, H, W, 1 or 3)."""

    pixels: NDArray[np.uint8]

    def image(self, position: int, label: str, digest: bytes) -> Image.Image:
        """Return the pixels as an RGB picture.

        Args:
            position: position in ``pixels``.
            label: unused: memory doesn't change.
            digest: unused, too.

        Returns:
            The picture, mode RGB.
        """
        return Image.fromarray(_rgb(self.pixels[position]))

    def holds(self, position: int, label: str, digest: bytes) -> bool:
        """Return True: pictures in memory don't change.

        Args:
            position: unused.
            label: unused.
            digest: unused.

        Returns:
            True.
        """
        return True


class ImageSet:
    """Labelled photos with lazily decoded pixels.

    Attributes:
        classes: label names; a record's ``label`` is a position in it.
        records: one per photo, in a fixed order.
        labels: (n,) int64.
        skipped: pictures that could not be used. A subset carries none.
        dropped: the records of exact copies that were left out. A subset carries none.
    """

    def __init__(
        self,
        classes: Sequence[str],
        records: Sequence[Record],
        source: ImageSource,
        *,
        positions: NDArray[np.int64] | None = None,
        skipped: Sequence[Skipped] = (),
        dropped: Sequence[Record] = (),
    ) -> None:
        self.classes = tuple(classes)
        self.records = tuple(records)
        self.skipped = tuple(skipped)
        self.dropped = tuple(dropped)
        self.labels: NDArray[np.int64] = np.array([record.label for record in self.records], dtype=np.int64)
        self.labels.setflags(write=False)
        self._source = source
        self._positions = np.arange(len(self.records)) if positions is None else positions

    @classmethod
    def from_arrays(
        cls,
        classes: Sequence[str],
        pixels: NDArray[np.uint8],
        labels: ArrayLike,
        *,
        names: Sequence[str],
        merchants: Sequence[str] | None = None,
    ) -> ImageSet:
        """Make a set of photos held in memory.

        Args:
            classes: k class names.
            pixels: uint8 (n, H, W, 1 or 3).
            labels: (n,) integers in 0 to k - 1.
            names: n names of the photos.
            merchants: n names of merchants; None where photos belong to nobody.

        Returns:
            The set.

        Raises:
            DataError: shapes, types or labels don't fit each other.
        """
        numbers = np.asarray(labels, dtype=np.int64)
        count = len(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
            raise DataError(
                f"pixels are {pixels.dtype} {pixels.shape}: give uint8 of shape (n, H, W, 1 or 3)"
            )
        if numbers.shape != (count,) or len(names) != count or (merchants and len(merchants) != count):
            raise DataError(f"{count} pictures need as many labels, names and merchants")
        if count and not 0 <= numbers.min() <= numbers.max() < len(classes):
            raise DataError(f"labels must lie in 0 to {len(classes) - 1}, the classes given")
        suffixes = [name.encode("utf-8") for name in classes]
        head = _digest_head(pixels.shape[2], pixels.shape[1])
        hashes = perceptual_hashes(pixels)
        records = []
        for index, label in enumerate(numbers.tolist()):
            content = head + _rgb(pixels[index]).tobytes() + suffixes[label]
            merchant = merchants[index] if merchants else None
            digest = hashlib.sha256(content).digest()
            records.append(Record(names[index], label, digest, merchant, hashes[index]))
        return cls(classes, records, ArraySource(pixels))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def duplicates_dropped(self) -> int:
        """How many exact copies were left out."""
        return len(self.dropped)

    def image(self, index: int) -> Image.Image:
        """Decode one photo as 8-bit RGB.

        Args:
            index: position in the set.

        Returns:
            The picture.

        Raises:
            DataError: its file is missing, broken, or holds other pixels than when it was loaded.
        """
        record = self.records[index]
        return self._source.image(int(self._positions[index]), self.classes[record.label], record.digest)

    def holds(self, index: int) -> bool:
        """Return whether record ``index`` is still readable and has the content that was loaded."""
        record = self.records[index]
        return self._source.holds(int(self._positions[index]), self.classes[record.label], record.digest)

    def pixels(self) -> NDArray[np.uint8] | None:
        """Return all photos as uint8 (n, H, W, 1 or 3) if they are held in memory, else None."""
        return self._source.pixels[self._positions] if isinstance(self._source, ArraySource) else None

    def subset(self, indices: ArrayLike) -> ImageSet:
        """Return the photos at ``indices`` (integers), in that order, sharing the pixels."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        records = [self.records[index] for index in chosen.tolist()]
        return ImageSet(self.classes, records, self._source, positions=self._positions[chosen])

    def of_classes(self, classes: Sequence[str]) -> ImageSet:
        """Return the photos of these classes, labelled by position in them; the others count as skipped."""
        numbers = {name: number for number, name in enumerate(classes)}
        kept: list[int] = []
        records: list[Record] = []
        skipped = list(self.skipped)
        for index, record in enumerate(self.records):
            name = self.classes[record.label]
            if name in numbers:
                kept.append(index)
                records.append(replace(record, label=numbers[name]))
            else:
                reason = f"class {name} is not one of this training's"
                skipped.append(Skipped(record.name, reason, record.merchant))
        return ImageSet(classes, records, self._source, positions=self._positions[kept], skipped=skipped)


def _digest_head(width: int, height: int) -> bytes:
    return struct.pack(">II", width, height)


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def digest_of(image: Image.Image, label: str) -> bytes:
    """Return the SHA-256 of a picture's content and label.

    Args:
        image: the picture, mode RGB.
        label: name of its class.

    Returns:
        32 bytes: the hash of width and height (32 bits each, big-endian), RGB bytes, and the label's name.
    """
    content = hashlib.sha256(_digest_head(image.width, image.height))
    content.update(image.tobytes())
    content.update(label.encode("utf-8"))
    return content.digest()


def hash_of_digests(digests: Sequence[bytes]) -> bytes:
    """Return the SHA-256 over sorted digests: it depends on photos and labels, not on names and order."""
    return hashlib.sha256(b"".join(sorted(digests))).digest()


def exclude_digests(images: ImageSet, leave_out: Callable[[bytes], bool]) -> ImageSet:
    """Return a set without some of its photos, which count as skipped.

    Args:
        images: the set.
        leave_out: tells for a digest whether its photos are left out.

    Returns:
        The rest of the set.
    """
    kept: list[int] = []
    skipped = list(images.skipped)
    for index, record in enumerate(images.records):
        if leave_out(record.digest):
            skipped.append(Skipped(record.name, "forgotten by the merchant's own command", record.merchant))
        else:
            kept.append(index)
    result = images.subset(kept)
    result.skipped = tuple(skipped)
    return result


def drop_duplicates(images: ImageSet) -> ImageSet:
    """Keep the first record of each digest and merchant; the others go to ``dropped``."""
    seen: set[tuple[str | None, bytes]] = set()
    kept: list[int] = []
    for index, record in enumerate(images.records):
        key = (record.merchant, record.digest)
        if key not in seen:
            seen.add(key)
            kept.append(index)
    result = images.subset(kept)
    result.skipped = images.skipped
    left_out = set(range(len(images))) - set(kept)
    result.dropped = (*images.dropped, *(images.records[index] for index in sorted(left_out)))
    return result
