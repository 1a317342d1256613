"""Features of a frozen network, computed once per photo and cached in the user's cache folder.

One file per (network, weights, preparation, number of views) holds the photos' digests and their features.
Features of private photos are private: files are readable by their owner alone, and nothing of the cache is
ever sent.

Features agree between machines and numbers of threads up to float32 rounding (about 1e-6), not bit for bit;
the cache returns the same bits. Every batch that the network sees has one fixed size, so that a photo's
features don't change with the number of other photos.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import platformdirs
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from PIL import Image

from fedrec._internal.files import sync_folder
from fedrec.errors import ConfigError
from fedrec.vision.transforms import TRANSFORM_ID, augmented_views, to_model_input

_LOG = logging.getLogger(__name__)
_DIGEST: Final = 32
# Files are read in one piece: the bound keeps a planted file from filling the memory.
_LARGEST_FILE: Final = 8 << 30

Entries = dict[bytes, NDArray[np.float32]]


class FeatureExtractor(Protocol):
    """A frozen network: uint8 pictures (n, image_size, image_size, 3) to float32 (n, dimension)."""

    @property
    def name(self) -> str:
        """Name of the network."""
        ...

    @property
    def weights_hash(self) -> str:
        """SHA-256 of its weights, hexadecimal."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a feature vector."""
        ...

    @property
    def image_size(self) -> int:
        """Side of its pictures in pixels."""
        ...

    @property
    def margin(self) -> float:
        """Short side before the centre crop, in crop sides."""
        ...

    @property
    def batch(self) -> int:
        """Pictures per call."""
        ...

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features."""
        ...


def default_cache_dir() -> Path:
    """Return the folder for features inside the user's cache folder; it may not exist yet."""
    return platformdirs.user_cache_path("fedrec") / "features"


@dataclass(frozen=True)
class Preprocessing:
    """How photos are prepared for the network.

    Attributes:
        transform_id: name of the preparation, see :data:`fedrec.vision.transforms.TRANSFORM_ID`.
        views: augmented views per photo; the first is the photo itself.
    """

    transform_id: str = TRANSFORM_ID
    views: int = 1


_DEFAULT_PREPROCESSING: Final = Preprocessing()


def cache_file(extractor: FeatureExtractor, preprocessing: Preprocessing, *, cache_dir: Path) -> Path:
    """Return the path of the cache file for a network and a preprocessing.

    Args:
        extractor: the frozen network.
        preprocessing: how photos are prepared for it.
        cache_dir: folder of the cache.

    Returns:
        A path in ``cache_dir``; its name is a hash of everything that determines the features.
    """
    parts = (
        "fedrec features 1",
        extractor.name,
        extractor.weights_hash,
        preprocessing.transform_id,
        str(extractor.image_size),
        repr(extractor.margin),
        str(preprocessing.views),
    )
    key = hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()
    return cache_dir / f"{key[:32]}.features"


def feature_matrix(
    extractor: FeatureExtractor,
    images: Callable[[int], Image.Image],
    digests: Sequence[bytes],
    *,
    preprocessing: Preprocessing = _DEFAULT_PREPROCESSING,
    cache_dir: Path | None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Look features up in the cache, and compute those that are missing.

    Args:
        extractor: the frozen network.
        images: returns photo i as RGB; called only for missing photos, from ``workers`` threads.
        digests: n digests of 32 bytes; photos with the same digest are computed once.
        preprocessing: how photos are prepared for it.
        cache_dir: folder of the cache, usually :func:`default_cache_dir`; None for no cache. A damaged file
            is computed afresh; a failed write is a warning in the log only.
        workers: batches that are decoded, prepared and computed at the same time.
        progress: called as (computed, missing) after each batch, and once as (0, missing) before.

    Returns:
        float32 (n, views, dimension).

    Raises:
        ConfigError: the number of views or ``workers`` is below 1, or a digest doesn't have 32 bytes.
        DataError: ``images`` raised it for an unreadable photo; the features computed so far are cached.
    """
    views = preprocessing.views
    if views < 1 or workers < 1:
        raise ConfigError(f"features need 1 view and 1 worker or more, not {views} and {workers}")
    if any(len(digest) != _DIGEST for digest in digests):
        raise ConfigError(f"features are kept by digests of {_DIGEST} bytes, and one has another length")
    shape = (views, extractor.dimension)
    path = None if cache_dir is None else cache_file(extractor, preprocessing, cache_dir=cache_dir)
    known = {} if path is None else _read(path, shape=shape)
    missing: dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        if digest not in known:
            missing.setdefault(digest, index)
    if missing:
        fresh: Entries = {}
        try:
            _compute(extractor, images, missing, fresh, views=views, workers=workers, progress=progress)
        finally:
            # Also after an interruption: computing it took a while.
            if path is not None and fresh:
                _write(path, fresh, shape=shape)
        known.update(fresh)
    result = np.empty((len(digests), *shape), dtype=np.float32)
    for index, digest in enumerate(digests):
        result[index] = known[digest]
    return result


def drop_features(digests: Collection[bytes], *, cache_dir: Path) -> None:
    """Delete photos' features from every file of the cache.

    Args:
        digests: digests of the photos.
        cache_dir: folder of the cache.
    """
    for path in sorted(cache_dir.glob("*.features")):
        shape = _shape(path)
        entries = {} if shape is None else _read(path, shape=shape)
        left = {digest: row for digest, row in entries.items() if digest not in digests}
        if shape is not None and len(left) < len(entries):
            path.unlink(missing_ok=True)
            if left:
                _write(path, left, shape=shape)


def _shape(path: Path) -> tuple[int, int] | None:
    """Return (views, dimension) of a cache file, None for one that can't be read."""
    try:
        tensors = safetensors.numpy.load(path.read_bytes()[_DIGEST:])
        views, dimension = tensors["features"].shape[1:]
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        return None
    return int(views), int(dimension)


def _compute(
    extractor: FeatureExtractor,
    images: Callable[[int], Image.Image],
    missing: dict[bytes, int],
    fresh: Entries,
    *,
    views: int,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fill ``fresh`` with the features of the photos at ``missing``, batch by batch."""
    size, margin = extractor.image_size, extractor.margin

    def prepare(digest: bytes, index: int) -> NDArray[np.uint8]:
        picture = to_model_input(images(index), size=size, channels=3, margin=margin)
        varied: NDArray[np.uint8] = augmented_views(picture[None], views=views, seeds=[digest])[0]
        return varied

    def compute(chunk: list[tuple[bytes, int]]) -> NDArray[np.float32]:
        batch = np.zeros((extractor.batch, views, size, size, 3), dtype=np.uint8)
        for row, (digest, index) in enumerate(chunk):
            batch[row] = prepare(digest, index)
        return np.stack([extractor(np.ascontiguousarray(batch[:, view])) for view in range(views)], axis=1)

    work = list(missing.items())
    chunks = [work[start : start + extractor.batch] for start in range(0, len(work), extractor.batch)]
    if progress is not None:
        progress(0, len(work))
    threads = torch.get_num_threads()
    # One thread per batch and several batches at once: a small network gains little from more threads each.
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="features")
    try:
        for chunk, features in zip(chunks, pool.map(compute, chunks), strict=True):
            for row, (digest, _) in enumerate(chunk):
                fresh[digest] = features[row]
            if progress is not None:
                progress(len(fresh), len(work))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)


def _read(path: Path, *, shape: tuple[int, int]) -> Entries:
    """Read a cache file: the SHA-256 of the rest, then safetensors. Nothing when it is missing or damaged."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large")
        blob = path.read_bytes()
        if hashlib.sha256(blob[_DIGEST:]).digest() != blob[:_DIGEST]:
            raise ValueError("its checksum is wrong")
        tensors = safetensors.numpy.load(blob[_DIGEST:])
        digests, features = tensors["digests"], tensors["features"]
        if digests.dtype != np.uint8 or digests.shape != (len(digests), _DIGEST):
            raise ValueError("its digests have another shape")
        if features.dtype != np.float32 or features.shape != (len(digests), *shape):
            raise ValueError("its features have another shape")
        if not np.isfinite(features).all():
            raise ValueError("it holds a feature that is not finite")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        _LOG.warning("the feature cache %s is ignored and computed afresh: %s", path, error)
        return {}
    return {bytes(digest): row for digest, row in zip(digests, features, strict=True)}


def _write(path: Path, fresh: Entries, *, shape: tuple[int, int]) -> None:
    """Add entries to a cache file atomically: a crash leaves the old file or the new one."""
    # The file is read again, since another process may have added to it. If two write at the very same
    # moment, the entries of one are lost and computed again.
    entries = {**_read(path, shape=shape), **fresh}
    digests = np.frombuffer(b"".join(entries), dtype=np.uint8).reshape(-1, _DIGEST)
    payload = safetensors.numpy.save(
        {"digests": digests.copy(), "features": np.stack(list(entries.values()))}
    )
    temporary: Path | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        # mkstemp makes the file readable by its owner alone.
        handle, name = tempfile.mkstemp(prefix=".features-", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(hashlib.sha256(payload).digest())
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        _LOG.warning(
            "features can't be kept in %s, so they will be computed again next time: %s", path, error
        )
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
