"""Products as the unit of privacy: all photos of a product are sampled together, and clipped together.

A product is identified by the digests of its photos. It has a fixed number of slots in a model's inputs,
filled with its photos in the order of their digests, cyclically: every product has the same weight, and
the content of its slots depends on its own photos alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fedrec.vision.imageset import ImageSet, Record, Skipped, drop_duplicates

PRODUCT_PHOTOS: Final = 4
"""Slots of a product; of a product with more photos, only this many are used."""


class ProductSet(ImageSet):
    """An :class:`ImageSet` whose records are products; :meth:`image` gives a product's first photo.

    Attributes:
        photos: the photos of all products.
        members: for each product its positions in ``photos``, in the order of their digests.
    """

    def __init__(
        self,
        classes: Sequence[str],
        records: Sequence[Record],
        photos: ImageSet,
        members: Sequence[tuple[int, ...]],
        *,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        super().__init__(classes, records, _NoSource(), skipped=skipped)
        self.photos = photos
        self.members = tuple(members)

    def image(self, index: int) -> Image.Image:
        """Decode the first photo of product ``index``; raises ``DataError`` as a set of photos does."""
        return self.photos.image(self.members[index][0])

    def holds(self, index: int) -> bool:
        """Return whether all photos of product ``index`` are still available and unchanged."""
        return all(self.photos.holds(member) for member in self.members[index])

    def pixels(self) -> NDArray[np.uint8] | None:
        """Return None: products come from files."""
        return None

    def subset(self, indices: ArrayLike) -> ProductSet:
        """Return the products at ``indices`` (integers), in that order, sharing the photos."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1).tolist()
        return ProductSet(
            self.classes,
            [self.records[index] for index in chosen],
            self.photos,
            [self.members[index] for index in chosen],
        )

    def photo_digests(self) -> tuple[tuple[bytes, ...], ...]:
        """Return the digests of every product's photos."""
        return tuple(
            tuple(self.photos.records[member].digest for member in members) for members in self.members
        )

    def first_photos(self) -> ImageSet:
        """Return the first photo of each product."""
        return self.photos.subset([members[0] for members in self.members])

    def slots(self) -> ImageSet:
        """Return ``PRODUCT_PHOTOS`` photos for each product, a product's next to each other."""
        return self.photos.subset(
            [members[slot % len(members)] for members in self.members for slot in range(PRODUCT_PHOTOS)]
        )


class _NoSource:
    """Source without pictures: a product's pixels are those of its photos."""

    def image(self, position: int, label: str, digest: bytes) -> Image.Image:
        raise TypeError("a product's photos are read from its set of photos")

    def holds(self, position: int, label: str, digest: bytes) -> bool:
        raise TypeError("a product's photos are checked in its set of photos")


def group_by_product(photos: ImageSet) -> ProductSet:
    """Group photos by product, and drop products that are copies of another.

    Copies of a photo within a product count once. A photo in two products stays in both: leaving it out of
    one would let that product's content depend on the other. Two products of a merchant are the same if they
    have the same photos and label; the first by name stays.

    Args:
        photos: photos whose records name their products.

    Returns:
        The products.
    """
    found: dict[tuple[str | None, int, str], list[int]] = {}
    for index, record in enumerate(photos.records):
        found.setdefault((record.merchant, record.label, record.product or ""), []).append(index)
    records, members = [], []
    for (merchant, label, name), indices in found.items():
        first = {photos.records[index].digest: index for index in reversed(indices)}
        digests = sorted(first)
        content = hashlib.sha256(b"fedrec/product/1" + b"".join(digests)).digest()
        alike = photos.records[first[digests[0]]].perceptual_hash
        records.append(Record(name, label, content, merchant, alike))
        members.append(tuple(first[digest] for digest in digests))
    grouped = ProductSet(photos.classes, records, photos, members, skipped=photos.skipped)
    kept = drop_duplicates(grouped)
    return kept if isinstance(kept, ProductSet) else grouped
