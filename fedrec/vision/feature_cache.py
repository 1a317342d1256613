"""Features of frozen networks on disk, in the user's cache folder.

One file per (network, weights, number format, preparation, number of augmented views) holds the photos'
digests and their features. Features of private photos are private: files are readable by their owner alone,
and nothing of the cache is ever sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import platformdirs
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from fedrec._internal.files import sync_folder

_LOG = logging.getLogger(__name__)
DIGEST_BYTES: Final = 32
"""Length of a photo's digest."""
# Files are read in one piece: the bound keeps a planted file from filling the memory.
_LARGEST_FILE: Final = 8 << 30

Entries = dict[bytes, NDArray[np.float16]]
"""Features (views, dimension) by the photo's digest. float16 keeps 11 bits, bfloat16 networks give 8."""


class FeatureExtractor(Protocol):
    """A frozen network with its preparation: photos to vectors of a fixed length."""

    @property
    def name(self) -> str:
        """Name of the network."""
        ...

    @property
    def weights_hash(self) -> str:
        """SHA-256 of its weights, hexadecimal."""
        ...

    @property
    def dtype(self) -> str:
        """Number format of its computation."""
        ...

    @property
    def preparation(self) -> str:
        """Name and version of what :meth:`prepare` does."""
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
    def batch(self) -> int:
        """Pictures per call."""
        ...

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Make the network's picture of a photo, uint8 (image_size, image_size, 3)."""
        ...

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features (n, dimension) of pictures (n, image_size, image_size, 3)."""
        ...


def default_cache_dir() -> Path:
    """Return the folder for features inside the user's cache folder; it may not exist yet."""
    return platformdirs.user_cache_path("fedrec") / "features"


def cache_file(extractor: FeatureExtractor, *, views: int, cache_dir: Path) -> Path:
    """Return the path of the cache file for an extractor and a number of views.

    Args:
        extractor: the frozen network.
        views: augmented views per photo.
        cache_dir: folder of the cache.

    Returns:
        A path in ``cache_dir``; its name is a hash of everything that determines the features.
    """
    parts = (
        "fedrec features 2",
        extractor.name,
        extractor.weights_hash,
        extractor.dtype,
        extractor.preparation,
        str(extractor.image_size),
        str(extractor.dimension),
        str(views),
    )
    key = hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()
    return cache_dir / f"{key[:32]}.features"


def drop_features(digests: Collection[bytes], *, cache_dir: Path) -> None:
    """Delete photos' features from every file of the cache.

    Args:
        digests: digests of the photos.
        cache_dir: folder of the cache.
    """
    for path in sorted(cache_dir.glob("*.features")):
        shape = _shape(path)
        entries = {} if shape is None else read_entries(path, shape=shape)
        left = {digest: row for digest, row in entries.items() if digest not in digests}
        if shape is not None and len(left) < len(entries):
            path.unlink(missing_ok=True)
            if left:
                add_entries(path, left, shape=shape)


def _shape(path: Path) -> tuple[int, int] | None:
    """Return (views, dimension) of a cache file, None for one that can't be read."""
    try:
        tensors = safetensors.numpy.load(path.read_bytes()[DIGEST_BYTES:])
        views, dimension = tensors["features"].shape[1:]
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        return None
    return int(views), int(dimension)


def read_entries(path: Path, *, shape: tuple[int, int]) -> Entries:
    """Read a cache file: the SHA-256 of the rest, then safetensors.

    Args:
        path: the file.
        shape: (views, dimension) of its features.

    Returns:
        The features; none when the file is missing or damaged, which the log says.
    """
    try:
        entries = _parse(path, shape=shape)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        _LOG.warning("the feature cache %s is ignored and computed afresh: %s", path, error)
        return {}
    return entries


def _parse(path: Path, *, shape: tuple[int, int]) -> Entries:
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError("it is too large")
    blob = path.read_bytes()
    if hashlib.sha256(blob[DIGEST_BYTES:]).digest() != blob[:DIGEST_BYTES]:
        raise ValueError("its checksum is wrong")
    tensors = safetensors.numpy.load(blob[DIGEST_BYTES:])
    digests, features = tensors["digests"], tensors["features"]
    if digests.dtype != np.uint8 or digests.shape != (len(digests), DIGEST_BYTES):
        raise ValueError("its digests have another shape")
    if features.dtype != np.float16 or features.shape != (len(digests), *shape):
        raise ValueError("its features have another shape")
    if not np.isfinite(features).all():
        raise ValueError("it holds a feature that is not finite")
    return {bytes(digest): row for digest, row in zip(digests, features, strict=True)}


def add_entries(path: Path, fresh: Mapping[bytes, NDArray[np.float16]], *, shape: tuple[int, int]) -> None:
    """Add entries to a cache file atomically: a crash leaves the old file or the new one.

    A failed write is a warning in the log only.

    Args:
        path: the file, which may not exist yet.
        fresh: features by digest.
        shape: (views, dimension) of each.
    """
    # The file is read again, since another process may have added to it. If two write at the very same
    # moment, the entries of one are lost and computed again.
    entries = {**read_entries(path, shape=shape), **fresh}
    digests = np.frombuffer(b"".join(entries), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
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
