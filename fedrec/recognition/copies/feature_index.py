"""Find photos that share many local features with a photo, without comparing each: by hashes of features.

Locality-sensitive hashing: a descriptor's code says on which side of 16 random planes it lies. Features that
look alike often have one code, and a photo's features vote for the photos that have features of the same
codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.copies.local_features import MOST_FEATURES, LocalFeatures, rooted

_TABLES: Final = 4
_BITS: Final = 16
_SEED: Final = 1
_MOST_ENTRIES: Final = 16_000_000
"""Of each table, 6 bytes each: of a larger collection, fewer features of each photo are indexed."""
_SAMPLE: Final = 200
_COMMON: Final = 64
"""A code that is so many times as frequent as the mean says nothing."""


class FeatureIndex:
    """Codes of the features of all photos, in order.

    Args:
        collection: descriptors of each photo, uint8 (n, 128).
        photos: number of photos.
    """

    def __init__(self, collection: Iterable[NDArray[np.uint8]], *, photos: int) -> None:
        self._photos = photos
        most = min(MOST_FEATURES, max(1, _MOST_ENTRIES // max(1, photos)))
        remaining = iter(collection)
        sample = list(islice(remaining, _SAMPLE))
        planes = np.random.default_rng(_SEED).normal(size=(128, _TABLES * _BITS))
        self._planes = planes.astype(np.float32)
        known = np.concatenate([*sample, np.zeros((1, 128), np.uint8)])
        self._offsets = rooted(known).mean(axis=0) @ self._planes
        codes = [self._codes(descriptors[:most]) for descriptors in chain(sample, remaining)]
        owners = np.repeat(np.arange(len(codes), dtype=np.int32), [len(rows) for rows in codes])
        stacked = np.concatenate([*codes, np.zeros((0, _TABLES), np.uint16)])
        orders = [np.argsort(column, kind="stable") for column in stacked.T]
        self._tables = [
            (column[order], owners[order]) for column, order in zip(stacked.T, orders, strict=True)
        ]
        self._usual = 1 + len(stacked) / (1 << _BITS)

    def votes(self, features: LocalFeatures) -> NDArray[np.float64]:
        """Count the votes of a photo's features, and of its mirror image's.

        Args:
            features: of the photo.

        Returns:
            float64 (photos); a vote for one of few counts more than for one of many.
        """
        both = [features.descriptors, features.mirrored().descriptors]
        asked = np.concatenate([self._codes(descriptors) for descriptors in both])
        total = np.zeros(self._photos)
        for (codes, owners), column in zip(self._tables, asked.T, strict=True):
            start = np.searchsorted(codes, column, side="left")
            counts = np.searchsorted(codes, column, side="right") - start
            telling = (counts > 0) & (counts < _COMMON * self._usual)
            start, counts = start[telling], counts[telling]
            before = np.cumsum(counts) - counts
            places = np.repeat(start - before, counts) + np.arange(counts.sum())
            weights = np.repeat(1 / (1 + counts / (4 * self._usual)), counts)
            total += np.bincount(owners[places], weights=weights, minlength=self._photos)
        return total

    def _codes(self, descriptors: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Return uint16 (n, tables)."""
        sides = (rooted(descriptors) @ self._planes > self._offsets).reshape(-1, _TABLES, _BITS)
        codes: NDArray[np.uint16] = (sides @ (1 << np.arange(_BITS))).astype(np.uint16)
        return codes
