"""Keep an index of vectors in a file beside its catalogue; whatever doesn't fit is made again."""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.file_locks import LockedElsewhereError, take_lock
from fedrec._internal.files import replacing
from fedrec.recognition.catalogue.graph_index import GraphIndex
from fedrec.recognition.catalogue.scan_index import ScanIndex
from fedrec.recognition.catalogue.shortening import MOST_DIRECTIONS, Shortening

_MAGIC: Final = b"fedrec vectors 1"
_LONGEST_HEADER: Final = 4096
_ALIGNMENT: Final = 64
_SCAN: Final = "scan int8"
_GRAPH: Final = "graph of short vectors int8"

LocalIndex = ScanIndex | GraphIndex


@dataclass(frozen=True)
class Origin:
    """What an index was made of.

    Attributes:
        catalogue: the catalogue's random name.
        embedding_id: the embedding of its vectors.
        dimension: length of a vector.
        content: the catalogue's content key.
    """

    catalogue: str
    embedding_id: str
    dimension: int
    content: str


def save_index(path: Path, index: LocalIndex, origin: Origin) -> None:
    """Write an index to a file (mode 0600) such that a crash leaves the old or the new content.

    Nothing is written while another process writes it: the file is then of that one's content.

    Args:
        path: the file.
        index: the index.
        origin: what it was made of.

    Raises:
        OSError: the disk fails.
    """
    body = _body(index)
    checksum = 0
    for part in body:
        checksum = zlib.crc32(part, checksum)
    header = {
        **asdict(origin),
        "kind": _SCAN if isinstance(index, ScanIndex) else _GRAPH,
        "count": len(index.keys()),
        "bytes": sum(len(part) for part in body),
        "checksum": checksum,
    }
    text = json.dumps(header).encode()
    with suppress(LockedElsewhereError):
        lock = take_lock(path.with_name(f"{path.name}.lock"))
        try:
            with replacing(path, mode=0o600) as file:
                file.write((_MAGIC + struct.pack("<I", len(text)) + text).ljust(_offset(len(text)), b"\0"))
                for part in body:
                    file.write(part)
        finally:
            lock.close()


def load_index(path: Path, origin: Origin) -> tuple[LocalIndex, bool] | None:
    """Read an index from a file.

    Args:
        path: the file.
        origin: what it should be made of.

    Returns:
        The index, and whether it is of the same content; None if there is none that can be used.
    """
    try:
        with path.open("rb") as file:
            # Open as long as the arrays that look into it are.
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        length = struct.unpack_from("<I", mapped, len(_MAGIC))[0]
        if bytes(mapped[: len(_MAGIC)]) != _MAGIC or length > _LONGEST_HEADER:
            return None
        start = len(_MAGIC) + 4
        header = json.loads(bytes(mapped[start : start + length]))
        body = mapped[_offset(length) :]
        expected = (origin.catalogue, origin.embedding_id, origin.dimension, len(body), zlib.crc32(body))
        names = ("catalogue", "embedding_id", "dimension", "bytes", "checksum")
        if tuple(header[name] for name in names) != expected:
            return None
        index = _restored(header["kind"], body, header["count"], origin.dimension)
        return index, header["content"] == origin.content
    except (OSError, ValueError, KeyError, TypeError, struct.error, RuntimeError):
        return None


def _body(index: LocalIndex) -> list[memoryview]:
    if isinstance(index, ScanIndex):
        return [_bytes_of(index.content[0].astype("<i8")), _bytes_of(index.content[1])]
    shortening, keys, rows, graph = index.content
    return [
        _bytes_of(shortening.parts.astype("<f4")),
        _bytes_of(keys.astype("<i8")),
        _bytes_of(rows),
        memoryview(graph),
    ]


def _bytes_of(part: NDArray[np.generic]) -> memoryview:
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8).data


def _restored(kind: str, body: memoryview, count: int, dimension: int) -> LocalIndex:
    if kind == _SCAN:
        return _scan(body, count, dimension)
    if kind != _GRAPH:
        raise ValueError("an index of another kind")
    shape = (dimension + 2, min(dimension, MOST_DIRECTIONS))
    first = 4 * shape[0] * shape[1]
    parts = np.frombuffer(body, dtype="<f4", count=shape[0] * shape[1]).reshape(shape)
    last = first + count * (8 + dimension)
    rows = _scan(body[first:last], count, dimension)
    return GraphIndex(Shortening.from_parts(parts.astype(np.float32)), rows=rows, graph=body[last:])


def _scan(body: memoryview, count: int, dimension: int) -> ScanIndex:
    keys = np.frombuffer(body, dtype="<i8", count=count)
    rows = np.frombuffer(body, dtype=np.int8, offset=8 * count)
    return ScanIndex(keys.astype(np.int64), rows.reshape(count, dimension))


def _offset(header_length: int) -> int:
    """Return where the body begins, such that its values are aligned."""
    return -(-(len(_MAGIC) + 4 + header_length) // _ALIGNMENT) * _ALIGNMENT
