"""Features of frozen networks on disk, in the user's cache folder.

One file per (network, weights, number format, preparation, number of augmented views) holds the photos'
digests and their features. Features of private photos are private: files are readable by their owner alone,
and nothing of the cache is ever sent. Files are mapped into memory, not read: tokens of many photos can be
larger than the memory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import platformdirs
from numpy.typing import NDArray
from PIL import Image

from fedrec._internal.files import sync_folder

_LOG = logging.getLogger(__name__)
DIGEST_BYTES: Final = 32
"""Length of a photo's digest."""
_LENGTH_BYTES: Final = 8
_LARGEST_HEADER: Final = 1 << 16
_CHECKED_BYTES: Final = 1 << 24
"""Bytes of features that are looked at together."""
_TEMPORARY: Final = ".features-"
"""How the names of files begin that a save is writing."""
_LEFTOVER_SECONDS: Final = 3600.0
"""Age at which nobody writes such a file any more."""
KEPT_FREE: Final = 1 << 28
"""Bytes of a disk that features leave free. A plan decides how much is kept of a photo, and a merchant's
ledger, which can be on the same disk, must go on."""

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

    A file that can't be read, a damaged one, and what a save left behind that was killed may hold them too.
    They are deleted whole: features can be computed again.

    Args:
        digests: digests of the photos.
        cache_dir: folder of the cache.

    Raises:
        OSError: a file can't be deleted; all others have been.
    """
    failures: list[OSError] = []
    for path in [*sorted(cache_dir.glob("*.features")), *_leftovers(cache_dir)]:
        try:
            if path.name.startswith(_TEMPORARY):
                path.unlink(missing_ok=True)
            elif not path.is_dir():
                _drop_from_file(path, frozenset(digests))
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _drop_from_file(path: Path, digests: frozenset[bytes]) -> None:
    """Delete photos' features from one file, or the file if it isn't as it was written."""
    try:
        stored = _opened(path)
        stored.check_sum()
    except (OSError, ValueError):
        path.unlink(missing_ok=True)
        return
    entries = stored.entries()
    if digests.isdisjoint(entries):
        return
    left = {digest: row for digest, row in entries.items() if digest not in digests}
    path.unlink(missing_ok=True)
    if left:
        views, dimension = stored.features.shape[1:]
        add_entries(path, left, shape=(views, dimension))


def _leftovers(cache_dir: Path) -> Iterator[Path]:
    """Yield what saves left behind that were killed; a save that goes on writes more than once an hour."""
    for path in cache_dir.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                yield path


def read_entries(path: Path, *, shape: tuple[int, int]) -> Entries:
    """Map a cache file into memory: the SHA-256 of the rest, then safetensors.

    Args:
        path: the file.
        shape: (views, dimension) of its features.

    Returns:
        The features; none when the file is missing or damaged, which the log says.
    """
    try:
        stored = _opened(path)
        stored.check(shape)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOG.warning("the feature cache %s is ignored and computed afresh: %s", path, error)
        return {}
    return stored.entries()


class _Stored(NamedTuple):
    """What a cache file holds, mapped into memory.

    Attributes:
        content: all of its bytes.
        digests: uint8 (n, 32).
        features: (n, views, dimension).
    """

    content: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    features: NDArray[np.float16]

    def entries(self) -> Entries:
        """Return the features by digest."""
        return {bytes(digest): row for digest, row in zip(self.digests, self.features, strict=True)}

    def check_sum(self) -> None:
        """Raise ``ValueError`` unless all of it is as it was written."""
        if hashlib.sha256(self.content[DIGEST_BYTES:].data).digest() != bytes(self.content[:DIGEST_BYTES]):
            raise ValueError("its checksum is wrong")

    def check(self, shape: tuple[int, int]) -> None:
        """Raise ``ValueError`` unless all of it is as it was written, with finite features of this shape."""
        self.check_sum()
        if self.features.shape[1:] != shape:
            raise ValueError("its features have another shape")
        rows = max(1, _CHECKED_BYTES // (2 * shape[0] * shape[1] or 1))
        for start in range(0, len(self.features), rows):
            if not np.isfinite(self.features[start : start + rows]).all():
                raise ValueError("it holds a feature that is not finite")


def _opened(path: Path) -> _Stored:
    """Map a cache file; ``OSError`` or ``ValueError`` where its header isn't one of the cache."""
    # Windows replaces no file that is mapped.
    content = np.fromfile(path, np.uint8) if os.name == "nt" else np.memmap(path, np.uint8, mode="c")
    start = DIGEST_BYTES + _LENGTH_BYTES
    length = int.from_bytes(content[DIGEST_BYTES:start].tobytes(), "little")
    if len(content) < start or length > min(_LARGEST_HEADER, len(content) - start):
        raise ValueError("it is cut off, or no file of the cache")
    data = np.asarray(content[start + length :])
    try:
        header = json.loads(content[start : start + length].tobytes())
        digests = _tensor(data, header["digests"], np.dtype(np.uint8), "U8")
        features = _tensor(data, header["features"], np.dtype(np.float16), "F16")
    except (KeyError, TypeError, RecursionError):
        raise ValueError("its header isn't one of the cache") from None
    if features.ndim != 3 or digests.shape != (len(features), DIGEST_BYTES):
        raise ValueError("its digests or features have another shape")
    return _Stored(np.asarray(content), digests, features)


def _tensor(data: NDArray[np.uint8], entry: Any, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Return a tensor of a safetensors file, which has the element type that safetensors names so."""
    first, last = entry["data_offsets"]
    if entry["dtype"] != name or not 0 <= first <= last <= len(data):
        raise ValueError("its digests or features have another type or place")
    found: NDArray[Any] = data[first:last].view(dtype).reshape(entry["shape"])
    return found


def add_entries(path: Path, fresh: Mapping[bytes, NDArray[np.float16]], *, shape: tuple[int, int]) -> Entries:
    """Add entries to a cache file atomically: a crash leaves the old file or the new one.

    A failed write, or one that would leave too little of the disk free, is a warning in the log only.

    Args:
        path: the file, which may not exist yet.
        fresh: features by digest.
        shape: (views, dimension) of each.

    Returns:
        All of the file's entries, mapped into memory; after a failed write the fresh ones are as they were.
    """
    # The file is read again, since another process may have added to it. If two write at the very same
    # moment, the entries of one are lost and computed again.
    entries = {**read_entries(path, shape=shape), **fresh}
    temporary: Path | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        for leftover in _leftovers(path.parent):
            with contextlib.suppress(OSError):
                leftover.unlink()
        check_room(path.parent, len(entries) * entry_bytes(shape))
        # mkstemp makes the file readable by its owner alone.
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(bytes(DIGEST_BYTES))
            checksum = hashlib.sha256()
            for part in _parts(entries, shape=shape):
                checksum.update(part)
                stream.write(part)
            stream.seek(0)
            stream.write(checksum.digest())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        temporary = None
        sync_folder(path.parent)
        return _opened(path).entries()
    except (OSError, ValueError) as error:
        _LOG.warning(
            "features can't be kept in %s, so they will be computed again next time: %s", path, error
        )
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return entries


def entry_bytes(shape: tuple[int, int]) -> int:
    """Return the bytes that a cache file keeps of a photo, with features (views, dimension)."""
    return DIGEST_BYTES + 2 * shape[0] * shape[1]


def check_room(folder: Path, size: int) -> None:
    """Check that a file of this size leaves ``KEPT_FREE`` bytes of a folder's disk free.

    Args:
        folder: the folder, which exists.
        size: of the file, in bytes.

    Raises:
        OSError: it doesn't.
    """
    if shutil.disk_usage(folder).free - size < KEPT_FREE:
        raise OSError(errno.ENOSPC, f"it would leave less than {KEPT_FREE >> 20} MiB of the disk free")


def _parts(entries: Entries, *, shape: tuple[int, int]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file's content, one photo at a time."""
    count = len(entries)
    ends = (count * DIGEST_BYTES, count * entry_bytes(shape))
    header = json.dumps(
        {
            "digests": {"dtype": "U8", "shape": [count, DIGEST_BYTES], "data_offsets": [0, ends[0]]},
            "features": {"dtype": "F16", "shape": [count, *shape], "data_offsets": [*ends]},
        }
    ).encode()
    header += b" " * (-len(header) % _LENGTH_BYTES)
    yield len(header).to_bytes(_LENGTH_BYTES, "little")
    yield header
    yield b"".join(entries)
    for row in entries.values():
        yield np.ascontiguousarray(row).data.cast("B")
