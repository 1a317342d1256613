"""Read and check the header of a safetensors file, before memory is taken for any of its tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError

LARGEST_HEADER: Final = 4 << 20
"""Bytes of a header; the largest architectures have some 2,000 tensors, of 120 bytes each."""
MOST_TENSORS: Final = 20_000
MOST_RANK: Final = 8
_LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"
_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
FLOATS: Final = ("F64", "F32", "F16", "BF16")
"""Element types of weights."""


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of a tensor: its element type, as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(data: bytes) -> dict[str, StoredTensor]:
    """Read a safetensors file's header; the tensors fill the rest of the file exactly, without overlap.

    Args:
        data: the file's content.

    Returns:
        The tensors by name.

    Raises:
        ConfigError: it is no safetensors file, is cut off, or its header isn't allowed; the message says why.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or length > len(data) - _LENGTH_BYTES:
        raise ConfigError("it is no safetensors file, or it is cut off")
    if length > LARGEST_HEADER:
        raise ConfigError(f"its header has {length:,} bytes, and at most {LARGEST_HEADER:,} are allowed")
    start = _LENGTH_BYTES + length
    try:
        entries = json.loads(data[_LENGTH_BYTES:start], object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is no safetensors file, or it is damaged ({one_line(error)})") from None
    if not isinstance(entries, dict):
        raise ConfigError("it is no safetensors file: its header is no JSON object")
    entries.pop(_METADATA, None)
    if not 1 <= len(entries) <= MOST_TENSORS:
        raise ConfigError(f"it has {len(entries):,} tensors, and 1 to {MOST_TENSORS:,} are allowed")
    tensors: dict[str, StoredTensor] = {}
    places: list[tuple[int, int]] = []
    for name, entry in entries.items():
        tensors[name], place = _tensor(entry, f"the tensor {one_line(name, most=60)!r}")
        places.append(place)
    end = 0
    for first, last in sorted(places):
        if first != end:
            raise ConfigError("its tensors overlap, or leave a part of the file unused")
        end = last
    if end != len(data) - start:
        raise ConfigError("it is cut off, or is longer than its tensors")
    return tensors


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _tensor(entry: object, what: str) -> tuple[StoredTensor, tuple[int, int]]:
    """Return a tensor's type and shape, and where its bytes begin and end."""
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ConfigError(f"{what} isn't described by dtype, shape and data_offsets")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise ConfigError(f"{what} has the element type {one_line(dtype, most=20)!r}, which isn't allowed")
    if not _are_counts(shape) or len(shape) > MOST_RANK or not _are_counts(place) or len(place) != 2:
        raise ConfigError(f"{what} has a shape or a place that isn't allowed")
    if place[1] - place[0] != math.prod(shape) * _BYTES[dtype]:
        raise ConfigError(f"{what} has another number of bytes than its shape says")
    return StoredTensor(dtype, tuple(shape)), (place[0], place[1])


def _are_counts(values: object) -> bool:
    """Return whether a value is a list of integers from 0 to 2**40."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= 1 << 40 for value in values)
