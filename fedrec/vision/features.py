"""Features of frozen networks, computed once per photo.

Features agree between machines and numbers of threads up to the rounding of the cache (11 bits), not bit for
bit; the cache returns the same bits. Every batch that a network sees has one fixed size, so that a photo's
features don't change with the number of other photos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fedrec.errors import ConfigError
from fedrec.vision.feature_cache import (
    DIGEST_BYTES,
    Entries,
    FeatureExtractor,
    add_entries,
    cache_file,
    read_entries,
)
from fedrec.vision.transforms import augmented_views

Progress = Callable[[int, int], None]


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
        float16 (n, views, dimension) for each extractor.

    Raises:
        ConfigError: ``views`` or ``workers`` is below 1, or a digest doesn't have 32 bytes.
        DataError: ``images`` raised it for an unreadable photo; the features computed so far are cached.
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
        try:
            _compute(extractors, images, missing, fresh, views=views, workers=workers, progress=progress)
        finally:
            # Also after an interruption: computing it took a while.
            for path, entries, shape in zip(paths, fresh, shapes, strict=True):
                if path is not None and entries:
                    add_entries(path, entries, shape=shape)
        for entries, added in zip(known, fresh, strict=True):
            entries.update(added)
    found = []
    for entries, shape in zip(known, shapes, strict=True):
        matrix = np.empty((len(digests), *shape), dtype=np.float16)
        for index, digest in enumerate(digests):
            matrix[index] = entries[digest]
        found.append(matrix)
    return found


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
    progress: Progress | None,
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
        return {number: _in_batches(extractors[number], np.stack(rows)) for number, rows in pictures.items()}

    size = max(extractors[number].batch for photo in missing for number in photo.lacking)
    chunks = [missing[start : start + size] for start in range(0, len(missing), size)]
    done = 0
    if progress is not None:
        progress(0, len(missing))
    threads = torch.get_num_threads()
    # One thread per batch and several batches at once: a small network gains little from more threads each.
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="features")
    try:
        for chunk, computed in zip(chunks, pool.map(compute, chunks), strict=True):
            rows = {number: iter(matrix) for number, matrix in computed.items()}
            for photo in chunk:
                for number in photo.lacking:
                    fresh[number][photo.digest] = next(rows[number])
            done += len(chunk)
            if progress is not None:
                progress(done, len(missing))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)


def _in_batches(extractor: FeatureExtractor, pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Compute features (n, views, dimension) of pictures (n, views, size, size, 3), in equal batches."""
    count, views = pictures.shape[:2]
    found = np.empty((count, views, extractor.dimension), dtype=np.float16)
    batch = np.zeros((extractor.batch, *pictures.shape[2:]), dtype=np.uint8)
    for view in range(views):
        for start in range(0, count, extractor.batch):
            rows = pictures[start : start + extractor.batch, view]
            batch[: len(rows)] = rows
            batch[len(rows) :] = 0
            found[start : start + len(rows), view] = extractor(batch)[: len(rows)]
    return found
