"""Features of frozen networks, computed once per photo.

Features agree between machines and numbers of threads up to the rounding of the cache (11 bits), not bit for
bit; the cache returns the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fedrec.errors import ConfigError
from fedrec.vision.feature_batches import features_in_batches
from fedrec.vision.feature_cache import (
    DIGEST_BYTES,
    Entries,
    FeatureExtractor,
    add_entries,
    cache_file,
    read_entries,
)
from fedrec.vision.mapped_matrix import mapped_matrix
from fedrec.vision.transforms import augmented_views

Progress = Callable[[int, int], None]
MAPPED_BYTES = 1 << 26
"""Matrices from this size on are mapped from disk, such as the tokens of some hundred photos."""

_SAVING_PERIOD, _SAVING_SHARE = 60.0, 20.0
"""The least number of seconds between two savings, and the least multiple of the time that one takes."""
_UNSAVED_BYTES = 1 << 28
"""Features that wait for a saving at most: all others are mapped from disk."""


@dataclass(frozen=True)
class _Missing:
    """A photo that lacks features.

    Attributes:
        digest: of the photo.
        index: a position that it is at.
        lacking: numbers of the extractors whose features are missing.
    """

    digest: bytes
    index: int
    lacking: tuple[int, ...]


def feature_matrices(
    extractors: Sequence[FeatureExtractor],
    images: Callable[[int], Image.Image],
    digests: Sequence[bytes],
    *,
    views: int = 1,
    cache_dir: Path | None,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[NDArray[np.float16]]:
    """Look features up in the cache, and compute those that are missing.

    A photo is decoded once for all extractors.

    Args:
        extractors: the frozen networks with their preparation.
        images: returns photo i as RGB; called only for missing photos, from ``workers`` threads.
        digests: n digests of 32 bytes; photos with the same digest are computed once.
        views: augmented views per photo; the first is the photo itself.
        cache_dir: folder of the cache; None for no cache. A damaged file is computed afresh; a failed write
            is a warning in the log only.
        workers: batches that are decoded, prepared and computed at the same time.
        progress: called as (computed, missing) after each batch, and once as (0, missing) before.

    Returns:
        float16 (n, views, dimension) for each extractor. A large one is mapped from a file without a name,
        which ends with it, instead of taking memory.

    Raises:
        ConfigError: ``views`` or ``workers`` is below 1, or a digest doesn't have 32 bytes.
        DataError: ``images`` raised it for an unreadable photo; the features computed so far are cached.
        OperatingSystemError: there is no room on the disk for a mapped matrix.
    """
    if views < 1 or workers < 1:
        raise ConfigError(f"features need 1 view and 1 worker or more, not {views} and {workers}")
    if any(len(digest) != DIGEST_BYTES for digest in digests):
        raise ConfigError(f"features are kept by digests of {DIGEST_BYTES} bytes, and one has another length")
    shapes = [(views, extractor.dimension) for extractor in extractors]
    paths = [
        None if cache_dir is None else cache_file(extractor, views=views, cache_dir=cache_dir)
        for extractor in extractors
    ]
    known = [
        {} if path is None else read_entries(path, shape=shape)
        for path, shape in zip(paths, shapes, strict=True)
    ]
    missing = _missing(digests, known)
    if missing:
        fresh: list[Entries] = [{} for _ in extractors]

        def save() -> None:
            for number, (path, entries, shape) in enumerate(zip(paths, fresh, shapes, strict=True)):
                if path is not None and entries:
                    known[number] |= add_entries(path, entries, shape=shape)
                else:
                    known[number] |= entries
                entries.clear()

        saving = _Saving(save)
        bytes_of = [2 * rows * length for rows, length in shapes]

        def after(done: int, of: int) -> None:
            waiting = sum(len(entries) * size for entries, size in zip(fresh, bytes_of, strict=True))
            saving.now_and_then(waiting)
            if progress is not None:
                progress(done, of)

        try:
            _compute(extractors, images, missing, fresh, views=views, workers=workers, progress=after)
        finally:
            # Also after an interruption: computing it took a while.
            save()
    found = []
    for entries, shape in zip(known, shapes, strict=True):
        rows = (entries[digest] for digest in digests)
        if 2 * len(digests) * shape[0] * shape[1] >= MAPPED_BYTES:
            found.append(mapped_matrix(rows, shape=(len(digests), *shape), folder=cache_dir))
            continue
        matrix = np.empty((len(digests), *shape), dtype=np.float16)
        for index, row in enumerate(rows):
            matrix[index] = row
        found.append(matrix)
    return found


@dataclass
class _Saving:
    """Saves what was computed, so often that a process that is killed loses little of it.

    A file is written anew each time, so the time between two savings grows with what one takes.
    """

    save: Callable[[], None]
    last: float = field(default_factory=time.monotonic)
    took: float = 0.0

    def now_and_then(self, waiting: int) -> None:
        """Save if the last time was long ago, or if so many bytes are waiting that memory counts."""
        before = time.monotonic()
        due = before - self.last >= max(_SAVING_PERIOD, _SAVING_SHARE * self.took)
        if due or waiting >= _UNSAVED_BYTES:
            self.save()
            self.last = time.monotonic()
            self.took = self.last - before


def _missing(digests: Sequence[bytes], known: Sequence[Entries]) -> list[_Missing]:
    """List each photo that an extractor has no features of, once."""
    first: dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        first.setdefault(digest, index)
    found = (
        _Missing(digest, index, tuple(i for i, entries in enumerate(known) if digest not in entries))
        for digest, index in first.items()
    )
    return [photo for photo in found if photo.lacking]


def _compute(
    extractors: Sequence[FeatureExtractor],
    images: Callable[[int], Image.Image],
    missing: list[_Missing],
    fresh: list[Entries],
    *,
    views: int,
    workers: int,
    progress: Progress,
) -> None:
    """Fill ``fresh`` with the missing features, batch by batch."""

    def compute(chunk: list[_Missing]) -> dict[int, NDArray[np.float16]]:
        pictures: dict[int, list[NDArray[np.uint8]]] = {}
        for photo in chunk:
            image = images(photo.index)
            for number in photo.lacking:
                picture = extractors[number].prepare(image)
                varied = augmented_views(picture[None], views=views, seeds=[photo.digest])[0]
                pictures.setdefault(number, []).append(varied)
        return {
            number: features_in_batches(extractors[number], np.stack(rows))
            for number, rows in pictures.items()
        }

    done = 0
    progress(0, len(missing))
    threads = torch.get_num_threads()
    # One thread per batch and several batches at once: a small network gains little from more threads each,
    # and loading it nothing.
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="features")
    try:
        size = max(extractors[number].batch for photo in missing for number in photo.lacking)
        chunks = [missing[start : start + size] for start in range(0, len(missing), size)]
        for chunk, computed in zip(chunks, pool.map(compute, chunks), strict=True):
            rows = {number: iter(matrix) for number, matrix in computed.items()}
            for photo in chunk:
                for number in photo.lacking:
                    fresh[number][photo.digest] = next(rows[number])
            done += len(chunk)
            progress(done, len(missing))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)
