"""Count what is in an encoded protobuf message before the protobuf library builds objects of it.

A message of two bytes becomes an object of a hundred and more, so a file of the size of a large network could
fill the memory many times. This reader walks over the encoding, skips texts and tensors by their lengths, and
stops at a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fedrec.errors import ConfigError

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor

MOST_FIELDS: Final = 300_000
"""Fields of all messages together; torchvision's networks have 3,500 to 60,000."""
MOST_PACKED: Final = 16 << 20
"""Bytes of packed integers, each byte of which may become eight. Weights are stored as raw bytes."""
MOST_DEPTH: Final = 24
"""Messages inside each other."""
_LONGEST_VARINT: Final = 10


def check_encoding(data: bytes, descriptor: Any) -> None:
    """Check that a message can be parsed without taking much more memory than its size.

    Args:
        data: the encoded message.
        descriptor: protobuf's description of the message's type.

    Raises:
        ConfigError: the encoding is cut off or malformed, or has too many fields.
    """
    fields = packed = 0
    kinds: dict[str, dict[int, tuple[Any, bool]]] = {}
    pending = [(0, len(data), descriptor, 1)]
    while pending:
        position, end, kind, depth = pending.pop()
        if kind.full_name not in kinds:
            kinds[kind.full_name] = {
                field.number: (field.message_type, _grows(field)) for field in kind.fields
            }
        known = kinds[kind.full_name]
        while position < end:
            fields += 1
            if fields > MOST_FIELDS:
                raise ConfigError(f"it has more than {MOST_FIELDS:,} fields")
            key, position = _varint(data, position, end)
            if key >> 3 not in known:
                raise ConfigError(
                    "it is no ONNX file, or has a part that the installed onnx package doesn't know"
                )
            inner, grows = known[key >> 3]
            wire = key & 7
            if wire == 0:
                _, position = _varint(data, position, end)
            elif wire in (1, 5):
                position += 8 if wire == 1 else 4
            elif wire == 2:
                length, start = _varint(data, position, end)
                position = start + length
                if inner is not None and position <= end:
                    if depth == MOST_DEPTH:
                        raise ConfigError(f"its messages are nested more than {MOST_DEPTH} deep")
                    pending.append((start, position, inner, depth + 1))
                packed += length if grows else 0
                if packed > MOST_PACKED:
                    raise ConfigError("it stores too many numbers as packed integers, not as raw data")
            else:
                raise ConfigError("it is no ONNX file, or it is damaged")
            if position > end:
                raise ConfigError("it is cut off, or no ONNX file")


def _grows(field: FieldDescriptor) -> bool:
    """Return whether a field holds packed numbers of variable length."""
    fixed = (field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_DOUBLE, field.TYPE_MESSAGE)
    return field.type not in fixed


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a number of variable length; return it and the position behind it."""
    if position < end and data[position] < 0x80:
        return data[position], position + 1
    value = 0
    for count in range(_LONGEST_VARINT):
        if position + count >= end:
            break
        byte = data[position + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise ConfigError("it is cut off, or no ONNX file")
